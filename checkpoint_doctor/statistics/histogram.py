"""Histograms: how a tensor's values are distributed, for reports that draw them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.statistics.tensors import Histogram, TensorStatistics
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, Values, share_of_range

BINS = 48
"""Bins of equal width: fine enough to show two peaks or a hard edge, coarse enough for a drawing of 300 pixels."""

SPREAD = 6.0
"""Standard deviations around the mean that the bins cover at most: outliers must not squeeze the rest into one."""


def count_values(values: Values, statistics: TensorStatistics) -> Histogram | None:
    """Count a tensor's values in bins, in one more pass; ``None`` where it has no real, finite values."""
    if statistics.minimum is None or statistics.maximum is None or statistics.mean is None or statistics.std is None:
        return None
    low = max(float(statistics.minimum), statistics.mean - SPREAD * statistics.std)
    high = min(float(statistics.maximum), statistics.mean + SPREAD * statistics.std)
    if not low < high:  # one number only, or so little apart that their mean is one of them
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    counts: NDArray = np.zeros(BINS, dtype=np.int64)
    below = above = 0
    with np.errstate(all="ignore"):
        for block in values.blocks(BLOCK_ELEMENTS):
            numbers = block.astype(np.float64)
            numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
            below += int(np.count_nonzero(numbers < low))
            above += int(np.count_nonzero(numbers > high))
            inside = numbers[(numbers >= low) & (numbers <= high)]
            places = share_of_range(inside, low, high) * BINS
            counts += np.bincount(places.astype(np.int64).clip(max=BINS - 1), minlength=BINS)
    return Histogram(low, high, tuple(counts.tolist()), statistics.zeros, below, above)
