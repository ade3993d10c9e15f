"""Whether an optimizer ever received a gradient: what its moments, its counters and its neighbours in the file show."""

from __future__ import annotations

from math import log, sqrt

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.training import untouched_level
from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer
from checkpoint_doctor.checkpoint.moment_decay import decay_rates_of
from checkpoint_doctor.statistics.moments import INACTIVE_RATIO
from checkpoint_doctor.statistics.values import as_real

_FEWEST_ENTRIES = 64
"""Entries below which a first moment may be parallel to the weights by chance."""

_PARALLEL = 0.99
"""Cosine between first moment and weights from which weight decay alone explains it. Real gradients of 64 entries or
more do not reach it by chance."""

_STATELESS = ("SGD", None)
"""Optimizers that may keep no state: SGD without momentum, and those whose class is not known."""


def holds_no_gradient(optimizer: Optimizer) -> bool:
    """Return whether all gradients that an optimizer with state ever received were exactly zero."""
    held = [moments for moments in optimizer.parameters if moments.state]
    return bool(held) and all(_is_untouched(moments, optimizer) for moments in held)


def holds_decay_alone(optimizer: Optimizer, checkpoint: Checkpoint) -> bool:
    """Return whether every first moment is the weight decay that the optimizer adds to a gradient of zero: λ·w.

    Under a gradient of zero, the first moment is a positive multiple of the weights. Decoupled decay does not reach the
    moments.
    """
    entries = 0
    for moments in optimizer.parameters:
        group, first = optimizer.group_of(moments.index), moments.first
        if not moments.state:
            continue
        if group is None or optimizer.kind == "AdamW" or group.options.get("decoupled_weight_decay"):
            return False
        if not group.options.get("weight_decay"):
            if not _is_untouched(moments, optimizer):
                return False
            continue
        tensor = checkpoint.find_tensor(moments.tensor)
        if first is None or tensor is None or tensor.shape != first.shape:
            return False
        mean, values = as_real(first.array).reshape(-1), as_real(tensor.array).reshape(-1)
        with np.errstate(all="ignore"):
            size = sqrt(float(mean @ mean)) * sqrt(float(values @ values))
            is_parallel = bool(size and float(mean @ values) >= _PARALLEL * size)
        if mean.any() and not is_parallel:
            return False
        entries += values.size
    return entries >= _FEWEST_ENTRIES


def updates_without_gradient(optimizer: Optimizer) -> int | None:
    """Return for how many updates no parameter has received a gradient, at least; ``None`` where one still does.

    Known for optimizers with both moments, whose ratio |m|/√v decays by a known factor without gradients.
    """
    silent: list[int] = []
    for moments in optimizer.parameters:
        if not moments.state:
            continue
        statistics, rates = moments.statistics, decay_rates_of(moments, optimizer)
        decay = rates.ratio if rates is not None else None
        if statistics is None or statistics.row_ratio is None or not statistics.row_ratio.size:
            return None
        if statistics.nonfinite_first or statistics.nonfinite_second or decay is None or decay <= 0:
            return None
        largest = float(statistics.row_ratio.max())
        if largest >= INACTIVE_RATIO:
            return None
        if largest > 0:
            updates = int(-log(largest) / decay)
            silent.append(min(updates, moments.step if moments.step is not None else updates))
    return min(silent, default=None)


def keeps_state(optimizer: Optimizer) -> bool:
    """Return whether an optimizer of this class has state for every parameter after its first update."""
    if optimizer.kind not in _STATELESS:
        return True
    return any(group.options.get("momentum") for group in optimizer.groups)


def count_updates(optimizer: Optimizer) -> int | None:
    """Return the largest number of updates that the optimizer counted, ``None`` where it does not count."""
    return max((moments.step for moments in optimizer.parameters if moments.step is not None), default=None)


def _is_untouched(moments: Moments, optimizer: Optimizer) -> bool:
    statistics = moments.statistics
    if statistics is None:
        tensors = [tensor for key, tensor in moments.state.items() if key != "step" and tensor.is_floating]
        return bool(tensors) and all(each.statistics.zeros == each.statistics.count for each in tensors)
    if statistics.nonfinite_first or statistics.nonfinite_second:
        return False
    first, second = statistics.row_first, statistics.row_second
    if first is not None and first.any():
        return False
    level = untouched_level(moments, optimizer, of_root=True)
    return level is not None and (second is None or not bool((second > level).any()))
