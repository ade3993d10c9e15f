"""The time of a scan grows with the number of tensors and not with its square."""

from __future__ import annotations

import pytest

from benchmarks.scaling import KINDS, make, time_stages
from checkpoint_doctor.plugins.catalogue import discover

CATALOGUE = discover(lazily=False)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_times_as_many_tensors_take_about_ten_times_as_long(kind: str) -> None:
    few, many = (sum(time_stages(make(kind, count), CATALOGUE).values()) for count in (150, 1500))
    # The bound is wide, since the machine may be busy; what grows with the square takes a hundred times as long.
    assert many < 25 * few


def test_three_thousand_ordinary_layers_take_seconds() -> None:
    assert sum(time_stages(make("ordinary", 6_000), CATALOGUE).values()) < 12
