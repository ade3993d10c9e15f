"""A local file as a source."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.budget import Budget
from checkpoint_doctor.sources.source import Source, read_exactly, require_file_name, too_short
from checkpoint_doctor.sources.traces import note_absent, note_local

MOST_OPEN = 200
"""Files that are kept open at the same time. Further ones are opened for each read: a folder may have thousands of
shards, and macOS allows a process 256 open files."""
_kept: set[int] = set()
"""The descriptors that are kept open."""


class FileSource:
    """A local file. Reads share no file position, so threads need no lock."""

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        descriptor = self._open()
        status = os.fstat(descriptor)
        self.size = status.st_size
        self.budget = Budget(self.name, self.size)
        self._identity = _identify(status)
        note_local(self.name, status)
        self._descriptor: int | None = None
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise UnreadableCheckpoint(f"{path} is not a regular file", "name a checkpoint file")
        if len(_kept) >= MOST_OPEN:
            os.close(descriptor)
            return
        # Tensors are read lazily, so the file stays open as long as a tensor refers to this source.
        _kept.add(descriptor)
        self._descriptor = descriptor
        weakref.finalize(self, _close, descriptor)

    def _open(self) -> int:
        try:
            # O_NONBLOCK: opening a named pipe must not wait for a writer.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            return os.open(self.name, flags)
        except OSError as error:
            note_absent(self.name)
            raise UnreadableCheckpoint(
                f"cannot open {self.name}: {(error.strerror or str(error)).lower()}",
                "check the path and its permissions",
            ) from None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        if self._descriptor is not None:
            yield self._descriptor
            return
        descriptor = self._open()
        try:
            if _identify(os.fstat(descriptor)) != self._identity:
                raise UnreadableCheckpoint(f"{self.name} was changed while it was read", "wait until it is written")
            yield descriptor
        finally:
            os.close(descriptor)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        done = 0
        with self._opened() as descriptor:
            while done < len(buffer):
                try:
                    count = os.preadv(descriptor, [buffer[done:]], offset + done)
                except OSError as error:
                    raise UnreadableCheckpoint(
                        f"cannot read {self.name}: {(error.strerror or str(error)).lower()}", "check the disk"
                    ) from None
                if count == 0:
                    raise too_short(self, offset, len(buffer))
                done += count

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return read_exactly(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        require_file_name(name, self)
        return FileSource(Path(self.name).parent / name)


def _identify(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from one that took its place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _close(descriptor: int) -> None:
    _kept.discard(descriptor)
    os.close(descriptor)
