"""Moment statistics: what an optimizer's moments show about the gradients of a parameter.

The first moment m and the second moment v are read together, in blocks that stay in the cache. For every row (output
unit) and column (input) the maxima of |m|, √v and |m|/√v are computed: they show whether a gradient was ever not zero,
and whether it still is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, Values

INACTIVE_RATIO = 1e-4
"""|m|/√v below which an entry receives no gradient: with Adam's default betas that is 88 updates without one. Active
units of 20 published agents are above it, dormant ones far below (benchmarks/truth.py)."""

COLUMN_LIMIT = 1 << 20
"""Entries of the widest row for which maxima of columns are computed (24 MiB of maxima); no known layer is wider."""

SAMPLED = 1 << 14
"""Block size from which the histogram samples every 13th entry. That is enough for a share of the entries, and counting
all of them takes as long as the rest of the pass. 13 shares no factor with usual widths, so it samples all columns."""

NARROW = 16
"""Width up to which the maximum of rows is computed column by column, since NumPy is slow at reducing short rows."""


class MomentStatistics(Struct, frozen=True):
    """Statistics of the moments of a parameter.

    Rows are the entries along the first axis (a vector's own entries; one row for a scalar). Columns are the entries
    along the second axis, with all positions of a convolution's kernel. Maxima ignore NaN. The magnitude is the size of
    the gradients: the second moment's square root √v for Adam and RMSprop, and ``exp_inf`` itself for Adamax.
    """

    count: int
    """Entries of the parameter."""
    row_squares: NDArray | None
    """Sum of the finite squared magnitudes in each row, Σ v; ``None`` without a second moment."""
    ratio_squares: float
    """Sum of the squared ratios of first moment to magnitude, Σ m²/v, where they are finite; 0.0 unless both exist."""
    row_first: NDArray | None
    """Largest absolute first moment in each row; ``None`` without a first moment."""
    row_second: NDArray | None
    """Largest magnitude in each row; ``None`` without a second moment."""
    row_ratio: NDArray | None
    """Largest ratio of first moment to magnitude in each row, where the magnitude is not zero; needs both moments."""
    column_first: NDArray | None
    """As ``row_first``, for each column; ``None`` also for vectors and scalars."""
    column_second: NDArray | None
    """As ``row_second``, for each column; ``None`` also for vectors and scalars."""
    column_ratio: NDArray | None
    """As ``row_ratio``, for each column; ``None`` also for vectors and scalars."""
    exponents: NDArray
    """Histogram, over a sample, of the live entries' magnitudes by binary exponent: ``exponents[e + 150]`` counts those
    in [2**e, 2**(e + 1)). An entry is live where |m|/√v is at least ``INACTIVE_RATIO`` (without a first moment: where
    the magnitude is not zero)."""
    untouched: int
    """Entries whose magnitude is exactly zero."""
    nonfinite_first: int
    """NaN and infinite entries of the first moment."""
    nonfinite_second: int
    """NaN and infinite entries of the second moment."""

    @property
    def total(self) -> float:
        """Sum of the squared magnitudes, Σ v; 0.0 without a second moment."""
        return 0.0 if self.row_squares is None else float(self.row_squares.sum())

    def live_below(self, magnitude: float) -> float:
        """Return the share (0 to 1) of live entries below a magnitude, which is rounded down to a power of two."""
        live = int(self.exponents.sum())
        if not magnitude > 0 or not live:
            return 0.0
        place = min(float(np.floor(np.log2(magnitude))) + 150, len(self.exponents))
        return int(self.exponents[: max(int(place), 0)].sum()) / live


class ZeroTally(Struct, frozen=True):
    """Counts of a parameter's zeros, by whether its second moment (or momentum buffer) records a gradient."""

    selected: int
    """Number of entries counted."""
    zeros: int
    """Entries whose value is exactly zero."""
    zeros_untouched: int
    """Zeros where no gradient is recorded."""
    untouched: int
    """Entries, zero or not, where no gradient is recorded."""


def measure_moments(first: Values | None, second: Values | None, *, is_root: bool = False) -> MomentStatistics:
    """Compute the moment statistics of a parameter in one pass.

    Memory does not grow with the tensors, except for three numbers per row and column.

    Args:
        first: the mean of gradients, or the momentum buffer.
        second: the mean (or sum) of squared gradients.
        is_root: True where the second moment is a magnitude and not a square (Adamax).

    Raises:
        ValueError: neither moment is given, or their shapes differ.
    """
    given = [values for values in (first, second) if values is not None]
    if not given or any(values.shape != given[0].shape for values in given):
        raise ValueError("the moments of a parameter must have the same shape")
    maxima = _Maxima(given[0].shape, first is not None, second is not None)
    for start, momentum, spread in _pair_blocks(first, second):
        with np.errstate(all="ignore"):
            maxima.add(start, momentum, spread, is_root)
    return maxima.finish()


def tally_zeros(values: Values, record: Values, rows: NDArray | None = None, untouched: float = 0.0) -> ZeroTally:
    """Count the zeros of a parameter, by whether the optimizer recorded a gradient for them.

    Args:
        values: the parameter.
        record: its second moment or momentum buffer.
        rows: indices along the first axis to which the count is restricted.
        untouched: largest magnitude in ``record`` that counts as no recorded gradient.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != record.shape:
        raise ValueError("a parameter and its moments must have the same shape")
    width = _width(values.shape)
    wanted = None
    if rows is not None:
        wanted = np.zeros(values.shape[0] if values.shape else 1, dtype=bool)
        wanted[rows] = True
    selected = zeros = zeros_untouched = bare = 0
    for start, value, moment in _pair_blocks(values, record):
        assert value is not None
        assert moment is not None
        zero, idle = value == 0, np.abs(_real(moment)) <= untouched
        if wanted is not None:
            inside = wanted[np.arange(start, start + value.size) // width]
            zero, idle = zero & inside, idle & inside
            selected += int(inside.sum())
        else:
            selected += value.size
        zeros += int(zero.sum())
        zeros_untouched += int((zero & idle).sum())
        bare += int(idle.sum())
    return ZeroTally(selected, zeros, zeros_untouched, bare)


class _Maxima:
    """The running maxima and counts of a pass over the moments."""

    def __init__(self, shape: tuple[int, ...], has_first: bool, has_second: bool) -> None:
        self.count = prod(shape)
        self.width = _width(shape)
        self.kernel = prod(shape[2:]) or 1
        rows, with_columns = (
            (shape[0] if shape else 1),
            len(shape) > 1 and 0 not in shape and self.width <= COLUMN_LIMIT,
        )
        present = {"first": has_first, "second": has_second, "ratio": has_first and has_second}
        self.rows = {key: np.zeros(rows) for key, is_present in present.items() if is_present}
        self.columns = {key: np.zeros(self.width) for key, is_present in present.items() if is_present and with_columns}
        self.exponents = np.zeros(300, dtype=np.int64)
        self.row_squares = np.zeros(rows) if has_second else None
        self.ratio_squares = 0.0
        self.untouched = self.nonfinite_first = self.nonfinite_second = 0

    def add(self, start: int, first: NDArray | None, second: NDArray | None, is_root: bool) -> None:
        """Add one block that begins at a flat index."""
        figures: dict[str, NDArray] = {}
        squares = None
        nonfinite = self.nonfinite_first + self.nonfinite_second
        if first is not None:
            figures["first"] = np.abs(_real(first))
            self.nonfinite_first += _nonfinite(figures["first"])
        if second is not None:
            spread = np.abs(_real(second))
            self.nonfinite_second += _nonfinite(spread)
            root = figures["second"] = spread if is_root else np.sqrt(spread)
            if first is not None:
                figures["ratio"] = figures["first"] / root
            squares = root * root if is_root else spread
            self._count(root, figures.get("ratio"))
        # fmax ignores NaN but is slower than maximum, so it is used only for blocks with NaN.
        maximum = np.fmax if self.nonfinite_first + self.nonfinite_second > nonfinite else np.maximum
        for at, shape in _pieces(start, len(next(iter(figures.values()))), self.width):
            row, column = divmod(start + at.start, self.width)
            if squares is not None and self.row_squares is not None:
                self.row_squares[row : row + shape[0]] += _row_sums(squares[at].reshape(shape))
            for key, values in figures.items():
                block = values[at].reshape(shape)
                inside = self.rows[key][row : row + shape[0]]
                maximum(inside, _row_maxima(block, maximum), out=inside)
                if key in self.columns:
                    inside = self.columns[key][column : column + shape[1]]
                    maximum(inside, maximum.reduce(block, axis=0), out=inside)

    def _count(self, root: NDArray, ratio: NDArray | None) -> None:
        untouched = root == 0
        count = int(np.count_nonzero(untouched))
        self.untouched += count
        if count and ratio is not None:
            ratio[untouched] = 0.0
        if ratio is not None:
            energy = float(np.dot(ratio, ratio))
            if not np.isfinite(energy):
                energy = float(np.square(ratio[np.isfinite(ratio)], dtype=np.float64).sum())
            self.ratio_squares += energy
        some = slice(None, None, 13 if root.size >= SAMPLED else 1)
        live = root[some][~untouched[some] if ratio is None else ratio[some] >= INACTIVE_RATIO]
        self.exponents += np.bincount(np.clip(np.frexp(live)[1] + 149, 0, 299), minlength=300)

    def finish(self) -> MomentStatistics:
        """Return the statistics of all that was added."""
        columns = {key: maxima.reshape(-1, self.kernel).max(axis=1) for key, maxima in self.columns.items()}
        return MomentStatistics(
            count=self.count,
            row_squares=self.row_squares,
            ratio_squares=self.ratio_squares,
            row_first=self.rows.get("first"),
            row_second=self.rows.get("second"),
            row_ratio=self.rows.get("ratio"),
            column_first=columns.get("first"),
            column_second=columns.get("second"),
            column_ratio=columns.get("ratio"),
            exponents=self.exponents,
            untouched=self.untouched,
            nonfinite_first=self.nonfinite_first,
            nonfinite_second=self.nonfinite_second,
        )


def _pair_blocks(one: Values | None, other: Values | None) -> Iterator[tuple[int, NDArray | None, NDArray | None]]:
    """Yield the blocks of two tensors of the same shape in pairs, with the flat index where each begins."""
    start = 0
    if one is None or other is None:
        alone = one if other is None else other
        assert alone is not None
        for block in alone.blocks(BLOCK_ELEMENTS):
            yield (start, block, None) if other is None else (start, None, block)
            start += block.size
        return
    for block, partner in zip(one.blocks(BLOCK_ELEMENTS), other.blocks(BLOCK_ELEMENTS), strict=True):
        yield start, block, partner
        start += block.size


def _pieces(start: int, size: int, width: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Split a flat block into the rest of a row, whole rows, and the beginning of a row."""
    at = 0
    while at < size:
        column = (start + at) % width
        if column or size - at < width:
            length = min(width - column, size - at)
            yield slice(at, at + length), (1, length)
        else:
            length = (size - at) // width * width
            yield slice(at, at + length), (length // width, width)
        at += length


def _row_maxima(block: NDArray, maximum: np.ufunc) -> NDArray:
    if block.shape[1] > NARROW or block.shape[0] < NARROW:
        return np.asarray(maximum.reduce(block, axis=1))
    return reduce(maximum, (block[:, column] for column in range(block.shape[1])))


def _row_sums(block: NDArray) -> NDArray:
    """Return the sum of each row's finite numbers."""
    sums = block[:, 0] if block.shape[1] == 1 else np.vecdot(block, np.ones(block.shape[1], dtype=block.dtype))
    if np.isfinite(sums).all():
        return sums
    finite = np.where(np.isfinite(block), block, 0)
    return np.asarray(finite.sum(axis=1, dtype=np.float64))


def _width(shape: tuple[int, ...]) -> int:
    return prod(shape[1:]) or 1


def _real(block: NDArray) -> NDArray:
    """Return a block as float32 or float64: narrower floats are widened, complex numbers become magnitudes."""
    if block.dtype.kind == "c":
        return np.asarray(np.abs(block))
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)


def _nonfinite(block: NDArray) -> int:
    return int(block.size - np.count_nonzero(np.isfinite(block)))
