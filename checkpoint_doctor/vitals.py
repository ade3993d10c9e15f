"""The one numeric pass over a tensor.

``measure`` knows no file and no rule. It sees a tensor's numbers as a stream of blocks small enough to stay in the
cache, and takes from each block every figure that any rule may ask for later.
"""

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


@dataclass(frozen=True)
class Vitals:
    """What one pass over a tensor's numbers tells.

    Minimum, maximum, mean, standard deviation and norm are taken over the finite entries, so that one NaN does not
    hide the others; they are ``None`` where there is no finite entry (and, for complex numbers, where there is no order).
    """

    count: int
    """Number of entries."""
    zeros: int
    """Entries that are exactly zero (negative zero included)."""
    subnormals: int
    """Entries below the smallest normal number of their type, zero excluded."""
    nan: int
    """Entries that are not a number."""
    infinite: int
    """Entries that are plus or minus infinity."""
    first_nonfinite: int | None
    """Flat, row-major index of the first NaN or infinity."""
    minimum: float | int | None
    maximum: float | int | None
    mean: float | None
    std: float | None
    """Population standard deviation (divided by the count)."""
    norm: float | None
    """Euclidean norm."""
    row_norms: NDArray | None
    """Euclidean norm of each row (first axis), for tensors of two or more axes; ``None`` otherwise."""
    zero_rows: NDArray
    """Indices along the first axis whose entries are all exactly zero (two or more axes; else empty)."""
    zero_columns: NDArray
    """Indices along the second axis whose entries are all exactly zero (two or more axes; else empty)."""
    duplicate_rows: tuple[tuple[int, ...], ...]
    """Groups of two or more bit-identical, non-zero rows."""

    @property
    def nonfinite(self) -> int:
        """Entries that are NaN or infinite."""
        return self.nan + self.infinite

    @property
    def zero_fraction(self) -> float:
        """Share of exact zeros, 0.0 for an empty tensor."""
        return self.zeros / self.count if self.count else 0.0

    @property
    def absmax(self) -> float:
        """Largest finite magnitude, 0.0 where there is none."""
        return max(abs(float(self.minimum or 0)), abs(float(self.maximum or 0)))
