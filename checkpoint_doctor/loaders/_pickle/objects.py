"""What a pickle describes, as inert objects, and the budget that they are paid from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource, Section, Source

MOST_OBJECTS = 4_000_000
"""Containers, objects and memo entries in one file, together at most about 500 MB; a model of 10,000 tensors needs some
150,000."""
CALL = 8
"""What an object of an unknown class costs of these."""
DEEPEST_KEY = 8
WIDEST_KEY = 256
"""Nesting and entries of a tuple that serves as a key, since hashing it visits everything below."""

NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""Shared by all objects without entries: a bomb of empty objects should be light."""


def _nothing() -> Mapping[Any, Any]:
    return NOTHING


class Budget:
    """What one file may still cost: objects built, and bytes or entries copied while building."""

    def __init__(self, size: int) -> None:
        self.objects = MOST_OBJECTS
        self.copies = 8 * size + (1 << 20)

    def build(self, title: str, objects: int) -> None:
        """Pay for objects.

        Raises:
            UnreadableCheckpoint: the file builds more than any checkpoint does.
        """
        self.objects -= objects
        if self.objects < 0:
            raise UnreadableCheckpoint(
                f"{title} holds more than {MOST_OBJECTS:,} Python objects, which is refused as a bomb",
                "save the model's tensors without the replay buffer or data set beside them",
            )

    def copy(self, title: str, entries: int) -> None:
        """Pay for a copy of so many bytes or entries. Raises as ``build``."""
        self.copies -= entries
        if self.copies < 0:
            raise UnreadableCheckpoint(
                f"{title} copies its own contents over and over, which is refused as a bomb", "do not load this file"
            )


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """A byte string that lies in the file."""

    source: Source
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes."""
        return self.source.read(self.offset, self.size)

    def as_source(self, name: str) -> Source:
        """Return the bytes as a source of their own, still in the file."""
        return Section(name, self.source, self.offset, self.size)


class StoredFloat(float):
    """A number that knows where in the file its eight bytes lie, the highest first."""

    __slots__ = ("offset", "source")
    source: Source
    offset: int

    def __new__(cls, number: float, source: Source, offset: int) -> StoredFloat:
        """Return the number with its place."""
        placed = super().__new__(cls, number)
        placed.source, placed.offset = source, offset
        return placed


class SpelledOut(MemorySource):
    """Bytes that the file holds in another form: as text, or as single numbers."""


@dataclass(slots=True, eq=False)
class Global:
    """A name that the pickle asks for: recorded, not imported."""

    module: str
    name: str
    known: Callable[..., Any] | None
    """Our own stand-in, where the closed table has one."""
    budget: Budget
    called: bool = False

    @property
    def qualified(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any] | None = None) -> Any:
        """Build what stands for the result: by the table's stand-in, or as an inert object."""
        self.called = True
        self.budget.build("the pickle", CALL)
        if self.known is None:
            return Inert(self, arguments, keywords or NOTHING)
        self.budget.copy("the pickle", sum(map(_length, arguments)))
        return self.known(*arguments, **(keywords or {}))


@dataclass(slots=True, eq=False)
class Inert:
    """Something that the pickle would have built by code. Its parts are kept; it does nothing."""

    callee: Global | Inert
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=_nothing)
    state: Any = None
    items: Sequence[Any] = ()
    """What the pickle appends."""
    entries: Mapping[Any, Any] = field(default_factory=_nothing)
    """What the pickle sets by key."""

    @property
    def type_name(self) -> str:
        """The qualified name of the class or function, without following chains of calls."""
        return self.callee.qualified if isinstance(self.callee, Global) else "(result of a call)"

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes that its state gives it, empty where the state is none of Python's usual forms."""
        state = self.state
        if isinstance(state, dict):
            return state
        if isinstance(state, tuple) and len(state) == 2:  # (__dict__, __slots__)
            parts = [part for part in state if isinstance(part, dict)]
            if len(parts) + state.count(None) == 2:
                return {key: value for part in parts for key, value in part.items()}
        return {}

    def build(self, state: Any) -> None:
        """Keep the state that the pickle sets."""
        self.state = state


@runtime_checkable
class Buildable(Protocol):
    """A stand-in that the pickle's BUILD opcode completes."""

    def build(self, state: Any) -> None:
        """Take the state."""


def as_key(value: Any) -> Any:
    """Return what serves as a key in place of an unpickled value.

    Raises:
        TypeError: the value cannot be hashed, or only at a cost that no checkpoint asks for.
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
        # Such integers can all be made to collide in a dictionary.
        raise TypeError("a key is too large an integer")
    if isinstance(value, tuple | frozenset):
        for item in value:
            _check_key(item, depth - 1, left)


def _length(value: Any) -> int:
    if isinstance(value, str | bytes | list | tuple | dict | set | frozenset | bytearray):
        return len(value)
    return value.size if isinstance(value, StoredBytes) else 0
