"""The limits of the rules about training logs, each from both sides, on logs of a few exact numbers."""

from __future__ import annotations

from itertools import chain, cycle, islice
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.logs.learning_rates import learning_rate_unusual, learning_rate_zero
from checkpoint_doctor.builtin.analyzers.logs.losses import diverging_heads, overfit, rising_loss
from checkpoint_doctor.builtin.analyzers.logs.progress import oscillating_loss, regressing_metric, spike, stalled
from checkpoint_doctor.builtin.analyzers.logs.recording import nonfinite_metric, unrecorded_metric
from checkpoint_doctor.checkpoint.setting_ranges import Evidence, Range
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding, Severity
from tests.logs_from_arrays import Columns, build_log, speak

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
NAN, INF = np.nan, np.inf
Numbers = list[float]


def runs(*parts: tuple[float, int]) -> Numbers:
    """Numbers that stay the same for a while: (value, how often)."""
    return list(chain.from_iterable([value] * count for value, count in parts))


def line(first: float, last: float, count: int) -> Numbers:
    return np.linspace(first, last, count).tolist()


def zigzag(middle: float, size: float, count: int) -> Numbers:
    """Numbers above and below the middle in turn. Of up to 20, a level scatters by 2.42 sizes, as their bends show."""
    return list(islice(cycle([middle - size, middle + size]), count))


def put(numbers: Numbers, **at: float) -> Numbers:
    """The numbers with some others in their place: ``_7=5.0`` puts 5 at position 7."""
    changed = list(numbers)
    for position, value in at.items():
        changed[int(position[1:])] = value
    return changed


def found(rule: Rule, columns: Columns, steps: Any = None, **options: Any) -> list[Finding]:
    return list(rule.examine(build_log(columns, steps), options))


# Losses that rise

FLAT_REWARD = runs((10, 20))
LOST_REWARD = runs((50, 4), (100, 6), (0, 10))


@pytest.mark.parametrize(
    ("loss", "speaks"),
    [
        (runs((10, 10), (13, 10)), True),  # 30 % above the lowest
        (runs((10, 10), (12.99, 10)), False),
        (runs((0, 10), (0.5, 10)), True),
        (zigzag(100, 3, 10) + zigzag(137, 3, 10), False),  # 5.5 deviations above the lowest
        (zigzag(100, 3, 10) + zigzag(144, 3, 10), True),  # 6.5
        # At the end of a long fall: a tenth of it, or half of what was usual.
        (runs((1000, 10), (10, 5), (109, 5)), True),
        (runs((1000, 10), (10, 5), (108.9, 5)), False),
        (runs((1000, 1), (12, 9), (10, 5), (50, 5)), True),
        (runs((10000, 4), (1000, 6), (300, 5), (500, 5)), True),
        (runs((10000, 4), (1000, 6), (300, 5), (499, 5)), False),
        # Fewer than ten numbers: the last five must rise one by one.
        ([20, 18, 16, 14, 10, 11, 12, 13, 14], True),
        ([20, 18, 16, 14, 12, 10, 11, 13, 15], False),
        ([20, 18, 16, 14, 10, 11, 11, 13, 14], False),
        (runs((10, 5), (13, 4)), False),
        (runs((10, 5), (13, 5)), True),
        # It stays above the middle: the last two numbers at least.
        (runs((10, 10), (20, 7), (14, 1), (20, 2)), True),
        (runs((10, 10), (20, 8), (14, 1), (26, 1)), False),
        (runs((10, 10), (20, 8), (15, 1), (25, 1)), True),
        (runs((10, 6), (20, 4), (14, 1), (26, 1)), False),
        (runs((10, 18), (5, 1), (50, 1)), False),
    ],
)
def test_how_far_a_loss_must_rise(loss: Numbers, speaks: bool) -> None:
    assert [each[0] for each in speak(rising_loss, {"loss": loss})] == ["loss"] * speaks


def test_a_loss_that_stays_the_same_does_not_rise() -> None:
    assert not speak(rising_loss, {"loss": runs((5, 20))}, rise=0.0)


@pytest.mark.parametrize(
    ("columns", "speaks"),
    [
        # Back from below zero is no growth, beyond it is.
        ({"loss": runs((-100, 10), (100, 10)), "reward": LOST_REWARD}, False),
        ({"loss": runs((-100, 10), (100.5, 10)), "reward": LOST_REWARD}, True),
        # A loss without end, and rewards that do not become better.
        ({"loss": runs((0.5, 10), (50, 10)), "reward": FLAT_REWARD}, True),
        ({"loss": runs((0.5, 10), (49.9, 10)), "reward": FLAT_REWARD}, False),
        ({"loss": runs((0, 10), (50, 10)), "reward": FLAT_REWARD}, False),
        ({"loss": runs((1, 10), (400, 1), (200, 9)), "reward": FLAT_REWARD}, True),
        ({"loss": runs((1, 10), (402, 1), (200, 9)), "reward": FLAT_REWARD}, False),
        ({"loss": runs((0.5, 10), (50, 10)), "reward": line(0, 100, 20)}, False),
        # Rewards tell, and not an accuracy beside them; alone, it does.
        ({"loss": runs((1, 10), (2, 10)), "reward": LOST_REWARD, "accuracy": line(0, 1, 20)}, True),
        ({"loss": runs((1, 10), (2, 10)), "reward": [1.0], "accuracy": LOST_REWARD}, True),
        # Rewards that are lost: half of their range, a twentieth of the best, six deviations, and learned before.
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((50, 4), (100, 6), (0, 4), (50, 6))}, False),
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((50, 4), (100, 6), (0, 4), (48, 6))}, True),
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((95.5, 4), (100, 6), (95, 10))}, False),
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((95.5, 4), (100, 6), (94.8, 10))}, True),
        ({"loss": runs((1, 10), (2, 10)), "reward": zigzag(99, 1, 4) + zigzag(100, 1, 6) + zigzag(87.5, 1, 10)}, False),
        ({"loss": runs((1, 10), (2, 10)), "reward": zigzag(99, 1, 4) + zigzag(100, 1, 6) + zigzag(85.5, 1, 10)}, True),
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((100, 2), (10, 18))}, False),
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((10, 3), (100, 1), (10, 16))}, False),
        ({"loss": runs((1, 10), (2, 10)), "reward": runs((10, 4), (100, 1), (10, 15))}, True),
        # An improvement is a tenth of the range, and three deviations.
        ({"loss": runs((0.5, 10), (50, 10)), "reward": runs((0, 5), (100, 5), (10, 10))}, True),
        ({"loss": runs((0.5, 10), (50, 10)), "reward": runs((0, 5), (100, 5), (10.5, 10))}, False),
        ({"loss": runs((0.5, 10), (50, 10)), "reward": zigzag(0, 1, 10) + zigzag(5.5, 1, 10)}, True),
        ({"loss": runs((0.5, 10), (50, 10)), "reward": zigzag(0, 1, 10) + zigzag(7, 1, 10)}, False),
    ],
)
def test_when_the_loss_of_an_agent_does_harm(columns: Columns, speaks: bool) -> None:
    assert bool(speak(rising_loss, columns, range(0, 2000, 100))) is speaks


@pytest.mark.parametrize(("at", "speaks"), [(20.0, True), (19.9, False)])
def test_a_best_reward_in_the_first_fifth_of_the_run_was_not_learned(at: float, speaks: bool) -> None:
    columns = {"loss": runs((1, 10), (2, 10)), "reward": runs((10, 4), (100, 1), (10, 15))}
    assert bool(speak(rising_loss, columns, [0, 5, 10, 15, at, *line(30, 100, 15)])) is speaks


@pytest.mark.parametrize(("size", "speaks"), [(9, True), (10, False)])
def test_of_fewer_than_ten_rewards_none_is_early(size: int, speaks: bool) -> None:
    columns = {"loss": [5, 4, 3, 2, 1, 2, 3, 4, 5, 6][:size], "reward": runs((100, 2), (10, 8))[:size]}
    assert bool(speak(rising_loss, columns)) is speaks


@pytest.mark.parametrize(
    ("columns", "sibling"),
    [
        ({"loss_a": line(1, 1.5, 11), "loss_b": line(2, 1, 11)}, "loss_b"),
        ({"loss_a": line(1, 1.49, 11), "loss_b": line(2, 1, 11)}, None),
        ({"loss_a": line(1, 1.6, 11), "loss_b": runs((2, 11))}, None),
        ({"loss_a": line(1, 1.6, 11), "loss_b": line(2, 1, 4)}, None),
        # A twin of the same meaning only: on the same data, with one other word, or one word with the same ending.
        ({"loss_a": line(1, 1.6, 11), "val_loss_b": line(2, 1, 11)}, None),
        ({"head_loss_a": line(1, 1.6, 11), "body_loss_b": line(2, 1, 11)}, None),
        ({"dloss": line(1, 1.6, 11), "closs": line(2, 1, 11)}, "closs"),
        ({"dloss": line(1, 1.6, 11), "crossentropy": line(2, 1, 11)}, None),
        ({"loss": line(1, 1.6, 11), "closs": line(2, 1, 11)}, None),
        # The trends must be clear, and a tenth of the level.
        ({"loss_a": line(1, 1.6, 11), "loss_b": line(10, 9, 11)}, "loss_b"),
        ({"loss_a": line(1, 1.6, 11), "loss_b": line(10, 9.05, 11)}, None),
        ({"loss_a": line(1, 1.6, 11), "loss_b": [10, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 10.8, 10.9, 8]}, None),
        ({"loss_a": line(1, 1.6, 11), "loss_b": runs((10, 5), (9, 1), (10, 4), (8, 1))}, None),
    ],
)
def test_which_head_a_loss_rises_beside(columns: Columns, sibling: str | None) -> None:
    [finding] = [each for each in found(rising_loss, columns) if each.evidence["metric"] == next(iter(columns))]
    assert finding.evidence["sibling"] == sibling


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (runs((1, 10), (101, 10)), "rises from 1 to 101 from step 0 on"),
        (runs((1, 10), (100.5, 10)), "rises from 1 to 100.5 (+9950%) from step 0 on"),
        (runs((0, 10), (1, 10)), "rises from 0 to 1 from step 0 on"),
    ],
)
def test_a_rise_without_measure_has_no_percentage(loss: Numbers, words: str) -> None:
    [finding] = found(rising_loss, {"loss": loss})
    assert words in finding.message


@pytest.mark.parametrize(
    ("loss", "onset"),
    [
        (runs((10, 20), (13, 20)), 20),
        (runs((10, 20)) + line(10.5, 20, 20), 20),
        (zigzag(10, 0.5, 20) + line(10.5, 20, 20), 20),
        (runs((1, 20)) + np.geomspace(1.5, 1000, 20).tolist(), 20),
        (runs((12, 4), (10, 34), (20, 2)), None),
    ],
)
def test_where_a_rise_begins(loss: Numbers, onset: int | None) -> None:
    assert [each[2] for each in speak(rising_loss, {"loss": loss})] == [onset] * (onset is not None)


@pytest.mark.parametrize(
    ("columns", "speaks"),
    [
        ({"loss_a": line(8, 9, 11), "loss_b": line(8, 6, 11)}, True),  # the ratio grows to 1.5 of what it was
        ({"loss_a": line(8, 8.9, 11), "loss_b": line(8, 6, 11)}, False),
        ({"loss_a": runs((8, 11)), "loss_b": line(8, 2, 11)}, False),
        ({"loss_a": line(8, 16, 11), "loss_b": runs((8, 11))}, False),
        ({"loss_a": line(8, 16, 11), "loss_b": line(8, 6, 4)}, False),
        ({"loss_a": line(8, 16, 11), "loss_b": line(8, 0, 11)}, False),
        ({"loss_a": line(0.5, 1, 11), "loss_b": line(0.8, 0.5, 11)}, True),
    ],
)
def test_how_far_heads_must_move_apart(columns: Columns, speaks: bool) -> None:
    expected = [("loss_a", WARNING, 100.0)] * speaks
    assert speak(diverging_heads, columns, np.arange(100, 100 + 11)) == expected


@pytest.mark.parametrize(
    ("falling", "onset"),
    [
        (runs((8, 20), (4, 20)), 120),
        (runs((8, 20), (4, 19)), 130),  # not of one length: where the other one rises
    ],
)
def test_since_when_heads_move_apart(falling: Numbers, onset: int) -> None:
    rising = runs((8, 30), (16, 10))
    steps = np.arange(100, 140)
    [(_, _, found)] = speak(diverging_heads, {"loss_a": rising, "loss_b": falling}, steps)
    assert abs(found - onset) <= 2


# Overfitting

LEARNS = line(20, 1, 20)


@pytest.mark.parametrize(
    ("columns", "severity"),
    [
        ({"loss": LEARNS, "val_loss": runs((110, 5), (100, 5), (115, 10))}, WARNING),
        ({"loss": LEARNS, "val_loss": runs((110, 5), (100, 5), (114.9, 10))}, None),
        ({"loss": LEARNS, "val_loss": runs((160, 5), (100, 5), (115, 10))}, WARNING),  # a quarter of what it had fallen
        ({"loss": LEARNS, "val_loss": runs((161, 5), (100, 5), (115, 10))}, None),
        ({"loss": LEARNS, "val_loss": zigzag(100, 1, 10) + zigzag(116, 1, 10)}, WARNING),  # 7 deviations
        ({"loss": LEARNS, "val_loss": zigzag(100, 2, 10) + zigzag(125, 2, 10)}, None),  # 5.6
        ({"loss": LEARNS, "val_loss": zigzag(100, 2, 10) + zigzag(129, 2, 10)}, WARNING),  # 6.4
        ({"loss": LEARNS, "val_loss": runs((0, 20))}, None),
        # Ten numbers, or three that rise one by one.
        ({"loss": LEARNS[:9], "val_loss": [120, 115, 111, 108, 105, 102, 100, 113, 120]}, WARNING),
        ({"loss": LEARNS[:9], "val_loss": [120, 115, 111, 108, 105, 103, 102, 100, 120]}, None),
        ({"loss": LEARNS[:9], "val_loss": [1.20, 1.15, 1.11, 1.08, 1.05, 1.02, 1.00, 1.13, 1.20]}, WARNING),
        ({"loss": LEARNS[:9], "val_loss": [120, 115, 111, 108, 105, 100, 112, 112, 120]}, None),
        ({"loss": LEARNS[:10], "val_loss": [120, 115, 111, 108, 105, 100, 112, 112, 112, 120]}, WARNING),
        # The loss on training data falls on, to its lowest level or nearly so.
        ({"loss": runs((20, 20)), "val_loss": runs((110, 5), (100, 5), (115, 10))}, None),
        ({"loss": runs((20, 8), (10, 8), (11, 4)), "val_loss": runs((110, 5), (100, 5), (115, 10))}, WARNING),
        ({"loss": runs((20, 8), (10, 8), (11.05, 4)), "val_loss": runs((110, 5), (100, 5), (115, 10))}, None),
        ({"loss": runs((10, 8), (20, 8), (21, 4)), "val_loss": runs((110, 5), (100, 5), (115, 10))}, None),
        ({"loss": zigzag(20, 1, 10) + zigzag(14, 1, 10), "val_loss": runs((110, 5), (100, 5), (115, 10))}, WARNING),
        ({"loss": zigzag(20, 1, 10) + zigzag(16.5, 1, 10), "val_loss": runs((110, 5), (100, 5), (115, 10))}, None),
        # Only the same loss on the data of training is compared.
        ({"mse": LEARNS, "val_loss": runs((110, 5), (100, 5), (115, 10))}, None),
        ({"loss": runs((110, 5), (100, 5), (115, 10)), "train_loss": LEARNS}, None),
        # An accuracy on the same data that is still the best.
        (
            {"loss": LEARNS, "val_loss": runs((110, 5), (100, 5), (115, 10)), "val_acc": runs((1, 19), (0.999, 1))},
            NOTE,
        ),
        (
            {"loss": LEARNS, "val_loss": runs((110, 5), (100, 5), (115, 10)), "val_acc": runs((1, 19), (0.99895, 1))},
            WARNING,
        ),
        ({"loss": LEARNS, "val_loss": runs((110, 5), (100, 5), (115, 10)), "acc": line(0, 1, 20)}, WARNING),
        ({"loss": LEARNS, "val_loss": runs((110, 5), (100, 5), (115, 10)), "val_acc": line(0, 1, 4)}, WARNING),
    ],
)
def test_how_far_a_held_out_loss_must_rise(columns: Columns, severity: Severity | None) -> None:
    found = [each for each in speak(overfit, columns) if each[0] in ("val_loss", "loss")]
    assert [each[1] for each in found] == [severity] * (severity is not None)


@pytest.mark.parametrize(("lowest_at", "speaks"), [(79, True), (80, True), (80.5, False), (85, False)])
def test_the_lowest_level_is_a_fifth_of_the_run_ago(lowest_at: float, speaks: bool) -> None:
    steps = [0, 10, 20, 30, 40, 50, 60, 70, 75, lowest_at, 90, 92, 94, 96, 98, 100]
    columns = {"loss": line(20, 1, 16), "val_loss": runs((110, 9), (100, 1), (120, 6))}
    assert speak(overfit, columns, steps) == [("val_loss", WARNING, lowest_at)] * speaks


@pytest.mark.parametrize(
    ("beside", "speaks"),
    [(5.0, False), (5.3, True)],  # the median of three records is 9, and a record alone is 30
)
def test_the_level_of_training_is_that_of_a_twentieth_of_the_run(beside: float, speaks: bool) -> None:
    steps = [0, 8, 16, 24, 32, 40, 50 - beside, 50, 50 + beside, 60, 68, 76, 84, 92, 96, 100]
    loss = put(runs((9, 6)) + runs((9, 3), (10, 7)), _7=30.0)
    columns = {"loss": loss, "val_loss": runs((110, 7), (100, 1), (120, 8))}
    assert bool(speak(overfit, columns, steps)) is speaks


# What was reached is lost again


@pytest.mark.parametrize(
    ("accuracy", "speaks"),
    [
        (runs((0, 4), (100, 6), (50, 10)), True),  # half of what was gained
        (runs((0, 4), (100, 6), (50.5, 10)), False),
        (runs((99, 4), (100, 6), (95, 10)), True),  # a twentieth of the best
        (runs((99, 4), (100, 6), (95.1, 10)), False),
        (zigzag(99, 1, 4) + zigzag(100, 1, 6) + zigzag(87.5, 1, 10), False),  # 5.6 deviations
        (zigzag(99, 1, 4) + zigzag(100, 1, 6) + zigzag(85.5, 1, 10), True),  # 6.4
        (runs((0, 20)), False),
        ([1, 2, 3, 4], False),
        # Fewer than ten numbers: all rise to the best one, and all fall after it.
        ([0.2, 0.5, 0.4, 0.3, 0.2], True),
        ([0.5, 0.4, 0.3, 0.2, 0.1], False),
        ([1, 2, 3, 10, 2], False),
        ([1, 1, 5, 4, 3, 2], False),
        ([1, 5, 3, 3, 2], False),
        ([1, 5, 2, 4, 0], False),
        ([2, 1, 5, 4, 0], False),
        ([50, 50, 100, 85, 70, 55, 40, 25, 10], False),
        ([50, 50, 100, 85, 70, 55, 40, 25, 10, -5], True),
        # The best level is that of five records, or one beside it is half as good.
        (runs((0, 50), (100, 5), (0, 45)), True),
        (runs((0, 40), (100, 4), (0, 36)), False),
        (runs((0, 10), (100, 1), (0, 9)), False),
        (runs((0, 9), (50, 1), (100, 1), (0, 9)), True),
        (runs((0, 9), (49.9, 1), (100, 1), (0, 9)), False),
        (runs((0, 10), (100, 1), (50, 1), (0, 8)), True),
        (runs((0, 10), (100, 1), (0, 1), (50, 1), (0, 7)), False),
        (runs((0, 8), (50, 1), (0, 1), (100, 1), (0, 9)), False),
        (runs((60, 1), (100, 1), (0, 18)), True),
        # The last two numbers stay below the middle.
        (runs((0, 8), (100, 4), (0, 6), (60, 1), (-20, 1)), False),
        (runs((0, 8), (100, 4), (0, 6), (59, 1), (-19, 1)), True),
        (runs((0, 8), (100, 4), (0, 5), (60, 1), (0, 2)), True),
    ],
)
def test_how_much_must_be_lost(accuracy: Numbers, speaks: bool) -> None:
    assert bool(speak(regressing_metric, {"accuracy": accuracy})) is speaks


@pytest.mark.parametrize(("reward", "speaks"), [(runs((100, 3), (50, 17)), True), (runs((100, 3), (51, 17)), False)])
def test_half_of_what_was_there_before_is_lost(reward: Numbers, speaks: bool) -> None:
    assert bool(speak(regressing_metric, {"reward": reward})) is speaks


def test_the_part_that_was_lost() -> None:
    [finding] = found(regressing_metric, {"accuracy": [0.25, 0.75, 0.5, 0.25, 0.0]})
    assert finding.evidence["lost"] == 1.5
    assert "150% of what it had gained" in finding.message
    [finding] = found(regressing_metric, {"reward": runs((100, 3), (50, 17))})
    assert finding.evidence["lost"] is None
    assert "gained" not in finding.message


@pytest.mark.parametrize(
    ("size", "changed", "onset"),
    [
        (200, {}, 99),
        (200, {"_130": 100.0}, 99),  # one record alone
        (200, {"_130": 100.0, "_131": 100.0}, 131),
        (239, {"_130": 100.0, "_131": 100.0}, 131),
        (240, {"_130": 100.0, "_131": 100.0}, 99),
        (200, {"_100": 85.0, "_101": 85.0}, 101),
        (200, {"_100": 84.9, "_101": 84.9}, 99),
    ],
)
def test_until_when_it_was_good(size: int, changed: dict[str, float], onset: int) -> None:
    accuracy = put(runs((0, 40), (100, 60), (0, size - 100)), **changed)
    assert [each[2] for each in speak(regressing_metric, {"accuracy": accuracy})] == [onset]


# Nothing moves


@pytest.mark.parametrize(
    ("columns", "severity", "words"),
    [
        ({"loss": runs((0.7, 10))}, WARNING, "is 0.7 in all 10 records"),
        ({"loss": runs((0.7, 9))}, None, ""),
        ({"loss": line(2, 1, 30) + runs((0.7, 10))}, WARNING, "is 0.7 in all records from step 30 on"),  # a quarter
        ({"loss": line(2, 1, 31) + runs((0.7, 10))}, None, ""),
        ({"loss": runs((5, 1), (3, 40))}, WARNING, "is 3 in all records from step 1 on"),
        ({"loss": runs((0, 20))}, None, ""),  # LOG001 speaks
        ({"loss": runs((1, 20))}, WARNING, "is 1 in all 20 records"),
        ({"loss": runs((2, 1), (1, 20))}, WARNING, "is 1 in all records from step 1 on"),
        # What is learned may stay at a fiftieth.
        ({"loss": runs((100, 10), (2, 10))}, None, ""),
        ({"loss": runs((100, 10), (2.1, 10))}, WARNING, "is 2.1 in all records from step 10 on"),
        # The same number, to a millionth.
        ({"loss": put(runs((1e6, 20)), _5=1e6 + 1, _6=1e6 - 1)}, WARNING, "in all 20 records"),
        ({"loss": put(runs((1e6, 12)), _5=1e6 + 1.05)}, None, ""),
        ({"loss": put(runs((1e6, 12)), _5=1e6 - 1.05)}, None, ""),
        ({"reward": runs((7, 20))}, NOTE, "is 7 in all 20 records"),
        ({"reward": runs((7, 19))}, None, ""),
        ({"reward": runs((5, 1), (7, 40))}, None, ""),
        # Never moved.
        ({"loss": zigzag(100, 0.1, 20)}, WARNING, "never moved from 99.9 in 20 records"),
        ({"loss": zigzag(100, 0.1, 19)}, None, ""),
        ({"val_loss": zigzag(100, 0.1, 20)}, None, ""),
        ({"loss": zigzag(1.0, 0.001, 20)}, WARNING, "never moved from 0.999 in 20 records"),
        ({"loss": put(zigzag(100, 0.0, 20), _12=101.0)}, WARNING, "never moved from 100 in 20 records"),
        ({"loss": put(zigzag(100, 0.0, 20), _12=101.05)}, None, ""),
        ({"loss": line(100, 99.7, 20)}, None, ""),
        ({"loss": line(100, 100.3, 20)}, WARNING, "never moved from 100 in 20 records"),
        ({"loss": put([1, *zigzag(0, 1, 19)], _12=13.0)}, NOTE, "never moved from 1 in 20 records"),
        ({"loss": put([1, *zigzag(0, 1, 19)], _12=15.0)}, None, ""),
        ({"loss": zigzag(100, 0.2, 20)}, WARNING, "never moved"),
        ({"loss": zigzag(100, 0.22, 20)}, NOTE, "never moved"),
        # An accuracy that never changes, while no loss falls by a hundredth.
        ({"val_acc": runs((0.4, 20)), "val_loss": runs((100, 10), (99, 10))}, WARNING, "is 0.4 in all 20 records"),
        ({"val_acc": runs((0.4, 20)), "val_loss": runs((100, 10), (98.95, 10))}, None, ""),
        ({"val_acc": runs((0.4, 20)), "val_loss": [*line(100, 117, 18), 98, 98]}, WARNING, "is 0.4 in all 20"),
        ({"val_acc": put(runs((0.4, 20)), _7=NAN), "val_loss": runs((100, 20))}, None, ""),
        ({"val_acc": runs((100, 20)), "val_loss": line(100, 99.5, 20)}, None, ""),
        ({"val_acc": runs((99, 20)), "val_loss": line(100, 99.5, 20)}, WARNING, "is 99 in all 20 records"),
    ],
)
def test_what_stays_the_same(columns: Columns, severity: Severity | None, words: str) -> None:
    findings = [each for each in found(stalled, columns) if each.evidence["metric"] == next(iter(columns))]
    assert [each.severity for each in findings] == [severity] * (severity is not None)
    assert all(words in each.message for each in findings)


@pytest.mark.parametrize(("first", "second", "speaks"), [(5, 6, True), (5.4, 6, False), (1, 50, True), (50, 51, False)])
def test_a_loss_counts_as_unmoved_that_was_recorded_from_the_beginning(
    first: float, second: float, speaks: bool
) -> None:
    steps = [first, second, *line(52, 100, 18)]
    assert bool(speak(stalled, {"loss": zigzag(100, 0.1, 20)}, steps)) is speaks


# Spikes

BASE = zigzag(1.5, 0.5, 500)
"""1 and 2 in turn: a median of 1.5, a standard deviation of 0.5."""


def one_larger(count: int, middle: float = 1.0, largest: float = 2.0) -> Numbers:
    return put(runs((middle, count)), _7=largest)


@pytest.mark.parametrize(
    ("loss", "positions"),
    [
        (put(BASE[:60], _40=4.5), []),  # six standard deviations above the median
        (put(BASE[:60], _40=4.6), [40]),
        (put(one_larger(60), _40=4.0), []),  # three times as far as the largest
        (put(one_larger(60), _40=4.2), [40]),
        (put(one_larger(60, 100, 101), _40=150.0), []),  # half of the median
        (put(one_larger(60, 100, 101), _40=151.0), [40]),
        (put(runs((1, 60)), _40=15.0), []),  # no scatter to tell it by
        # 30 records are compared with, and 128 at most.
        (put(BASE[:60], _30=15.0), [30]),
        (put(BASE[:60], _29=15.0), []),
        (put(BASE[:300], _5=10.0, _133=15.0), []),
        (put(BASE[:300], _5=10.0, _134=15.0), [134]),
        # After a spike the window begins anew.
        (put(BASE[:120], _30=15.0, _61=15.0), [30, 61]),
        (put(BASE[:120], _30=15.0, _60=15.0), [30]),
        # Before there is a level: twenty times the largest.
        (put(runs((1, 60)), _1=25.0), [1]),
        (put(runs((1, 60)), _1=20.0), []),
        (put(runs((1, 60)), _29=25.0), [29]),
        (put(runs((1, 60)), _30=25.0), []),
        (put(runs((0.5, 60)), _1=25.0), [1]),
        (put(runs((0, 60)), _1=25.0), []),
        (put(runs((1, 120)), _1=25.0, _3=600.0), [1]),
        # More than one in fifty is no exception.
        (put(BASE[:50], _40=15.0), [40]),
        (put(BASE[:49], _40=15.0), []),
    ],
)
def test_what_a_spike_is(loss: Numbers, positions: list[int]) -> None:
    assert [each.evidence["steps"] for each in found(spike, {"loss": loss})] == [positions] * bool(positions)


@pytest.mark.parametrize(
    ("loss", "severity", "words"),
    [
        # Ten times the largest of the window is huge, and a fifth of where the loss began.
        (put(BASE[:60], _40=20.0), WARNING, "jumps from 1.5 to 20 at step 40, and is back at once"),
        (put(BASE[:60], _40=19.0), NOTE, "and is back at once"),
        (put(BASE[:60], _0=3.0, _40=25.0), NOTE, "and is back at once"),
        (runs((100, 25)) + put(BASE[:475], _300=20.0), WARNING, "and is back at once"),
        (runs((110, 25)) + put(BASE[:475], _300=20.0), NOTE, "and is back at once"),
        # Back at once: the median of the next five records, or of a twentieth of them all.
        (put(BASE[:60], _40=15.0, _41=6.0, _42=6.0, _43=2.0), NOTE, "and is back at once"),
        (put(BASE[:60], _40=15.0, _41=6.0, _42=6.0, _43=6.0), WARNING, "and stays up"),
        (put(BASE[:60], _40=15.0, _41=3.2, _42=3.2, _43=3.2, _44=1.0, _45=1.0, _46=1.0), WARNING, "and stays up"),
        (put(BASE[:60], _40=15.0, _41=1.0, _42=1.0, _43=1.0, _44=9.0, _45=9.0, _46=9.0), NOTE, "and is back at once"),
        (put(BASE[:60], _40=15.0, _41=1.0, _42=1.0, _43=9.0, _44=9.0, _45=9.0), WARNING, "and stays up"),
        (put(BASE[:119], _40=15.0, _41=9.0, _42=9.0, _43=9.0), WARNING, "and stays up"),
        (put(BASE[:114], _40=15.0, _41=3.2, _42=3.2, _43=3.2, _44=1.0, _45=1.0, _46=1.0), WARNING, "and stays up"),
        (put(BASE[:120], _40=15.0, _41=3.2, _42=3.2, _43=3.2, _44=1.0, _45=1.0, _46=1.0), NOTE, "back at once"),
        (put(one_larger(41), _40=11.0) + runs((2, 19)), NOTE, "and is back at once"),
        (put(one_larger(41), _40=11.0) + runs((2.05, 19)), WARNING, "and stays up"),
        (put(BASE[:60], _59=15.0), NOTE, "and is back at once"),
        (put(BASE[:120], _40=15.0, _81=15.0), NOTE, "at step 40, and 1 more time, and is back at once"),
        (put(BASE[:160], _40=15.0, _81=15.0, _122=15.0), NOTE, "at step 40, and 2 more times, and is back at once"),
        ([1.0, *BASE[:29], 1.0, 15.0, *BASE[:29]], NOTE, "jumps from 1 to 15 at step 31, and is back"),
    ],
)
def test_what_a_spike_does(loss: Numbers, severity: Severity, words: str) -> None:
    [finding] = found(spike, {"loss": loss})
    assert words in finding.message
    assert finding.severity is severity


# Losses that swing


@pytest.mark.parametrize(
    ("loss", "speaks"),
    [
        (zigzag(2, 1, 20), True),  # from 1 to 3 around 2
        (zigzag(2, 0.99, 20), False),
        (zigzag(2, 1, 19), False),
        (zigzag(0.5, 0.3, 20), True),
        (zigzag(0, 1, 20), False),
        (runs((10, 10)) + zigzag(7, 3.5, 10), True),  # seven tenths of where it began
        (runs((10.1, 10)) + zigzag(7, 3.5, 10), False),
        (runs((10, 4), (2, 6), (10, 10)) + zigzag(2, 1, 20), True),  # the median of the first quarter
        (runs((10, 6), (2, 4), (10, 10)) + zigzag(2, 1, 20), False),
    ],
)
def test_how_far_a_loss_must_swing(loss: Numbers, speaks: bool) -> None:
    assert bool(speak(oscillating_loss, {"loss": loss})) is speaks


def test_between_what_a_loss_swings() -> None:
    [finding] = found(oscillating_loss, {"loss": runs((2, 10)) + line(0.5, 3.5, 10)})
    assert (finding.evidence["low"], finding.evidence["high"]) == pytest.approx((0.8, 3.2))


@pytest.mark.parametrize(
    ("loss", "onset"),
    [
        (runs((2, 16)) + zigzag(2, 1, 24), 16),
        (runs((2, 18)) + zigzag(2, 1, 22), 18),
        (zigzag(2, 0.5, 16) + zigzag(2, 1, 24), 0),  # half as far as later
        (zigzag(2, 0.49, 16) + zigzag(2, 1, 24), 14),
        (zigzag(2, 1, 30) + runs((2, 4)) + zigzag(2, 1, 6), 0),
    ],
)
def test_since_when_a_loss_swings(loss: Numbers, onset: int) -> None:
    assert [each[2] for each in speak(oscillating_loss, {"loss": loss})] == [onset]


# Learning rates


@pytest.mark.parametrize(
    ("rates", "onset", "share"),
    [
        (runs((1, 17), (0, 3)), 17, 0.15),  # three records, and a tenth of the run
        (runs((1, 18), (0, 2)), None, None),
        (runs((1, 27), (0, 3)), 27, 0.1),
        (runs((1, 28), (0, 3)), None, None),
        (runs((0, 3)), 0, 1.0),
        (runs((0, 2)), None, None),
        (runs((-1, 2)), None, None),
        (runs((-1, 3)), 0, 1.0),
        ([3, 2, 1, -1, -2, *runs((0, 5))], 3, 1.0),
        ([0, 0, 0, 1, 1, 1], None, None),
        ([1, 1, 1, NAN, 0, 0, 0], 4, 3 / 7),
    ],
)
def test_how_long_a_rate_must_be_zero(rates: Numbers, onset: int | None, share: float | None) -> None:
    findings = found(learning_rate_zero, {"lr": rates})
    assert [(each.evidence["onset_step"], each.evidence["share"]) for each in findings] == (
        [] if onset is None else [(onset, share)]
    )
    for each in findings:
        assert each.severity is WARNING
        assert ("0 in every record" in each.message) == (onset == 0 and min(rates) == 0)


@pytest.mark.parametrize(
    ("columns", "onset"),
    [
        ({"time/fps": runs((900, 20)), "train/learning_rate": runs((0, 20))}, None),  # LOG010 speaks
        ({"lr": runs((1, 5), (100, 5), (200, 5))}, 10),
        ({"lr": runs((1, 5), (100, 5))}, None),
    ],
)
def test_since_when_a_rate_is_unusual(columns: Columns, onset: int | None) -> None:
    expected = [("lr", WARNING, onset)] * (onset is not None)
    assert speak(learning_rate_unusual, columns) == expected


@pytest.mark.parametrize(("rate", "speaks"), [(149, False), (151, True)])
def test_a_range_of_ones_own_may_be_wider(rate: float, speaks: bool) -> None:
    own = Range("SGD", "learning_rate", 1e-4, 150.0, Evidence.OWN, "ckdoc.toml")
    log = replace(build_log({"lr": runs((rate, 20))}), ranges=(own,))
    assert bool(list(learning_rate_unusual.examine(log))) is speaks


# What was not recorded


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"loss": line(2, 1, 5), "grad_norm": [None] * 5}, [("grad_norm", WARNING, -1)]),
        ({"loss": line(2, 1, 4), "grad_norm": [None] * 4}, []),
        ({"grad_norm": line(2, 1, 5), "loss": [None] * 5}, []),
        ({"loss": line(2, 1, 6), "grad_norm": [0, *[None] * 5]}, []),
        ({"grad_norm": runs((0, 5))}, [("grad_norm", ERROR, 0)]),
        ({"train_loss": runs((0, 5))}, [("train_loss", ERROR, 0)]),
        ({"train_total_training_loss": runs((0, 5))}, [("train_total_training_loss", ERROR, 0)]),
        ({"grad_norm": [*runs((0, 4)), NAN, 0]}, []),
        ({"grad_norm": [0.0, 1.0] * 1500}, []),
        ({"grad_norm": [0.0, -1.0] * 1500}, []),
    ],
)
def test_what_was_not_recorded(columns: Columns, expected: list[tuple[str, Severity, int]]) -> None:
    assert speak(unrecorded_metric, columns) == expected


def test_a_column_without_records_has_none() -> None:
    [finding] = found(unrecorded_metric, {"loss": line(2, 1, 5), "grad_norm": [None] * 5})
    assert finding.evidence == {"metric": "grad_norm", "count": 0}


@pytest.mark.parametrize(
    ("columns", "severity", "words"),
    [
        ({"loss": [1, NAN, 1, NAN]}, WARNING, "in 2 records, first at step 1"),
        ({"loss": [1, NAN, NAN, NAN]}, ERROR, "from step 1 on"),
        ({"loss": [NAN, NAN, NAN]}, ERROR, "in every record"),
        ({"loss": [NAN, 1, 1]}, WARNING, "in 1 record, first at step 0"),
        ({"loss": [NAN, 1, NAN]}, WARNING, "in 2 records, first at step 0"),
        ({"grad_norm": [1, 1, INF]}, NOTE, "from step 2 on"),
        ({"grad_norm": [1, INF, INF]}, ERROR, "from step 1 on"),
        ({"grad_norm": [INF, INF, 1]}, NOTE, "in 2 records, first at step 0"),
        ({"reward": [1, 1, NAN]}, WARNING, "from step 2 on"),
        ({"reward": [1, NAN, 1]}, None, ""),
        ({"reward": [NAN, NAN, NAN]}, None, ""),
        ({"reward": [NAN, 1, 1]}, None, ""),
        # In a long log several records are summed up.
        ({"loss": [1.0, *runs((NAN, 2999))]}, ERROR, "from step 0 on"),
        ({"loss": runs((NAN, 3000))}, ERROR, "in every record"),
        ({"loss": [NAN, 1.0, *runs((NAN, 2998))]}, ERROR, "from step 0 on"),
        ({"loss": [1.0, NAN, 1.0, *runs((NAN, 2997))]}, WARNING, "in 2,998 records, first at step 0"),
    ],
)
def test_how_long_a_metric_is_not_finite(columns: Columns, severity: Severity | None, words: str) -> None:
    findings = found(nonfinite_metric, columns)
    assert [each.severity for each in findings] == [severity] * (severity is not None)
    assert all(words in each.message for each in findings)
