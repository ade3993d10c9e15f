"""Line charts of a tensor through a series, with the checkpoint at which something began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite, log10

from msgspec import Struct

from checkpoint_doctor.builtin.reporters._wording import figure
from checkpoint_doctor.builtin.reporters.html.heat_map import FIGURES, Figure, say_value
from checkpoint_doctor.results.series_report import TensorRow
from checkpoint_doctor.statistics.values import share_of_range

HEIGHT = 30.0
WIDTH = 100.0
"""Size of a chart in units of its drawing."""

MOST_CHARTS = 4
"""Charts of one tensor: the figures that change most, relative to what they can."""


class Chart(Struct, frozen=True):
    """One figure of one tensor."""

    label: str
    line: str
    """SVG path of the line; it has gaps where a value is not known."""
    points: str
    """SVG path of single points, which a line would not show."""
    onset: float | None
    """Place of the onset on the horizontal axis."""
    first: str
    last: str
    top: str
    """The value at the upper edge."""
    bottom: str


def draw_charts(row: TensorRow, onset: int | None) -> list[Chart]:
    """Draw the figures of a tensor that change, those that change most first."""
    drawn = [each for kind in FIGURES if (each := _draw(kind, row, onset)) is not None]
    drawn.sort(key=lambda each: -each[0])
    return [chart for _, chart in drawn[:MOST_CHARTS]]


def _draw(kind: Figure, row: TensorRow, onset: int | None) -> tuple[float, Chart] | None:
    values = [None if value is None or not isfinite(value) else value for value in kind.read(row)]
    known = [value for value in values if value is not None]
    if len(known) < 2 or max(known) - min(known) <= (0.005 if kind.is_share else 0.02 * max(known)):
        return None
    low, high = min(known), max(known)
    if kind.is_share:
        low, high, weight = 0.0, max(high, 0.02), high - low
    else:
        weight = min(1.0, log10(high / low) / 3) if low > 0 else 1.0
        low = min(low, 0.0) if low < 0.5 * high else low
    places = [WIDTH * (place + 0.5) / len(values) for place in range(len(values))]
    heights = [
        None if value is None else HEIGHT * (1 - 0.94 * share_of_range(value, low, high)) - 1 for value in values
    ]
    chart = Chart(
        label=kind.label,
        line="".join(_line(places, heights)),
        points="".join(_single_points(places, heights)),
        onset=None if onset is None else round(places[onset], 2),
        first=say_value(known[0], kind),
        last=say_value(known[-1], kind),
        top=say_value(high, kind),
        bottom=say_value(low, kind),
    )
    return weight, chart


def _line(places: Sequence[float], heights: Sequence[float | None]) -> Iterator[str]:
    command = "M"
    for x, y in zip(places, heights, strict=True):
        if y is None:
            command = "M"
            continue
        yield f"{command}{x:.4g} {y:.4g}"
        command = "L"


def _single_points(places: Sequence[float], heights: Sequence[float | None]) -> Iterator[str]:
    """Yield a point for each value of a short series, and for those whose neighbours are not known."""
    for place, (x, y) in enumerate(zip(places, heights, strict=True)):
        neighbours = heights[max(place - 1, 0) : place] + heights[place + 1 : place + 2]  # type: ignore[operator]
        if y is not None and (len(places) <= 40 or not any(each is not None for each in neighbours)):
            yield f"M{x:.4g} {y:.4g}h0"


def draw_curve(label: str, steps: Sequence[float], values: Sequence[float | None], onset: float | None) -> Chart | None:
    """Draw a metric over its steps; ``None`` where no value is finite."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    first, last = min(steps), max(steps)

    def place(step: float) -> float:
        return WIDTH * (share_of_range(step, first, last) if last > first else 0.5)

    def height(value: float) -> float:
        return HEIGHT * (1 - 0.94 * share_of_range(value, low, high)) - 1

    places = [place(step) for step in steps]
    heights = [None if value is None else height(value) for value in values]
    return Chart(
        label=label,
        line="".join(_line(places, heights)),
        points="".join(_single_points(places, heights)),
        onset=None if onset is None else round(min(max(place(onset), 0.0), WIDTH), 2),
        first=figure(known[0]),
        last=figure(known[-1]),
        top=figure(high),
        bottom=figure(low),
    )
