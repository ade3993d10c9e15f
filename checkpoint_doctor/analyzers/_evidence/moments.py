"""Figures about an optimizer's moments: how fast they forget, how large the gradients were, what is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, inf, log, sqrt

import numpy as np

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, Tensor
from checkpoint_doctor.layers.init_rules import fill, fill_typical, where_not_finite
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS


@dataclass(frozen=True)
class Memory:
    """How fast an optimizer forgets a gradient that does not come again, in e-folds per update."""

    first: float | None
    """Of the first moment or momentum buffer; ``None`` where there is none, infinite where it keeps one update."""
    second: float | None
    """Of the second moment's square root; ``None`` where there is none, 0.0 where it never forgets (Adagrad)."""

    @property
    def pulse(self) -> float | None:
        """Of the ratio of the two; ``None`` unless both are kept."""
        if self.first is None or self.second is None or self.first == inf:
            return None
        return self.first - self.second


def memory_of(moments: Moments, optimizer: Optimizer) -> Memory | None:
    """Return how fast a parameter's moments decay, from the settings of its group; ``None`` where they do not tell.

    Adam and its family keep β1 and β2 per update, RMSprop α for the square, SGD its momentum, Lion its second β.
    Adagrad sums and forgets nothing. RMSprop's momentum buffer holds steps, not gradients, and is not asked.
    """
    group = optimizer.group_of(moments.index)
    options = group.options if group else {}
    if "sum" in moments.state:
        return Memory(None, 0.0)
    if "square_avg" in moments.state:
        kept = _share(options.get("alpha"))
        return None if kept is None else Memory(None, _rate(kept) / 2)
    if "momentum_buffer" in moments.state:
        kept = _share(options.get("momentum"))
        return None if kept is None else Memory(_rate(kept), None)
    betas = options.get("betas")
    if not isinstance(betas, (tuple, list)) or len(betas) < 2:
        return None
    first, second = _share(betas[0]), _share(betas[1])
    if first is None or second is None:
        return None
    if moments.second is None:
        return Memory(_rate(second), None)
    return Memory(_rate(first), _rate(second) if "exp_inf" in moments.state else _rate(second) / 2)


def implied_gradient_norm(optimizer: Optimizer) -> float | None:
    """Return the root mean square of the gradient's norm over the last updates, as the second moments imply it.

    √(Σ v / (1 - β2**step)) over all parameters that were stepped: the sum of the bias-corrected second moments is a
    running mean of the squared norm, after clipping. ``None`` for optimizers without one (SGD, Adagrad, Adamax).
    """
    total, seen = 0.0, False
    for moments in optimizer.parameters:
        correction = second_correction(moments, optimizer)
        statistics = moments.statistics if correction is not None else None
        if statistics is None or correction is None or statistics.nonfinite_second:
            continue
        total += statistics.total / correction
        seen = True
    return sqrt(total) if seen else None


def second_correction(moments: Moments, optimizer: Optimizer) -> float | None:
    """Return 1 - β2**step, by which a second moment falls short of the mean square while it is young.

    ``None`` where the second moment is no running mean of squares, or the updates were not counted.
    """
    if not moments.step or not ({"exp_avg_sq", "square_avg"} & moments.state.keys()):
        return None
    memory = memory_of(moments, optimizer)
    if memory is None or not memory.second:
        return None
    forgotten = exp(-2.0 * memory.second * moments.step)
    # RMSpropTFLike starts at 1.0 instead of 0.0: wait until that no longer matters.
    return None if "square_avg" in moments.state and forgotten > 1e-9 else 1.0 - forgotten


def effective_step(optimizer: Optimizer) -> float | None:
    """Return the root mean square of |m̂| / (√v̂ + ε): the size of Adam's next step in units of the learning rate.

    Streams the moments once more, so ask only when it is worth a pass. ``None`` where nothing has both moments.
    Published agents lie between 0.004 and 3, with a median of 0.13 to 0.2.
    """
    squares, entries = 0.0, 0
    for moments in optimizer.parameters:
        correction, memory = second_correction(moments, optimizer), memory_of(moments, optimizer)
        first, second, group = moments.state.get("exp_avg"), moments.second, optimizer.group_of(moments.index)
        if not (correction and memory and memory.first and first and second and group and moments.step):
            continue
        share = 1.0 - exp(-memory.first * moments.step)
        epsilon = float(group.options.get("eps") or 0.0)
        blocks = zip(first.values.blocks(BLOCK_ELEMENTS), second.values.blocks(BLOCK_ELEMENTS), strict=True)
        for mean, square in blocks:
            with np.errstate(all="ignore"):
                root = np.sqrt(square.astype(np.float64) / correction) + epsilon
                step = np.nan_to_num(mean.astype(np.float64) / share / root, nan=0.0, posinf=0.0, neginf=0.0)
            squares += float(np.dot(step, step))
            entries += step.size
    return sqrt(squares / entries) if entries else None


def nonfinite_moments(checkpoint: Checkpoint, rule: Rule) -> Iterator[Finding]:
    """Yield a finding of a rule for every moment that holds NaN or infinity."""
    for optimizer in checkpoint.optimizers:
        for moments in optimizer.parameters:
            for key, tensor in moments.state.items():
                if tensor.is_floating and _is_nonfinite(moments, key, tensor):
                    yield _nonfinite_finding(checkpoint, rule, optimizer, moments, key, tensor)


def _is_nonfinite(moments: Moments, key: str, tensor: Tensor) -> bool:
    statistics = moments.statistics
    if statistics is not None and tensor is moments.first:
        return statistics.nonfinite_first > 0
    if statistics is not None and tensor is moments.second:
        return statistics.nonfinite_second > 0
    return key != "step" and tensor.statistics.nonfinite > 0


def _nonfinite_finding(
    checkpoint: Checkpoint, rule: Rule, optimizer: Optimizer, moments: Moments, key: str, tensor: Tensor
) -> Finding:
    statistics = tensor.statistics
    place = [int(each) for each in np.unravel_index(statistics.first_nonfinite or 0, tensor.shape or (1,))]
    subject = checkpoint.by_name.get(moments.tensor or "")
    owner = "" if subject else f" of parameter {moments.index}"
    kinds = " and ".join(
        f"{n:,} {word}" for n, word in ((statistics.nan, "NaN"), (statistics.infinite, "infinite")) if n
    )
    return rule.finding(
        f"{kinds} of {statistics.count:,} values in {key}{owner} of {optimizer.name}, the first at {place}: "
        f"the next update writes them into the weights",
        subject,
        evidence={
            "optimizer": optimizer.name,
            "moment": key,
            "index": moments.index,
            "parameter": None if subject else f"parameter {moments.index}",
            "nan": statistics.nan,
            "infinite": statistics.infinite,
            "count": statistics.count,
            "first": place,
        },
        repairs=_renew_nonfinite(moments, tensor),
    )


def _renew_nonfinite(moments: Moments, tensor: Tensor) -> list[Repair]:
    if tensor is moments.first:
        return [Repair(tensor.name, "non-finite entries become 0", where_not_finite(fill(0.0)), Safety.UNSAFE)]
    if tensor is moments.second:
        words = "non-finite entries become the healthy ones' median"
        return [Repair(tensor.name, words, fill_typical, Safety.UNSAFE)]
    return []


def _share(value: object) -> float | None:
    if isinstance(value, (int, float)) and 0.0 <= float(value) < 1.0:
        return float(value)
    return None


def _rate(kept: float) -> float:
    return -log(kept) if kept > 0.0 else inf
