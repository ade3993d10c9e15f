"""Stand-ins for the objects in a pickle, and the budget that limits how many are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource, Section, Source

MOST_OBJECTS = 4_000_000
"""Containers, objects and memo entries in one file, together at most about 500 MB; a model of 10,000 tensors has about
150,000."""
CALL_COST = 8
"""How many of these an object of an unknown class counts as."""
DEEPEST_KEY = 8
WIDEST_KEY = 256
"""Nesting and entries of a tuple used as a dictionary key; hashing it visits all of them."""

NO_ENTRIES: Mapping[Any, Any] = MappingProxyType({})
"""Shared by all objects without entries, so that millions of empty objects take little memory."""


def _no_entries() -> Mapping[Any, Any]:
    return NO_ENTRIES


class Budget:
    """How many objects one file may still build, and how many bytes or entries it may still copy while building."""

    def __init__(self, size: int, objects: int = MOST_OBJECTS) -> None:
        self.most = self.objects = objects
        self.copies = 8 * size + (1 << 20)

    def count_objects(self, title: str, objects: int) -> None:
        """Subtract objects from the budget.

        Raises:
            UnreadableCheckpoint: the file builds more than any checkpoint does.
        """
        self.objects -= objects
        if self.objects < 0:
            raise UnreadableCheckpoint(
                f"{title} contains more than {self.most:,} Python objects, more than any checkpoint needs",
                "save the model's tensors without the replay buffer or data set beside them",
            )

    def count_copies(self, title: str, entries: int) -> None:
        """Subtract a copy of so many bytes or entries from the budget. Raises as ``count_objects``."""
        self.copies -= entries
        if self.copies < 0:
            raise UnreadableCheckpoint(
                f"{title} copies its own contents too often: it may be a decompression bomb", "do not load this file"
            )


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """A byte string in the file, known by its offset and not yet read."""

    source: Source
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes."""
        return self.source.read(self.offset, self.size)

    def as_source(self, name: str) -> Source:
        """Return the bytes as a source of their own; they are still not read."""
        return Section(name, self.source, self.offset, self.size)


class StoredFloat(float):
    """A number with the offset of its eight bytes (big-endian) in the file."""

    __slots__ = ("offset", "source")
    source: Source
    offset: int

    def __new__(cls, number: float, source: Source, offset: int) -> StoredFloat:
        """Return the number with its offset."""
        placed = super().__new__(cls, number)
        placed.source, placed.offset = source, offset
        return placed


class RebuiltBytes(MemorySource):
    """Bytes rebuilt from text or single numbers in a pickle: the file itself does not contain them in this form."""


@dataclass(slots=True, eq=False)
class Global:
    """A class or function that the pickle refers to by name: recorded, not imported."""

    module: str
    name: str
    known: Callable[..., Any] | None
    """The stand-in for it, where the closed table has one."""
    budget: Budget
    called: bool = False

    @property
    def qualified(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any] | None = None) -> Any:
        """Return the result of the table's stand-in, or an ``Inert`` object that records the call."""
        self.called = True
        self.budget.count_objects("the pickle", CALL_COST)
        if self.known is None:
            return Inert(self, arguments, keywords or NO_ENTRIES)
        self.budget.count_copies("the pickle", sum(map(_length, arguments)))
        result = self.known(*arguments, **(keywords or {}))
        if isinstance(result, int | float | bytes):
            # Plain numbers and bytes, as of NumPy scalars, take less memory than the object that was counted.
            self.budget.objects += CALL_COST - 1
        return result


@dataclass(slots=True, eq=False)
class Inert:
    """An object that a pickle would have built by calling untrusted code: its arguments and state only."""

    callee: Global | Inert
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=_no_entries)
    state: Any = None
    items: Sequence[Any] = ()
    """Items that the pickle appends."""
    entries: Mapping[Any, Any] = field(default_factory=_no_entries)
    """Items that the pickle sets by key."""

    @property
    def type_name(self) -> str:
        """The qualified name of the class or function; a result of several calls has none."""
        return self.callee.qualified if isinstance(self.callee, Global) else "(result of a call)"

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes in its state, empty where the state has none of Python's usual forms."""
        state = self.state
        if isinstance(state, dict):
            return state
        if isinstance(state, tuple) and len(state) == 2:  # (__dict__, __slots__)
            parts = [part for part in state if isinstance(part, dict)]
            if len(parts) + state.count(None) == 2:
                return {key: value for part in parts for key, value in part.items()}
        return {}

    def build(self, state: Any) -> None:
        """Store the state that the pickle sets."""
        self.state = state


@runtime_checkable
class Buildable(Protocol):
    """A stand-in whose state is set by the BUILD opcode."""

    def build(self, state: Any) -> None:
        """Set the state."""


def as_key(value: Any) -> Any:
    """Return the dictionary key for an unpickled value.

    Raises:
        TypeError: the value cannot be hashed, or hashing it takes longer than any checkpoint needs.
    """
    if isinstance(value, StoredBytes):
        return value.read()
    if not isinstance(value, str):
        _check_key(value, DEEPEST_KEY, [WIDEST_KEY])
    return value


def _check_key(value: Any, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise TypeError("a key is nested too deeply")
    if isinstance(value, int) and value.bit_length() > 64:
        # Large integers can be chosen so that all of them have the same hash.
        raise TypeError("a key is an integer of more than 64 bits")
    if isinstance(value, tuple | frozenset):
        for item in value:
            _check_key(item, depth - 1, left)


def _length(value: Any) -> int:
    if isinstance(value, str | bytes | list | tuple | dict | set | frozenset | bytearray):
        return len(value)
    return value.size if isinstance(value, StoredBytes) else 0
