"""Stand-ins for the objects in a pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, field

from checkpoint_doctor.sources import MemorySource, Section, Source
from checkpoint_doctor.sources.budget import COPIED, OBJECTS, Budget

CALL_COST = 8
"""How many objects of the budget an object of an unknown class counts as."""

NO_ENTRIES: Mapping[Any, Any] = MappingProxyType({})
"""Shared by all objects without entries, so that millions of empty objects take little memory."""


def _no_entries() -> Mapping[Any, Any]:
    return NO_ENTRIES


class StoredBytes(Struct, frozen=True):
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


class Global(Struct, eq=False):
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
        self.budget.spend(OBJECTS, CALL_COST)
        if self.known is None:
            return Inert(self, arguments, keywords or NO_ENTRIES)
        self.budget.spend(COPIED, sum(map(_weigh, arguments)))
        result = self.known(*arguments, **(keywords or {}))
        if isinstance(result, int | float | bytes):
            # Plain numbers and bytes, as of NumPy scalars, take less memory than the object that was counted.
            self.budget.spend(OBJECTS, 1 - CALL_COST)
        return result


class Inert(Struct, eq=False):
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


def _weigh(value: Any) -> int:
    """Return how many bytes a copy of a collection takes at most, or of a text."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, list | tuple):
        return 8 * len(value)
    if isinstance(value, dict | set | frozenset):
        return 64 * len(value)
    return value.size if isinstance(value, StoredBytes) else 0
