"""Which units and inputs of a layer receive a gradient, as the optimizer's moments record it.

"Line" stands for one row or one column of a weight, or one entry of a bias.
"""

from __future__ import annotations

from functools import reduce
from math import exp, inf, log

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.readers import input_weight
from checkpoint_doctor.builtin.analyzers._evidence.replaced_moments import find_replaced
from checkpoint_doctor.builtin.analyzers._evidence.training import untouched_level
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor
from checkpoint_doctor.checkpoint.moment_decay import DecayRates, decay_rates_of
from checkpoint_doctor.layers import RECURRENT, count_blocks
from checkpoint_doctor.statistics.values import median

_DEFAULT_DECAY = -log(0.9) + log(0.999) / 2
"""Decay of |m|/√v in e-folds per update without gradient, with Adam's default betas (0.9, 0.999)."""

_SHRINKING = 0.1
"""Median |m|/√v of a tensor's active lines below which all its gradients have become smaller lately, also those of
active lines; the limit is then lowered by the same factor. Published agents lie above (0.13 to 1.7); critics of TRPO,
whose gradients fade, at 0.006 to 0.03."""

_FEWEST_UPDATES = 20
"""Updates (batches) that a unit without gradient must have seen before it is reported."""

_SMALLEST_SUBNORMAL = 1e-42
"""A first moment below this no longer decays: float32's last subnormal place times 0.9 rounds to itself."""

_SUBNORMAL_STEP = 1.4e-45
"""Distance between float32's subnormal numbers."""

_SMALL_GRADIENT = 1e-6
"""Size of a gradient from which the age of a line is counted where no active line shows how large gradients were."""


class GradientActivity(Struct, frozen=True):
    """Gradient activity of each line or unit: arrays with one boolean or number for each."""

    never_active: NDArray
    """No gradient was recorded since the optimizer was created."""
    inactive: NDArray
    """No gradient is recorded now; includes ``never_active``."""
    updates_since: NDArray
    """Estimated updates since the last gradient, for lines that received gradients once; NaN for all others."""
    step: int | None
    """Updates that the optimizer counted."""
    replaced: NDArray
    """A repair replaced the recorded moments: neither active nor inactive."""
    at_least: NDArray
    """``updates_since`` is only a lower bound: a moment has reached the smallest number that it can decay to."""

    @property
    def active(self) -> NDArray:
        """Lines with a recorded gradient."""
        active: NDArray = ~self.inactive & ~self.replaced
        return active

    @property
    def stopped(self) -> NDArray:
        """Lines that received gradients once and no longer do."""
        stopped: NDArray = self.inactive & ~self.never_active
        return stopped

    def folded(self, shape: tuple[int, int], axis: int) -> GradientActivity:
        """Combine the lines of each unit: a unit is inactive where all its lines are."""
        updates_since = self.updates_since.reshape(shape)
        return GradientActivity(
            np.logical_and.reduce(self.never_active.reshape(shape), axis=axis),
            np.logical_and.reduce(self.inactive.reshape(shape), axis=axis),
            # The unit's last gradient is the last one of any of its lines.
            np.fmin.reduce(updates_since, axis=axis),
            self.step,
            np.logical_or.reduce(self.replaced.reshape(shape), axis=axis),
            np.logical_and.reduce(self.at_least.reshape(shape), axis=axis),
        )

    def joined(self, other: GradientActivity) -> GradientActivity:
        """Combine the activity of the same units in two tensors."""
        return GradientActivity(
            self.never_active & other.never_active,
            self.inactive & other.inactive,
            np.fmin(self.updates_since, other.updates_since),
            self.step if other.step is None else other.step,
            self.replaced | other.replaced,
            self.at_least & other.at_least,
        )


def unit_activity(layer: Layer, checkpoint: Checkpoint, ratio: float) -> GradientActivity | None:
    """Return the activity of a linear, convolutional or recurrent layer's units; ``None`` where the file cannot tell.

    A unit's lines are its row in the weight and its entry in the bias; in a recurrent layer, the rows of all its gates
    in all weights and biases. A unit is inactive where all of them are.

    Args:
        layer: the layer.
        checkpoint: the checkpoint that holds it.
        ratio: |m|/√v below which an entry receives no gradient, for Adam's default betas.
    """
    activities = []
    for role, tensor in layer.tensors.items():
        if role.partition("_")[0] not in ("weight", "bias") or role == "weight_hr":
            continue
        activity = _output_activity(tensor, layer, checkpoint, ratio)
        if activity is None and role.startswith("weight"):
            return None
        if activity is not None:
            activities.append(activity)
    if not activities or any(each.inactive.shape != activities[0].inactive.shape for each in activities):
        return None
    return reduce(GradientActivity.joined, activities)


def input_activity(layer: Layer, checkpoint: Checkpoint, ratio: float) -> GradientActivity | None:
    """Return the activity of a layer's inputs, from the weight that reads them; ``None`` where the file cannot tell."""
    weight = input_weight(layer)
    if weight is None:
        return None
    return _line_activity(weight, checkpoint, ratio, along_rows=layer.transposed)


def _output_activity(tensor: Tensor, layer: Layer, checkpoint: Checkpoint, ratio: float) -> GradientActivity | None:
    activity = _line_activity(tensor, checkpoint, ratio, along_rows=len(tensor.shape) < 2 or not layer.transposed)
    if activity is None or layer.kind not in RECURRENT:
        return activity
    blocks = count_blocks(layer.kind)
    if activity.inactive.size % blocks:
        return None
    return activity.folded((blocks, activity.inactive.size // blocks), axis=0)


class _Lines(Struct, frozen=True):
    """Largest |m|, √v and |m|/√v of each line; ``None`` where the optimizer does not keep them."""

    first: NDArray | None
    second: NDArray | None
    ratio: NDArray | None


def _line_activity(
    tensor: Tensor, checkpoint: Checkpoint, ratio: float, *, along_rows: bool
) -> GradientActivity | None:
    moments = checkpoint.moments.get(tensor.name)
    statistics = moments.statistics if moments is not None else None
    if moments is None or statistics is None or statistics.nonfinite_first or statistics.nonfinite_second:
        return None
    if along_rows:
        lines = _Lines(statistics.row_first, statistics.row_second, statistics.row_ratio)
    else:
        lines = _Lines(statistics.column_first, statistics.column_second, statistics.column_ratio)
    optimizer = checkpoint.optimizer_of[tensor.name]
    activity = _measure(lines, moments, optimizer, ratio)
    replaced = find_replaced(moments, optimizer, along_rows=along_rows)
    if activity is None or replaced is None or not replaced.any():
        return activity
    return GradientActivity(
        activity.never_active & ~replaced,
        activity.inactive & ~replaced,
        np.where(replaced, np.nan, activity.updates_since),
        activity.step,
        replaced,
        activity.at_least,
    )


def _measure(lines: _Lines, moments: Moments, optimizer: Optimizer, ratio: float) -> GradientActivity | None:
    rates = decay_rates_of(moments, optimizer)
    record = lines.first if lines.second is None else lines.second
    if rates is None or record is None or not record.size:
        return None
    level = 0.0 if lines.second is None else untouched_level(moments, optimizer, of_root=True)
    if level is None or (moments.step is not None and moments.step < _FEWEST_UPDATES):
        return None
    never: NDArray = record <= level
    # Updates without gradient after which |m|/√v falls below the ratio with Adam's default betas.
    updates = needed = -log(ratio) / _DEFAULT_DECAY
    inactive, since = never, np.full(never.shape, np.nan)
    floored = _has_reached_floor(record, lines, rates, moments)
    at_least = floored
    decaying = _decaying_statistic(lines, rates)
    if decaying is not None:
        values, rate = decaying
        limit = min(ratio, exp(-rate * updates))
        active = values[(values >= limit) & ~floored]
        if values is lines.ratio and active.size:
            limit *= min(1.0, median(active) / _SHRINKING)
        inactive = never | (values < limit) | floored
        since = _estimate_updates_since(values, rate, lines, rates, ~inactive)
        if lines.first is not None and lines.second is not None and rates.first and rates.first != inf:
            by_first = _updates_from(lines.first, ~inactive, rates.first)
            at_least = floored | ((lines.first <= _SMALLEST_SUBNORMAL) & (since <= by_first))
        if floored.any() and rates.second and lines.second is not None:
            lower = _updates_from(lines.second, ~inactive, rates.second)
            since = np.where(floored, np.fmax(since, lower), since)
        needed = max(updates, -log(limit) / rate if limit > 0 else inf)
    # Half as many updates again as it takes to tell a unit without any gradient from an active one.
    if moments.step is not None and moments.step < 1.5 * needed:
        inactive = never
    since = np.minimum(since, inf if moments.step is None else moments.step)
    since = np.where(inactive & ~never, since, np.nan)
    none = np.zeros(never.shape, dtype=bool)
    return GradientActivity(never, inactive, since, moments.step, none, at_least & inactive & ~never)


def _has_reached_floor(record: NDArray, lines: _Lines, rates: DecayRates, moments: Moments) -> NDArray:
    """Return which lines have a second moment that decays no further: times β2, it rounds to itself.

    That is half a step of float32's subnormal numbers divided by 1 - β2; no gradient of today leaves so little.
    """
    second = moments.second
    if lines.second is None or not rates.second or second is None or second.dtype != "float32":
        return np.zeros(record.shape, dtype=bool)
    floor = _SUBNORMAL_STEP / (1.0 - exp(-2.0 * rates.second))
    reached: NDArray = (lines.second > 0) & (lines.second <= floor**0.5)
    return reached


def _updates_from(values: NDArray, active: NDArray, rate: float) -> NDArray:
    """Return after how many updates without gradient a statistic falls from the active lines' median to its value."""
    start = median(values[active]) if active.any() else _SMALL_GRADIENT
    with np.errstate(divide="ignore", invalid="ignore"):
        updates: NDArray = np.log(start / values) / rate
    return updates


def _decaying_statistic(lines: _Lines, rates: DecayRates) -> tuple[NDArray, float] | None:
    """Return the statistic that decays without gradient, and its decay in e-folds per update.

    Adam: |m|/√v. RMSprop (or Adam with β1 = 0): √v relative to the tensor's largest. Momentum: the buffer, likewise.
    ``None`` for Adagrad, whose sums never decay.
    """
    if lines.ratio is not None and rates.ratio is not None and rates.ratio > 0:
        return lines.ratio, rates.ratio
    if lines.second is not None:
        return (_relative_to_largest(lines.second), rates.second) if rates.second else None
    if lines.first is not None and rates.first is not None and rates.first != inf:
        return _relative_to_largest(lines.first), rates.first
    return None


def _relative_to_largest(values: NDArray) -> NDArray:
    relative: NDArray = values / max(float(values.max()), 1e-300)
    return relative


def _estimate_updates_since(values: NDArray, rate: float, lines: _Lines, rates: DecayRates, active: NDArray) -> NDArray:
    """Estimate the updates since each line's last gradient: how far it has decayed below the active lines' median."""
    first, second = lines.first, lines.second
    with np.errstate(divide="ignore", invalid="ignore"):
        updates: NDArray = np.log((median(values[active]) if active.any() else 1.0) / values) / rate
        if first is None or second is None or not active.any():
            return updates
        if not rates.second or rates.first is None or rates.first == inf:
            return updates
        by_first = _updates_from(first, active, rates.first)
        by_second = _updates_from(second, active, rates.second)
        # A first moment at the last subnormal only gives a lower bound; the slower second moment still decays.
        return np.where(first > _SMALLEST_SUBNORMAL, updates, np.fmax(by_first, by_second))
