"""Finds tied tensors, which a distributed checkpoint stores once for each of their names.

Optimizers hold a tied tensor under one of its names, so under the other it would look as if nobody trained it.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._optimizers.matching import COPY
from checkpoint_doctor.builtin.loaders._storage.chunked_values import ChunkedValues
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.builtin.loaders._zip.member import StoredMember
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.statistics.values import Values

SMALLEST = 16
"""Elements below which equal numbers may be chance."""
SAMPLE = 4096
"""Elements that are looked at to tell a trained tensor from a constant one, such as new biases, which are all equal."""


def share_tied(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with tied tensors sharing their storage, as in the model that was saved.

    Two tensors are tied where all their recorded CRC-32, sizes and places agree, they are not constant, an optimizer
    holds the one and none holds the other, and the other is not named as a copy.
    """
    held = {tensor.name for tensor in checkpoint.tensors if tensor.name in checkpoint.moments}
    marks = {tensor.name: _fingerprint(tensor) for tensor in checkpoint.tensors} if held else {}
    originals: dict[Any, Tensor] = {}
    for tensor in checkpoint.tensors:
        mark = marks.get(tensor.name)
        if tensor.name in held and mark is not None and tensor.size >= SMALLEST:
            originals.setdefault(mark, tensor)
    shared: dict[str, Tensor] = {}
    for tensor in checkpoint.tensors:
        original = originals.get(marks.get(tensor.name))
        if tensor.name in held or original is None or COPY.search(tensor.name) or _is_constant(original.values):
            continue
        for each in (tensor, original):
            shared[each.name] = replace(
                each, values=original.values, storage=original.name, storage_range=original.storage_range
            )
    if not shared:
        return checkpoint
    return replace(checkpoint, tensors=tuple(shared.get(tensor.name, tensor) for tensor in checkpoint.tensors))


def _fingerprint(tensor: Tensor) -> Any:
    """Return what is recorded of a tensor's bytes, ``None`` where a part of it has no CRC-32."""
    values = tensor.values
    whole = (((), values),)
    parts = [(each.chunk, each.values) for each in values.chunks] if isinstance(values, ChunkedValues) else whole
    marks = []
    for place, part in parts:
        source = part.source if isinstance(part, StoredValues) else None
        if not isinstance(part, StoredValues) or not isinstance(source, StoredMember) or not source.member.crc:
            return None
        marks.append((place, source.member.crc, source.size, part.offset, part.strides))
    return (tensor.shape, tensor.dtype, tuple(sorted(marks, key=repr)))


def _is_constant(values: Values) -> bool:
    sample = next(values.blocks(SAMPLE), None)
    return sample is None or bool((sample == sample[0]).all())
