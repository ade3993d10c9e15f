"""Draws a series of numbers as one line of small bars."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from checkpoint_doctor.statistics.values import share_of_range

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.:-=+*#"
"""The same for terminals that have no block characters."""

MISSING = " "
BROKEN = "!"
"""Stands for NaN and infinity."""


def sparkline(
    values: Sequence[float | None],
    *,
    width: int | None = None,
    ascii_only: bool = False,
    span: tuple[float, float] | None = None,
) -> str:
    """Draw a series as one character for each value, from the lowest value (``▁``) to the highest (``█``).

    Values that are all equal are drawn low. A missing value (``None``) is a blank, NaN and infinity are ``!``. A series
    that is longer than ``width`` is drawn with the mean of several values for each character. A ``span`` is drawn at
    least, from its first number to its second, however little the values differ.
    """
    drawn = list(values) if width is None or len(values) <= width else _average(values, max(width, 1))
    finite = [value for value in drawn if value is not None and isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    if span is not None:
        low, high = min(low, span[0]), max(high, span[1])
    levels = ASCII if ascii_only else BLOCKS
    return "".join(_draw(value, low, high, levels) for value in drawn)


def _draw(value: float | None, low: float, high: float, levels: str) -> str:
    if value is None:
        return MISSING
    if not isfinite(value):
        return BROKEN
    return levels[min(int(share_of_range(value, low, high) * len(levels)), len(levels) - 1)]


def _average(values: Sequence[float | None], width: int) -> list[float | None]:
    """Return the mean of each part of a series; what is not finite stays so."""
    means: list[float | None] = []
    for part in range(width):
        known = [
            value
            for value in values[part * len(values) // width : (part + 1) * len(values) // width]
            if value is not None
        ]
        means.append(sum(value / len(known) for value in known) if known else None)
    return means
