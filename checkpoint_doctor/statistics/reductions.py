"""The reductions of a pass over a tensor, all computed while a block is in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, Values

FEW_ROWS = 256
"""Rows of which a set finds out that all differ in less time than sorting takes."""


class EqualColumns:
    """The columns that have been the same in all rows of a pass. One or two random rows tell all of them apart."""

    def __init__(self, length: int) -> None:
        self._columns = np.arange(length)
        self._group = np.zeros(length, np.int64)

    def add(self, grid: NDArray) -> None:
        """Tell apart the columns that differ in further rows, or hold a number there that is not finite."""
        row = 0
        while self._columns.size and row < len(grid):
            self._split(grid[row])
            rest = grid[row + 1 :, self._columns]
            # What is left of random numbers is little; in a matrix of zeros, all rows are compared at once.
            first = np.empty(self._group.max(initial=-1) + 1, np.int64)
            first[self._group[::-1]] = np.arange(self._columns.size)[::-1]
            differs = (rest != rest[:, first[self._group]]) | ~np.isfinite(rest)
            row += 1 + (int(differs.any(axis=1).argmax()) if differs.any() else len(rest))

    def _split(self, row: NDArray) -> None:
        numbers = row[self._columns]
        order = np.lexsort((numbers, self._group))
        differs = (np.diff(numbers[order]) != 0) | (np.diff(self._group[order]) != 0)
        group = np.empty(order.size, np.int64)
        group[order] = np.concatenate(([0], np.cumsum(differs)))
        may_be_equal = (np.bincount(group)[group] > 1) & np.isfinite(numbers)
        self._columns, self._group = self._columns[may_be_equal], group[may_be_equal]

    def groups(self) -> list[tuple[int, ...]]:
        """Return groups of two or more columns that were always the same."""
        found: dict[int, list[int]] = {}
        for column, number in zip(self._columns.tolist(), self._group.tolist(), strict=True):
            found.setdefault(number, []).append(column)
        return [tuple(each) for each in found.values() if len(each) > 1]


class Totals:
    """The running totals of a pass over a tensor."""

    def __init__(self, *, by_row: bool, length: int, exact: bool, compares_columns: bool = False) -> None:
        self.by_row, self.length, self.exact = by_row, length, exact
        self.count = self.zeros = self.subnormals = self.nan = self.infinite = 0
        self.first_nonfinite: int | None = None
        self.minimum: float | int | None = None
        self.maximum: float | int | None = None
        self.sum: float | np.longdouble = 0.0
        self.squares: float | np.longdouble = 0.0
        """In extended precision where they have overflowed."""
        self.row_squares: list[NDArray] = []
        self.row_sums: list[NDArray] = []
        self.zero_rows: list[NDArray] = []
        self.zero_columns: NDArray | None = None
        self.ordered = True
        self.equal_columns = EqualColumns(length if by_row and compares_columns else 0)

    def add(self, block: NDArray) -> None:
        """Add one block of whole rows, or of a flat stream."""
        kind = block.dtype.kind
        if kind == "c":
            self._add_complex(block)
        elif kind in "iub":
            self._add_sums(block.astype(np.float64), zeros=int(block.size - np.count_nonzero(block)))
            low, high = block.min(), block.max()
            self.minimum = int(low) if self.minimum is None else min(int(self.minimum), int(low))
            self.maximum = int(high) if self.maximum is None else max(int(self.maximum), int(high))
        elif block.dtype in (np.float32, np.float64):
            self._add_floats(block, tiny=float(np.finfo(block.dtype).smallest_normal))
        else:
            # float16, bfloat16 and float8 have no fast arithmetic, and float32 represents all their values exactly.
            self._add_floats(block.astype(np.float32), tiny=_smallest_normal(block.dtype))
        self.count += block.size

    def _add_floats(self, block: NDArray, *, tiny: float) -> None:
        low, high, least = _find_extremes(block)
        zeros = 0
        if least < tiny:
            zeros = int(np.count_nonzero(block == 0))
            self.subnormals += int(np.count_nonzero(np.abs(block) < tiny)) - zeros
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = block[np.isfinite(block)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
        if low <= high:
            self.minimum = low if self.minimum is None else min(self.minimum, low)
            self.maximum = high if self.maximum is None else max(self.maximum, high)
        self._add_sums(block, zeros)

    def _add_sums(self, block: NDArray, zeros: int) -> None:
        grid = block.reshape(-1, self.length if self.by_row else block.size)
        summed = grid.astype(np.float64) if self.exact else grid
        row_squares = np.vecdot(summed, summed)
        row_sums = np.vecdot(summed, np.ones(summed.shape[1], dtype=summed.dtype))
        squares: float | np.longdouble = float(row_squares.sum(dtype=np.float64))
        total: float | np.longdouble = float(row_sums.sum(dtype=np.float64))
        if not np.isfinite(squares):
            row_squares, squares, total = self._sum_finite(grid)
        self.squares += squares
        self.sum += total
        self.zeros += zeros
        if self.by_row:
            self._find_zero_rows_and_columns(grid, zeros)
            self.row_squares.append(row_squares)
            self.row_sums.append(row_sums)

    def _sum_finite(self, grid: NDArray) -> tuple[NDArray, np.longdouble, np.longdouble]:
        """Sum the finite entries of a block whose squares overflow, and count the others."""
        finite = np.isfinite(grid)
        nan = int(np.count_nonzero(np.isnan(grid)))
        lost = int(grid.size - np.count_nonzero(finite))
        if lost and self.first_nonfinite is None:
            self.first_nonfinite = self.count + int(np.argmin(finite))
        self.nan += nan
        self.infinite += lost - nan
        wide = np.where(finite, grid, 0).astype(np.longdouble)
        row_squares = (wide * wide).sum(axis=1)
        return row_squares, row_squares.sum(), wide.sum()

    def _find_zero_rows_and_columns(self, grid: NDArray, zeros: int) -> None:
        start = self.count // self.length
        if zeros >= self.length:
            self.zero_rows.append(start + np.flatnonzero(~grid.any(axis=1)))
        if self.zero_columns is None:
            self.zero_columns = np.flatnonzero(grid[0] == 0)
        if self.zero_columns.size:
            self.zero_columns = self.zero_columns[~grid[:, self.zero_columns].any(axis=0)]
        self.equal_columns.add(grid)

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
        squares = float(np.dot(magnitudes, magnitudes))
        self.squares += squares if np.isfinite(squares) else (magnitudes.astype(np.longdouble) ** 2).sum()
        self.ordered = False

    @property
    def finite(self) -> int:
        """Entries that are neither NaN nor infinite."""
        return self.count - self.nan - self.infinite

    @property
    def mean(self) -> float | None:
        """Mean of the finite entries, ``None`` where there is none or they are complex."""
        return float(self.sum / self.finite) if self.finite and self.ordered else None

    @property
    def std(self) -> float | None:
        """Population standard deviation of the finite entries, ``None`` where there is no mean."""
        if self.mean is None:
            return None
        if self.minimum is not None and self.minimum == self.maximum:
            return 0.0
        mean = self.sum / self.finite
        return _clipped(np.sqrt(max(0.0, self.squares / self.finite - mean * mean)))

    @property
    def norm(self) -> float | None:
        """Euclidean norm of the finite entries, ``None`` where there is none."""
        return _clipped(np.sqrt(self.squares)) if self.finite else None

    @property
    def row_norms(self) -> NDArray | None:
        """Euclidean norm of each row."""
        if not self.row_squares:
            return None
        norms: NDArray = np.sqrt(np.concatenate(self.row_squares))
        if norms.dtype != np.longdouble:
            return norms
        clipped: NDArray = norms.astype(np.float64).clip(max=_LARGEST)
        return clipped

    def list_zero_rows(self) -> NDArray:
        """Return the indices of the rows that are exactly zero."""
        return np.concatenate(self.zero_rows) if self.zero_rows else _NOTHING

    def list_zero_columns(self, shape: tuple[int, ...]) -> NDArray:
        """Return the indices along the second axis that are exactly zero in every row."""
        if self.zero_columns is None or not self.zero_columns.size:
            return _NOTHING
        # A column of a convolution is an input channel with all positions of its kernel.
        positions = self.length // shape[1]
        is_zero = np.zeros(self.length, dtype=bool)
        is_zero[self.zero_columns] = True
        return np.flatnonzero(is_zero.reshape(shape[1], positions).all(axis=1))

    def list_duplicate_columns(self) -> tuple[tuple[int, ...], ...]:
        """Return groups of columns that are identical in every row, and not zero."""
        zero = set() if self.zero_columns is None else set(self.zero_columns.tolist())
        return tuple(group for group in self.equal_columns.groups() if group[0] not in zero)

    def list_duplicate_rows(self, values: Values) -> tuple[tuple[int, ...], ...]:
        """Return groups of identical rows; the tensor is read again only where rows have equal sums."""
        if not self.row_squares or self.count < 2 * self.length:
            return ()
        squares = np.concatenate(self.row_squares).astype(np.float64)
        # Both sums are computed in the same order for every row, so identical rows have bit-identical sums.
        signatures = squares + 1j * np.concatenate(self.row_sums)
        usable = np.flatnonzero(np.isfinite(signatures) & (squares > 0))
        if len(usable) <= FEW_ROWS and len(set(signatures[usable].tolist())) == len(usable):
            return ()
        _, which, counts = np.unique(signatures[usable], return_inverse=True, return_counts=True)
        suspects = {int(row) for row in usable[counts[which] > 1]}
        return _confirm_duplicates(values, suspects, self.length) if suspects else ()


_LARGEST = float(np.finfo(np.float64).max)


def _clipped(number: float | np.longdouble) -> float:
    """Return a number as a float that is not infinite, since it is a figure of numbers that are not."""
    return float(min(number, _LARGEST))


def _find_extremes(block: NDArray) -> tuple[float, float, float]:
    """Return the minimum, the maximum and the smallest magnitude of a block; the first two show NaN and infinity.

    The bits of floats, read as integers, are ordered by magnitude within a sign, with negative floats above positive
    ones (unsigned) or below them (signed). Four integer reductions find all three values, which is faster than two on
    floats and one on magnitudes, and needs no copy.
    """
    unsigned, signed = (np.uint32, np.int32) if block.dtype.itemsize == 4 else (np.uint64, np.int64)
    bits, signed_bits = block.view(unsigned), block.view(signed)
    largest, smallest = bits.max(), bits.min()
    highest, lowest = signed_bits.max(), signed_bits.min()
    low = largest if lowest < 0 else smallest
    high = highest if highest >= 0 else smallest
    # With both signs present, the smallest magnitude is the smallest positive or the lowest (a negative) integer.
    least = np.fmin(abs(smallest.view(block.dtype)), abs(lowest.view(block.dtype)))
    return float(low.view(block.dtype)), float(high.view(block.dtype)), float(least)


def _confirm_duplicates(values: Values, suspects: set[int], length: int) -> tuple[tuple[int, ...], ...]:
    import hashlib

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
