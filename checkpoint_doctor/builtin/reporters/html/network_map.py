"""The network as a map: a column for each layer in file order, and a lane for each figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import ceil, floor, isfinite, log10

from msgspec import Struct

from checkpoint_doctor.builtin.reporters._layers import Row
from checkpoint_doctor.builtin.reporters._wording import figure, percentage, shape_in_words
from checkpoint_doctor.results.findings import Severity

MOST_COLUMNS = 200
"""Columns of a map. In a deeper network neighbouring layers share one, which shows the most extreme of them."""

MOST_GROUPS = 12
"""Names of modules below a map; more of them would have no room."""

HEIGHT = 10.0
"""Height of a lane in units of the drawing; its bars are at most nine high."""

LANE_FIGURES: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("Magnitude", lambda row: row.rms),
    ("Input RMS", lambda row: row.input_rms),
    ("Gradient RMS", lambda row: row.gradient_rms),
    ("Update ratio", lambda row: row.update_ratio),
)
"""The figures that are drawn on a logarithmic scale."""

_SMALLEST = 1e-30
"""Below this a figure is drawn as a zero: no lane needs so many decades."""


class Lane(Struct, frozen=True):
    """One figure along the network."""

    label: str
    low: str
    """What the lower edge stands for."""
    high: str
    bars: str
    """SVG path of the ordinary bars."""
    alarms: str = ""
    """SVG path of what deserves a look: zeros, dormant units, layers with a magnitude of zero or none."""


class Column(Struct, frozen=True):
    """One layer, or neighbouring layers of a very deep network."""

    rows: tuple[Row, ...]

    @property
    def severity(self) -> Severity | None:
        """The severity of the worst finding about it."""
        return max((row.severity for row in self.rows if row.severity), default=None)

    @property
    def title(self) -> str:
        """Its name and its figures in one line."""
        first, last = self.rows[0], self.rows[-1]
        if first is not last:
            return f"{first.name} … {last.name} ({len(self.rows):,} layers)"
        figures = ((label, read(first)) for label, read in LANE_FIGURES)
        words = [f"{label.lower()} {figure(value)}" for label, value in figures if value is not None]
        zeros = [f"zeros {percentage(first.zeros)}"] if first.zeros else []
        return ", ".join([f"{first.name}: {first.kind} {shape_in_words(first.shape)}", *zeros, *words, *first.codes])


class Group(Struct, frozen=True):
    """A module with several layers, named below the map; its place is in percent of the width."""

    name: str
    start: float
    width: float


class NetworkMap(Struct, frozen=True):
    """A drawing of a network, in units of one column by ``HEIGHT`` for a lane."""

    columns: tuple[Column, ...]
    lanes: tuple[Lane, ...]
    groups: tuple[Group, ...]

    @property
    def height(self) -> float:
        """Height of the drawing."""
        return HEIGHT * len(self.lanes)

    @property
    def share_of_width(self) -> int:
        """Percent of the room that it fills: a few layers need not be wide."""
        return min(100, max(30, 10 * len(self.columns)))

    @property
    def marks(self) -> Iterator[tuple[str, str]]:
        """The severities with the SVG paths of the columns that they are the worst in."""
        for severity in Severity:
            places = [place for place, column in enumerate(self.columns) if column.severity is severity]
            if places:
                yield severity.label, "".join(f"M{place} 0h1v{self.height:g}h-1z" for place in places)

    @property
    def borders(self) -> str:
        """SVG path of the lines between lanes and between modules."""
        lanes = (f"M0 {HEIGHT * place:g}h{len(self.columns)}" for place in range(1, len(self.lanes)))
        starts = (each.start / 100 * len(self.columns) for each in self.groups[1:])
        return "".join([*lanes, *(f"M{start:.4g} 0v{self.height:g}" for start in starts)])


def draw_map(rows: Sequence[Row], dormant: Mapping[str, float]) -> NetworkMap:
    """Draw the layers of a checkpoint; ``dormant`` maps names of layers to their share of dormant units."""
    rows = [row for row in rows if not row.is_repeated]
    size = ceil(len(rows) / MOST_COLUMNS) or 1
    columns = tuple(Column(tuple(rows[start : start + size])) for start in range(0, len(rows), size))
    lanes = [
        _draw_shares("Exact zeros", [max(row.zeros or 0.0 for row in each.rows) for each in columns]),
        _draw_shares("Dormant units", [max(dormant.get(row.name, 0.0) for row in each.rows) for each in columns]),
    ]
    lanes += [_draw_decades(label, rows, columns, read) for label, read in LANE_FIGURES]
    return NetworkMap(columns, tuple(lane for lane in lanes if lane is not None), tuple(_group(rows, size)))


def _draw_shares(label: str, shares: Sequence[float]) -> Lane | None:
    if not any(shares):
        return None
    # A share that is not zero must be seen, however small it is.
    bars = (_bar(place, max(share, 0.06)) for place, share in enumerate(shares) if share)
    return Lane(label, "0%", "100%", "", "".join(bars))


def _draw_decades(
    label: str, rows: Sequence[Row], columns: Sequence[Column], read: Callable[[Row], float | None]
) -> Lane | None:
    """Draw a figure on a logarithmic scale of whole decades; ``None`` where it is not known of any layer."""
    known = sorted(log10(value) for row in rows if (value := read(row)) and isfinite(value) and value > _SMALLEST)
    if not known:
        return None
    low, high = floor(known[0] - 0.05), ceil(known[-1] + 0.05)
    middle = known[len(known) // 2]
    bars, alarms = [], []
    for place, column in enumerate(columns):
        values = [value for row in column.rows if (value := read(row)) is not None]
        exponents = [log10(value) for value in values if value > _SMALLEST and isfinite(value)]
        if len(exponents) < len(values) or (label == "Magnitude" and any(row.nonfinite for row in column.rows)):
            alarms.append(_bar(place, 0.06 if all(map(isfinite, values)) and not column.rows[0].nonfinite else 1.0))
        elif exponents:
            furthest = max(exponents, key=lambda exponent: abs(exponent - middle))
            bars.append(_bar(place, max(0.04, (furthest - low) / (high - low))))
    return Lane(label, _power(low), _power(high), "".join(bars), "".join(alarms))


def _bar(place: int, share: float) -> str:
    height = round((HEIGHT - 1.0) * min(share, 1.0), 2)
    return f"M{place + 0.08:g} {HEIGHT:g}v-{height:g}h.84v{height:g}z"


def _power(exponent: int) -> str:
    return {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100"}.get(exponent, f"1e{exponent}")


def _group(rows: Sequence[Row], size: int) -> Iterator[Group]:
    """Yield the modules that the layers belong to, at the outermost level at which there are several."""
    parts = [row.name.split(".") for row in rows]
    for depth in range(1, max(map(len, parts), default=1)):
        runs = [(name, len(list(run))) for name, run in groupby(parts, key=lambda names: ".".join(names[:depth]))]
        if len(runs) > 1:
            break
    else:
        return
    if len(runs) > MOST_GROUPS:
        return
    total, start = len(rows), 0
    for name, count in runs:
        yield Group(name, _percent(start, total), _percent(count, total))
        start += count


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 3)


def find_dormant(findings: Iterable[tuple[str | None, Mapping[str, object]]]) -> dict[str, float]:
    """Return the shares of dormant units by layer, from the evidence of findings about layers."""
    shares: dict[str, float] = {}
    for layer, evidence in findings:
        share = evidence.get("dormant_fraction")
        if layer is not None and isinstance(share, (int, float)) and 0 <= share <= 1:
            shares[layer] = max(float(share), shares.get(layer, 0.0))
    return shares
