"""A local file as a source."""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.budget import Budget
from checkpoint_doctor.sources.source import Source, read_exactly, too_short


class FileSource:
    """A local file. Reads share no file position, so threads need no lock."""

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            # O_NONBLOCK: opening a named pipe must not wait for a writer.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise UnreadableCheckpoint(
                f"cannot open {path}: {(error.strerror or str(error)).lower()}", "check the path and its permissions"
            ) from None
        # Tensors are read lazily, so the file stays open as long as a tensor refers to this source.
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableCheckpoint(f"{path} is not a regular file", "name a checkpoint file")
        self.size = status.st_size
        self.budget = Budget(self.name, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
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
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise UnreadableCheckpoint(
                f"{self.name} refers to {name!r}, which is not a file name in its own folder",
                "shards must be in the same folder as their index",
            )
        return FileSource(Path(self.name).parent / name)
