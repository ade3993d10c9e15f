"""What a loader finds out about the file itself: damage, checksums, pickled names, skipped parts, patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Flaw:
    """Damage to the file with which a loader could still open it."""

    message: str
    member: str = ""
    """The damaged part of the file (a zip member, a shard, a tensor)."""
    expected: int | None = None
    """Expected number of bytes, or an expected offset or field."""
    found: int | None = None
    """What the file has instead."""


@dataclass(frozen=True, eq=False)
class Checksum:
    """A stored checksum. Verifying it takes a pass over the bytes, so it is done at the first access of ``flaw``."""

    size: int
    """Number of bytes that it covers."""
    verify: Callable[[], Flaw | None]
    """Reads the bytes and returns what is wrong."""
    place: range | None = None
    """The bytes' offsets in the file, ``None`` for a member of a compressed archive."""
    recorded: int | None = None
    """The stored checksum."""
    same_as: Checksum | None = None
    """A checksum of bytes known to be the same, which is verified in place of this one."""

    @cached_property
    def flaw(self) -> Flaw | None:
        """What is wrong, ``None`` where the bytes match the checksum."""
        return self.verify() if self.same_as is None else self.same_as.flaw


@dataclass(frozen=True)
class PickledName:
    """A global (class or function) in one of the file's pickles. It was recorded, never imported."""

    module: str
    name: str
    member: str = ""
    called: bool = False
    """True where unpickling would call it."""
    known: bool = False
    """True for the known globals that describe data, such as ``torch._utils._rebuild_tensor_v2``."""

    @property
    def qualified(self) -> str:
        """Its module and name, joined by a dot."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Skipped:
    """Something that could not be looked at, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Patch:
    """Bytes to replace in a file, with the bytes that are there before."""

    offset: int
    old: bytes
    new: bytes
    reason: str = ""
