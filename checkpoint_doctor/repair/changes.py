"""The nouns of a repair: the change to each tensor, what is not fixed and why, and the plan that holds both."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.tensors import TensorStatistics
from checkpoint_doctor.statistics.values import InMemory


class Purpose(Enum):
    """Why a tensor is changed."""

    REPAIR = "repair"
    """It is ill itself."""
    TARGET = "target"
    """It is the target network's copy of a repaired tensor."""
    MOMENT = "optimizer"
    """It is a moment that an optimizer keeps of a repaired tensor."""
    SETTING = "setting"
    """It is one of an optimizer's settings."""


class Change(Struct, frozen=True, eq=False):
    """The new values of one tensor, and why it has them."""

    tensor: Tensor
    purpose: Purpose
    rules: tuple[str, ...]
    """Codes of the rules whose findings it fixes."""
    init_rule: str
    """The init rules in words, such as ``uniform(-0.01, 0.01)``."""
    new: NDArray
    """The whole tensor in its own type."""
    changed: NDArray
    """One boolean for each entry: true where the value is another than before."""
    of: str = ""
    """The repaired tensor that this one changes along with; empty for a repair."""
    illness: str = ""
    """What the findings said."""
    tied: tuple[str, ...] = ()
    """Names under which the same bytes are stored once more."""

    @property
    def entries(self) -> int:
        """How many entries change."""
        return int(np.count_nonzero(self.changed))

    @property
    def before(self) -> TensorStatistics:
        """The statistics of the old values."""
        return self.tensor.statistics

    @property
    def after(self) -> TensorStatistics:
        """The statistics of the new values."""
        return replace(self.tensor, values=InMemory(self.new), same_as=None).statistics

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The changed entries as half-open ranges of flat, row-major indices."""
        edges = np.flatnonzero(np.diff(np.concatenate(([False], self.changed.reshape(-1), [False]))))
        return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


class Unfixed(Struct, frozen=True):
    """A finding that is not fixed, and why."""

    code: str
    name: str
    severity: Severity
    subject: str
    """The tensor, the layer, or the whole checkpoint."""
    message: str
    why: str
    advice: str = ""


class Upstream(Struct, frozen=True):
    """A repair that does not last while its cause remains."""

    subject: str
    advice: str


class Plan(Struct, frozen=True, eq=False):
    """All changes to one checkpoint."""

    changes: tuple[Change, ...] = ()
    unfixed: tuple[Unfixed, ...] = ()
    upstream: tuple[Upstream, ...] = ()
    """Fixed findings whose cause lies elsewhere."""
    fixed: tuple[Finding, ...] = ()
    """The findings that must be gone afterwards."""

    @property
    def new_values(self) -> Mapping[Tensor, NDArray]:
        """Tensor to its new values."""
        return {each.tensor: each.new for each in self.changes}
