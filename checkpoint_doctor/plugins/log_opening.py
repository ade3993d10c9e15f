"""Reading a training log with the reader that recognizes its content."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.checkpoint.training_log import LogBuilder, TrainingLog
from checkpoint_doctor.errors import DoctorError, UnreadableCheckpoint, UsageError
from checkpoint_doctor.plugins.catalogue import LOG_READERS, OURS
from checkpoint_doctor.plugins.entry_points import find_entry_points
from checkpoint_doctor.plugins.protocols import LogReader
from checkpoint_doctor.sources import FileSource
from checkpoint_doctor.text import describe_error

HEAD = 1 << 16
"""Bytes by which a file that nobody reads is described."""


def find_log_readers(path: Sequence[str] | None = None) -> tuple[LogReader, ...]:
    """Return the installed readers of training logs, in the order in which they are tried: by name, ours last.

    Raises:
        UsageError: one of them cannot be loaded.
    """
    readers = []
    for entry in sorted(find_entry_points(LOG_READERS, path), key=lambda each: (each.distribution == OURS, each.name)):
        try:
            readers.append(entry.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise UsageError(
                f"the log reader {entry.name} of {entry.distribution} cannot be loaded: {describe_error(error)}",
                f"update or uninstall {entry.distribution}",
            ) from error
    return tuple(readers)  # type: ignore[arg-type]


def read_log(
    path: str | os.PathLike[str],
    *,
    readers: Sequence[LogReader] | None = None,
    meanings: Mapping[str, Meaning] | None = None,
    on_read: Callable[[int], None] | None = None,
) -> TrainingLog:
    """Read a training log. Nothing in it is executed, and memory does not grow with the file.

    Args:
        path: a file.
        readers: what to read with, by default all that are installed.
        meanings: patterns of metrics' names to what they mean, before the documented patterns.
        on_read: called with the bytes read so far.

    Raises:
        UnreadableCheckpoint: it is no training log, or it cannot be read.
    """
    source = FileSource(os.fspath(path))
    if source.size == 0:
        raise UnreadableCheckpoint(f"{path} is empty", "the run has not written it yet, or the disk was full")
    for reader in find_log_readers() if readers is None else readers:
        builder = LogBuilder(os.fspath(path), meanings)
        try:
            if not reader.recognizes(source):
                continue
            reader.read(source, builder, on_read)
        except (DoctorError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise UnreadableCheckpoint(
                f"the log reader {reader.name} failed on {path} with {describe_error(error)}",
                "this is a bug in the reader and not in the file: please report it",
            ) from error
        log = builder.build()
        if not any(metric.recorded.count for metric in log.metrics):
            raise UnreadableCheckpoint(f"{path} holds no numbers", "name a training log")
        return log
    raise UnreadableCheckpoint(
        f"{path} is no training log that is read{_describe_bytes(source)}",
        "logs are tables with names, JSON lines, trainer_state.json, evaluations.npz, TensorBoard events, W&B runs",
    )


def _describe_bytes(source: FileSource) -> str:
    """Return what in a file that nobody reads is no text, as the end of a sentence; nothing where it is text."""
    head = source.read(0, min(source.size, HEAD))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ": it is text in UTF-16, and logs are read as UTF-8"
    zero = head.find(b"\0")
    return f": byte {zero:,} is a zero, which no text has" if zero >= 0 else ""
