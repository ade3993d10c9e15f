"""Norms that grow without end."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Series, TensorSeries
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.change_points import find_change_point

LARGEST_TRAINED = 50.0
"""RMS of a weight times √fan-in: at most 50 in 111 published agents after training; PyTorch's initial value is 0.58."""

ALIGNED = 0.8
"""Part of a move that goes into the norm, from which a tensor is scaled rather than trained. A step of gradient descent
is mostly across the weights, since a scale-free loss has no gradient along them."""

SMALLEST_GROWTH = 0.03
"""Growth of the logarithm of a norm between two checkpoints below which it is none."""


@rule("TRD002", "norm-explosion", Severity.WARNING, on=Series, worse=("growth",), group_by=("onset_path",))
def norm_explosion(series: Series, *, growth: float = 100.0) -> Iterator[Finding]:
    """The norm of a weight explodes, or grows by the same factor from checkpoint to checkpoint.

    Why it matters:
        Weights that grow by a factor at every update overflow in the end, and activations and gradients do long before.
        A missing decay, a scale that is applied at every step or at every save, and divergence look like this.

    When it is normal:
        Norms of healthy weights grow too, but ever more slowly, and mostly by moves across the weights. So a steady
        growth counts where it begins within the series, goes on to its end, and is along the weights themselves (the
        growth of the norm is at least 80 % of the move). Without a beginning it counts from a factor of ``growth`` on,
        and where the weights are larger than in any published agent.

    What to do:
        Look for code that multiplies weights, for a learning rate that is too high, and for targets that grow. Add
        weight decay or clip the norm of the gradients.

    Options:
        growth: The factor within the series from which a growth counts without a beginning.

    References:
        docs/compare.md of this project; https://github.com/DLR-RM/rl-baselines3-zoo/issues/322.
    """
    for tensor in series.trained:
        if not tensor.is_matrix:
            continue
        steady = find_steady_growth(tensor)
        norms = tensor["norm"]
        if steady is not None:
            factor = float(norms[-1] / norms[steady - 1])
            yield norm_explosion.finding(
                f"its norm grows by about {np.expm1(_growth(norms)[steady:].mean()):.0%} from checkpoint to checkpoint "
                f"since {series.name_point(steady)}, {factor:.3g} times in all, and what moves is its size alone",
                tensor,
                evidence={**series.place(steady), "growth": factor, "norm": float(norms[-1])},
                advice="Look for code that scales these weights at every update.",
            )
        elif (onset := find_explosion(tensor, growth)) is not None:
            factor = float(norms[-1] / _base(norms))
            yield norm_explosion.finding(
                f"its norm has grown {factor:.3g} times within the series, from {_base(norms):.3g} to {norms[-1]:.3g}, "
                f"beginning at {series.name_point(onset)}",
                tensor,
                evidence={**series.place(onset), "growth": factor, "norm": float(norms[-1])},
                advice="Lower the learning rate or clip the norm of the gradients; look at what feeds this layer.",
            )


def find_steady_growth(tensor: TensorSeries) -> int | None:
    """Return the checkpoint from which on a tensor grows by a factor up to the end; ``None`` where it does not."""
    norms, change = tensor["norm"], tensor["change"]
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        return None
    growth = _growth(norms)
    with np.errstate(all="ignore"):
        aligned = np.expm1(growth) >= ALIGNED * change
    onset = len(growth)
    while growth[onset - 1] >= SMALLEST_GROWTH and aligned[onset - 1]:
        onset -= 1
    length = len(growth) - onset
    if length < 2 or onset < 3 or growth[-1] < 0.6 * np.median(growth[onset:]):
        return None
    before = growth[1:onset]
    found = find_change_point(growth[1:].tolist(), noise=SMALLEST_GROWTH / 3)
    is_new = np.median(growth[onset:]) >= 3.0 * np.median(np.abs(before))
    return onset if found is not None and is_new else None


def find_explosion(tensor: TensorSeries, growth: float) -> int | None:
    """Return the checkpoint at which a tensor begins to explode; ``None`` where it does not."""
    norms = tensor["norm"]
    known = norms[np.isfinite(norms) & (norms > 0)]
    if known.size < 3 or not np.isfinite(norms[-1]):
        return None
    # The RMS of the entries times √fan-in: the number of entries is that of the outputs times the fan-in.
    if norms[-1] < growth * _base(norms) or norms[-1] < LARGEST_TRAINED * sqrt(tensor.shape[0]):
        return None
    found = find_change_point(np.log(np.where(norms > 0, norms, np.nan)).tolist())
    if found is not None:
        return found.onset
    return int(np.flatnonzero(norms >= sqrt(growth) * _base(norms))[0])


def _base(norms: NDArray) -> float:
    known = norms[np.isfinite(norms) & (norms > 0)]
    return float(np.median(known[: known.size // 3]))


def _growth(norms: NDArray) -> NDArray:
    grown: NDArray = np.diff(np.log(norms), prepend=np.nan)
    return grown
