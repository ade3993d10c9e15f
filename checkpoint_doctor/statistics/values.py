"""A tensor's numbers, wherever they are: a stream of blocks small enough to stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_ELEMENTS = 1 << 18
"""Elements per block: 1 MiB of float32, which stays in a core's second-level cache while several reductions read it."""


class Values(Protocol):
    """A tensor's numbers in row-major order, without a promise that they fit into memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    @property
    def dtype(self) -> np.dtype:
        """The NumPy (or ml_dtypes) type of one element."""

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """Yield the numbers flat, ``elements`` at a time (the last block may be shorter).

        A block is only valid until the next one is asked for: its memory may be reused.
        """

    def read(self) -> NDArray:
        """Return the whole tensor, in its own shape, as memory that belongs to the caller."""


@dataclass(frozen=True)
class InMemory:
    """``Values`` of an array that is already in memory."""

    array: NDArray

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


def median(numbers: NDArray) -> float:
    """Return the median of a non-empty array of finite numbers.

    NumPy's own imports masked arrays for its NaN check, which costs as much as reading a small checkpoint.
    """
    ordered = np.sort(numbers, axis=None)
    middle = ordered.size // 2
    return float(ordered[middle] if ordered.size % 2 else (ordered[middle - 1] + ordered[middle]) / 2)
