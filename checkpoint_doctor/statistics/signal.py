"""The signal profile of a layer: how large its inputs and its gradients were, from its second moments.

For a layer ``y = W x + b`` the gradient of ``W[i, j]`` is δ_i · x_j, and that of ``b[i]`` is δ_i. An optimizer that
keeps running means of squares keeps those of both, so their ratio is the mean square of the input x_j. Second moments
are given as they are stored: the bias correction of a weight and its bias is the same and cancels.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.statistics.moments import MomentStatistics
from checkpoint_doctor.statistics.values import as_real

LIVE_SHARE = 1e-6
"""Second moment of a bias entry, as a share of the layer's largest, above which its unit still learns. Those of a dead
unit decay by a factor of e in 1,000 updates with Adam's defaults, or are rounding errors."""

SMALLEST_SQUARE = 1e-30
"""Second moment of a bias entry below which squares of gradients are lost in float32: Adam adds (1 - β2) · g², and the
smallest normal number is 1.2e-38."""

CONSTANT_SPREAD = 1e-3
"""Largest relative spread of v_W / v_b between a layer's units for an input that never changed: the gradients of its
column are then those of the bias times a constant, to float32's rounding. Other inputs spread by a tenth and more."""

_FEWEST_UNITS = 4
"""Live units from which an equal ratio is no coincidence."""

_FEWEST_UNITS_TO_AGREE, _AGREEMENT = 8, 0.8
"""Live units, and the cosine of two vectors over them, from which agreement is no coincidence: 1 % of random ones."""


def find_live_units(bias: NDArray) -> NDArray:
    """Return which units still learn, as booleans, from the second moments of a layer's bias entries."""
    finite = np.where(np.isfinite(bias), bias, 0.0)
    live: NDArray = finite > max(LIVE_SHARE * float(finite.max(initial=0.0)), SMALLEST_SQUARE)
    return live


def input_rms(weight_rows: NDArray, bias: NDArray, inputs: int) -> float | None:
    """Return the root mean square of a layer's inputs; ``None`` where no unit learns.

    Args:
        weight_rows: sum of the weight's second moments in each unit's row.
        bias: second moment of each unit's bias entry.
        inputs: entries of a row (for a convolution, input channels times positions of the kernel).
    """
    live = find_live_units(bias)
    if not live.any() or not inputs:
        return None
    return sqrt(float(weight_rows[live].sum()) / (inputs * float(bias[live].sum(dtype=np.float64))))


def feature_squares(weight: NDArray, bias: NDArray) -> NDArray | None:
    """Return the mean square of each input feature as every live unit shows it; ``None`` where no unit learns.

    Args:
        weight: second moments of the weight, of shape (units, features, …); further axes are positions of a kernel.
        bias: second moment of each unit's bias entry.

    Returns:
        an array of shape (live units, features).
    """
    live = find_live_units(bias)
    if not live.any():
        return None
    rows = weight[live].astype(np.float64)
    squares: NDArray = rows.reshape(*rows.shape[:2], -1).mean(axis=2) / bias[live].astype(np.float64)[:, np.newaxis]
    return squares


def feature_rms(squares: NDArray, bias: NDArray) -> NDArray:
    """Return the root mean square of each input feature, from ``feature_squares`` and the bias' second moments."""
    shares = bias[find_live_units(bias)].astype(np.float64)
    sizes: NDArray = np.sqrt(shares @ squares / shares.sum())
    return sizes


def find_constant_features(squares: NDArray, bias: NDArray) -> NDArray:
    """Return which input features were one number other than 0 all the time, from ``feature_squares``.

    A feature that never changed carries no signal: its weights are a second bias. Units that receive equal gradients
    cannot tell, since all of them show the same whatever the inputs were.

    Args:
        squares: what ``feature_squares`` returned, of shape (live units, features).
        bias: second moment of each unit's bias entry.
    """
    gradients = bias[find_live_units(bias)].astype(np.float64)
    if squares.shape[0] < _FEWEST_UNITS or gradients.max() <= (1.0 + CONSTANT_SPREAD) * gradients.min():
        return np.zeros(squares.shape[1], dtype=bool)
    low, high = squares.min(axis=0), squares.max(axis=0)
    constant: NDArray = (low > 0) & (high <= (1.0 + CONSTANT_SPREAD) * low)
    return constant


def goes_with_bias(weight_mean: NDArray, weight: NDArray, bias_mean: NDArray, bias: NDArray) -> bool:
    """Return whether the gradients of the largest input feature go with those of the bias from unit to unit.

    They do where the feature has a mean of the size of its RMS, and the gradient of the bias is more than rounding.

    Args:
        weight_mean: first moments of the weight, of shape (units, features, …).
        weight: second moments of the weight.
        bias_mean: first moment of each unit's bias entry.
        bias: second moment of each unit's bias entry.
    """
    live = find_live_units(bias)
    if live.sum() < _FEWEST_UNITS_TO_AGREE:
        return False
    columns = as_real(weight[live]).reshape(int(live.sum()), -1)
    largest = int(columns.sum(axis=0, dtype=np.float64).argmax())
    one = as_real(weight_mean[live].reshape(columns.shape)[:, largest])
    other = as_real(bias_mean[live])
    with np.errstate(over="ignore", invalid="ignore"):
        norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 0 < norms < inf and abs(float(one @ other)) > _AGREEMENT * norms


def gradient_rms(bias: NDArray, correction: float) -> float:
    """Return the root mean square over a layer's units of the loss' gradient with respect to their output.

    Args:
        bias: second moment of each unit's bias entry.
        correction: the second moment's bias correction, 1 - β2**step.
    """
    return sqrt(float(bias.mean(dtype=np.float64)) / correction)


def relative_step(statistics: MomentStatistics, corrections: tuple[float, float], epsilon: float) -> float:
    """Return the root mean square of |m̂| / (√v̂ + ε): Adam's next step in units of the learning rate.

    From the sums of the pass over the moments. Where ε matters, its effect on the ratio is taken from the histogram of
    the live entries' √v.

    Args:
        statistics: the moment statistics of the parameter.
        corrections: the bias corrections of the first and the second moment.
        epsilon: Adam's ε.
    """
    first, second = corrections
    ratio = sqrt(statistics.ratio_squares / max(statistics.count, 1)) * sqrt(second) / first
    counts = statistics.exponents.astype(np.float64)
    if not epsilon or not counts.any():
        return ratio
    # The middle of each bin of the histogram, [2**e, 2**(e + 1)), for √v̂.
    roots = np.exp2(np.arange(counts.size) - 150.0 + 0.5) / sqrt(second)
    damping = (roots / (roots + epsilon)) ** 2
    return ratio * sqrt(float((counts * damping).sum() / counts.sum()))
