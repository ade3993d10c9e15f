"""Second moments that one huge gradient lifted far above the gradients of today."""

from __future__ import annotations

from math import log

import numpy as np

from checkpoint_doctor.checkpoint import Moments, Optimizer, found_once
from checkpoint_doctor.checkpoint.moment_decay import decay_rates_of
from checkpoint_doctor.checkpoint.optimizer_steps import implied_gradient_norm
from checkpoint_doctor.statistics.values import as_real

LARGEST_RATIO = 1e-3
"""Largest |m| over largest √v of a tensor, below which its second moments do not belong to its gradients. Published
agents lie between 0.13 and 1.7; critics of TRPO, whose gradients fade, at 0.006 to 0.03."""

_LARGE_NORM = 10.0
"""Implied gradient norm above which one gradient was huge. Published agents lie below 10, which is the largest clip."""

_LIVE_FIRST = 1e-6
"""First moment above which gradients still come; without them, it decays to nothing within some hundred updates."""

_SPREAD = 0.3
"""Standard deviation of log(|m|/√v) from which the first moments are not the huge gradient's own rest: that decays by
the same factor in all entries. Live gradients have 1 or more."""

_FEWEST_UPDATES = 50
_FEWEST_ENTRIES = 8


@found_once
def has_lifted_moments(optimizer: Optimizer) -> bool:
    """Return whether one huge gradient lifted all second moments, so that steps are nearly zero under live gradients.

    Every tensor's √v is then a thousand times and more above its first moments, the output layer's too, although these
    are as different from entry to entry as gradients are.
    """
    held = [each for each in optimizer.parameters if each.state]
    if not held or any((each.step or 0) < _FEWEST_UPDATES for each in held):
        return False
    ratios = [ratio for each in held if (ratio := _ratio_of_largest(each)) is not None]
    if not ratios or len(ratios) < len(held) / 2 or max(ratios) >= LARGEST_RATIO:
        return False
    norm = implied_gradient_norm(optimizer)
    if norm is None or norm < _LARGE_NORM:
        return False
    largest = max(held, key=lambda each: each.first.statistics.count if each.first is not None else 0)
    return _is_live(largest)


def _ratio_of_largest(moments: Moments) -> float | None:
    """Return the largest |m| over the largest finite √v; ``None`` where the parameter never received a gradient."""
    statistics = moments.statistics
    if statistics is None or statistics.row_first is None or statistics.row_second is None:
        return None
    roots = statistics.row_second[np.isfinite(statistics.row_second)]
    if not roots.size or not roots.max() > 0:
        return None
    return float(statistics.row_first.max()) / float(roots.max())


def _is_live(moments: Moments) -> bool:
    first, second = moments.first, moments.second
    if first is None or second is None or first.size < _FEWEST_ENTRIES:
        return False
    with np.errstate(all="ignore"):
        mean, root = np.abs(as_real(first.array)), np.sqrt(as_real(second.array))
    used = (mean > 0) & (root > 0) & np.isfinite(root)
    if used.sum() < _FEWEST_ENTRIES or mean[used].max() < _LIVE_FIRST:
        return False
    return float(np.std(np.log(mean[used] / root[used]))) > _SPREAD


def updates_to_recover(optimizer: Optimizer) -> int | None:
    """Return after how many updates √v has fallen back to the size of the first moments; ``None`` if unknown."""
    ratios = [(ratio, each) for each in optimizer.parameters if (ratio := _ratio_of_largest(each))]
    if not ratios:
        return None
    ratio, moments = min(ratios, key=lambda pair: pair[0])
    rates = decay_rates_of(moments, optimizer)
    return int(-log(ratio) / rates.second) if rates and rates.second else None
