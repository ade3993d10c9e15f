"""PyTorch's containers: which one a file is, and the object that it holds.

Three are read: the zip (since PyTorch 1.4; ``torch/serialization.py``, ``_load``), the legacy file (since 0.1.10;
``_legacy_load``) and plain pickles of tensors. The tar of the first releases is only named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoint_doctor.checkpoint import Flaw, PickledName, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.loaders._pickle.cursor import Cursor
from checkpoint_doctor.loaders._pickle.machine import ACTIONS, PYTHON_2_MODULES, Machine
from checkpoint_doctor.loaders._pickle.names import TABLE
from checkpoint_doctor.loaders._pickle.objects import Budget, Global, Inert, SpelledOut, StoredBytes
from checkpoint_doctor.loaders._pickle.tensors import Memory, PickledStorage
from checkpoint_doctor.loaders._pickle.torch_rebuilders import storage_type
from checkpoint_doctor.loaders._storage.dtypes import size_of
from checkpoint_doctor.loaders._zip.archive import Member, ZipArchive, is_zip, open_archive
from checkpoint_doctor.loaders._zip.saved_as_text import describe_saved_as_text, was_saved_as_text
from checkpoint_doctor.loaders.torch import legacy
from checkpoint_doctor.sources import MemorySource, Source

CHECKED_AT_ONCE = 64 << 10
"""Bytes up to which a member's CRC is checked on opening; larger ones cost a pass and are left to the caller."""
CHECKED_TOGETHER = 8 << 20
DEEPEST_NESTING = 4
"""Archives inside pickles: a pickled tensor holds one."""
LARGEST_STORAGE = 1 << 59


@dataclass(frozen=True, eq=False)
class Archive:
    """What a torch container holds."""

    name: str
    """The file, as messages call it."""
    container: str
    """``zip``, ``legacy`` or ``pickle``."""
    root: Any
    """The unpickled object: plain Python containers with ``PickledTensor`` leaves and ``Inert`` placeholders."""
    pickled_names: tuple[PickledName, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    unchecked: tuple[Member, ...] = ()
    """Members whose CRC was not compared on opening because that costs a pass over their bytes."""
    opcodes: int = 0
    """Pickle instructions followed: a measure of how much structure there is."""
    members: Mapping[str, Member] = field(default_factory=dict)
    """The zip's members, their common folder removed; empty for the other containers."""


def recognize(source: Source) -> str | None:
    """Return which container a file is, ``None`` where it is none of PyTorch's. Never raises.

    Beside ``zip``, ``legacy`` and ``pickle`` these are ``tar`` and ``garbled``, which ``read_archive`` refuses by name.
    """
    try:
        return _recognize(source)
    except UnreadableCheckpoint:
        return None


def read_archive(source: Source, member: str = "") -> Archive:
    """Read a torch container without looking at a tensor's numbers.

    ``member`` is the name of the container inside an outer archive; it goes before the names of storages.

    Raises:
        UnreadableCheckpoint: it is no torch container, or a damaged one; the message says where.
    """
    return _Reader(source, f"{member}:" if member else "", member).read()


def _recognize(source: Source) -> str | None:
    head = source.read(0, min(512, source.size))
    if not head.startswith(b"\x80") and is_zip(source):
        return "zip" if _is_torch_zip(source, head) else None
    if legacy.is_legacy(source):
        return "legacy"
    if legacy.is_garbled(head):
        return "garbled"
    if head[257:262] == b"ustar" and head[:100].rstrip(b"\0") in (b"storages", b"tensors", b"pickle", b"sys_info"):
        return "tar"
    return "pickle" if _is_pickle(source, head) else None


def _is_torch_zip(source: Source, head: bytes) -> bool:
    # A truncated archive has lost its directory; its first member still tells.
    name_length = int.from_bytes(head[26:28], "little")
    if head[30 : 30 + name_length].endswith(b"/data.pkl"):
        return True
    try:
        return _pickle_member(open_archive(source)) is not None
    except UnreadableCheckpoint:
        return False


def _pickle_member(archive: ZipArchive) -> str | None:
    names = [name for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
    return min(names, key=lambda name: name.count("/"), default=None)


def _is_pickle(source: Source, head: bytes) -> bool:
    if len(head) > 2 and head[0] == 0x80 and head[1] <= 5 and head[1] >= 1:
        return head[2] in ACTIONS
    if not head or head[0] not in b"(]}c)lid":
        return False
    # Protocols 0 and 1 begin like text does: believe what can be followed.
    beginning = MemorySource(source.name, source.read(0, min(1 << 16, source.size)))
    machine = Machine({}, lambda identity: None, Budget(beginning.size))
    try:
        return isinstance(machine.load(Cursor(beginning)), dict | list | tuple | Inert | Global)
    except UnreadableCheckpoint as error:
        return machine.opcodes > 20 and "truncated" in error.message


class _Reader:
    """Reads one file: the pickles in it share a table, a budget and the record of names."""

    def __init__(self, source: Source, prefix: str, member: str, depth: int = 0) -> None:
        self.source = source
        self.prefix = prefix
        self.member = member
        self.depth = depth
        self.flaws: list[Flaw] = []
        self.names: dict[tuple[str, str], Global] = {}
        self.budget = Budget(source.size)
        self.opcodes = 0
        self.duplicate_keys = 0
        self.table = {**TABLE, ("torch.storage", "_load_from_bytes"): self._load_from_bytes}

    def read(self) -> Archive:
        kind = _recognize(self.source) if self.source.size else None
        title = self.source.name
        if kind == "zip":
            return self._read_zip()
        if kind == "legacy":
            return self._finish("legacy", legacy.read(self, self.source))
        if kind == "pickle":
            return self._read_pickle()
        if kind == "tar":
            raise UnreadableCheckpoint(
                f"{title} is the tar archive that PyTorch wrote before version 0.1.10, which is not read",
                "load it with an old PyTorch and save it again",
            )
        if kind == "garbled":
            if was_saved_as_text(self.source.read(0, min(1 << 16, self.source.size))):
                raise describe_saved_as_text(self.source)
            raise UnreadableCheckpoint(
                f"{title} is a PyTorch file that was copied as text: its line ends were changed",
                "fetch the original again, as a binary file",
            )
        raise UnreadableCheckpoint(
            f"{title} is no PyTorch file: neither a zip with a data.pkl nor a pickle"
            + ("" if self.source.size else " (it is empty)"),
            "name a file written by torch.save",
        )

    def run(self, cursor: Cursor, persistent: Any) -> Any:
        """Follow one pickle of this file."""
        machine = Machine(self.table, persistent, self.budget, self.names)
        try:
            return machine.load(cursor)
        finally:
            self.opcodes += machine.opcodes
            self.duplicate_keys += machine.duplicate_keys

    def _read_pickle(self) -> Archive:
        cursor = Cursor(self.source)
        root = self.run(cursor, None)
        if (rest := self.source.size - cursor.position) > 0:
            self.flaws.append(
                Flaw(f"{rest:,} bytes follow the end of the pickle", self.member, cursor.position, self.source.size)
            )
        return self._finish("pickle", root)

    def _read_zip(self) -> Archive:
        archive = open_archive(self.source)
        pickle_name = _pickle_member(archive)
        if pickle_name is None:
            raise UnreadableCheckpoint(
                f"{self.source.name} is a zip archive without a data.pkl, so PyTorch did not write it",
                "name a file written by torch.save",
            )
        folder = pickle_name.removesuffix("data.pkl")
        members = {
            name.removeprefix(folder): member for name, member in archive.members.items() if name.startswith(folder)
        }
        self.flaws += archive.flaws
        unchecked = self._check_small(members)
        storages = _ZipStorages(self, members)
        root = self.run(Cursor(members["data.pkl"].source), storages.find)
        return self._finish("zip", root, tuple(unchecked), members)

    def _check_small(self, members: Mapping[str, Member]) -> list[Member]:
        left = CHECKED_TOGETHER
        unchecked = []
        for name, member in members.items():
            if name != "data.pkl" and (member.size > CHECKED_AT_ONCE or left < member.size or not member.is_stored):
                unchecked.append(member)
                continue
            left -= member.size
            if member.damage is not None:
                self.flaws.append(member.damage)
        return unchecked

    def _load_from_bytes(self, content: Any) -> Any:
        """Stand in for ``torch.storage._load_from_bytes``: a legacy file inside a pickle."""
        if self.depth >= DEEPEST_NESTING:
            raise TypeError("archives are nested too deeply")
        if isinstance(content, StoredBytes):
            name = f"{self.prefix}byte {content.offset}"
            source = content.as_source(f"{self.source.name}, byte {content.offset}")
        elif isinstance(content, bytes):
            name, source = "", SpelledOut(f"{self.source.name}, inside", content)
        else:
            raise TypeError("no bytes")
        inner = _Reader(source, f"{name}:" if name else "", self.member, self.depth + 1)
        inner.names, inner.budget, inner.flaws = self.names, self.budget, self.flaws
        if not legacy.is_legacy(source):
            kind = _recognize(source)
            if kind != "zip":
                raise TypeError("the bytes of a storage are no PyTorch file")
            return inner._read_zip().root
        return legacy.read(inner, source)

    def _finish(
        self,
        container: str,
        root: Any,
        unchecked: tuple[Member, ...] = (),
        members: Mapping[str, Member] | None = None,
    ) -> Archive:
        if self.duplicate_keys:
            self.flaws.append(
                Flaw(f"a key is set more than once in the same dictionary ({self.duplicate_keys:,} times)", self.member)
            )
        names = tuple(
            PickledName(module, name, self.member, found.called, _is_known(self.table, module, name))
            for (module, name), found in self.names.items()
        )
        return Archive(
            name=self.source.name,
            container=container,
            root=root,
            pickled_names=names,
            flaws=tuple(self.flaws),
            unchecked=unchecked,
            opcodes=self.opcodes,
            members=members or {},
        )


def _is_known(table: Mapping[tuple[str, str], Any], module: str, name: str) -> bool:
    return (PYTHON_2_MODULES.get(module, module), name) in table


class _ZipStorages:
    """Finds what persistent ids of a zip's pickle stand for."""

    def __init__(self, reader: _Reader, members: Mapping[str, Member]) -> None:
        self._reader = reader
        self._members = members
        self._memories: dict[str, Memory] = {}
        order = members.get("byteorder")
        content = order.source.read(0, min(16, order.source.size)) if order else b"little"
        if content not in (b"little", b"big"):
            reader.flaws.append(Flaw("the byte order is neither little nor big; little is assumed", "byteorder"))
        self._big_endian = content == b"big"

    def find(self, identity: Any) -> Any:
        """Return the storage for ``("storage", type, key, location, number of elements)``.

        Raises:
            TypeError: the identity has another form.
        """
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise TypeError("an unknown kind of persistent id")
        _, kind, key, _, count = identity[:5]
        kind = storage_type(kind)
        if not isinstance(count, int) or not 0 <= count < LARGEST_STORAGE:
            raise TypeError("a storage without a size")
        key = str(key)[:200]
        size = count * size_of(kind.dtype)
        memory = self._memories.get(key)
        if memory is None:
            self._reader.budget.build(self._reader.source.name, 4)
            memory = self._memories[key] = self._locate(key, size)
        return PickledStorage(memory, kind.dtype, 0, size)

    def _locate(self, key: str, size: int) -> Memory:
        memory = Memory(f"{self._reader.prefix}data/{key}", size, big_endian=self._big_endian)
        member = self._members.get(f"data/{key}") or self._members.get(f"tensors/{key}")
        if member is not None:
            memory.place = lambda: member.source
            if member.size != size:
                self._reader.flaws.append(
                    Flaw("the pickle and the archive disagree on the size of a storage", member.name, size, member.size)
                )
        elif size == 0:
            memory.place = lambda: MemorySource(memory.name, b"")
        else:
            self._reader.flaws.append(Flaw("a storage is missing from the archive", f"data/{key}", size, 0))
        return memory
