"""Rules about optimizers at their borders, and the figures that they go by, from moments of known sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.layers import unused_rows
from checkpoint_doctor.builtin.analyzers.optimizer import (
    gradient_norms,
    gradients,
    optimizer,
    second_moments,
    step_sizes,
)
from checkpoint_doctor.checkpoint import Checkpoint, ParameterGroup
from checkpoint_doctor.checkpoint.optimizer_steps import (
    effective_step,
    implied_gradient_norm,
    largest_relative_step,
    relative_step,
)
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import draw, found

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def adam(first: Any, second: Any, *, step: int = 500, shape: tuple[int, ...] = (4, 4), **options: Any) -> Checkpoint:
    """One weight of ones whose corrected moments are these."""
    state = {
        "step": step,
        "exp_avg": np.broadcast_to(first, shape) * (1 - 0.9**step),
        "exp_avg_sq": np.broadcast_to(second, shape) * (1 - 0.999**step),
    }
    return build_checkpoint(
        {"0.weight": np.ones(shape)}, optimizer={"0.weight": state}, optimizer_options=ADAM | options
    )


HALVES = np.repeat([3e-3, 1e-3], 8).reshape(4, 4)


@pytest.mark.parametrize(
    ("checkpoint", "step", "bound"),
    [
        (adam(1e-3, 1e-4, eps=0.0), 0.1, 0.1),
        (adam(1e-3, 1e-4, eps=1e-2), 0.05, 0.1),
        (adam(HALVES, 1e-4, eps=0.0), sqrt(5) * 0.1, 0.3),
        (adam(1e-3, 1e-12, eps=1e-2), 1e-3 / (1e-6 + 1e-2), 0.1),
        (adam(np.where(HALVES > 2e-3, 1e-3, 0.0), np.where(HALVES > 2e-3, 1e-4, 0.0), eps=1e-20), sqrt(0.5) * 0.1, 0.1),
        (adam(0.0, 0.0), 0.0, 0.0),
    ],
    ids=["no epsilon", "epsilon as large", "two halves", "epsilon dominates", "half without gradient", "nothing"],
)
def test_the_next_step_is_bounded_without_reading_the_moments(
    checkpoint: Checkpoint, step: float, bound: float
) -> None:
    (whole,) = checkpoint.optimizers
    (moments,) = whole.parameters
    assert relative_step(moments, whole) == pytest.approx(step)
    found = largest_relative_step(moments, whole)
    assert found == pytest.approx(bound)
    assert found >= step * (1 - 1e-9)


def without(checkpoint: Checkpoint, **changes: Any) -> tuple[Any, Any]:
    (whole,) = checkpoint.optimizers
    moments = replace(whole.parameters[0], **changes)
    whole = replace(whole, parameters=(moments,))
    return moments, whole


@pytest.mark.parametrize(
    "subject",
    [
        without(adam(1e-3, 1e-4), step=None),
        without(adam(1e-3, 1e-4), step=0),
        without(adam(1e-3, 1e-4), state={}),
        without(adam(1e-3, 1e-4, betas=None)),
        without(adam(1e-3, 1e-4, shape=(0, 4))),
    ],
)
def test_a_step_of_unknown_size_is_unknown(subject: tuple[Any, Any]) -> None:
    moments, whole = subject
    assert not relative_step(moments, whole)
    assert not largest_relative_step(moments, whole)


def test_moments_that_are_not_finite_have_no_bound() -> None:
    for checkpoint in (
        adam(np.where(HALVES > 2e-3, np.nan, 1.0), 1.0),
        adam(1.0, np.where(HALVES > 2e-3, np.inf, 1.0)),
    ):
        (whole,) = checkpoint.optimizers
        assert largest_relative_step(whole.parameters[0], whole) is None


def both(one: Checkpoint, other: Checkpoint) -> Checkpoint:
    """The optimizer of both weights."""
    (first,), (second,) = one.optimizers, other.optimizers
    tensor = replace(other.tensors[0], name="2.weight")
    moments = replace(second.parameters[0], index=1, tensor="2.weight")
    group = replace(first.groups[0], indices=(0, 1))
    whole = replace(first, parameters=(first.parameters[0], moments), groups=(group,))
    return replace(one, tensors=(*one.tensors, tensor), optimizers=(whole,))


def test_steps_and_norms_are_means_over_all_parameters() -> None:
    whole = both(adam(1e-3, 1e-4, eps=0.0), adam(4e-3, 1e-4, shape=(4, 8), eps=0.0)).optimizers[0]
    assert effective_step(whole) == pytest.approx(sqrt((16 * 0.1**2 + 32 * 0.4**2) / 48))
    assert implied_gradient_norm(whole) == pytest.approx(sqrt(48 * 1e-4))
    assert effective_step(replace(whole, parameters=())) is None
    assert implied_gradient_norm(replace(whole, parameters=())) is None


# Too large, too small


def stepping(ratio: float, *, size: float = 1.0, **fields: Any) -> Checkpoint:
    """Steps of this share of weights of this size."""
    weight = size * np.where(np.arange(64).reshape(8, 8) % 2, 1.0, -1.0)
    fields = {"step": 500, "lr": 0.01, **fields}
    checkpoint = adam(ratio * size / fields["lr"], 1.0, shape=(8, 8), eps=0.0, **fields)
    return replace(checkpoint, tensors=build_checkpoint({"0.weight": weight}).tensors)


@pytest.mark.parametrize(
    ("checkpoint", "cause"),
    [
        (stepping(0.11), "too large"),
        (stepping(0.09), None),
        (stepping(0.11, step=100), "too large"),
        (stepping(0.11, step=99), None),
        (stepping(0.11, size=0.04), "too large"),
        (stepping(0.11, size=0.03), None),
        (stepping(0.9e-8), "too small"),
        (stepping(1.1e-8), None),
        (stepping(0.9e-8, initial_lr=0.02), None),
        (stepping(0.9e-8, initial_lr=0.005), "too small"),
        (stepping(0.09, initial_lr=0.02), None),
        (stepping(0.11, d_coef=1.0), None),
    ],
)
def test_steps_are_too_large_or_too_small(checkpoint: Checkpoint, cause: str | None) -> None:
    findings = found(step_sizes.update_ratio, checkpoint)
    assert [each.evidence["cause"] for each in findings] == ([] if cause is None else [cause])
    assert [each.severity for each in findings] == {None: [], "too large": [WARNING], "too small": [NOTE]}[cause]


def test_one_large_step_among_small_ones_is_told_of_its_tensor() -> None:
    whole = both(stepping(1e-3), stepping(0.2))
    (finding,) = found(step_sizes.update_ratio, whole)
    assert (finding.tensor, finding.evidence["ratio"]) == ("2.weight", pytest.approx(0.2))
    assert "changes it by 20% of its size" in finding.message
    assert "learning rate of 0.01 is too high" in finding.message
    assert found(step_sizes.update_ratio, both(stepping(0.9e-9), stepping(1e-3))) == []
    (finding,) = found(step_sizes.update_ratio, both(stepping(0.9e-9), stepping(0.9e-8)))
    assert finding.evidence["ratio"] == pytest.approx(0.9e-8)


def test_a_learning_rate_of_zero_says_nothing_of_steps() -> None:
    checkpoint = stepping(0.9e-8)
    (whole,) = checkpoint.optimizers
    groups = (replace(whole.groups[0], options=dict(whole.groups[0].options) | {"lr": 0.0}),)
    assert found(step_sizes.update_ratio, replace(checkpoint, optimizers=(replace(whole, groups=groups),))) == []


# Settings


def with_rates(*rates: Any, **others: Any) -> Checkpoint:
    checkpoint = adam(1e-3, 1e-4)
    (whole,) = checkpoint.optimizers
    groups = tuple(
        ParameterGroup({**ADAM, **others, "lr": rate}, (0,) if not n else ()) for n, rate in enumerate(rates)
    )
    return replace(checkpoint, optimizers=(replace(whole, groups=groups),))


@pytest.mark.parametrize(
    ("rates", "severity", "groups", "rate"),
    [
        ((1e-3,), None, [], 0),
        ((0.0,), NOTE, [0], 0.0),
        ((0.0, 1e-3, 0), NOTE, [0, 2], 0.0),
        ((-1e-3, 0.0, -2e-3), WARNING, [0, 2], -2e-3),
        ((False,), None, [], 0),
        (("auto",), None, [], 0),
    ],
)
def test_learning_rates_of_zero_and_below(
    rates: tuple[Any, ...], severity: Severity | None, groups: list[int], rate: float
) -> None:
    findings = found(optimizer.learning_rate_at_save, with_rates(*rates))
    assert [(each.severity, each.evidence["groups"], each.evidence["learning_rate"]) for each in findings] == (
        [] if severity is None else [(severity, groups, rate)]
    )


def clipped(norm: float, settings: Mapping[str, Any]) -> Checkpoint:
    """Second moments that imply a gradient of this norm."""
    return replace(adam(1e-3, norm**2 / 16), hyperparameters=dict(settings))


@pytest.mark.parametrize(
    ("norm", "settings", "speaks"),
    [
        (0.5, {"max_grad_norm": 0.5}, True),
        (0.5, {"gradient_clip_val": 0.5}, True),
        (0.5, {"grad_clip": 0.5}, True),
        (0.5 * 1.019, {"max_grad_norm": 0.5}, True),
        (0.5 * 1.021, {"max_grad_norm": 0.5}, False),
        (0.5 * 0.981, {"max_grad_norm": 0.5}, True),
        (0.5 * 0.979, {"max_grad_norm": 0.5}, False),
        (0.5, {"max_grad_norm": 0, "max_norm": 0.5}, True),
        (0.5, {"max_grad_norm": -0.5}, False),
        (1.0, {"max_grad_norm": True}, False),
        (0.5, {"clip": 0.5}, False),
    ],
)
def test_a_norm_that_equals_the_clip(norm: float, settings: Mapping[str, Any], speaks: bool) -> None:
    findings = found(gradient_norms.clip_saturated, clipped(norm, settings))
    assert len(findings) == speaks
    for each in findings:
        assert each.evidence == {"optimizer": "optimizer", "implied_gradient_norm": pytest.approx(norm), "clip": 0.5}


@pytest.mark.parametrize(
    ("second", "eps", "share"),
    [
        (1e-10, 1e-4, 1.0),
        (1e-6, 1e-4, None),
        (np.where(np.arange(16).reshape(4, 4) < 9, 1e-12, 1.0), 1e-3, 9 / 16),
        (np.where(np.arange(16).reshape(4, 4) < 8, 1e-12, 1.0), 1e-3, None),
        (np.where(np.arange(16).reshape(4, 4) < 9, 0.0, 1e-12), 1e-3, 1.0),
        (1e-10, 0, None),
        (1e-10, None, None),
        (0.0, 1e-4, None),
    ],
)
def test_most_gradients_below_epsilon(second: Any, eps: Any, share: float | None) -> None:
    findings = found(gradient_norms.epsilon_dominated, adam(0.1 * np.sqrt(second), second, eps=eps))
    assert [each.evidence["share"] for each in findings] == ([] if share is None else [pytest.approx(share, abs=0.02)])
    for each in findings:
        assert each.evidence["epsilon"] == eps
        assert f"of {eps:g}; its steps are" in each.message


# Rows


def rows(count: int, unused: Sequence[int], name: str = "embedding.weight", step: int = 300) -> Checkpoint:
    squares = np.full((count, 4), 1e-4)
    squares[list(unused)] = 0
    state = {"step": step, "exp_avg": squares, "exp_avg_sq": squares}
    return build_checkpoint({name: draw(count, 4)}, optimizer={name: state}, updates=step)


@pytest.mark.parametrize(
    ("checkpoint", "severity"),
    [
        (rows(17, range(13)), WARNING),
        (rows(16, range(12)), NOTE),
        (rows(1024, range(768)), WARNING),
        (rows(1024, range(767)), NOTE),
        (rows(1025, range(1024)), NOTE),
        (rows(40, range(4)), NOTE),
        (rows(41, range(4)), None),
        (rows(40, [0, 1, 2]), None),
        (rows(4, [2]), None),
        (rows(4, [1, 2]), NOTE),
        (rows(64, range(60), "pos_embedding.weight"), NOTE),
        (rows(64, range(60), "wpe.weight"), NOTE),
        (rows(2, [1], "action_net.weight"), WARNING),
        (rows(4, [1], "action_net.weight"), WARNING),
        (rows(5, [1], "action_net.weight"), NOTE),
        (rows(1, [], "action_net.weight"), None),
    ],
)
def test_unused_rows_of_tables_and_heads(checkpoint: Checkpoint, severity: Severity | None) -> None:
    findings = found(unused_rows.unused_rows, checkpoint)
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    assert all(bool(each.advice) is (each.severity is WARNING) for each in findings)


@pytest.mark.parametrize(
    "state", [{"other": np.ones((4, 4))}, {"exp_avg_sq": np.ones(4)}, {"exp_avg": np.ones((4, 4))}, {}]
)
def test_state_that_keeps_no_second_moment_of_rows_tells_nothing(state: Mapping[str, Any]) -> None:
    states = {"action_net.weight": {"step": 300, **state} if state else {}}
    checkpoint = build_checkpoint({"action_net.weight": draw(4, 4)}, optimizer=states, updates=300)
    assert found(unused_rows.unused_rows, checkpoint) == []


@pytest.mark.parametrize(("count", "words"), [(6, "(0, 1, 2, 3, 4, 5)"), (7, "(0, 1, 2, 3, 4, 5 …)")])
def test_the_first_six_rows_are_named(count: int, words: str) -> None:
    (finding,) = found(unused_rows.unused_rows, rows(30, range(count)))
    assert finding.message == f"{count} of 30 rows {words} received no gradient in 300 updates, and the others did"


# Nothing came


def second_of(value: NDArray, *, first: float = 1e-3) -> Checkpoint:
    state = {"step": 300, "exp_avg": np.full(value.shape, first), "exp_avg_sq": value}
    return build_checkpoint({"0.weight": draw(*value.shape)}, optimizer={"0.weight": state})


def test_infinite_second_moments_are_counted_and_replaced() -> None:
    squares = np.linspace(1, 2, 16).reshape(4, 4)
    squares[0, :2] = np.inf
    (finding,) = found(second_moments.poisoned_moments, second_of(squares))
    assert (finding.severity, finding.evidence["infinite"], finding.evidence["count"]) == (ERROR, 2, 16)
    assert finding.evidence["tensors"] == ["0.weight"]
    assert finding.message.startswith("2 of 16 second moments in 1 tensors of optimizer are infinite")
    (repair,) = finding.repairs
    assert np.isfinite(repair.renew(squares, np.random.default_rng(0))).all()
    squares[3, 3] = np.nan
    (finding,) = found(second_moments.poisoned_moments, second_of(squares))
    assert finding.repairs == ()
    assert found(second_moments.poisoned_moments, second_of(np.ones((4, 4)))) == []


@pytest.mark.parametrize(
    ("counted", "speaks"), [({"updates": 9}, False), ({"updates": 10}, True), ({"step": 10}, True)]
)
def test_ten_counted_updates_without_state_are_enough(counted: dict[str, int], speaks: bool) -> None:
    checkpoint = build_checkpoint({"0.weight": draw(4, 4)}, optimizer={"0.weight": {}}, **counted)
    findings = found(gradients.no_gradient, checkpoint)
    assert [each.evidence["updates"] for each in findings] == [10] * speaks


@pytest.mark.parametrize(("step", "speaks"), [(9, False), (10, True)])
def test_ten_updates_without_gradient_are_enough(step: int, speaks: bool) -> None:
    state = {"step": step, "exp_avg": np.zeros((4, 4)), "exp_avg_sq": np.zeros((4, 4))}
    checkpoint = build_checkpoint({"0.weight": draw(4, 4)}, optimizer={"0.weight": state}, updates=step)
    assert len(found(gradients.no_gradient, checkpoint)) == speaks
