"""The one numeric pass over a tensor.

``measure`` knows no file and no rule. It sees a tensor's numbers as a stream of blocks small enough to stay in the
cache, and takes from each block every figure that any rule may ask for later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt
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
    hide the others. They are ``None`` where there is no finite entry; complex numbers have a norm only.
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


LONGEST_ROW = 1 << 20
"""Rows longer than this many elements are measured as one flat stream, without figures per row and column."""


def measure(values: Values) -> Vitals:
    """Take every figure of ``Vitals`` in one pass over the numbers, in blocks of whole rows.

    Sums run in the block's own precision within a row and in double precision across rows; a tensor that fits into one
    block is summed in double precision throughout.
    """
    count = prod(values.shape)
    rows = values.shape[0] if len(values.shape) > 1 else 1
    length = count // rows if rows else 0
    by_row = len(values.shape) > 1 and 0 < length <= LONGEST_ROW
    elements = max(1, BLOCK_ELEMENTS // length) * length if by_row else BLOCK_ELEMENTS
    totals = _Totals(by_row=by_row, length=length, exact=count <= BLOCK_ELEMENTS // 4)
    # Overflowing squares and NaN comparisons are expected: they are how damage is noticed.
    with np.errstate(all="ignore"):
        for block in values.blocks(elements):
            totals.add(block)
    return totals.conclude(values)


class _Totals:
    """What has been added up so far."""

    def __init__(self, *, by_row: bool, length: int, exact: bool) -> None:
        self.by_row, self.length, self.exact = by_row, length, exact
        self.count = self.zeros = self.subnormals = self.nan = self.infinite = 0
        self.first_nonfinite: int | None = None
        self.minimum: float | int | None = None
        self.maximum: float | int | None = None
        self.sum = 0.0
        self.squares = 0.0
        self.row_squares: list[NDArray] = []
        self.row_sums: list[NDArray] = []
        self.zero_rows: list[NDArray] = []
        self.zero_columns: NDArray | None = None
        self.ordered = True

    def add(self, block: NDArray) -> None:
        """Add one block of whole rows (or of a flat stream)."""
        kind = block.dtype.kind
        if kind == "c":
            self._add_complex(block)
        elif kind in "iub":
            self._add_floats(block.astype(np.float64), tiny=0)
            low, high = block.min(), block.max()
            self.minimum = int(low) if self.minimum is None else min(int(self.minimum), int(low))
            self.maximum = int(high) if self.maximum is None else max(int(self.maximum), int(high))
        elif block.dtype in (np.float32, np.float64):
            self._add_floats(block, tiny=None)
            self._widen_range(block)
        else:
            # Half precision and float8 have no fast arithmetic of their own, and a float32 holds each of them exactly.
            wide = block.astype(np.float32)
            self._add_floats(wide, tiny=_smallest_normal(block.dtype))
            self._widen_range(wide)
        self.count += block.size

    def _add_floats(self, block: NDArray, *, tiny: float | None) -> None:
        grid = block.reshape(-1, self.length if self.by_row else block.size)
        summed = grid.astype(np.float64) if self.exact else grid
        row_squares = np.einsum("ij,ij->i", summed, summed)
        row_sums = summed.sum(axis=1)
        squares, total = float(row_squares.sum(dtype=np.float64)), float(row_sums.sum(dtype=np.float64))
        if not np.isfinite(squares):
            row_squares, squares, total = self._look_closer(grid)
        self.squares += squares
        self.sum += total
        zeros = self._count_small(block, tiny)
        self.zeros += zeros
        if self.by_row:
            self._note_rows_and_columns(grid, zeros)
            self.row_squares.append(row_squares)
            self.row_sums.append(row_sums)

    def _widen_range(self, block: NDArray) -> None:
        low, high = float(block.min()), float(block.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = block[np.isfinite(block)]
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def _count_small(self, block: NDArray, tiny: float | None) -> int:
        """Count zeros, and subnormals on the way; returns the zeros of this block."""
        if tiny is None:
            # Shifting the sign out leaves an exponent of zero below the first normal number: one comparison finds both.
            bits, normal = (np.uint32, 1 << 24) if block.dtype == np.float32 else (np.uint64, 1 << 53)
            small = int(np.count_nonzero(np.left_shift(block.view(bits), bits(1)) < bits(normal)))
        else:
            small = int(np.count_nonzero(np.abs(block) < tiny)) if tiny else block.size
        zeros = int(block.size - np.count_nonzero(block)) if small else 0
        self.subnormals += small - zeros if tiny != 0 else 0
        return zeros

    def _look_closer(self, grid: NDArray) -> tuple[NDArray, float, float]:
        """Sum the finite entries of a block whose squares overflow, and count the others."""
        finite = np.isfinite(grid)
        nan = int(np.count_nonzero(np.isnan(grid)))
        lost = int(grid.size - np.count_nonzero(finite))
        if lost and self.first_nonfinite is None:
            self.first_nonfinite = self.count + int(np.argmin(finite))
        self.nan += nan
        self.infinite += lost - nan
        wide = np.where(finite, grid, 0).astype(np.longdouble)
        row_squares = np.einsum("ij,ij->i", wide, wide)
        return row_squares.astype(np.float64), float(row_squares.sum()), float(wide.sum())

    def _note_rows_and_columns(self, grid: NDArray, zeros: int) -> None:
        start = self.count // self.length
        if zeros >= self.length:
            self.zero_rows.append(start + np.flatnonzero(~grid.any(axis=1)))
        if self.zero_columns is None:
            self.zero_columns = np.flatnonzero(grid[0] == 0)
        if self.zero_columns.size:
            self.zero_columns = self.zero_columns[~grid[:, self.zero_columns].any(axis=0)]

    def _add_complex(self, block: NDArray) -> None:
        finite = np.isfinite(block)
        lost = int(block.size - np.count_nonzero(finite))
        if lost and self.first_nonfinite is None:
            self.first_nonfinite = self.count + int(np.argmin(finite))
        nan = int(np.count_nonzero(np.isnan(block)))
        self.nan += nan
        self.infinite += lost - nan
        self.zeros += int(block.size - np.count_nonzero(block))
        magnitudes = np.abs(np.where(finite, block, 0)).astype(np.float64)
        self.squares += float(np.dot(magnitudes, magnitudes))
        self.ordered = False

    def conclude(self, values: Values) -> Vitals:
        """Turn the sums into figures, reading rows again only where two of them seem to be the same."""
        finite = self.count - self.nan - self.infinite
        mean = self.sum / finite if finite and self.ordered else None
        spread = max(0.0, self.squares / finite - mean * mean) if mean is not None else 0.0
        if self.minimum is not None and self.minimum == self.maximum:
            spread = 0.0
        row_squares = np.concatenate(self.row_squares) if self.row_squares else None
        return Vitals(
            count=self.count,
            zeros=self.zeros,
            subnormals=self.subnormals,
            nan=self.nan,
            infinite=self.infinite,
            first_nonfinite=self.first_nonfinite,
            minimum=self.minimum,
            maximum=self.maximum,
            mean=mean,
            std=sqrt(spread) if mean is not None else None,
            norm=sqrt(self.squares) if finite else None,
            row_norms=None if row_squares is None else np.sqrt(row_squares),
            zero_rows=np.concatenate(self.zero_rows) if self.zero_rows else _NOTHING,
            zero_columns=self._zero_columns(values.shape),
            duplicate_rows=self._duplicate_rows(values, row_squares),
        )

    def _zero_columns(self, shape: tuple[int, ...]) -> NDArray:
        if self.zero_columns is None or not self.zero_columns.size:
            return _NOTHING
        # A convolution's column is an input channel: all the positions of its kernel.
        positions = self.length // shape[1]
        dead = np.zeros(self.length, dtype=bool)
        dead[self.zero_columns] = True
        return np.flatnonzero(dead.reshape(shape[1], positions).all(axis=1))

    def _duplicate_rows(self, values: Values, row_squares: NDArray | None) -> tuple[tuple[int, ...], ...]:
        if row_squares is None or row_squares.size < 2:
            return ()
        sums = np.concatenate(self.row_sums).astype(np.float64)
        # Both figures are added up in the same order for every row, so equal rows have equal figures to the last bit.
        signatures = np.stack([row_squares.astype(np.float64), sums], axis=1)
        alive = np.flatnonzero(np.isfinite(signatures).all(axis=1) & (row_squares > 0))
        _, which, counts = np.unique(signatures[alive], axis=0, return_inverse=True, return_counts=True)
        suspects = {int(row) for row in alive[counts[which.reshape(-1)] > 1]}
        return _confirm_duplicates(values, suspects, self.length) if suspects else ()


def _confirm_duplicates(values: Values, suspects: set[int], length: int) -> tuple[tuple[int, ...], ...]:
    same: dict[bytes, list[int]] = {}
    row = 0
    for block in values.blocks(max(1, BLOCK_ELEMENTS // length) * length):
        for numbers in block.reshape(-1, length):
            if row in suspects:
                same.setdefault(hashlib.blake2b(numbers.tobytes(), digest_size=16).digest(), []).append(row)
            row += 1
    return tuple(tuple(rows) for rows in same.values() if len(rows) > 1)


def _smallest_normal(dtype: np.dtype) -> float:
    if dtype == np.float16:
        return float(np.finfo(np.float16).smallest_normal)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).smallest_normal)  # type: ignore[no-untyped-call]


_NOTHING: NDArray = np.empty(0, dtype=np.int64)
