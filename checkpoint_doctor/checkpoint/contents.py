"""What a loader notices about the file itself: damage, checksums, pickled names, parts not looked at, patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Flaw:
    """Something about the file itself that a loader noticed and could read past."""

    message: str
    member: str = ""
    """The part of the file concerned (a zip member, a shard, a tensor)."""
    expected: int | None = None
    """Bytes (or entries) that should be there."""
    found: int | None = None
    """Bytes (or entries) that are."""


@dataclass(frozen=True, eq=False)
class Checksum:
    """A stored checksum that costs a pass over the bytes to verify, so that it waits until somebody asks."""

    size: int
    """Bytes to read."""
    verify: Callable[[], Flaw | None]
    place: range | None = None
    """Where in the file the bytes lie, ``None`` where they do not lie in it as they are."""
    recorded: int | None = None
    same_as: Checksum | None = None
    """A checksum of bytes known to be the same, which is verified in place of this one."""

    @cached_property
    def flaw(self) -> Flaw | None:
        """What is wrong, ``None`` where the bytes are as they were written."""
        return self.verify() if self.same_as is None else self.same_as.flaw


@dataclass(frozen=True)
class PickledName:
    """A global that a pickle in the file asks for. It was recorded, never imported."""

    module: str
    name: str
    member: str = ""
    called: bool = False
    """True where the pickle calls it with arguments while loading."""
    known: bool = False
    """True where the closed table knows it as a description of data."""

    @property
    def qualified(self) -> str:
        """The dotted name that an import would ask for."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Skipped:
    """Something that could not be looked at, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Patch:
    """Bytes to replace in a file, and what stands there before."""

    offset: int
    old: bytes
    new: bytes
    reason: str = ""
