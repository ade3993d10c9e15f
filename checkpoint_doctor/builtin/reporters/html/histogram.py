"""Histograms of the tensors that findings are about, as SVG paths."""

from __future__ import annotations

from msgspec import Struct

from checkpoint_doctor.builtin.reporters._wording import figure, percentage
from checkpoint_doctor.results.report import TensorRecord
from checkpoint_doctor.statistics.tensors import Histogram
from checkpoint_doctor.statistics.values import share_of_range
from checkpoint_doctor.text import quantity

HEIGHT = 30.0
"""Height of a drawing in units; a bin is one wide."""


class Picture(Struct, frozen=True):
    """The drawing of one tensor's values."""

    name: str
    low: str
    high: str
    bins: int
    bars: str
    """SVG path of the bins."""
    zeros: str
    """SVG path of the bar of exact zeros; empty where there are none."""
    words: str
    """What the drawing shows, for those who do not see it."""


def draw_histogram(tensor: TensorRecord, histogram: Histogram) -> Picture:
    """Draw how the values of a tensor are distributed; exact zeros have a bar of their own."""
    bins = len(histogram.counts)
    tallest = max(*histogram.counts, 1)
    bars = (_bar(place, 1.0, count / tallest) for place, count in enumerate(histogram.counts) if count)
    zero = ""
    if histogram.zeros:
        place = share_of_range(0.0, histogram.low, histogram.high) * bins
        zero = _bar(min(max(place - 0.5, 0.0), bins - 1.0), 1.0, histogram.zeros / max(tallest, histogram.zeros))
    outside = histogram.below + histogram.above
    words = [
        f"{figure(tensor.minimum)} to {figure(tensor.maximum)}, mean {figure(tensor.mean)}, "
        f"standard deviation {figure(tensor.std)}",
        f"{histogram.zeros:,} of {tensor.size:,} exactly zero ({percentage(histogram.zeros / tensor.size)})"
        if histogram.zeros
        else "",
        f"{quantity(tensor.nonfinite, 'value')} not finite" if tensor.nonfinite else "",
        f"{quantity(outside, 'value')} further out" if outside else "",
    ]
    return Picture(
        name=tensor.name,
        low=figure(histogram.low),
        high=figure(histogram.high),
        bins=bins,
        bars="".join(bars),
        zeros=zero,
        words="; ".join(filter(None, words)),
    )


def _bar(place: float, width: float, share: float) -> str:
    height = round(max(HEIGHT * 0.98 * share, 0.4), 2)
    return f"M{place:.4g} {HEIGHT:g}v-{height:g}h{width * 0.9:g}v{height:g}z"
