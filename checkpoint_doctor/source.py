"""From a URI to named, seekable bytes."""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import Protocol

from checkpoint_doctor.errors import UnreadableCheckpoint


class Source(Protocol):
    """Named bytes that any thread may read at any place."""

    name: str
    """How to call it in a message: a path, or a path and the member inside it."""
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from an offset on.

        Raises:
            UnreadableCheckpoint: the bytes end before the buffer is full, or the system refuses.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from an offset on. Raises as ``read_into``."""

    def sibling(self, name: str) -> Source:
        """Open the file of that name in the same folder (a shard beside its index).

        Raises:
            UnreadableCheckpoint: there is none, or the name would leave the folder.
        """


def _read(source: Source, offset: int, length: int) -> bytes:
    if length < 0 or offset < 0 or offset + length > source.size:
        raise _too_short(source, offset, length)
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def _too_short(source: Source, offset: int, length: int) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"{source.name} ends at byte {source.size:,}, but {length:,} bytes are expected from byte {offset:,} on",
        "the file is truncated: copy or download it again",
    )


class FileSource:
    """A local file. Reads do not share a position, so threads need no lock."""

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            # O_NONBLOCK: opening a named pipe must not wait for somebody to write to it.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise UnreadableCheckpoint(
                f"cannot open {path}: {(error.strerror or str(error)).lower()}", "check the path and its permissions"
            ) from None
        # Tensors read lazily, so a source lives as long as anything that still points into it.
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableCheckpoint(f"{path} is not a regular file", "name a checkpoint file")
        self.size = status.st_size

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
                raise _too_short(self, offset, len(buffer))
            done += count

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return _read(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise UnreadableCheckpoint(
                f"{self.name} refers to {name!r}, which is not a file name in its own folder",
                "shards must lie beside their index",
            )
        return FileSource(Path(self.name).parent / name)


class MemorySource:
    """Bytes that are already in memory, such as an inflated zip member."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.size = len(content)
        self._content = memoryview(content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset + len(buffer) > self.size:
            raise _too_short(self, offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return _read(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        raise UnreadableCheckpoint(f"{self.name} has no file beside it", f"{name!r} must lie beside its index")


class Section:
    """A range of another source, seen as a source of its own."""

    def __init__(self, name: str, parent: Source, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > parent.size:
            raise _too_short(parent, start, size)
        self.name = name
        self.size = size
        self.parent = parent
        self.start = start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise _too_short(self, offset, len(buffer))
        self.parent.read_into(self.start + offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return _read(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        raise UnreadableCheckpoint(f"{self.name} has no file beside it", f"{name!r} must lie beside its index")
