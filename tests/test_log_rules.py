"""The rules about training logs, as tables without disk: where they stay silent, where they speak, and since when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.logs.learning_rates import learning_rate_unusual, learning_rate_zero
from checkpoint_doctor.builtin.analyzers.logs.losses import diverging_heads, overfit, rising_loss
from checkpoint_doctor.builtin.analyzers.logs.progress import oscillating_loss, regressing_metric, spike, stalled
from checkpoint_doctor.builtin.analyzers.logs.recording import nonfinite_metric, unrecorded_metric
from checkpoint_doctor.checkpoint.setting_ranges import Evidence, Range
from checkpoint_doctor.checkpoint.training_log import TrainingLog
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from tests.logs_from_arrays import Columns, build_log, speak

N = 200
LINE = np.linspace(0.0, 1.0, N)


def noise(size: float, seed: int = 0, count: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, count)


FALLING = 2.3 * np.exp(-4 * LINE) + 0.1 + noise(0.02)
RISES_AT_120 = FALLING + np.where(np.arange(N) >= 120, 1.0, 0.0)
LEARNS = 10 + 200 * LINE + noise(8)
COLLAPSES = np.where(np.arange(N) < 120, LEARNS, 20 + noise(8))
FORGETS_CHANCE = np.where(np.arange(N) < 15, 18.6, 7.5) + noise(0.3)
LUCKY = np.array([39, 11, 15, 12, 16, 11, 11, 11, 24, 17, 11, 15, 57, 11, 16, 29, 18, 14, 19, 27, 27, 23, 38, 14, 13.0])
"""Returns of the first episodes of an agent that balances a pole."""
FRAMES = (36_000, 79_000, 165_000, 553_000, 1_023_000)
DISCRETE = (0.00722, 0.01572, 0.01385, 0.01837, 0.01926)
CONTINUOUS = (0.01889, 0.01728, 0.01600, 0.01515, 0.01443)
WARNING, ERROR, NOTE = Severity.WARNING, Severity.ERROR, Severity.NOTE


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"grad_norm": np.zeros(6), "loss": FALLING[:6]}, [("grad_norm", ERROR)]),
        ({"GradNorm": np.zeros(4)}, []),  # too few
        ({"grad_norm": [0, 0, 0, 0, 1e-9, 0]}, []),
        ({"grad_norm": [0, 0, 0, 0, np.nan, 0]}, []),
        ({"train/clip_fraction": np.zeros(50), "eval/success_rate": np.zeros(50), "epsilon": np.zeros(50)}, []),
        ({"rollout/ep_rew_mean": np.zeros(50)}, []),
        ({"loss": np.zeros(50)}, [("loss", ERROR)]),
        ({"aux_head_loss": np.zeros(50), "mask_loss": np.zeros(50)}, [("mask_loss", NOTE)]),
    ],
)
def test_unrecorded(columns: Columns, expected: list[tuple[str, Severity]]) -> None:
    assert [each[:2] for each in speak(unrecorded_metric, columns)] == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"loss": FALLING}, []),
        ({"loss": RISES_AT_120}, [("loss", 120)]),
        # A slight rise at the end of a long fall, and a rise that comes back.
        ({"loss": FALLING + 0.1 * np.maximum(LINE - 0.7, 0)}, []),
        ({"loss": np.where((np.arange(N) > 100) & (np.arange(N) < 130), 3.0, FALLING)}, []),
        # The losses of agents follow their returns.
        ({"train/value_loss": 1 + 50 * LINE + noise(1), "rollout/ep_rew_mean": LEARNS}, []),
        ({"train/loss": 1e-3 + 5 * LINE + noise(0.1), "rollout/ep_rew_mean": 20 + noise(3)}, []),
        ({"train/value_loss": 1 + 50 * LINE + noise(1), "rollout/ep_rew_mean": COLLAPSES}, [("train/value_loss", 0)]),
        (
            {"train/critic_loss": 0.1 * np.exp(16 * LINE), "rollout/ep_rew_mean": -20 + noise(3)},
            [("train/critic_loss", None)],
        ),
        ({"loss": -100 + 99.5 * LINE + noise(1), "test/reward": COLLAPSES}, []),  # back from below 0
        ({"loss": -100 + 300 * LINE + noise(1), "test/reward": COLLAPSES}, [("loss", 0)]),
        ({"nll_loss": -100 + 99.5 * LINE + noise(1)}, [("nll_loss", 0)]),  # of a density
        ({"train/actor_loss": -200 * LINE[::-1] + noise(1)}, []),
        ({"policy_loss": RISES_AT_120, "kl_loss": RISES_AT_120, "entropy_loss": RISES_AT_120}, []),
        ({"val_loss": RISES_AT_120, "train_loss": FALLING}, []),  # that is LOG006
    ],
)
def test_rising_loss(columns: Columns, expected: list[tuple[str, int | None]]) -> None:
    found = speak(rising_loss, columns)
    assert [each[0] for each in found] == [name for name, _ in expected]
    for (_, severity, onset), (_, truth) in zip(found, expected, strict=True):
        assert severity is WARNING
        assert truth is None or abs(onset - truth) <= N / 10


def test_a_head_that_rises_beside_one_that_falls() -> None:
    columns = {"DLoss": DISCRETE, "CLoss": CONTINUOUS}
    [finding] = rising_loss.examine(build_log(columns, FRAMES))
    assert "+167%" in finding.message
    assert "CLoss falls" in finding.message
    assert (finding.evidence["sibling"], finding.evidence["onset_step"]) == ("CLoss", 36_000)
    [finding] = diverging_heads.examine(build_log(columns, FRAMES))
    assert (finding.evidence["metric"], finding.evidence["sibling"]) == ("DLoss", "CLoss")
    healthy = {"DLoss": CONTINUOUS, "CLoss": CONTINUOUS[::1]}
    assert not speak(rising_loss, healthy, FRAMES)
    assert not speak(diverging_heads, healthy, FRAMES)


@pytest.mark.parametrize(
    ("columns", "steps", "expected"),
    [
        ({"agreement": (38.7, 42.3, 45.1, 42.2, 40.2)}, FRAMES, [("agreement", 165_000)]),
        ({"agreement": (60.4, 61.9, 63.0, 64.6, 65.8)}, FRAMES, []),
        ({"agreement": (38.7, 45.1, 42.0, 44.2, 40.2)}, FRAMES, []),  # few numbers in no order
        ({"rollout/ep_rew_mean": LEARNS}, None, []),
        ({"rollout/ep_rew_mean": COLLAPSES}, None, [("rollout/ep_rew_mean", 120)]),
        ({"rollout/ep_rew_mean": noise(10)}, None, []),
        ({"rollout/ep_rew_mean": LEARNS - 90 * np.maximum(LINE - 0.8, 0)}, None, []),  # a small part of the gain
        ({"rollout/ep_rew_mean": FORGETS_CHANCE, "rollout/exploration_rate": LINE}, None, []),  # a random policy's
        ({"rollout/ep_rew_mean": FORGETS_CHANCE}, None, [("rollout/ep_rew_mean", 15)]),
        ({"rollout/ep_rew_mean": np.where(np.arange(N) < 15, -1100, -1260) + noise(9)}, None, []),  # few episodes
        ({"0_reward": LUCKY}, None, []),
        ({"0_reward": np.repeat(LUCKY, 2)[:25]}, None, []),
        ({"ep_len_mean": COLLAPSES, "entropy": COLLAPSES, "loss": COLLAPSES}, None, []),
    ],
)
def test_regression(columns: Columns, steps: Any, expected: list[tuple[str, float]]) -> None:
    found = speak(regressing_metric, columns, steps)
    assert [each[0] for each in found] == [name for name, _ in expected]
    for (_, _, onset), (_, truth) in zip(found, expected, strict=True):
        assert abs(onset - truth) <= (N / 10 if steps is None else 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (FALLING, []),
        (np.where(np.arange(N) >= 100, np.nan, FALLING), [(ERROR, 100)]),
        (np.where(np.arange(N) == 100, np.nan, FALLING), [(WARNING, 100)]),
        (np.full(N, np.inf), [(ERROR, 0)]),
    ],
)
def test_losses_that_are_not_finite(values: np.ndarray, expected: list[tuple[Severity, int]]) -> None:
    assert [each[1:] for each in speak(nonfinite_metric, {"loss": values})] == expected


def test_what_may_be_nan() -> None:
    first_nan = np.where(np.arange(N) < 5, np.nan, LEARNS)
    skipped = np.where(np.arange(N) == 50, np.inf, 1.0)
    columns = {"rollout/ep_rew_mean": first_nan, "train/explained_variance": np.full(N, np.nan), "grad_norm": skipped}
    assert speak(nonfinite_metric, columns) == [("grad_norm", NOTE, 50)]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (1e-3 * (1 - LINE), []),  # ends at 0
        (1e-3 * np.minimum(1, np.arange(N) / 20), []),  # begins at 0
        (1e-3 * np.maximum(0, 1 - LINE / 0.5), [100]),
        (1e-3 * (0.9 - LINE), [180]),  # goes on below zero
        (np.zeros(N), [0]),
    ],
)
def test_learning_rates(rates: np.ndarray, expected: list[int]) -> None:
    found = speak(learning_rate_zero, {"train/learning_rate": rates})
    assert len(found) == len(expected)
    assert all(abs(onset - truth) <= 2 for (_, _, onset), truth in zip(found, expected, strict=True))


def agent(rate: float) -> Columns:
    """What Stable-Baselines3 logs, with a rate that a schedule lowers to 0."""
    return {"time/fps": np.full(N, 900.0), "train/learning_rate": rate * (1 - LINE)}


@pytest.mark.parametrize(
    ("columns", "own", "words"),
    [
        (agent(3e-4), (), ""),
        (agent(0.03), (), ""),  # ARS is tuned with it
        (agent(0.3), (), "unusually high; tuned range is 1e-05 to 0.03"),
        (agent(1e-7), (), "unusually low; tuned range is 1e-05 to 0.03"),
        (agent(0.3), (("SAC", 1e-4, 0.5),), ""),
        (agent(0.3), (("*", 1e-4, 0.1),), "unusually high; your own range is 0.0001 to 0.1"),
        ({"train/learning_rate": 0.3 * (1 - LINE)}, (), ""),  # of another program, whose optimizer is not known
        ({"lr": np.full(N, 30.0)}, (), ""),  # SGD of a language model
        ({"lr": np.full(N, 1e3)}, (), "unusually high; nothing above 100 is known"),
        ({"lr": np.where(np.arange(N) < 50, 1e-3, 1e3)}, (), "1e+03 at step 50, unusually high"),
        ({"lr": np.full(N, -1.0)}, (), ""),  # LOG010 speaks
        ({"lr": np.full(N, np.nan)}, (), ""),  # LOG008 speaks
    ],
)
def test_the_size_of_learning_rates(columns: Columns, own: tuple, words: str) -> None:
    ranges = tuple(Range(name, "learning_rate", low, high, Evidence.OWN, "ckdoc.toml") for name, low, high in own)
    found = list(learning_rate_unusual.examine(replace(build_log(columns), ranges=ranges)))
    assert [words in each.message for each in found] == [True] * bool(words), found
    if "step 50" in words:
        assert found[0].evidence["onset_step"] == 50


def test_a_rate_that_is_no_number_is_an_error() -> None:
    assert speak(nonfinite_metric, {"lr": np.where(np.arange(N) < 50, 1e-3, np.nan)}) == [("lr", ERROR, 50)]


OVERFITTING = 2 - 1.5 * LINE / 0.3 * (LINE < 0.3) - 1.5 * (LINE >= 0.3) + 1.2 * np.maximum(LINE - 0.3, 0) + noise(0.01)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"train/loss": FALLING, "val/loss": OVERFITTING}, [("val/loss", WARNING)]),
        ({"loss": FALLING, "val_loss": OVERFITTING}, [("val_loss", WARNING)]),
        ({"loss": FALLING, "val_loss": OVERFITTING, "val_acc": LINE}, [("val_loss", NOTE)]),
        ({"loss": FALLING, "val_loss": FALLING + 0.1}, []),
        ({"loss": RISES_AT_120, "val_loss": RISES_AT_120}, []),  # not overfit: both rise
        ({"val_loss": OVERFITTING}, []),
    ],
)
def test_overfit(columns: Columns, expected: list[tuple[str, Severity]]) -> None:
    found = speak(overfit, columns)
    assert [each[:2] for each in found] == expected
    assert all(abs(onset - 60) <= N / 10 for _, _, onset in found)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"loss": np.where(np.arange(N) >= 100, 0.6931, FALLING)}, [("loss", WARNING, 100)]),
        ({"loss": np.where(np.arange(N) >= 100, 0.001, FALLING)}, []),  # it is learned
        ({"loss": np.full(N, 2.3026)}, [("loss", WARNING, 0)]),
        ({"loss": 2.3026 + noise(1e-3)}, [("loss", WARNING, 0)]),
        ({"loss": 2.3 + noise(0.2)}, [("loss", NOTE, 0)]),
        ({"loss": FALLING}, []),
        ({"rollout/ep_rew_mean": np.minimum(500, 10 + 1000 * LINE)}, []),  # the best there is
        ({"rollout/ep_rew_mean": np.full(N, -200.0)}, [("rollout/ep_rew_mean", NOTE, 0)]),
        ({"train/value_loss": 5 + noise(0.1), "rollout/ep_rew_mean": LEARNS}, []),
    ],
)
def test_stalled(columns: Columns, expected: list[tuple[str, Severity, int]]) -> None:
    assert speak(stalled, columns) == expected


STILL = 0.97 - 0.002 * LINE[:10]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"val_loss": STILL, "val_accuracy": np.full(10, 0.371)}, [("val_accuracy", WARNING, 0)]),
        ({"val_loss": STILL[:9], "val_accuracy": np.full(9, 0.371)}, []),  # too few to say so
        ({"val_loss": STILL, "val_accuracy": np.full(10, 1.0)}, []),
        ({"val_loss": STILL, "val_accuracy": np.append(np.full(9, 0.371), 0.372)}, []),
        ({"val_loss": STILL, "loss": 2 - 0.1 * np.arange(10), "val_accuracy": np.full(10, 0.371)}, []),
        ({"val_accuracy": np.full(10, 0.371)}, []),
        ({"loss": STILL, "success_rate": np.zeros(10), "ep_rew_mean": LEARNS[:10]}, []),
    ],
)
def test_a_network_that_answers_always_the_same(columns: Columns, expected: list) -> None:
    assert speak(stalled, columns) == expected


def bump(at: int, height: float, base: np.ndarray = FALLING) -> np.ndarray:
    return np.where(np.arange(N) == at, height, base)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"loss": FALLING}, []),
        ({"loss": bump(150, 60.0)}, [("loss", WARNING, 150)]),
        ({"loss": bump(150, 8.0)}, [("loss", NOTE, 150)]),  # and is back at once
        ({"loss": bump(150, 60.0), "ep_rew_mean": LEARNS}, [("loss", NOTE, 150)]),
        ({"loss": np.random.default_rng(0).pareto(1.5, N)}, []),  # it jumps all the time
        ({"lr": bump(150, 60.0), "accuracy": bump(150, 60.0)}, []),
    ],
)
def test_spikes(columns: Columns, expected: list[tuple[str, Severity, int]]) -> None:
    assert speak(spike, columns) == expected


@pytest.mark.parametrize(
    ("columns", "speaks"),
    [
        ({"loss": 2 + 1.5 * np.sin(np.arange(N))}, True),
        ({"loss": FALLING}, False),
        ({"loss": (2 + 1.5 * np.sin(np.arange(N))) * (1.1 - LINE)}, False),  # it falls
        ({"val_loss": 2 + 1.5 * np.sin(np.arange(N))}, False),
        ({"loss": 2 + 1.5 * np.sin(np.arange(N)), "ep_rew_mean": LEARNS}, False),
    ],
)
def test_oscillation(columns: Columns, speaks: bool) -> None:
    assert bool(speak(oscillating_loss, columns)) is speaks


@pytest.mark.parametrize("make", [lambda: build_log({"loss": [1.0]}), lambda: build_log({"text": [np.nan]})])
@pytest.mark.parametrize(
    "rule",
    [unrecorded_metric, rising_loss, diverging_heads, regressing_metric, spike, overfit, stalled, nonfinite_metric,
     oscillating_loss, learning_rate_zero, learning_rate_unusual],
    ids=lambda rule: rule.code,
)  # fmt: skip
def test_a_single_record_says_nothing(rule: Rule, make: Callable[[], TrainingLog]) -> None:
    assert not list(rule.examine(make()))


def heads(rise: float) -> Columns:
    return {"loss_a": 1 + rise * LINE + noise(0.001), "loss_b": 1 - 0.5 * LINE + noise(0.001, 1)}


def dead(from_: int) -> Columns:
    return {"loss": np.where(np.arange(N) >= from_, 0.6931, FALLING)}


LIMITS: dict[tuple[Rule, str], tuple[Columns, Columns, float | int]] = {
    (unrecorded_metric, "fewest"): ({"grad_norm": np.zeros(4)}, {"grad_norm": np.zeros(5)}, 6),
    (rising_loss, "rise"): ({"loss": 1 + 0.28 * LINE}, {"loss": 1 + 0.36 * LINE}, 0.4),
    (rising_loss, "rise_of_head"): (
        {**heads(0.45), "reward": 1 + LINE}, {**heads(0.6), "reward": 1 + LINE}, 0.7
    ),
    (rising_loss, "explosion"): (
        {"critic_loss": np.exp(6 * LINE), "reward": noise(1)},
        {"critic_loss": np.exp(10 * LINE), "reward": noise(1)},
        1e6,
    ),
    (diverging_heads, "apart"): (
        {"loss_a": 1 + 0.2 * LINE, "loss_b": 1 - 0.15 * LINE},
        {"loss_a": 1 + 0.3 * LINE, "loss_b": 1 - 0.25 * LINE},
        2.0,
    ),
    (regressing_metric, "lost"): (
        {"reward": np.minimum(200 * LINE, 100) - 90 * np.maximum(LINE - 0.5, 0)},
        {"reward": np.minimum(200 * LINE, 100) - 120 * np.maximum(LINE - 0.5, 0)},
        0.9,
    ),
    (spike, "sigmas"): ({"loss": bump(150, 0.3)}, {"loss": bump(150, 30.0)}, 1000.0),
    (overfit, "rise"): (
        {"loss": FALLING, "val_loss": 3 - 1.5 * np.minimum(LINE, 0.3) / 0.3 + 0.3 * np.maximum(LINE - 0.3, 0)},
        {"loss": FALLING, "val_loss": 3 - 1.5 * np.minimum(LINE, 0.3) / 0.3 + 0.9 * np.maximum(LINE - 0.3, 0)},
        0.9,
    ),
    (stalled, "share"): (dead(155), dead(145), 0.5),
    (oscillating_loss, "swing"): (
        {"loss": 2 + 0.9 * np.sin(np.arange(N))}, {"loss": 2 + 1.3 * np.sin(np.arange(N))}, 2.0
    ),
    (learning_rate_zero, "share"): (
        {"lr": np.where(np.arange(N) < 185, 1e-3, 0)}, {"lr": np.where(np.arange(N) < 175, 1e-3, 0)}, 0.2
    ),
    (learning_rate_unusual, "highest"): ({"lr": np.full(N, 99.0)}, {"lr": np.full(N, 101.0)}, 200),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit[0].code} {limit[1]}")
def test_every_limit_from_both_sides(limit: tuple[Rule, str]) -> None:
    rule, option = limit
    calm, loud, moved = LIMITS[limit]
    assert not speak(rule, calm)
    assert speak(rule, loud)
    assert not speak(rule, loud, **{option: moved})


def test_no_option_is_without_its_limit() -> None:
    rules = [each for each in discover().rules if each.on is TrainingLog]
    assert {(rule.code, option) for rule in rules for option in rule.options} == {
        (rule.code, option) for rule, option in LIMITS
    }
