"""A metric over time in bounded memory: numbers come in order and are kept in buckets that widen as they fill up."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

MOST_BUCKETS = 2048
"""Buckets of a curve: up to so many numbers are kept as they are, and of more each bucket sums up several."""


class Curve(Struct, frozen=True, eq=False, dict=True):
    """A metric's numbers in the order of the log, summed up in buckets of equal width (the last may be narrower)."""

    width: int
    """Numbers in a bucket; 1 where every number is kept."""
    steps: NDArray
    """Step of each bucket's first number."""
    last_steps: NDArray
    """Step of each bucket's last number."""
    counts: NDArray
    """Numbers in each bucket."""
    nonfinite: NDArray
    """How many of them are NaN or infinite."""
    firsts: NDArray
    """First number of each bucket, NaN and infinity included."""
    lasts: NDArray
    """Last number of each bucket, NaN and infinity included."""
    minima: NDArray
    """Smallest finite number of each bucket; NaN where none is finite."""
    maxima: NDArray
    """Largest finite number of each bucket; NaN where none is finite."""
    means: NDArray
    """Mean of the finite numbers of each bucket; NaN where none is finite."""

    @property
    def count(self) -> int:
        """All numbers that were recorded."""
        return int(self.counts.sum())

    @property
    def first(self) -> float | None:
        """The first number of the log, ``None`` where there is none."""
        return float(self.firsts[0]) if self.firsts.size else None

    @property
    def last(self) -> float | None:
        """The last number of the log, ``None`` where there is none."""
        return float(self.lasts[-1]) if self.lasts.size else None

    @cached_property
    def continued(self) -> Curve:
        """The curve of the run that came to the log's end.

        A run that was resumed from an earlier step, or begun anew, writes its steps again. What stands in the log for a
        step that is written again later belongs to the run that was given up, and is left out. Steps that go back and
        forth all the time are no steps of one run: then everything stays, in the order of the log.
        """
        if self.steps.size < 2:
            return self
        lowest = np.append(np.minimum.accumulate(self.steps[::-1])[::-1], np.inf)
        begins = np.append(np.flatnonzero(np.diff(self.steps) < 0) + 1, self.steps.size)
        next_run = begins[np.searchsorted(begins, np.arange(self.steps.size), side="right")]
        is_kept = self.last_steps < lowest[next_run]
        went_back = int((np.diff(self.steps) < 0).sum())
        if went_back == 0 or went_back > max(8, self.steps.size // 20):
            return self
        return self.take(is_kept)

    def take(self, which: NDArray) -> Curve:
        """Return the curve of some of the buckets, given as a mask or a slice of positions."""
        return Curve(self.width, *(getattr(self, name)[which] for name in _FIELDS))


_FIELDS = ("steps", "last_steps", "counts", "nonfinite", "firsts", "lasts", "minima", "maxima", "means")


class CurveBuilder:
    """Takes numbers block by block and keeps at most ``MOST_BUCKETS`` buckets of them."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._most = most_buckets
        self._width = 1
        self._full = np.empty((len(_FIELDS), 0))
        self._steps = np.empty(0)
        self._values = np.empty(0)

    def add(self, steps: NDArray, values: NDArray) -> None:
        """Take the next numbers and the steps at which they were recorded, two arrays of the same length."""
        self._steps = np.concatenate([self._steps, steps])
        self._values = np.concatenate([self._values, values])
        while True:
            free = self._most - self._full.shape[1]
            ready = min(self._values.size // self._width, free)
            if ready:
                used = ready * self._width
                buckets = _sum_up(self._steps[:used], self._values[:used], self._width)
                self._full = np.concatenate([self._full, buckets], axis=1)
                self._steps, self._values = self._steps[used:], self._values[used:]
            if self._values.size < self._width:
                return
            self._full = _merge_pairs(self._full)
            self._width *= 2

    def finish(self) -> Curve:
        """Return the curve of all that was added."""
        buckets = self._full
        if self._values.size:
            rest = _sum_up(self._steps, self._values, self._values.size)
            buckets = np.concatenate([buckets, rest], axis=1)
        return Curve(self._width, *buckets)


def _sum_up(steps: NDArray, values: NDArray, width: int) -> NDArray:
    """Return the fields of the buckets of numbers whose length is a multiple of the width."""
    steps, values = steps.reshape(-1, width), values.reshape(-1, width)
    is_finite = np.isfinite(values)
    count = is_finite.sum(axis=1)
    some = np.where(count > 0, 1.0, np.nan)
    total = np.where(is_finite, values, 0.0).sum(axis=1)
    return np.array(
        [
            steps[:, 0],
            steps[:, -1],
            np.full(len(values), float(width)),
            width - count,
            values[:, 0],
            values[:, -1],
            np.where(is_finite, values, np.inf).min(axis=1) * some,
            np.where(is_finite, values, -np.inf).max(axis=1) * some,
            total / np.maximum(count, 1) * some,
        ]
    )


def _merge_pairs(buckets: NDArray) -> NDArray:
    """Return buckets of twice the width; their number is even."""
    left, right = buckets[:, ::2], buckets[:, 1::2]
    finite_left, finite_right = left[2] - left[3], right[2] - right[3]
    weight = finite_left + finite_right
    mean = (np.nan_to_num(left[8]) * finite_left + np.nan_to_num(right[8]) * finite_right) / np.maximum(weight, 1)
    return np.array(
        [
            left[0],
            right[1],
            left[2] + right[2],
            left[3] + right[3],
            left[4],
            right[5],
            np.fmin(left[6], right[6]),
            np.fmax(left[7], right[7]),
            np.where(weight > 0, mean, np.nan),
        ]
    )
