"""Sources: named bytes that loaders read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.budget import JSON, OBJECTS, Budget


class Source(Protocol):
    """Named bytes that any thread may read at any offset."""

    name: str
    """Its name in messages: a path, or a path and the member inside it."""
    size: int
    """Number of bytes."""
    budget: Budget
    """What reading it may cost: the budget of the file that it is a part of."""

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


@runtime_checkable
class FetchesAhead(Protocol):
    """A source for which one read costs time, and several at a time little more."""

    def fetch_ahead(self, places: Iterable[tuple[int, int]]) -> None:
        """Fetch bytes, which are read next; see the function of that name."""


def read_exactly(source: Source, offset: int, length: int) -> bytes:
    """Return ``length`` bytes of a source from an offset on. Raises as ``Source.read_into``."""
    if length < 0 or offset < 0 or offset + length > source.size:
        raise too_short(source, offset, length)
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def fetch_ahead(source: Source, places: Sequence[tuple[int, int]]) -> None:
    """Tell a source which bytes are read next: a remote file asks for all of them at the same time.

    Args:
        source: any source.
        places: offset and length of each.

    Raises:
        UnreadableCheckpoint: they cannot be read.
    """
    while isinstance(source, Section):
        places, source = [(source.start + offset, length) for offset, length in places], source.parent
    if isinstance(source, FetchesAhead):
        source.fetch_ahead(places)


def require_file_name(name: str, source: Source) -> None:
    """Make sure that a name in a source is that of a file in the same folder, and leads nowhere else.

    Raises:
        UnreadableCheckpoint: it contains a folder.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UnreadableCheckpoint(
            f"{source.name} refers to {name!r}, which is not a file name in its own folder",
            "shards must be in the same folder as their index",
        )


def read_json(source: Source, offset: int = 0, length: int | None = None) -> bytes:
    """Return the bytes of a JSON document; what parsing them takes is spent from the budget.

    Raises:
        UnreadableCheckpoint: as ``Source.read_into``, or it is more than the file may ask for.
    """
    length = source.size - offset if length is None else length
    source.budget.spend(JSON, length)
    content = source.read(offset, length)
    # Each is one object at most, and a comma separates the others.
    source.budget.spend(OBJECTS, sum(map(content.count, (b"{", b"[", b","))))
    return content


def too_short(source: Source, offset: int, length: int) -> UnreadableCheckpoint:
    """Return the error for a read beyond the end of a source."""
    return UnreadableCheckpoint(
        f"{source.name} ends at byte {source.size:,}, but {length:,} bytes are expected from byte {offset:,} on",
        "the file is truncated: copy or download it again",
    )


class MemorySource:
    """Bytes in memory, such as an inflated zip member; they spend from the budget of the file they come from."""

    def __init__(self, name: str, content: bytes | bytearray, budget: Budget | None = None) -> None:
        self.name = name
        self.size = len(content)
        self.budget = budget or Budget(name, len(content))
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
        self.budget = parent.budget
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
