"""What a loader finds out about the file: damage, checksums, pickled names, its parts, what was skipped, patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any

from msgspec import Struct, field


class Flaw(Struct, frozen=True):
    """Damage to the file with which a loader could still open it."""

    message: str
    """What is damaged, in one sentence."""
    member: str = ""
    """The damaged part of the file (a zip member, a shard, a tensor)."""
    expected: int | None = None
    """Expected number of bytes, or an expected offset or field."""
    found: int | None = None
    """What the file has instead."""


class Checksum(Struct, frozen=True, eq=False, dict=True):
    """A stored checksum. Verifying it takes a pass over the bytes, so it is done at the first access of ``flaw``."""

    size: int
    """Number of bytes that it covers."""
    verify: Callable[[], Flaw | None]
    """Reads the bytes and returns what is wrong."""
    place: range | None = None
    """The bytes' offsets in the file, ``None`` for a member of a compressed archive."""
    recorded: int | None = None
    """The stored checksum."""
    storage: str = ""
    """The storage whose bytes it covers, as tensors name it; empty where it is another part of the file."""
    same_as: Checksum | None = None
    """A checksum of bytes known to be the same, which is verified in place of this one."""

    @cached_property
    def flaw(self) -> Flaw | None:
        """What is wrong, ``None`` where the bytes match the checksum."""
        return self.verify() if self.same_as is None else self.same_as.flaw

    def supply(self, flaw: Flaw | None) -> None:
        """Take what was found elsewhere, in the same bytes."""
        self.__dict__["flaw"] = flaw


class PickledName(Struct, frozen=True):
    """A global (class or function) in one of the file's pickles. It was recorded, never imported."""

    module: str
    """The module that it would be imported from."""
    name: str
    """The name in it."""
    member: str = ""
    """The pickle that it stands in, where the file has several."""
    called: bool = False
    """True where unpickling would call it."""
    known: bool = False
    """True for the known globals that describe data, such as ``torch._utils._rebuild_tensor_v2``."""

    @property
    def qualified(self) -> str:
        """Its module and name, joined by a dot."""
        return f"{self.module}.{self.name}"


class Content(StrEnum):
    """What a part of a checkpoint is."""

    STATE_DICT = "the state dict of a model"
    """Tensors by name."""
    OPTIMIZER = "the state of an optimizer"
    """Parameter groups and moments."""
    SCHEDULER = "the state of a learning rate scheduler"
    """Position and rates of a schedule."""
    LOSS_SCALER = "the state of a loss scaler"
    """The scale of a mixed-precision loss."""
    METHOD = "a bound method"
    """A method that was saved in the place of its result."""
    WEIGHTS = "weights of the model"
    """A file of tensors."""
    INDEX = "the index of the shards"
    """Which shard holds which tensor."""
    RANDOM_STATE = "the state of random generators"
    """Generators of Python, NumPy and the devices."""
    PROGRESS = "the progress of the training"
    """Counters and the history of a run."""
    SETTINGS = "settings of the model or the training"
    """Configuration files and arguments."""
    TOKENIZER = "the tokenizer"
    """Vocabulary and merges."""
    NORMALIZATION = "running statistics of the observations"
    """Mean and variance that inputs are scaled with."""
    REPLAY_BUFFER = "a replay buffer"
    """Recorded transitions that an off-policy run goes on with."""
    EVALUATIONS = "results of evaluations"
    """Scores on other data."""

    @property
    def word(self) -> str:
        """A name of one or two words, as reports list it."""
        return self.name.lower().replace("_", " ")


class Part(Struct, frozen=True):
    """What stands under one key of a file, or a file of a folder that is one checkpoint."""

    name: str
    """The key, or the keys down to it, joined by ``/``; of a file its name."""
    content: Content
    """What it is."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Its plain values: numbers, strings, short lists and mappings of these."""
    keys: frozenset[str] = frozenset()
    """The names of a state dict's tensors."""
    type_name: str = ""
    """The qualified name of a method."""
    file: str = ""
    """Where it is a file of a folder: the file's path in the folder."""


class Skipped(Struct, frozen=True):
    """Something that could not be looked at, and why."""

    what: str
    """What it is, such as ``array vocabulary``."""
    why: str
    """The reason, as the second half of a sentence: ``its type is unknown``."""
    is_crash: bool = False
    """True where it is a plugin, which has a bug: the examination is incomplete."""


class Missing(Struct, frozen=True):
    """A file that belongs to a checkpoint and is not there."""

    file: str
    """The file's path in the folder."""
    consequence: str
    """What happens without it, as a sentence of its own."""


class Patch(Struct, frozen=True):
    """Bytes to replace in a file, with the bytes that are there before."""

    offset: int
    """Position of the first byte in the file."""
    old: bytes
    """The bytes that are there."""
    new: bytes
    """The bytes to write, as many as there are old ones."""
    reason: str = ""
    """What changes, such as a tensor's name."""
