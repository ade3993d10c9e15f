"""Reads a PyTorch container: the object in it, its storages, and what is wrong with the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders._patching.places import checksum_of
from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor
from checkpoint_doctor.builtin.loaders._pickle.machine import Machine
from checkpoint_doctor.builtin.loaders._pickle.names import TABLE
from checkpoint_doctor.builtin.loaders._pickle.objects import Global, RebuiltBytes, StoredBytes
from checkpoint_doctor.builtin.loaders._pickle.state import PYTHON_2_MODULES
from checkpoint_doctor.builtin.loaders._zip.archive import open_archive
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders._zip.saved_as_text import describe_saved_as_text, was_saved_as_text
from checkpoint_doctor.builtin.loaders.torch import legacy
from checkpoint_doctor.builtin.loaders.torch.containers import (
    FEWEST_OPCODES,
    find_pickle_member,
    recognize_readable,
    starts_pickle,
)
from checkpoint_doctor.builtin.loaders.torch.exported import read_exported
from checkpoint_doctor.builtin.loaders.torch.storages import ZipStorages
from checkpoint_doctor.checkpoint import Checksum, Flaw, PickledName
from checkpoint_doctor.errors import NotACheckpoint, UnknownFormat, UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import Budget

CHECKED_AT_ONCE = 64 << 10
"""Bytes up to which a member's CRC-32 is checked when the file is opened; larger members are left to the caller."""
CHECKED_TOGETHER = 8 << 20
"""Bytes of all members that are checked when the file is opened."""
DEEPEST_NESTING = 4
"""Archives inside pickles: a tensor pickled with Python's ``pickle`` is one."""
JOBLIB_ARRAYS = frozenset((f"{home}joblib.numpy_pickle", "NumpyArrayWrapper") for home in ("", "sklearn.externals."))
"""The class of which joblib writes an object before the raw bytes of an array; a pickle cannot be read beyond them.
scikit-learn had a copy of joblib up to version 0.22."""


class Archive(Struct, frozen=True, eq=False):
    """The contents of a PyTorch container."""

    name: str
    """The file's name in messages."""
    budget: Budget
    """What the file may still ask for."""
    container: str
    """``zip``, ``legacy``, ``pickle`` or ``exported``."""
    root: Any
    """The unpickled object: plain Python containers with ``PickledTensor`` leaves and ``Inert`` placeholders."""
    pickled_names: tuple[PickledName, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    unchecked: tuple[Member, ...] = ()
    """Members whose CRC-32 is not checked yet, because that takes a pass over their bytes."""
    prefix: str = ""
    """What comes before the names of its storages."""
    opcodes: int = 0
    """Number of pickle opcodes: an upper bound of how much structure there is."""
    members: Mapping[str, Member] = field(default_factory=dict)
    """The zip's members without their common folder; empty for the other containers."""

    @property
    def checksums(self) -> tuple[Checksum, ...]:
        """The checksums of the members that are not checked yet."""
        return tuple(
            checksum_of(member, f"{self.prefix}data/{member.name.rpartition('/')[2]}") for member in self.unchecked
        )


def read_archive(source: Source, member: str = "") -> Archive:
    """Read a PyTorch container; the values of its tensors are not read.

    ``member`` is the name of the container inside an outer file; it is put before the names of storages.

    Raises:
        NotACheckpoint: it is the tar archive of the first releases.
        UnreadableCheckpoint: it is not a PyTorch container, or it is damaged; the message says where.
    """
    return _Reader(source, f"{member}:" if member else "", member).read()


MOST_PICKLES = 1000
"""Pickles in one file, which ``pickle.dump`` writes one after the other where it is called again on an open file."""


class _Reader:
    """Reads one file: all pickles in it share a table, a budget and the record of globals."""

    def __init__(self, source: Source, prefix: str, member: str, depth: int = 0) -> None:
        self.source = source
        self.prefix = prefix
        self.member = member
        self.depth = depth
        self.flaws: list[Flaw] = []
        self.names: dict[tuple[str, str], Global] = {}
        self.budget = source.budget
        self.opcodes = 0
        self.duplicate_keys = 0
        self.table = {**TABLE, ("torch.storage", "_load_from_bytes"): self._load_from_bytes}

    def read(self) -> Archive:
        kind = recognize_readable(self.source) if self.source.size else None
        title = self.source.name
        if kind == "zip":
            return self._read_zip()
        if kind == "exported":
            return self._read_exported()
        if kind == "legacy":
            return self._finish("legacy", legacy.read(self, self.source))
        if kind == "pickle":
            return self._read_pickle()
        if kind == "tar":
            raise NotACheckpoint(
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
            f"{title} is not a PyTorch file: neither a zip with a data.pkl nor a pickle"
            + ("" if self.source.size else " (it is empty)"),
            "name a file written by torch.save",
        )

    def run(self, cursor: Cursor, persistent: Any) -> Any:
        """Read one pickle of this file."""
        machine = Machine(self.table, persistent, self.budget, self.names)
        try:
            return machine.load(cursor)
        finally:
            self.opcodes += machine.opcodes
            self.duplicate_keys += machine.duplicate_keys

    def _read_pickle(self) -> Archive:
        cursor = Cursor(self.source)
        try:
            root = self.run(cursor, None)
        except UnreadableCheckpoint as error:
            if not self.names and self.opcodes <= FEWEST_OPCODES:  # three bytes do not prove that it is a pickle
                raise UnknownFormat(error.message, error.hint) from None
            if JOBLIB_ARRAYS.isdisjoint(self.names):
                raise
            return self._finish("pickle", None)
        roots, end = [root], cursor.position
        while starts_pickle(self.source.read(end, min(3, self.source.size - end))):
            if len(roots) == MOST_PICKLES:
                raise NotACheckpoint(
                    f"{self.source.name} is recorded data: more than {MOST_PICKLES:,} pickles, one after the other",
                    "name the file that the model itself was saved in",
                )
            try:
                roots.append(self.run(cursor, None))
            except UnreadableCheckpoint:
                break
            end = cursor.position
        if (rest := self.source.size - end) > 0:
            if not JOBLIB_ARRAYS.isdisjoint(self.names):  # an array of objects, which joblib pickles by itself
                return self._finish("pickle", None)
            self.flaws.append(Flaw(f"{rest:,} bytes follow the end of the pickle", self.member, end, self.source.size))
        return self._finish("pickle", roots if len(roots) > 1 else root)

    def _read_zip(self) -> Archive:
        archive = open_archive(self.source)
        pickle_name = find_pickle_member(archive)
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
        storages = ZipStorages(members, self.prefix, self.flaws, self.budget)
        root = self.run(Cursor(members["data.pkl"].source), storages.find)
        return self._finish("zip", root, tuple(unchecked), members)

    def _read_exported(self) -> Archive:
        archive = open_archive(self.source)
        self.flaws += archive.flaws
        unchecked = self._check_small(archive.members)
        root = read_exported(archive, self._read_member, self.flaws)
        # Tensors that are described as JSON have no opcodes, but each of them is visited.
        self.opcodes += sum(map(len, (root, *(each for each in root.values() if isinstance(each, dict)))))
        return self._finish("exported", root, tuple(unchecked))

    def _read_member(self, member: Member) -> Any:
        """Return the object in a file of ``torch.save`` that is a member of this archive."""
        name = f"{self.prefix}{member.name}"
        inner = _Reader(member.source, f"{name}:", name, self.depth + 1)
        inner.names, inner.flaws = self.names, self.flaws
        if recognize_readable(member.source) == "zip":
            return inner._read_zip().root
        return legacy.read(inner, member.source)

    def _check_small(self, members: Mapping[str, Member]) -> list[Member]:
        """Check the CRC-32 of small members and return the others."""
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
        """Stand in for ``torch.storage._load_from_bytes``: a PyTorch file inside a pickle."""
        if self.depth >= DEEPEST_NESTING:
            raise TypeError("archives are nested too deeply")
        if isinstance(content, StoredBytes):
            name = f"{self.prefix}byte {content.offset}"
            source = content.as_source(f"{self.source.name}, byte {content.offset}")
        elif isinstance(content, bytes):
            name, source = "", RebuiltBytes(f"{self.source.name}, inside", content, self.budget)
        else:
            raise TypeError("not bytes")
        inner = _Reader(source, f"{name}:" if name else "", self.member, self.depth + 1)
        inner.names, inner.flaws = self.names, self.flaws
        if not legacy.is_legacy(source):
            kind = recognize_readable(source)
            if kind != "zip":
                raise TypeError("the bytes of a storage are not a PyTorch file")
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
            PickledName(module, name, self.member, found.called, self._is_known(module, name))
            for (module, name), found in self.names.items()
        )
        return Archive(
            name=self.source.name,
            container=container,
            root=root,
            pickled_names=names,
            flaws=tuple(self.flaws),
            unchecked=unchecked,
            prefix=self.prefix,
            opcodes=self.opcodes,
            members=members or {},
            budget=self.budget,
        )

    def _is_known(self, module: str, name: str) -> bool:
        return (PYTHON_2_MODULES.get(module, module), name) in self.table
