"""The state of an optimizer: its parameter groups, and the moments of each parameter."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property
from math import isnan
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.statistics.moments import MomentStatistics, measure_moments

ADAM_FAMILY = frozenset({"Adam", "AdamW", "AMSGrad", "NAdam", "RAdam", "SparseAdam"})
"""Optimizers whose step is the learning rate times m̂ / (√v̂ + ε)."""

_OWN_SCALE = frozenset(
    {"d", "d_coef", "d0", "scale_parameter", "relative_step", "trust_clip", "always_adapt", "grad_averaging"}
)
"""Options of optimizers that scale their steps themselves: Prodigy and D-Adaptation, Adafactor, LAMB."""


class Moments(Struct, frozen=True, eq=False, dict=True):
    """An optimizer's state of one parameter."""

    index: int
    """Position in the optimizer's list of parameters."""
    tensor: str | None
    """Name of the model's tensor, ``None`` where it is not certain."""
    step: int | None
    """Number of updates of this parameter; ``None`` where the optimizer does not count or has no state for it."""
    state: Mapping[str, Tensor]
    """The optimizer's own keys (``exp_avg``, ``exp_avg_sq``, ``square_avg``, ``momentum_buffer`` …) to tensors."""

    @property
    def first(self) -> Tensor | None:
        """The first moment (Adam's ``exp_avg``, SGD's ``momentum_buffer``)."""
        return self.state.get("exp_avg") or self.state.get("momentum_buffer")

    @property
    def second(self) -> Tensor | None:
        """The second moment (``exp_avg_sq``, ``square_avg``, Adagrad's ``sum``, Adamax's ``exp_inf``)."""
        for key in ("exp_avg_sq", "square_avg", "exp_inf", "sum"):
            if key in self.state:
                return self.state[key]
        return None

    @property
    def place(self) -> tuple[object, ...]:
        """Which bytes of the file they are; empty where they have none, or these have no name."""
        if not self.state or not all(tensor.storage for tensor in self.state.values()):
            return ()
        return tuple(
            (key, each.storage, each.storage_range, each.shape, each.dtype) for key, each in self.state.items()
        )

    same_as: Moments | None = None
    """The moments of another parameter known to have the same numbers, measured in place of these."""

    @cached_property
    def statistics(self) -> MomentStatistics | None:
        """The moment statistics, computed at the first access; ``None`` where there are no moments."""
        if self.same_as is not None:
            return self.same_as.statistics
        first, second = self.first, self.second
        if first is None and second is None:
            return None
        if first is not None and second is not None and first.shape != second.shape:
            return None
        return measure_moments(
            None if first is None else first.values,
            None if second is None else second.values,
            is_root="exp_inf" in self.state,
        )

    def supply(self, statistics: MomentStatistics | None) -> None:
        """Take statistics that were computed elsewhere, from the same bytes."""
        self.__dict__["statistics"] = statistics


class ParameterGroup(Struct, frozen=True, eq=False):
    """One of an optimizer's parameter groups."""

    options: Mapping[str, Any]
    """``lr``, ``betas``, ``eps``, ``weight_decay`` … as stored."""
    indices: tuple[int, ...]
    """Positions of its parameters in ``Optimizer.parameters``."""
    settings: Mapping[str, Tensor] = field(default_factory=dict)
    """The options that are stored as one number which can be patched, as tensors of shape ``()``."""

    def number(self, option: str, default: float = 0.0) -> float:
        """Return an option that is a number; the default for anything else, and for NaN."""
        value = self.options.get(option)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or isnan(value):
            return default
        return float(value)

    @property
    def learning_rate(self) -> float:
        """The learning rate; 1.0 where the group has none."""
        return self.number("lr", 1.0)

    @property
    def largest_learning_rate(self) -> float:
        """The size of the learning rate, or of the one that a schedule began with (``initial_lr``) if it was larger."""
        return max(abs(self.learning_rate), self.number("initial_lr"))


class Optimizer(Struct, frozen=True, eq=False, dict=True):
    """The state of one optimizer inside a checkpoint."""

    name: str
    """Where it was found: ``policy.optimizer``, ``optimizer``, ``optimizer_states/0`` …"""
    kind: str | None
    """``Adam`` and its family, ``RMSprop``, ``SGD``, ``Adagrad`` … as far as its state and options identify it."""
    groups: tuple[ParameterGroup, ...]
    """Its parameter groups, with their options."""
    parameters: tuple[Moments, ...]
    """The state of each parameter, in the optimizer's order."""
    unmatched: str = ""
    """Why some parameters have no tensor's name; empty where all have one."""
    mismatch: str = ""
    """How the state contradicts the model's (number or shapes of parameters); empty where it fits."""

    @property
    def has_state(self) -> bool:
        """True where at least one parameter was updated. Adagrad has state before the first step."""
        return any(moments.state if moments.step is None else moments.step for moments in self.parameters)

    @property
    def keeps_state(self) -> bool:
        """False for SGD without momentum, which has no state however long it trained, and for unknown optimizers."""
        return bool(self.kind) and (self.kind != "SGD" or any(group.options.get("momentum") for group in self.groups))

    @property
    def takes_adam_steps(self) -> bool:
        """True where a step is the learning rate times m̂ / (√v̂ + ε), and nothing else scales it."""
        options = {option for group in self.groups for option in group.options}
        return self.kind in ADAM_FAMILY and not options & _OWN_SCALE

    def with_shared_statistics(self) -> Optimizer:
        """Return this optimizer with moments that are the same bytes for several parameters measured once."""
        first: dict[tuple[object, ...], Moments] = {}
        parameters = []
        for moments in self.parameters:
            place = moments.place
            same = first.setdefault(place, moments) if place else moments
            parameters.append(moments if same is moments else replace(moments, same_as=same))
        is_shared = any(each.same_as is not None for each in parameters)
        return replace(self, parameters=tuple(parameters)) if is_shared else self

    def group_of(self, index: int) -> ParameterGroup | None:
        """Return the parameter group that the parameter at a position belongs to."""
        return self._group_by_index.get(index)

    @cached_property
    def facts(self) -> dict[Hashable, Any]:
        """What functions that are marked ``found_once`` found out."""
        return {}

    @cached_property
    def _group_by_index(self) -> Mapping[int, ParameterGroup]:
        return {index: group for group in reversed(self.groups) for index in group.indices}
