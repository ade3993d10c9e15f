"""Where a short series changes: found where it does, and not where it does not."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from checkpoint_doctor.builtin.reporters._sparklines import sparkline
from checkpoint_doctor.statistics.change_points import find_change_point


@pytest.mark.parametrize(
    ("values", "onset", "is_step"),
    [
        # Shares of zero gradients at steps 2,000 to 8,000.
        ((4.4, 4.4, 27.3, 65.4), 2, False),
        ((4.41, 4.42, 27.3, 65.4), 2, False),
        ((0.0,) * 6 + (1.0,) * 6, 6, True),
        ((1.0,) * 6 + (0.0,) * 6, 6, True),
        ((5.0, 5.1, 4.9, 5.0, 5.1, 9.0, 8.9, 9.1, 9.0, 9.1), 5, True),
        ((5.0, 5.1, 4.9, 5.0, 5.1, 6.0, 7.1, 8.0, 8.9, 10.1), 5, False),
        # A slow trend from the beginning leaves the noise at once.
        (tuple(range(12)), 1, False),
        ((0.0, None, 0.0, nan, 0.0, 0.0, inf, 1.0, 1.0, 1.0, 1.0, 1.0), 7, True),
    ],
)
def test_change_is_found_where_it_begins(values: tuple[float | None, ...], onset: int, is_step: bool) -> None:
    found = find_change_point(values, noise=0.01)

    assert found is not None
    assert (found.onset, found.is_step) == (onset, is_step)
    assert found.p_value <= 0.05
    known = [value for value in values[:onset] if value is not None and np.isfinite(value)]
    assert found.before == pytest.approx(sum(known) / len(known))


def test_onset_is_that_of_an_independent_library_within_one() -> None:
    """The places are those of KernelCPD (linear kernel, one change, as it comes) in ruptures 1.1.10."""
    for values, place in (
        ([4.4, 4.4, 27.3, 65.4], 2),
        ([5.0, 5.1, 4.9, 5.0, 5.1, 9.0, 8.9, 9.1, 9.0, 9.1], 5),
        ([5.0, 5.1, 4.9, 5.0, 5.1, 6.0, 7.1, 8.0, 8.9, 10.1], 6),
    ):
        found = find_change_point(values)
        assert found is not None
        assert abs(found.onset - place) <= 1


@pytest.mark.parametrize(
    "values",
    [
        (),
        (1.0, 2.0, 9.0),
        (3.0,) * 12,
        (None, nan, 1.0, 2.0, 9.0),
        (1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0),
        (0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.1, 0.0),
    ],
)
def test_nothing_is_found_where_nothing_changes_for_good(values: tuple[float | None, ...]) -> None:
    assert find_change_point(values) is None


def test_differences_below_the_noise_are_none() -> None:
    rising = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001]

    assert find_change_point(rising) is not None
    assert find_change_point(rising, noise=0.01) is None


def test_change_far_beyond_a_known_noise_needs_no_reordering() -> None:
    values = [0.10, 0.11, 0.90, 0.91]

    assert find_change_point(values) is None
    assert find_change_point(values, noise=0.01) is not None


@pytest.mark.parametrize("count", [4, 6, 9, 14, 40])
def test_noise_alone_is_rarely_a_change(count: int) -> None:
    generator = np.random.default_rng(5)
    found = sum(find_change_point(generator.normal(size=count)) is not None for _ in range(200))

    assert found <= 21  # 5 % of 200 and three standard deviations


def test_onset_of_a_clear_step_is_right_within_one() -> None:
    generator = np.random.default_rng(6)
    misses = 0
    for _ in range(100):
        onset = int(generator.integers(2, 11))
        values = generator.normal(size=12)
        values[onset:] += 8.0
        found = find_change_point(values)
        misses += found is None or abs(found.onset - onset) > 1

    assert misses <= 3


def test_long_series_is_as_exact_as_a_short_one() -> None:
    generator = np.random.default_rng(7)
    values = generator.normal(size=3000)
    values[1234:] += 6.0
    trend = generator.normal(size=3000)
    trend[1234:] += 0.3 * np.arange(3000 - 1234)

    step, bend = find_change_point(values), find_change_point(trend)

    assert step is not None
    assert abs(step.onset - 1234) <= 1
    assert bend is not None
    assert abs(bend.onset - 1234) <= 15  # the trend leaves the noise later than it begins


def test_huge_numbers_do_not_overflow() -> None:
    found = find_change_point([1e300] * 6 + [1e308] * 6)

    assert found is not None
    assert found.onset == 6


def test_sparkline_shows_levels_gaps_and_what_is_not_finite() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, None, nan, 1.0]) == "▁ !█"
    assert sparkline([0.0, 1.0], ascii_only=True) == "_#"
    assert sparkline([]) == ""
    assert sparkline([-1e308, 1e308]) == "▁█"


def test_long_sparkline_is_averaged_to_its_width() -> None:
    assert sparkline([0.0] * 50 + [1.0] * 50, width=10) == "▁▁▁▁▁█████"
    assert sparkline([1.0, nan, 2.0, 2.0], width=2) == "!▁"
