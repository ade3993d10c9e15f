"""Measuring one large checkpoint on the workers of an engine, each a share of it.

A share is consecutive tensors and moments of the file. No tensor is split: its rows, columns and duplicates need all of
it. A worker opens the checkpoint by itself and sends back what it measured; rules and causes run where the whole is.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from checkpoint_doctor.checkpoint import Checkpoint, Checksum, Moments, Tensor
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.examination.measuring import MeasuredCallback, measure_checkpoint
from checkpoint_doctor.examination.senders import Sender, find_plugins_of, introduce
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.plugins.protocols import LostTask, Workers
from checkpoint_doctor.sources.address import show_uri
from checkpoint_doctor.sources.traces import Trace, digest, trace

SHARE = 256 << 20
"""Bytes of a share, and of the smallest checkpoint that is worth two: a core measures them in 0.3 s (measured), which
is a hundred times what it takes to send a task and to open the file."""

Measurable = Tensor | Moments | Checksum


class Identity(Struct, frozen=True):
    """What a worker must open: the same files in the same state, with the same plugins."""

    path: str
    files: str
    """The digest of the files that were opened."""
    sender: Sender


class Share(Struct, frozen=True):
    """A part of a checkpoint that one worker measures."""

    identity: Identity
    positions: tuple[int, ...]
    """Which of the things that ``list_measurable`` lists."""


def list_measurable(checkpoint: Checkpoint) -> list[Measurable]:
    """Return all that has to be measured in a checkpoint, once each, in an order that every process finds."""
    moments = (each for optimizer in checkpoint.optimizers for each in optimizer.parameters)
    everything: list[Measurable] = [*checkpoint.distinct_tensors, *moments, *checkpoint.checksums]
    return [each for each in everything if each.same_as is None]


def cut_into_shares(measurable: Sequence[Measurable], size: int) -> list[tuple[int, ...]]:
    """Return the positions of what is measured together: consecutive tensors and moments of about ``size`` bytes.

    A checksum goes to where the tensors of its bytes are read, which it costs nothing to verify then.
    """
    shares: list[list[int]] = []
    filled = size
    by_storage: dict[str, list[int]] = {}
    for position, each in enumerate(measurable):
        # Files hold tensors first, then moments; both are in the order of their bytes.
        tensors = _tensors_of(each)
        at_home = by_storage.get(each.storage) if isinstance(each, Checksum) else None
        if at_home is not None:
            at_home.append(position)
            continue
        if filled >= size:
            shares.append([])
            filled = 0
        shares[-1].append(position)
        filled += size_of(each)
        for tensor in tensors:
            by_storage.setdefault(tensor.storage, shares[-1])
    return [tuple(share) for share in shares]


def size_of(measurable: Measurable) -> int:
    """Return the bytes that are read to measure something."""
    if isinstance(measurable, Checksum):
        return measurable.size
    return sum(tensor.size * tensor.values.dtype.itemsize for tensor in _tensors_of(measurable))


def _tensors_of(measurable: Measurable) -> Sequence[Tensor]:
    if isinstance(measurable, Moments):
        return tuple(measurable.state.values())
    return (measurable,) if isinstance(measurable, Tensor) else ()


def measure_on(
    workers: Workers,
    checkpoint: Checkpoint,
    path: str,
    opened: Trace,
    catalogue: Catalogue,
    jobs: int | None = None,
    on_measured: MeasuredCallback | None = None,
) -> None:
    """Measure a checkpoint on workers, and supply its tensors, moments and checksums with what they found.

    One that is no larger than a share is measured here, and so is one whose files could not be told from others that
    took their place: those that are being written, and those of servers that give them no ETag.

    Args:
        workers: where it is measured.
        checkpoint: what is measured.
        path: where it was opened from, also for workers.
        opened: the trace of opening it.
        catalogue: the plugins in use.
        jobs: threads, where it is measured here.
        on_measured: called with the bytes measured so far, and in all.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read, a worker does not see the same files, or the workers
            of a share were lost one after the other.
        UsageError: other plugins are installed where the workers are.
    """
    measurable = list_measurable(checkpoint)
    sizes = list(map(size_of, measurable))
    if sum(sizes) <= SHARE or not all(stamp.identifies for stamp in opened.files.values()):
        measure_checkpoint(checkpoint, jobs, on_measured)
        return
    identity = Identity(path, digest(opened.files), introduce(catalogue))
    shares = cut_into_shares(measurable, SHARE)
    done = 0
    tasks = (Share(identity, share) for share in shares)
    for share, found in zip(shares, workers.map(measure_share, tasks), strict=True):
        if isinstance(found, LostTask):
            raise UnreadableCheckpoint(
                f"{checkpoint.path} could not be measured: {found.why}", "see whether its machines have enough memory"
            )
        for position, figures in zip(share, found, strict=True):
            measurable[position].supply(figures)
            done += sizes[position]
        if on_measured:
            on_measured(done, sum(sizes))


def measure_share(share: Share) -> list[Any]:
    """Measure a share in a worker: the statistics of each tensor and moment, and the flaw of each checksum.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read, or the checkpoint is not the one that was meant.
        UsageError: other plugins are installed here.
    """
    measurable = _open(share.identity)
    return [_measure(measurable[position]) for position in share.positions]


def _measure(measurable: Measurable) -> Any:
    return measurable.flaw if isinstance(measurable, Checksum) else measurable.statistics


@lru_cache(maxsize=2)
def _open(identity: Identity) -> list[Measurable]:
    """Return what is measured in a checkpoint. The last ones stay open, since a worker gets many of their shares."""
    catalogue = find_plugins_of(identity.sender)
    path, host = show_uri(identity.path), socket.gethostname()
    is_elsewhere = host != identity.sender.host
    hint = "keep checkpoints where all machines see them, such as a shared folder or an object store"
    try:
        with trace() as found:
            checkpoint = open_checkpoint(identity.path, catalogue)
    except UnreadableCheckpoint as error:
        if not is_elsewhere:
            raise
        raise UnreadableCheckpoint(f"the worker on {host} cannot open {path}: {error.message}", hint) from None
    if digest(found.files) == identity.files:
        return list_measurable(checkpoint)
    if is_elsewhere:
        raise UnreadableCheckpoint(f"the worker on {host} sees another file at {path}, or it was replaced", hint)
    raise UnreadableCheckpoint(f"{path} was replaced while it was read", "scan it again when it is written")
