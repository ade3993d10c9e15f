"""The course of a noisy series: its levels part by part, its noise, and whether it rises or falls."""

from __future__ import annotations

from functools import cache
from math import erfc, sqrt

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

MOST_LEVELS = 20
"""Parts that a series is divided into: enough to see when something began, few enough to see it through noise."""


class Levels(Struct, frozen=True, eq=False, dict=True):
    """A series in up to ``MOST_LEVELS`` parts."""

    starts: NDArray
    """Position in the series at which each part begins."""
    medians: NDArray
    noise: float
    """Standard deviation of a part's median, as the differences between neighbouring numbers show it."""
    is_exact: bool
    """True where each part is a single number."""

    @property
    def start(self) -> float:
        """The level at the beginning."""
        return float(self.medians[0])

    @property
    def end(self) -> float:
        """The level at the end: the median of the last tenth of the parts, and of two parts where there are ten."""
        last = max(1, self.medians.size // 8)
        return float(np.median(self.medians[-last:]))


def find_levels(values: NDArray, most: int = MOST_LEVELS) -> Levels:
    """Return the levels of a series of finite numbers, of which there must be at least one."""
    if values.size <= most:
        # A straight line has no second differences, so what is left in them is noise.
        bends = np.diff(values, n=2) if values.size > 2 else np.zeros(1)
        noise = 1.4826 * float(np.median(np.abs(bends))) / sqrt(6.0)
        return Levels(np.arange(values.size), values, noise, is_exact=True)
    parts = np.array_split(values, most)
    sizes = np.array([part.size for part in parts])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    single = 1.4826 * float(np.median(np.abs(np.diff(values)))) / sqrt(2.0)
    medians = np.array([np.median(part) for part in parts])
    # A median of normal numbers scatters 1.25 times as much as their mean.
    return Levels(starts, medians, 1.2533 * single / sqrt(values.size / most), is_exact=False)


def rank_trend(values: NDArray) -> tuple[float, float]:
    """Return Kendall's tau of a series with its order, and the probability of one as far from 0 on its side by chance.

    That is the test of Mann (1945) and Kendall: 1 where every number is larger than all before it, -1 where every one
    is smaller. Exact up to ten numbers, by the normal distribution beyond.
    """
    size = values.size
    if size < 3:
        return 0.0, 1.0
    upper = np.sign(values[None, :] - values[:, None])[np.triu_indices(size, 1)]
    score, pairs = float(upper.sum()), size * (size - 1) / 2
    if size <= 10:
        counts = _count_inversions(size)
        inversions = round((pairs - abs(score)) / 2)
        return score / pairs, sum(counts[: inversions + 1]) / sum(counts)
    spread = sqrt(size * (size - 1) * (2 * size + 5) / 18)
    return score / pairs, 0.5 * erfc(max(0.0, abs(score) - 1) / spread / sqrt(2.0))


@cache
def _count_inversions(size: int) -> tuple[int, ...]:
    """Return how many orders of so many numbers have 0, 1, 2 … inversions."""
    counts = [1]
    for length in range(2, size + 1):
        longer = [0] * (len(counts) + length - 1)
        for inversions, count in enumerate(counts):
            for more in range(length):
                longer[inversions + more] += count
        counts = longer
    return tuple(counts)
