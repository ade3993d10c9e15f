"""Every limit of the rule about schedules, from both sides, and each of its conditions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.resuming.schedules import UNCERTAIN, schedule_mismatch
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of


def run(*schedules: dict[str, Any], updates: int = 300, rate: float = 1e-3, **settings: Any) -> Checkpoint:
    """An Adam after so many updates at this learning rate, beside schedules."""
    weights = {"net.weight": np.random.default_rng(0).normal(0, 0.1, (8, 8))}
    state = {"net.weight": {"step": updates, "exp_avg": np.full((8, 8), 1e-3), "exp_avg_sq": np.full((8, 8), 1e-4)}}
    parts = [Part(f"scheduler{number}", Content.SCHEDULER, each) for number, each in enumerate(schedules)]
    options = {"lr": rate, "betas": (0.9, 0.999), "eps": 1e-8, **settings.pop("options", {})}
    return build_checkpoint(weights, optimizer=state, optimizer_options=options, parts=parts, **settings)


def causes(checkpoint: Checkpoint) -> list[str]:
    return [each.evidence["cause"] for each in findings_of(schedule_mismatch, checkpoint)]


@pytest.mark.parametrize(
    ("given", "differs"),
    [
        ([1.0009e-3], False),
        ([1.0011e-3], True),
        ([0.9989e-3], True),
        (["0.5"], False),
        ([0.5, 0.5], False),
        (0.5, False),
    ],
)
def test_rates_that_differ_by_a_thousandth(given: Any, differs: bool) -> None:
    assert causes(run({"last_epoch": 300, "_last_lr": given})) == ["rates differ"] * differs


def test_rates_near_zero_are_equal() -> None:
    assert causes(run({"last_epoch": 300, "_last_lr": [0.9e-15]}, rate=0.0)) == []
    assert causes(run({"last_epoch": 300, "_last_lr": [1.05e-15]}, rate=0.0)) == ["rates differ"]


def test_schedules_that_set_the_rate_in_turn_are_not_compared() -> None:
    one, other = {"last_epoch": 300, "_last_lr": [1e-3]}, {"last_epoch": 300, "_last_lr": [0.5]}
    assert causes(run(one, other)) == []


def test_a_rate_is_compared_only_with_one_that_is_known() -> None:
    checkpoint = run({"last_epoch": 300, "_last_lr": [0.5]})
    (optimizer,) = checkpoint.optimizers
    group = replace(optimizer.groups[0], options={"betas": (0.9, 0.999)})
    assert causes(replace(checkpoint, optimizers=(replace(optimizer, groups=(group,)),))) == []


def test_every_optimizer_is_paired_with_its_schedule() -> None:
    one = run({"last_epoch": 300, "_last_lr": [1e-3]}, {"last_epoch": 300, "_last_lr": [0.5]})
    second = replace(one.optimizers[0], name="second")
    (finding,) = findings_of(schedule_mismatch, replace(one, optimizers=(one.optimizers[0], second)))
    assert finding.evidence == {
        "cause": "rates differ",
        "scheduler": "scheduler1",
        "optimizer": "second",
        "position": 300,
        "updates": 300,
    }
    assert finding.message == "scheduler1 has set a learning rate of 0.5, but second has 0.001"
    # Nobody can tell which of two optimizers a single schedule belongs to.
    single = run({"last_epoch": 300, "_last_lr": [0.5]})
    assert causes(replace(single, optimizers=(single.optimizers[0], second))) == []


def test_a_schedule_of_the_optimizers_own_state_is_passed_over() -> None:
    checkpoint = run()
    parts = (Part("optimizer/schedule", Content.SCHEDULER, {"last_epoch": 300, "_last_lr": [0.5]}),)
    assert causes(replace(checkpoint, parts=parts)) == []
    others = (Part("scaler", Content.LOSS_SCALER, {"last_epoch": 300, "_last_lr": [0.5]}),)
    assert causes(replace(checkpoint, parts=others)) == []


@pytest.mark.parametrize(
    ("fields", "rate", "expected"),
    [
        ({"total_iters": 150}, 0.0, "ended early"),
        ({"total_iters": 151}, 0.0, ""),
        ({"total_iters": 100}, 0.0, "ended early"),
        ({"total_iters": 20}, 1e-9, "ended early"),
        ({"total_iters": 20}, -1e-9, "ended early"),
        ({"total_iters": 20}, 1.01e-9, ""),
        ({"total_iters": 20, "base_lrs": []}, 0.0, ""),
        ({"total_iters": 20, "base_lrs": [0.0]}, 0.0, ""),
        ({"total_iters": float("nan")}, 0.0, ""),
        ({"total_iters": "20"}, 0.0, ""),
        ({}, 0.0, ""),
        ({"T_max": 100}, 1e-3, "beyond its length"),
        ({"T_max": 101}, 1e-3, ""),
        ({"gamma": 0.1}, 1e-9, "rate collapsed"),
        ({"gamma": 0.1}, 1.01e-9, ""),
        ({"gamma": 0.1}, 0.0, ""),
        ({"gamma": 0.1, "base_lrs": []}, 1e-9, ""),
        ({"gamma": 0.1, "T_max": 400}, 1e-9, ""),
        ({}, 1e-9, ""),
    ],
)
def test_the_length_of_a_schedule(fields: dict[str, Any], rate: float, expected: str) -> None:
    schedule = {"last_epoch": 300, "base_lrs": [1e-3], "_last_lr": [rate], **fields}
    assert causes(run(schedule, rate=rate)) == ([expected] if expected else [])


def test_a_huge_length_is_none() -> None:
    schedule = {"last_epoch": 3 * 10**15, "base_lrs": [1e-3], "_last_lr": [0.0]}
    assert causes(run({**schedule, "total_iters": 1e15}, rate=0.0, updates=3 * 10**15)) == []
    assert causes(run({**schedule, "total_iters": 0.99e15}, rate=0.0, updates=3 * 10**15)) == ["ended early"]


def test_the_initial_rate_is_taken_from_the_optimizer_where_the_schedule_has_none() -> None:
    schedule = {"last_epoch": 300, "gamma": 0.1, "_last_lr": [1e-9]}
    assert causes(run(schedule, rate=1e-9, options={"initial_lr": 1e-3})) == ["rate collapsed"]
    assert causes(run(schedule, rate=1e-9)) == []


def test_a_cosine_is_not_beyond_its_length_while_the_optimizer_counts_more() -> None:
    schedule = {"last_epoch": 300, "_last_lr": [1e-3], "T_max": 10}
    (finding,) = findings_of(schedule_mismatch, run(schedule, updates=300))
    assert (finding.severity, finding.evidence["cause"]) == (Severity.NOTE, "beyond its length")
    assert finding.message == (
        "scheduler0 was made for 10 steps and has made 300: the rate rises and falls again and again"
    )
    assert causes(run(schedule, updates=301)) == []


PLATEAU = {"last_epoch": 300, "num_bad_epochs": 2, "factor": 0.5, "eps": 1e-8, "min_lrs": [0.0]}


@pytest.mark.parametrize(
    ("fields", "rate", "collapsed"),
    [
        ({}, 2e-8, True),
        ({}, 2.1e-8, False),
        ({}, 0.0, False),
        ({"min_lrs": [2e-8]}, 2e-8, False),
        ({"min_lrs": [1.9e-8]}, 2e-8, True),
        ({"min_lrs": ["none"]}, 2e-8, True),
        ({"min_lrs": 2e-8}, 2e-8, True),
        ({"factor": None}, 2e-8, False),
        ({"eps": None}, 2e-8, False),
        ({"factor": 0.9}, 9e-8, True),
    ],
)
def test_a_plateau_that_has_lowered_the_rate_as_far_as_it_can(
    fields: dict[str, Any], rate: float, collapsed: bool
) -> None:
    found = findings_of(schedule_mismatch, run({**PLATEAU, "_last_lr": [rate], **fields}, rate=rate))
    assert [each.evidence["cause"] for each in found] == ["rate collapsed"] * collapsed
    assert all("in 300 steps, as far as it can" in each.message for each in found)


def test_only_a_plateau_has_a_least_change() -> None:
    schedule = {key: value for key, value in PLATEAU.items() if key != "num_bad_epochs"}
    assert causes(run({**schedule, "_last_lr": [1e-9]}, rate=1e-9)) == []


@pytest.mark.parametrize(
    ("position", "updates", "counters", "speaks"),
    [
        (7, 50, {}, True),
        (7, 48, {}, False),
        (299, 300, {}, False),
        (301, 300, {}, False),
        (298, 300, {}, True),
        (302, 300, {}, True),
        (-1, 300, {}, False),
        (2, 301, {}, True),
        (100, 300, {}, False),  # once per epoch
        (600, 300, {}, False),  # twice per update
        (7, 300, {"step": 8}, False),
        (7, 300, {"step": 14}, False),
        (7, 300, {"step": 16}, True),
        (7, 300, {"epoch": 15}, True),
        (0, 300, {"epoch": 2}, True),
        (0, 300, {"epoch": 1}, False),
        (0, 300, {"epoch": 0}, False),
        (7, 300, {"epoch": 14}, False),
        (150, 300, {"epoch": 400}, True),
    ],
)
def test_the_position_of_a_schedule(position: int, updates: int, counters: dict[str, int], speaks: bool) -> None:
    schedule = {"last_epoch": position, "_last_lr": [1e-3], "total_steps": updates}
    assert causes(run(schedule, updates=updates, counters=counters)) == ["position"] * speaks


@pytest.mark.parametrize(
    ("length", "position", "cause"),
    [
        ({}, 151, "position"),
        ({}, 149, UNCERTAIN),
        ({}, 7, UNCERTAIN),  # saved within the eighth epoch, or begun anew
        ({}, 1, ""),  # saved at the end of the first epoch
        ({}, 0, UNCERTAIN),  # saved within the first epoch, or never stepped
        ({"T_max": 151}, 0, UNCERTAIN),
        ({"T_max": 150}, 0, ""),
        ({"T_max": 151}, 7, "position"),
        ({"T_max": 150}, 7, ""),  # its length is one of epochs
        ({"T_max": 10}, 7, ""),
        ({"total_iters": 151}, 7, "position"),
        ({"total_steps": 151}, 7, "position"),
    ],
)
def test_a_position_is_certain_where_the_schedule_counts_updates(
    length: dict[str, int], position: int, cause: str
) -> None:
    found = findings_of(schedule_mismatch, run({"last_epoch": position, "_last_lr": [1e-3], **length}, updates=300))
    assert [each.evidence["cause"] for each in found] == [cause] * bool(cause)
    assert all((each.severity is Severity.NOTE) == (cause == UNCERTAIN) for each in found)


def test_updates_of_the_file_count_as_well() -> None:
    schedule = {"last_epoch": 7, "_last_lr": [1e-3], "total_steps": 300}
    assert causes(run(schedule)) == ["position"]
    assert causes(replace(run(schedule), updates=8)) == []
    assert causes(replace(run({**schedule, "last_epoch": 0}), updates=300)) == [UNCERTAIN]
    assert causes(replace(run({**schedule, "last_epoch": -1}), updates=300)) == []


def test_a_schedule_without_a_position_is_not_compared() -> None:
    assert causes(run({"_last_lr": [1e-3]})) == []
    assert causes(run({"last_epoch": 7, "num_bad_epochs": 0, "_last_lr": [1e-3]})) == []
