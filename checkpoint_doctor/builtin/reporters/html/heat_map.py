"""Heat maps of a series: a row for each tensor, a column for each checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from math import ceil, inf, isfinite, log10

from msgspec import Struct

from checkpoint_doctor.builtin.reporters._names import shorten_name
from checkpoint_doctor.builtin.reporters._wording import figure, percentage
from checkpoint_doctor.results.series_report import TensorRow, Values
from checkpoint_doctor.statistics.values import share_of_range

LEVELS = 8
"""Shades of a heat map; more of them cannot be told apart."""

MOST_ROWS = 40
"""Tensors of a heat map: those that change most in it."""

MOST_COLUMNS = 100
"""Columns of a heat map. In a longer series neighbouring checkpoints share one, which shows the highest of them."""

NAME_WIDTH = 34
"""Characters of a name beside a heat map."""

SMALL = 0.005
"""Differences of a share below which a tensor has no row: half a percent."""

SMALL_DECADES = 0.02
"""The same for other figures, in decades: a twentieth."""


class Figure(Struct, frozen=True):
    """A figure that is drawn through a series."""

    label: str
    read: Callable[[TensorRow], Values]
    is_share: bool = True
    is_alarming: bool = True
    """True where more of it is worse."""
    is_relative: bool = False
    """True where a heat map shows each tensor beside its own first checkpoint."""


FIGURES = (
    Figure("Exact zeros", lambda row: row.zero_fraction),
    Figure("Dormant units", lambda row: row.dormant_fraction),
    Figure("Vanished gradients", lambda row: row.vanished_fraction),
    Figure("Change between neighbours", lambda row: row.change, is_share=False, is_alarming=False),
    Figure("Norm", lambda row: row.norm, is_share=False, is_alarming=False, is_relative=True),
    Figure("Input RMS", lambda row: row.input_rms, is_share=False, is_alarming=False, is_relative=True),
    Figure("Gradient RMS", lambda row: row.gradient_rms, is_share=False, is_alarming=False, is_relative=True),
    Figure("Update ratio", lambda row: row.update_ratio, is_share=False, is_alarming=False, is_relative=True),
)
"""What is drawn, in this order; a figure that no checkpoint tells, or that is the same in all, is left out."""


class Shade(Struct, frozen=True):
    """All cells of one shade."""

    level: int
    path: str
    """Their SVG path."""


class HeatMap(Struct, frozen=True):
    """A drawing in units of one cell."""

    label: str
    is_alarming: bool
    names: tuple[str, ...]
    columns: int
    shades: tuple[Shade, ...]
    low: str
    """What the lightest shade stands for."""
    high: str
    left: int
    """How many tensors have no row, since they change less or not at all."""


def draw_heat_map(figure_drawn: Figure, rows: Sequence[TensorRow]) -> HeatMap | None:
    """Draw one figure of all tensors; ``None`` where none of them changes in it."""
    scaled = [(row, _scale_all(figure_drawn.read(row), figure_drawn)) for row in rows]
    spans = [_span(figure_drawn.read(row), values, figure_drawn) for row, values in scaled]
    smallest = SMALL if figure_drawn.is_share else SMALL_DECADES
    order = sorted((place for place, span in enumerate(spans) if span > smallest), key=lambda place: -spans[place])
    drawn = [(scaled[place][0], _fold(scaled[place][1])) for place in sorted(order[:MOST_ROWS])]
    if not drawn:
        return None
    known = [value for _, values in drawn for value in values if value is not None]
    low, high = (0.0, max(known)) if figure_drawn.is_share else (min(known), max(known))
    paths: dict[int, list[str]] = {}
    for place, (_, values) in enumerate(drawn):
        levels = [None if value is None else _level(value, low, high) for value in values]
        start = 0
        for level, run in groupby(levels):
            width = len(list(run))
            if level:
                paths.setdefault(level, []).append(f"M{start} {place}h{width}v1h-{width}z")
            start += width
    return HeatMap(
        label=f"{figure_drawn.label}, relative to the first" if figure_drawn.is_relative else figure_drawn.label,
        is_alarming=figure_drawn.is_alarming,
        names=tuple(shorten_name(row.name, NAME_WIDTH) for row, _ in drawn),
        columns=len(drawn[0][1]),
        shades=tuple(Shade(level, "".join(paths[level])) for level in sorted(paths)),
        low=_say_scaled(low, figure_drawn),
        high=_say_scaled(high, figure_drawn),
        left=len(rows) - len(drawn),
    )


def say_value(value: float, figure_drawn: Figure) -> str:
    """Return a value of a figure in words."""
    return percentage(min(max(value, 0.0), 1.0)) if figure_drawn.is_share else figure(value)


def _say_scaled(value: float, figure_drawn: Figure) -> str:
    if figure_drawn.is_share:
        return say_value(value, figure_drawn)
    return figure(10.0**value) + ("×" if figure_drawn.is_relative else "")


def _scale_all(values: Values, figure_drawn: Figure) -> list[float | None]:
    scaled = [_scale(value, figure_drawn) for value in values]
    if not figure_drawn.is_relative:
        return scaled
    first = next((value for value in scaled if value is not None), 0.0)
    return [None if value is None else value - first for value in scaled]


def _scale(value: float | None, figure_drawn: Figure) -> float | None:
    """Return a share as it is and any other number as its logarithm; ``None`` for zero and what is not finite."""
    if value is None or not isfinite(value):
        return None
    if figure_drawn.is_share:
        return value
    return log10(value) if value > 1e-30 else None


def _span(values: Values, scaled: Sequence[float | None], figure_drawn: Figure) -> float:
    """Return how much a tensor changes in a figure: without end where a figure that was something becomes nothing."""
    known = [value for value in scaled if value is not None]
    if known and not figure_drawn.is_share and 0.0 in values:
        return inf
    return max(known) - min(known) if known else 0.0


def fold_columns(count: int) -> int:
    """Return how many neighbouring checkpoints share a column."""
    return ceil(count / MOST_COLUMNS) or 1


def _fold(values: Sequence[float | None]) -> list[float | None]:
    size = fold_columns(len(values))
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [max((value for value in part if value is not None), default=None) for part in parts]


def _level(value: float, low: float, high: float) -> int:
    """Return a shade: 0 for none of a share, which is not drawn, else 1 to ``LEVELS``."""
    if value <= 0 and low == 0.0:
        return 0
    share = share_of_range(value, low, high) if high > low else 1.0
    return 1 + min(LEVELS - 1, int(share * LEVELS))
