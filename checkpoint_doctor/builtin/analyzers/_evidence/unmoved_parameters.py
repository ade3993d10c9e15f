"""Whether an optimizer never moved its parameters, and why, as learning rates, moments and values show together."""

from __future__ import annotations

from math import sqrt

from msgspec import Struct

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import count_updates
from checkpoint_doctor.builtin.analyzers._evidence.initial_parameters import (
    InitialParameters,
    combine,
    find_initial_parameters,
)
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.checkpoint.optimizer_steps import effective_step

_ROUNDING = 1e-6
"""Rate times updates below which float32 parameters of size 1 have not moved by more than rounding."""

_EXPECTED = 10.0
"""Entries that ordinary training must have pushed out of the initial interval, before their absence proves anything."""

_VISIBLE = 1e-4
"""Expected move of a norm's gain from which a gain of exactly 1 cannot be a trained one."""


class Unmoved(Struct, frozen=True):
    """Parameters that are still the initial ones under live moments."""

    cause: str
    """``learning rate``, ``step size`` or ``initial weights saved``."""
    evidence: InitialParameters
    groups: list[int]
    """Numbers of the parameter groups."""
    is_whole: bool
    """True where they are all groups of the optimizer."""


def find_unmoved(optimizer: Optimizer, checkpoint: Checkpoint) -> Unmoved | None:
    """Return which groups of an optimizer were never moved, and why; ``None`` where that is not certain."""
    if optimizer.mismatch:
        return None
    steps = count_updates(optimizer) or checkpoint.updates or checkpoint.step or 0
    groups = {number: group for number, group in enumerate(optimizer.groups) if group.indices}
    initial = {
        number: found
        for number, group in groups.items()
        if (found := find_initial_parameters(group, optimizer, checkpoint)) is not None
    }
    still = [number for number in initial if abs(groups[number].learning_rate) * steps < _ROUNDING]
    if initial and len(initial) == len(groups):
        everything = combine(initial.values())
        cause = _find_cause(everything, optimizer, steps, still, len(groups))
        if cause:
            return Unmoved(cause, everything, list(groups), is_whole=True)
    certain = [number for number in still if initial[number].are_certain(by_zero_biases=True)]
    if not certain:
        return None
    return Unmoved("learning rate", combine(initial[number] for number in certain), certain, is_whole=False)


def _find_cause(
    everything: InitialParameters, optimizer: Optimizer, steps: int, still: list[int], groups: int
) -> str | None:
    if not everything.are_certain(by_zero_biases=True):
        return None
    if still:
        return "learning rate" if len(still) == groups else None
    step = effective_step(optimizer) if optimizer.takes_adam_steps else None
    if step is None:
        return None
    rate = max(group.learning_rate for group in optimizer.groups)
    if rate * step * steps < _ROUNDING:
        return "step size"
    # Steps of random direction: the least that parameters move.
    moved = rate * step * sqrt(steps)
    outside = 0.4 * everything.draws * moved / everything.limit if everything.limit else 0.0
    is_proven = outside > _EXPECTED or (everything.exact and moved > _VISIBLE)
    return "initial weights saved" if is_proven and everything.are_certain(by_zero_biases=False) else None
