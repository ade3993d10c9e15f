"""Storages as pickles refer to them (by persistent ids), and where a zip contains their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.tensors import Memory, PickledStorage
from checkpoint_doctor.builtin.loaders._pickle.torch_rebuilders import storage_type
from checkpoint_doctor.builtin.loaders._storage.dtypes import size_of
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.sources.budget import OBJECTS, Budget

LARGEST_STORAGE = 1 << 59
"""Elements of a storage."""


class StorageId(Struct, frozen=True):
    """A persistent id ``("storage", type, key, location, number of elements, …)``."""

    dtype: str
    key: Any
    count: int
    """Number of elements."""
    rest: tuple[Any, ...]
    """What follows in legacy files."""

    @property
    def size(self) -> int:
        """Bytes of the storage."""
        return self.count * size_of(self.dtype)


def parse_storage_id(identity: Any) -> StorageId:
    """Return a persistent id's parts.

    Raises:
        TypeError: it has another form.
    """
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise TypeError("an unknown kind of persistent id")
    _, kind, key, _, count, *rest = identity
    dtype = storage_type(kind).dtype
    if not isinstance(count, int) or not 0 <= count < LARGEST_STORAGE:
        raise TypeError("a storage without a size")
    return StorageId(dtype, key, count, tuple(rest))


class ZipStorages:
    """The storages of a zip: each is a member ``data/<key>``."""

    def __init__(self, members: Mapping[str, Member], prefix: str, flaws: list[Flaw], budget: Budget) -> None:
        self._members = members
        self._prefix = prefix
        self._flaws = flaws
        self._budget = budget
        self._memories: dict[str, Memory] = {}
        order = members.get("byteorder")
        content = order.source.read(0, min(16, order.source.size)) if order else b"little"
        if content not in (b"little", b"big"):
            flaws.append(Flaw("the byte order is neither little nor big; little is assumed", "byteorder"))
        self._big_endian = content == b"big"

    def find(self, identity: Any) -> PickledStorage:
        """Return the storage that a persistent id refers to. Raises as ``parse_storage_id``."""
        wanted = parse_storage_id(identity)
        key = str(wanted.key)[:200]
        memory = self._memories.get(key)
        if memory is None:
            self._budget.spend(OBJECTS, 4)
            memory = self._memories[key] = self._locate(key, wanted.size)
        return PickledStorage(memory, wanted.dtype, 0, wanted.size)

    def _locate(self, key: str, size: int) -> Memory:
        memory = Memory(f"{self._prefix}data/{key}", size, big_endian=self._big_endian)
        member = self._members.get(f"data/{key}") or self._members.get(f"tensors/{key}")
        if member is not None:
            memory.place = lambda: member.source
            if member.size != size:
                self._flaws.append(
                    Flaw("the pickle and the archive disagree on the size of a storage", member.name, size, member.size)
                )
        elif size == 0:
            memory.place = lambda: MemorySource(memory.name, b"")
        else:
            self._flaws.append(Flaw("a storage is missing from the archive", f"data/{key}", size, 0))
        return memory
