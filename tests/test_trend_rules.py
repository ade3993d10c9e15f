"""The rules about series, by tables: silent where nothing began, speaking where it did, with the right onset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.trends import gradients, movement, norms, settings, zeros
from checkpoint_doctor.checkpoint import Series
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_series, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
WEIGHT, OTHER, BIAS = "net.0.weight", "net.2.weight", "net.0.bias"

Figures = Mapping[str, Sequence[float]]


def weight(changes: Sequence[float], norm: float | Sequence[float] = 4.0) -> Figures:
    """Figures of a tensor that moves by some shares of its norm from checkpoint to checkpoint."""
    return {
        "change": [nan, *changes],
        "still_fraction": [nan, *(1.0 if change == 0 else 0.0 for change in changes)],
        "norm": [norm] * (len(changes) + 1) if isinstance(norm, float) else norm,
        "zero_fraction": [0.0] * (len(changes) + 1),
    }


def shares(name: str, *percent: float) -> Figures:
    return {name: [each / 100 for each in percent]}


def vanishing(*percent: float, scattered: Sequence[float] | None = None) -> Figures:
    beyond = percent if scattered is None else scattered
    return {
        "vanished_fraction": [each / 100 for each in percent],
        "scattered_fraction": [each / 100 for each in beyond],
    }


MOVING = [0.1, 0.09, 0.08, 0.08, 0.07, 0.07, 0.07]


@dataclass(frozen=True)
class Case:
    rule: Rule
    tensors: Mapping[str, Figures]
    found: Mapping[str | None, tuple[Severity, int]] = field(default_factory=dict)
    """Tensor to the severity and the onset's step of the finding about it."""
    more: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    # TRD001
    "a bias that is zeroed at each save": Case(
        zeros.zeros_growing, {BIAS: shares("zero_fraction", 0, 0, 0, 0, 100, 100, 100)}, {BIAS: (ERROR, 500)}
    ),
    "some zeros": Case(
        zeros.zeros_growing, {BIAS: shares("zero_fraction", 0, 0, 0, 0, 12, 12, 12)}, {BIAS: (WARNING, 500)}
    ),
    "few zeros": Case(zeros.zeros_growing, {BIAS: shares("zero_fraction", 0, 0, 0, 0, 9, 9, 9)}),
    "zeros of two files": Case(zeros.zeros_growing, {BIAS: shares("zero_fraction", 0, 50)}, {BIAS: (ERROR, 200)}),
    "zeros from the start": Case(zeros.zeros_growing, {BIAS: shares("zero_fraction", 50, 50, 50, 50, 50)}),
    "zeros that come and go": Case(zeros.zeros_growing, {BIAS: shares("zero_fraction", 0, 0, 40, 0, 0, 0)}),
    "gradual pruning": Case(
        zeros.zeros_growing,
        {WEIGHT: shares("zero_fraction", 0, 0, 20, 40, 60, 80), OTHER: shares("zero_fraction", 0, 0, 20, 40, 60, 80)},
        {WEIGHT: (WARNING, 300), OTHER: (WARNING, 300)},
    ),
    "biases that are trained away from zero": Case(
        zeros.zeros_growing, {BIAS: shares("zero_fraction", 30, 23, 8, 5, 5, 5, 0, 0, 0, 0)}
    ),
    # TRD010
    "healing": Case(
        zeros.zeros_healing,
        {BIAS: shares("zero_fraction", 30, 23, 8, 5, 5, 5, 0, 0, 0, 0)},
        {BIAS: (NOTE, 700)},
    ),
    "nothing to heal": Case(zeros.zeros_healing, {BIAS: shares("zero_fraction", 9, 8, 7, 6, 5)}),
    # TRD002
    "growth by a factor": Case(
        norms.norm_explosion,
        {
            WEIGHT: weight(
                [0.1, 0.1, 0.1, 0.28, 0.28, 0.28, 0.28],
                norm=[4, 4.02, 4.01, 4.03, 5.15, 6.6, 8.44, 10.8],
            )
        },
        {WEIGHT: (WARNING, 500)},
    ),
    "growth that becomes slower": Case(
        norms.norm_explosion,
        {
            WEIGHT: weight(
                [0.16, 0.17, 0.16, 0.14, 0.12, 0.11, 0.1],
                norm=[1.07, 1.22, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4],
            )
        },
    ),
    "explosion": Case(
        norms.norm_explosion,
        {WEIGHT: {"norm": [4, 4, 4, 4, 500, 9000, 90000], "change": [nan, *[9.0] * 6]}},
        {WEIGHT: (WARNING, 500)},
    ),
    "a head that starts small": Case(
        norms.norm_explosion, {WEIGHT: {"norm": [0.01, 0.1, 0.5, 1, 1.5, 2], "change": [nan, *[1.5] * 5]}}
    ),
    # TRD003
    "a frozen layer": Case(
        movement.frozen_tensor,
        {WEIGHT: weight([0.1, 0.1, 0.1, 0, 0, 0, 0]), OTHER: weight(MOVING)},
        {WEIGHT: (WARNING, 500)},
    ),
    "a layer that froze on the way": Case(
        movement.frozen_tensor,
        {WEIGHT: weight([0.1, 0.1, 0.1, 0.002, 0, 0, 0]), OTHER: weight(MOVING)},
        {WEIGHT: (WARNING, 500)},
    ),
    "a rate of 0": Case(
        movement.frozen_tensor,
        {WEIGHT: weight([0.1, 0.1, 0.1, 0, 0, 0, 0]), OTHER: weight([0.1, 0.1, 0.1, 0, 0, 0, 0])},
        {WEIGHT: (WARNING, 500), OTHER: (WARNING, 500)},
    ),
    "a schedule that has finished": Case(
        movement.frozen_tensor,
        {WEIGHT: weight([0.1, 0.06, 0.03, 0.001, 0, 0]), OTHER: weight([0.1, 0.06, 0.03, 0.001, 0, 0])},
        {WEIGHT: (NOTE, 500), OTHER: (NOTE, 500)},
    ),
    "frozen from the start": Case(
        movement.frozen_tensor, {WEIGHT: weight([0] * 7), OTHER: weight(MOVING)}, {WEIGHT: (NOTE, 100)}
    ),
    "before learning starts": Case(
        movement.frozen_tensor, {WEIGHT: weight([0, 0, 0.1, 0.1]), OTHER: weight([0, 0, 0.1, 0.1])}
    ),
    "rests and goes on": Case(
        movement.frozen_tensor, {WEIGHT: weight([0.1, 0, 0.1, 0, 0.1, 0, 0]), OTHER: weight(MOVING)}
    ),
    "half precision": Case(
        movement.frozen_tensor,
        {WEIGHT: weight([0.1, 0.1, 0.1, 0, 0, 0, 0]), OTHER: weight(MOVING)},
        {WEIGHT: (NOTE, 500)},
        {"dtypes": {WEIGHT: "bfloat16", OTHER: "bfloat16"}},
    ),
    "a clamped number": Case(
        movement.frozen_tensor,
        {"logit_scale": weight([0.1, 0.1, 0.1, 0, 0, 0, 0]), OTHER: weight(MOVING)},
        {"logit_scale": (NOTE, 500)},
        {"shapes": {"logit_scale": ()}},
    ),
    # TRD007, TRD008
    "all layers jump": Case(
        movement.update_norm_doubling,
        {WEIGHT: weight([0.05, 0.05, 0.05, 0.6, 0.5]), OTHER: weight([0.05, 0.05, 0.05, 0.6, 0.5])},
        {WEIGHT: (WARNING, 500), OTHER: (WARNING, 500)},
    ),
    "a warm restart": Case(
        movement.update_norm_doubling,
        {WEIGHT: weight([0.5, 0.1, 0.01, 0.5, 0.1]), OTHER: weight([0.5, 0.1, 0.01, 0.5, 0.1])},
    ),
    "a warmup": Case(
        movement.update_norm_doubling,
        {WEIGHT: weight([0.01, 0.05, 0.2, 0.4, 0.4]), OTHER: weight([0.01, 0.05, 0.2, 0.4, 0.4])},
    ),
    "a steep warmup": Case(
        movement.update_norm_doubling,
        {WEIGHT: weight([0.05, 0.15, 0.5, 0.5]), OTHER: weight([0.05, 0.15, 0.5, 0.5])},
    ),
    "a steep warmup is no matter of one": Case(
        movement.rewritten_tensor,
        {WEIGHT: weight([0.05, 0.15, 0.5, 0.5]), OTHER: weight([0.05, 0.15, 0.5, 0.5])},
    ),
    "half of the units of one layer are cut early": Case(
        movement.rewritten_tensor,
        {WEIGHT: weight([0.21, 0.19, 0.67, 0.2]), OTHER: weight([0.15, 0.13, 0.15, 0.1])},
        {WEIGHT: (WARNING, 400)},
    ),
    "checkpoints farther apart": Case(
        movement.update_norm_doubling,
        {WEIGHT: weight([0.01, 0.01, 0.01, 0.5]), OTHER: weight([0.01, 0.01, 0.01, 0.5])},
        more={"steps": [100, 200, 300, 400, 10_000]},
    ),
    "one layer is drawn anew": Case(
        movement.rewritten_tensor,
        {WEIGHT: weight([0.1, 0.1, 0.1, 1.4, 0.1]), OTHER: weight(MOVING[:5]), "net.4.weight": weight(MOVING[:5])},
        {WEIGHT: (WARNING, 500)},
    ),
    "one layer of a restless agent is drawn anew": Case(
        movement.rewritten_tensor,
        {WEIGHT: weight([0.4, 0.4, 0.3, 1.1, 0.1]), OTHER: weight(MOVING[:5])},
        {WEIGHT: (WARNING, 500)},
    ),
    "all layers are no matter of one": Case(
        movement.rewritten_tensor,
        {WEIGHT: weight([0.1, 0.1, 0.1, 0.9, 0.5]), OTHER: weight([0.05, 0.05, 0.05, 0.8, 0.5])},
    ),
    "a bias next to nothing": Case(
        movement.rewritten_tensor,
        {WEIGHT: weight(MOVING[:5]), BIAS: weight([1.0, 1.0, 1.0, 9.0, 1.0], norm=0.001), OTHER: weight(MOVING[:5])},
    ),
    # TRD004
    "units that are killed": Case(
        gradients.dormant_units_growing,
        {WEIGHT: shares("dormant_fraction", 0, 0, 0, 0, 25, 25, 25, 25)},
        {WEIGHT: (WARNING, 500)},
    ),
    "units that fall asleep slowly": Case(
        gradients.dormant_units_growing,
        {WEIGHT: shares("dormant_fraction", 5, 8, 12, 15, 20, 24, 27, 30)},
        {WEIGHT: (NOTE, 200)},
    ),
    "units that fall asleep in the first updates": Case(
        gradients.dormant_units_growing,
        {WEIGHT: shares("dormant_fraction", 4.7, 50, 45.3, *[46.9] * 4, 45.3, *[46.9] * 4)},
        {WEIGHT: (NOTE, 200)},
    ),
    "few units": Case(
        gradients.dormant_units_growing, {WEIGHT: shares("dormant_fraction", 0, 0, 0, 0, 15, 15, 15, 15)}
    ),
    # TRD005
    "the third case": Case(
        gradients.gradient_vanishing, {WEIGHT: vanishing(4.4, 4.4, 27.3, 65.4)}, {WEIGHT: (ERROR, 300)}
    ),
    "some gradients": Case(
        gradients.gradient_vanishing, {WEIGHT: vanishing(1, 1, 1, 1, 15, 15, 15, 15)}, {WEIGHT: (WARNING, 500)}
    ),
    "gradients of dormant units": Case(
        gradients.gradient_vanishing,
        {WEIGHT: vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0] * 8)},
    ),
    "units of a healthy network that fall asleep slowly": Case(
        gradients.gradient_vanishing,
        {
            WEIGHT: vanishing(
                *(7.8, 8.5, 15.2, 13.2, 17.6, 19.4, 19.4, 24.2, 23.6, 24.5, 23.2, 25.1),
                scattered=[5.7, 6.4, 8.9, 7.0, 7.2, 11.1, 6.9, 9.6, 11.1, 7.9, 8.6, 6.3],
            )
        },
    ),
    "mostly units": Case(
        gradients.gradient_vanishing,
        {WEIGHT: vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0, 0, 0, 0, 10, 10, 10, 10])},
        {WEIGHT: (WARNING, 500)},
    ),
    "no reward for a while": Case(
        gradients.gradient_vanishing,
        {WEIGHT: vanishing(0, 0, 0, 0, 100, 100, 100, 100), OTHER: vanishing(0, 0, 0, 0, 100, 100, 100, 100)},
        {WEIGHT: (NOTE, 500), OTHER: (NOTE, 500)},
    ),
    # TRD009
    "inputs that wake up": Case(
        gradients.waking_inputs,
        {WEIGHT: shares("untouched_columns", 25, 25, 25, 0, 0, 0)},
        {WEIGHT: (WARNING, 400)},
    ),
    "rare inputs one by one": Case(
        gradients.waking_inputs, {WEIGHT: shares("untouched_columns", 40, 30, 22, 15, 10, 0)}
    ),
    "inputs that stay asleep": Case(gradients.waking_inputs, {WEIGHT: shares("untouched_columns", 25, 25, 25, 25)}),
    "a layer that is unfrozen": Case(
        gradients.waking_inputs, {WEIGHT: {"still_columns": [nan, 1, 1, 1, 0, 0], "norm": [1.0] * 6}}
    ),
    "inputs that wake up without an optimizer": Case(
        gradients.waking_inputs, {WEIGHT: {"still_columns": [nan, 0.2, 0.2, 0.2, 0, 0]}}, {WEIGHT: (WARNING, 500)}
    ),
    # TRD006
    "a setting that shrinks at each load": Case(
        settings.hyperparameter_drift,
        {WEIGHT: {"norm": [1.0] * 4}},
        {None: (WARNING, 200)},
        {"settings": [{"target_update_interval": each} for each in (2500, 625, 156, 9)]},
    ),
    "a schedule": Case(
        settings.hyperparameter_drift,
        {WEIGHT: {"norm": [1.0] * 4}},
        more={
            "settings": [
                {"optimizer.lr": each, "clip_range": each, "num_timesteps": 100 / each, "optimizer.betas0": 1 - each}
                for each in (0.4, 0.3, 0.2, 0.1)
            ]
        },
    ),
    "a setting that changes once": Case(
        settings.hyperparameter_drift,
        {WEIGHT: {"norm": [1.0] * 4}},
        more={"settings": [{"batch_size": each} for each in (64, 64, 128, 128)]},
    ),
}


def build(case: Case) -> Series:
    return build_series(case.tensors, **case.more)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_where_something_began_and_nowhere_else(name: str) -> None:
    case = CASES[name]

    found = findings_of(case.rule, build(case))

    assert {each.tensor: (each.severity, each.evidence["onset_step"]) for each in found} == dict(case.found)


EDGES: dict[tuple[Rule, str], tuple[str, Any]] = {
    (zeros.zeros_growing, "points"): ("some zeros", 13.0),
    (zeros.zeros_healing, "points"): ("healing", 31.0),
    (norms.norm_explosion, "growth"): ("explosion", 1e6),
    (movement.update_norm_doubling, "ratio"): ("all layers jump", 17.0),
    (movement.update_norm_doubling, "share"): ("all layers jump", 0.95),
    (movement.rewritten_tensor, "share"): ("one layer is drawn anew", 0.1),
    (movement.rewritten_tensor, "ratio"): ("one layer is drawn anew", 3.5),
    (gradients.dormant_units_growing, "points"): ("units that are killed", 26.0),
    (gradients.gradient_vanishing, "points"): ("some gradients", 15.0),
    (gradients.waking_inputs, "points"): ("inputs that wake up", 26.0),
    (settings.hyperparameter_drift, "saves"): ("a setting that shrinks at each load", 4),
}
"""Rule and option to a case that the option silences, and the value that does."""


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge[0].code}-{edge[1]}")
def test_an_option_moves_its_limit(edge: tuple[Rule, str]) -> None:
    rule, option = edge
    name, value = EDGES[edge]
    if rule is movement.rewritten_tensor:
        calm = build_series(
            {
                WEIGHT: weight([0.1, 0.1, 0.1, 0.4 if option == "ratio" else 0.2, 0.1]),
                OTHER: weight(MOVING[:5]),
            }
        )
        assert not findings_of(rule, calm)
        assert findings_of(rule, calm, **{option: value, **({"ratio": 1.5} if option == "share" else {})})
        return
    assert findings_of(rule, build(CASES[name]))
    assert not findings_of(rule, build(CASES[name]), **{option: value})


@pytest.mark.parametrize(
    ("rule", "name"), [(zeros.zeros_growing, "some zeros"), (gradients.gradient_vanishing, "some gradients")]
)
def test_the_limit_of_errors_is_an_option(rule: Rule, name: str) -> None:
    findings = findings_of(rule, build(CASES[name]), points_of_error=11.0)
    assert [finding.severity for finding in findings] == [ERROR]


def test_no_option_is_without_its_limit() -> None:
    rules = [rule for rule in discover().rules if rule.package == "checkpoint_doctor" and rule.on is Series]
    options = {(rule.code, option) for rule in rules for option in rule.options}
    assert options == {(rule.code, option) for rule, option in EDGES} | {
        ("TRD001", "points_of_error"),
        ("TRD005", "points_of_error"),
    }
    assert {case.rule for case in CASES.values()} == set(rules)


def test_copies_and_statistics_are_not_judged() -> None:
    series = build(CASES["a frozen layer"])
    for mark in ({"is_copy": True}, {"is_statistic": True}):
        tensors = tuple(replace(each, **mark) if each.name == WEIGHT else each for each in series.tensors)
        assert not findings_of(movement.frozen_tensor, replace(series, tensors=tensors))


def test_rules_stand_figures_that_nobody_knows() -> None:
    for rule in (each for each in discover().rules if each.on is Series):
        for length in (2, 3, 12):
            assert not findings_of(rule, build_series({WEIGHT: {"norm": [nan] * length}}))
            noise = np.random.default_rng(0).normal(size=length)
            findings_of(rule, build_series({WEIGHT: {name: list(noise) for name in ("norm", "change")}}))
