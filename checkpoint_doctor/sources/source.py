"""Sources: named bytes that loaders read from."""

from __future__ import annotations

from typing import Protocol

from checkpoint_doctor.errors import UnreadableCheckpoint


class Source(Protocol):
    """Named bytes that any thread may read at any offset."""

    name: str
    """Its name in messages: a path, or a path and the member inside it."""
    size: int
    """Number of bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes from an offset on.

        Raises:
            UnreadableCheckpoint: the bytes end before the buffer is full, or the system reports an error.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from an offset on. Raises as ``read_into``."""

    def sibling(self, name: str) -> Source:
        """Open the file of that name in the same folder (a shard beside its index).

        Raises:
            UnreadableCheckpoint: there is none, or the name contains a folder.
        """


def read_exactly(source: Source, offset: int, length: int) -> bytes:
    """Return ``length`` bytes of a source from an offset on. Raises as ``Source.read_into``."""
    if length < 0 or offset < 0 or offset + length > source.size:
        raise too_short(source, offset, length)
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def too_short(source: Source, offset: int, length: int) -> UnreadableCheckpoint:
    """Return the error for a read beyond the end of a source."""
    return UnreadableCheckpoint(
        f"{source.name} ends at byte {source.size:,}, but {length:,} bytes are expected from byte {offset:,} on",
        "the file is truncated: copy or download it again",
    )


class MemorySource:
    """Bytes in memory, such as an inflated zip member."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.size = len(content)
        self._content = memoryview(content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset + len(buffer) > self.size:
            raise too_short(self, offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return read_exactly(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        raise UnreadableCheckpoint(
            f"{self.name} has no other files in its folder", f"{name!r} must be in the same folder as its index"
        )


class Section:
    """A range of another source as a source of its own."""

    def __init__(self, name: str, parent: Source, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > parent.size:
            raise too_short(parent, start, size)
        self.name = name
        self.size = size
        self.parent = parent
        self.start = start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise too_short(self, offset, len(buffer))
        self.parent.read_into(self.start + offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return read_exactly(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        raise UnreadableCheckpoint(
            f"{self.name} has no other files in its folder", f"{name!r} must be in the same folder as its index"
        )
