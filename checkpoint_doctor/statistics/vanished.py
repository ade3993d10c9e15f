"""How many entries of a first moment have vanished, and in which rows and columns: where gradients no longer come."""

from __future__ import annotations

from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.statistics.moments import INACTIVE_RATIO
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, Values


class VanishedMoments(Struct, frozen=True, eq=False):
    """Counts of the entries without a living first moment. Rows and columns are those of the flattened matrix."""

    count: int
    """Entries of the parameter."""
    rows: NDArray
    """How many have vanished in each row."""
    columns: NDArray
    """How many have vanished in each column."""

    @property
    def total(self) -> int:
        """How many have vanished in all."""
        return int(self.rows.sum())

    @property
    def dead_rows(self) -> NDArray:
        """Which rows have vanished as a whole."""
        dead: NDArray = self.rows == self.columns.size
        return dead

    @property
    def dead_columns(self) -> NDArray:
        """Which columns have vanished as a whole."""
        dead: NDArray = self.columns == self.rows.size
        return dead


def count_vanished(first: Values, second: Values | None) -> VanishedMoments:
    """Count the entries whose first moment m has vanished, in one pass.

    With a second moment v these are the entries with |m|/√v below ``INACTIVE_RATIO``, which are 88 updates without a
    gradient with Adam's default betas, and those with v = 0; without one, the entries with m = 0.

    Raises:
        ValueError: the moments have different shapes.
    """
    if second is not None and second.shape != first.shape:
        raise ValueError("the moments of a parameter must have the same shape")
    width = prod(first.shape[1:]) or 1
    height = first.shape[0] if first.shape else 1
    rows, columns = np.zeros(height, dtype=np.int64), np.zeros(width, dtype=np.int64)
    elements = max(1, BLOCK_ELEMENTS // width) * width
    partners = iter(()) if second is None else second.blocks(elements)
    start = 0
    with np.errstate(all="ignore"):
        for block in first.blocks(elements):
            size = np.abs(block.astype(np.float32) if block.dtype.itemsize < 4 else block)
            spread = None if second is None else np.sqrt(np.abs(next(partners).astype(size.dtype, copy=False)))
            gone = size == 0 if spread is None else (size < INACTIVE_RATIO * spread) | (spread == 0)
            gone = gone.reshape(-1, width)
            rows[start : start + len(gone)] = gone.sum(axis=1)
            columns += gone.sum(axis=0)
            start += len(gone)
    return VanishedMoments(rows.size * width, rows, columns)
