"""A tensor's values as a stream of blocks that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Protocol, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Number = TypeVar("Number", float, NDArray)

BLOCK_ELEMENTS = 1 << 18
"""Elements per block: 1 MiB of float32, which stays in a core's L2 cache while several reductions read it."""


class Values(Protocol):
    """A tensor's values in row-major order, which need not fit into memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    @property
    def dtype(self) -> np.dtype:
        """The NumPy (or ml_dtypes) type of one element."""

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """Yield the values as flat arrays of ``elements`` entries; the last one may be shorter.

        A block is only valid until the next one is read, since its memory may be reused.
        """

    def read(self) -> NDArray:
        """Return the whole tensor as an array of its shape, which the caller may change."""


class InMemory(Struct, frozen=True):
    """``Values`` of an array in memory."""

    array: NDArray
    """The array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The array's element type."""
        return self.array.dtype

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        flat = np.ascontiguousarray(self.array).reshape(-1)
        for start in range(0, flat.size, elements):
            yield flat[start : start + elements]

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return self.array.copy()


def as_real(numbers: NDArray) -> NDArray:
    """Return numbers in double precision; of complex ones the magnitudes, as in the statistics."""
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN, and magnitudes beyond the largest number
        return np.abs(numbers).astype(np.float64) if numbers.dtype.kind == "c" else numbers.astype(np.float64)


def square(number: float) -> float:
    """Return a number times itself: infinity where that overflows, and a power would raise an error."""
    return number * number


def share_of_range(value: Number, low: float, high: float) -> Number:
    """Return how far from one finite number to another a number lies: 0 at the first, also where they are one, to 1.

    The smallest numbers of float64 have no halves, and the width of its whole range is no number.
    """
    if isfinite(width := high - low):
        return (value - low) / (width or 1.0)
    return (value / 2 - low / 2) / (high / 2 - low / 2)


def median(numbers: NDArray) -> float:
    """Return the median of a non-empty array of finite numbers.

    ``numpy.median`` imports masked arrays for its NaN check, which takes as long as reading a small checkpoint.
    """
    ordered = np.sort(numbers, axis=None)
    middle = ordered.size // 2
    return float(ordered[middle] if ordered.size % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def distinct(numbers: NDArray) -> NDArray:
    """Return the distinct values of an array of finite numbers in rising order.

    ``numpy.unique`` imports masked arrays to look for one, as ``numpy.median`` does.
    """
    ordered = np.sort(numbers, axis=None)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if ordered.size else ordered
