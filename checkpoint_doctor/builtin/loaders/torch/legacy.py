"""PyTorch's legacy container (0.1.10 to 1.5, later with ``_use_new_zipfile_serialization=False``).

It is a sequence of pickles: a magic number, the protocol, system information, the object and the keys of its storages;
then each storage as an eight-byte count of elements and the elements themselves. Counts and elements are little-endian
even where the system information says big, since the writer swapped them (``THStorage_writeFileRaw``).
"""

from __future__ import annotations

from typing import Any, Protocol

from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor
from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.builtin.loaders._pickle.tensors import Memory, PickledStorage, PickledTensor
from checkpoint_doctor.builtin.loaders._storage.dtypes import size_of
from checkpoint_doctor.builtin.loaders.torch.storages import LARGEST_STORAGE, parse_storage_id
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Section, Source
from checkpoint_doctor.sources.budget import OBJECTS, Budget
from checkpoint_doctor.text import shown

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
MAGIC_PICKLE = b"\x80\x02\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
LONGEST_SEARCH = 200_000
"""Containers in which the tensor of a storage is searched, for a message."""


class Reader(Protocol):
    """The part of the archive reader that is used here."""

    source: Source
    prefix: str
    member: str
    flaws: list[Flaw]
    budget: Budget

    def run(self, cursor: Cursor, persistent: Any) -> Any:
        """Read one pickle."""


def is_legacy(source: Source) -> bool:
    """Return whether a file begins with the magic number, pickled with any protocol."""
    head = source.read(0, min(64, source.size))
    number = MAGIC_NUMBER.to_bytes(10, "little")
    if head.startswith((b"\x80\x02\x8a\x0a" + number, b"\x80\x03\x8a\x0a" + number)):
        return True
    return (head.startswith(b"\x80") and (b"\x8a\x0a" + number + b".") in head) or head.startswith(
        f"L{MAGIC_NUMBER}".encode()
    )


def is_garbled(head: bytes) -> bool:
    """Return whether a file begins like a legacy file that was copied in text mode."""
    text = MAGIC_PICKLE.decode("latin1")
    copies = (
        text.encode("ascii", "replace"),
        text.encode("utf-8"),
        MAGIC_PICKLE.decode("ascii", "replace").encode("utf-8"),
        MAGIC_PICKLE.decode("utf-8", "replace").encode("utf-8"),
        MAGIC_PICKLE.decode("utf-8", "replace").encode("ascii", "replace"),
        MAGIC_PICKLE.replace(b"\n", b"\r\n"),
        MAGIC_PICKLE.decode("ascii", "ignore").encode(),
    )
    return any(head.startswith(copy) for copy in copies)


def read(reader: Reader, source: Source) -> Any:
    """Return the object in a legacy file, with the bytes of all its storages located.

    Raises:
        UnreadableCheckpoint: the file is truncated (the message names storage and tensor), damaged, or of an unknown
            protocol.
    """
    cursor = Cursor(source)
    magic = reader.run(cursor, None)
    if magic != MAGIC_NUMBER:
        raise _damaged(source, "its magic number is wrong")
    protocol = reader.run(cursor, None)
    if protocol != PROTOCOL_VERSION:
        raise _damaged(source, f"its protocol is {str(protocol)[:40]}, but {PROTOCOL_VERSION} is expected")
    reader.run(cursor, None)
    storages = _Storages(reader)
    root = reader.run(cursor, storages.find)
    keys = reader.run(cursor, None)
    if not isinstance(keys, list):
        raise _damaged(source, "the list of its storages is missing")
    end = storages.locate(source, cursor.position, keys, root)
    if end < source.size:
        reader.flaws.append(
            Flaw(f"{source.size - end:,} bytes follow the last storage", reader.member, end, source.size)
        )
    return root


class _Storages:
    """Storages by their keys: the pickle has their sizes, and their bytes follow it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._memories: dict[Any, Memory] = {}
        self._element_sizes: dict[Any, int] = {}

    def find(self, identity: Any) -> Any:
        """Return what a persistent id refers to: a storage, or the class of a module saved with its source code.

        Raises:
            TypeError: the id has an unknown form.
        """
        if isinstance(identity, tuple) and len(identity) >= 2 and identity[0] == "module":
            return identity[1]
        wanted = parse_storage_id(identity)
        key = wanted.key
        if not isinstance(key, str | int):
            raise TypeError("a storage without a key")
        item = size_of(wanted.dtype)
        memory = self._memories.get(key)
        if memory is None:
            self._reader.budget.spend(OBJECTS, 4)
            memory = self._memories[key] = Memory(f"{self._reader.prefix}{str(key)[:200]}", wanted.size)
            self._element_sizes[key] = item
        if not wanted.rest or wanted.rest[0] is None:
            return PickledStorage(memory, wanted.dtype, 0, wanted.size)
        _, offset, size = wanted.rest[0]
        if not all(isinstance(number, int) and 0 <= number < LARGEST_STORAGE for number in (offset, size)):
            raise TypeError("a view without a range")
        return PickledStorage(memory, wanted.dtype, offset * item, size * item)

    def locate(self, source: Source, position: int, keys: list[Any], root: Any) -> int:
        """Find every storage's bytes behind the pickles and return the offset after the last one.

        Raises:
            UnreadableCheckpoint: the file ends before, or a storage's size differs from that in the pickle.
        """
        for number, key in enumerate(keys, 1):
            memory = self._memories.get(key) if isinstance(key, str | int) else None
            if memory is None:
                raise _damaged(source, f"its list of storages contains {shown(key)!r}, which no tensor refers to")
            start, end = position + 8, position + 8 + memory.size
            title = f"storage {number:,} of {len(keys):,}"
            if start > source.size or end > source.size:
                raise UnreadableCheckpoint(
                    f"{source.name} is truncated: {title}{_tensor_of(root, memory)} should end at byte {end:,}, "
                    f"but the file ends at byte {source.size:,}; the {number - 1:,} before it are whole",
                    "copy or download it again, or take an earlier checkpoint",
                )
            expected = memory.size // self._element_sizes[key]
            count = source.read(position, 8)
            found = int.from_bytes(count, "little")
            if found != expected:
                # A file with big-endian elements also has big-endian counts.
                memory.big_endian = int.from_bytes(count, "big") == expected
                if not memory.big_endian:
                    raise _damaged(
                        source,
                        f"{title}{_tensor_of(root, memory)} should have {expected:,} elements, "
                        f"but {found:,} are recorded at byte {position:,}",
                    )
            memory.place = _section(memory.name, source, start, memory.size)
            position = end
        self._check_complete(source, root)
        return position

    def _check_complete(self, source: Source, root: Any) -> None:
        unlisted = [memory for memory in self._memories.values() if memory.place is None]
        missing = [memory for memory in unlisted if memory.size]
        if missing:
            raise _damaged(
                source,
                f"{len(missing):,} of its storages are missing from the list of storages, "
                f"such as {shown(missing[0].name)}{_tensor_of(root, missing[0])}",
            )
        for memory in unlisted:
            memory.place = _section(memory.name, source, 0, 0)


def _section(name: str, source: Source, start: int, size: int) -> Any:
    return lambda: Section(f"{source.name}, storage {shown(name)}", source, start, size)


def _tensor_of(root: Any, memory: Memory) -> str:
    """Return the part of a message that names the first tensor in a storage; ``""`` where it is not found."""
    pending: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while pending and len(seen) < LONGEST_SEARCH:
        name, value = pending.pop()
        if isinstance(value, PickledTensor):
            if value.storage is not None and value.storage.memory is memory:
                return f" (tensor {shown(name)})" if name else ""
            continue
        if id(value) in seen or not isinstance(value, dict | list | tuple | Inert):
            continue
        seen.add(id(value))
        if isinstance(value, Inert):
            children = [(name, value.arguments), (name, value.attributes), (name, value.entries), (name, value.items)]
        elif isinstance(value, dict):
            children = [(_join(name, key), child) for key, child in value.items()]
        else:
            children = [(_join(name, index), child) for index, child in enumerate(value)]
        pending.extend(reversed(children))
    return ""


def _join(name: str, key: Any) -> str:
    if key in ("_modules", "_parameters", "_buffers"):
        return name
    key = str(key)[:100] if isinstance(key, str | int) else "?"
    return f"{name[-200:]}/{key}" if name else key


def _damaged(source: Source, what: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(f"{source.name} is damaged: {what}", "copy or download the file again")
