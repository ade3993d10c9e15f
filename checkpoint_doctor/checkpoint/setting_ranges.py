"""The ranges that settings of training are judged against, each with its source and the kind of evidence that it is.

They stand in one file, ``setting_ranges.json``, and a user's own ranges come before them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from functools import cache

from msgspec import Struct

ANY = "*"
"""In the place of an algorithm: the range holds for all."""


class Evidence(StrEnum):
    """What kind of evidence a range is, the strongest first."""

    OWN = "your own range"
    """Set in the configuration."""
    DEFAULT = "default"
    """What the library takes where nothing is given."""
    TUNED = "tuned range"
    """The smallest and the largest value among settings that were tuned for published agents."""
    SEARCHED = "search space"
    """Where a published tuner looks."""
    LITERATURE = "literature"
    """Values that publications report for their own models."""
    OPINION = "opinion"
    """A habit or a rule of thumb that nobody measured."""


class Range(Struct, frozen=True):
    """The values of a setting that one source knows."""

    algorithm: str
    """The algorithm or the optimizer that it holds for, ``*`` for all."""
    setting: str
    low: float
    high: float
    kind: Evidence
    source: str

    def holds(self, value: float) -> bool:
        """Return whether a value is inside; an amount below a millionth of the limit is rounding."""
        return self.low * (1 - 1e-6) <= value <= self.high * (1 + 1e-6)

    def describe(self) -> str:
        """Return the limits: ``0.0003 to 0.001``, or a single value."""
        low, high = (f"{each:g}" for each in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


@cache
def known_ranges() -> tuple[Range, ...]:
    """Return the documented ranges, in the order of the file."""
    import msgspec

    # Next to this file, as in every installation of the package; importlib.resources takes 10 ms to import.
    with open(os.path.join(os.path.dirname(__file__), "setting_ranges.json"), "rb") as file:
        return msgspec.json.decode(file.read(), type=dict[str, tuple[Range, ...]])["ranges"]


def find_ranges(algorithms: Iterable[str], setting: str, own: Iterable[Range] = ()) -> tuple[Range, ...]:
    """Return the ranges of a setting for an algorithm, under any of its names, the user's own first.

    What holds for any algorithm comes last. An own range takes the place of all but the default.
    """
    names = (*algorithms, ANY)
    mine = [each for each in own if each.setting == setting and each.algorithm in names]
    documented = (each for each in known_ranges() if each.setting == setting and each.algorithm in names)
    ordered = sorted(documented, key=lambda each: names.index(each.algorithm))
    return (*mine, *(each for each in ordered if not mine or each.kind is Evidence.DEFAULT))
