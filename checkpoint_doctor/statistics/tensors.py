"""Tensor statistics: everything that rules need to know about a tensor's values, computed in one pass."""

from __future__ import annotations

from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.statistics.reductions import Totals
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, Values


class TensorStatistics(Struct, frozen=True):
    """Statistics of a tensor's values.

    Minimum, maximum, mean, standard deviation and norm are taken over the finite entries, so that one NaN does not
    make all of them NaN. They are ``None`` where there is no finite entry; complex tensors only have a norm.
    """

    count: int
    """Number of entries."""
    zeros: int
    """Entries that are exactly zero (negative zero included)."""
    subnormals: int
    """Entries smaller in magnitude than the smallest normal number of their dtype, without zeros."""
    nan: int
    """Entries that are not a number."""
    infinite: int
    """Entries that are plus or minus infinity."""
    first_nonfinite: int | None
    """Flat, row-major index of the first NaN or infinity."""
    minimum: float | int | None
    """Smallest finite entry."""
    maximum: float | int | None
    """Largest finite entry."""
    mean: float | None
    """Mean of the finite entries."""
    std: float | None
    """Population standard deviation (divided by the number of finite entries)."""
    norm: float | None
    """Euclidean norm."""
    row_norms: NDArray | None
    """Euclidean norm of each row (first axis), for tensors with two or more axes; ``None`` otherwise."""
    zero_rows: NDArray
    """Indices along the first axis whose entries are all exactly zero (two or more axes; else empty)."""
    zero_columns: NDArray
    """Indices along the second axis whose entries are all exactly zero (two or more axes; else empty)."""
    duplicate_rows: tuple[tuple[int, ...], ...]
    """Groups of two or more bit-identical, non-zero rows."""
    duplicate_columns: tuple[tuple[int, ...], ...]
    """Groups of two or more identical, non-zero columns of finite numbers, where they were asked for."""
    first_entries: NDArray
    """The first entries, at most 64, in row-major order: most questions about single values end with these."""

    @property
    def nonfinite(self) -> int:
        """Entries that are NaN or infinite."""
        return self.nan + self.infinite

    @property
    def zero_fraction(self) -> float:
        """Share of exact zeros, from 0 to 1; 0.0 for an empty tensor."""
        return self.zeros / self.count if self.count else 0.0

    @property
    def absmax(self) -> float:
        """Largest finite magnitude, 0.0 where there is none."""
        return max(abs(float(self.minimum or 0)), abs(float(self.maximum or 0)))


class Histogram(Struct, frozen=True):
    """How the finite values of a tensor are distributed; exact zeros are counted apart from their neighbours."""

    low: float
    """Left edge of the first bin."""
    high: float
    """Right edge of the last bin."""
    counts: tuple[int, ...]
    """Values in each bin, without exact zeros."""
    zeros: int
    """Values that are exactly zero."""
    below: int
    """Values left of the first bin."""
    above: int
    """Values right of the last bin."""


MOST_FIRST_ENTRIES = 64

LONGEST_ROW = 1 << 20
"""Elements of a row beyond which a tensor is read as one flat stream, without statistics of rows and columns."""


def measure(
    values: Values, shape: tuple[int, ...] | None = None, *, compares_columns: bool = False
) -> TensorStatistics:
    """Compute ``TensorStatistics`` in one pass over the values, in blocks of whole rows.

    Sums are computed in the block's own precision within a row and in double precision across rows; small tensors are
    summed in double precision throughout.

    Args:
        values: the values.
        shape: the shape whose rows and columns are meant, where it is not that of the values.
        compares_columns: whether to look for identical columns, for matrices of two axes.
    """
    shape = values.shape if shape is None else shape
    count = prod(shape)
    rows = shape[0] if len(shape) > 1 else 1
    length = count // rows if rows else 0
    by_row = len(shape) > 1 and 0 < length <= LONGEST_ROW
    elements = max(1, BLOCK_ELEMENTS // length) * length if by_row else BLOCK_ELEMENTS
    exact = count <= BLOCK_ELEMENTS // 4
    totals = Totals(by_row=by_row, length=length, exact=exact, compares_columns=compares_columns)
    # Overflowing squares and comparisons with NaN are expected: they show non-finite values.
    with np.errstate(all="ignore"):
        first_entries = np.empty(0)
        for block in values.blocks(elements):
            if not totals.count:
                first_entries = block.reshape(-1)[:MOST_FIRST_ENTRIES].copy()
            totals.add(block)
        return TensorStatistics(
            count=totals.count,
            zeros=totals.zeros,
            subnormals=totals.subnormals,
            nan=totals.nan,
            infinite=totals.infinite,
            first_nonfinite=totals.first_nonfinite,
            minimum=totals.minimum,
            maximum=totals.maximum,
            mean=totals.mean,
            std=totals.std,
            norm=totals.norm,
            row_norms=totals.row_norms,
            zero_rows=totals.list_zero_rows(),
            zero_columns=totals.list_zero_columns(shape),
            duplicate_rows=totals.list_duplicate_rows(values),
            duplicate_columns=totals.list_duplicate_columns(),
            first_entries=first_entries,
        )
