"""What shows that no gradient ever came, or that weight decay alone reached the moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import (
    count_updates,
    holds_decay_alone,
    holds_no_gradient,
    keeps_state,
)
from checkpoint_doctor.checkpoint import Checkpoint, ParameterGroup
from checkpoint_doctor.testing import build_checkpoint

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
State = Mapping[str, Any]


def holding(*states: State, kind: str = "Adam", **options: Any) -> Checkpoint:
    """A checkpoint whose optimizer holds a vector of eight entries with each of these states."""
    names = [f"part{number}.weight" for number in range(len(states))]
    return build_checkpoint(
        {name: np.arange(1.0, 9.0) for name in names},
        optimizer=dict(zip(names, states, strict=True)),
        optimizer_kind=kind, optimizer_options=ADAM | options,
    )  # fmt: skip


def adam(first: Any = 0.0, second: Any = 0.0, step: int = 100) -> State:
    return {"step": step, "exp_avg": np.full(8, first), "exp_avg_sq": np.full(8, second)}


def at(value: float) -> NDArray:
    """Zeros with one other entry."""
    return np.where(np.arange(8) == 5, value, 0.0)


def kept(**state: Any) -> State:
    return {"step": 100} | {key: np.broadcast_to(value, 8) for key, value in state.items()}


@pytest.mark.parametrize(
    ("states", "options", "expected"),
    [
        ([adam()], {}, True),
        ([adam(), {}], {}, True),
        ([{}], {}, False),
        ([adam(), adam(second=1e-12)], {}, False),
        ([adam(second=at(1e-12))], {}, False),
        ([adam(first=at(1e-12))], {}, False),
        ([adam(first=at(np.nan))], {}, False),
        ([adam(second=at(np.inf))], {}, False),
        ([kept(sum=0.25)], {"initial_accumulator_value": 0.25}, True),
        ([kept(sum=0.2501)], {"initial_accumulator_value": 0.25}, False),
        ([kept(momentum_buffer=0.0)], {"momentum": 0.9}, True),
        ([kept(momentum_buffer=at(1e-12))], {"momentum": 0.9}, False),
        ([kept(square_avg=0.9**100)], {"alpha": 0.9}, False),
        ([kept(square_avg=0.9**400) | {"step": 400}], {"alpha": 0.9}, True),
        ([kept(other=0.0)], {}, True),
        ([kept(other=at(1e-12))], {}, False),
        ([kept(other=0.0, more=at(1.0))], {}, False),
        ([kept(count=np.zeros(8, np.int64))], {}, False),
        ([{"step": 100}], {}, False),
    ],
)
def test_no_gradient_is_what_untouched_moments_show(
    states: list[State], options: Mapping[str, Any], expected: bool
) -> None:
    assert holds_no_gradient(holding(*states, **options).optimizers[0]) is expected


WEIGHTS = np.random.default_rng(0).normal(size=64)


def turned(cosine: float) -> NDArray:
    """A vector of the same length at an angle of this cosine to the weights."""
    other = np.random.default_rng(1).normal(size=64)
    other -= WEIGHTS * (other @ WEIGHTS) / (WEIGHTS @ WEIGHTS)
    other *= np.linalg.norm(WEIGHTS) / np.linalg.norm(other)
    return cosine * WEIGHTS + (1 - cosine**2) ** 0.5 * other


def decaying(
    first: NDArray, *more: NDArray, kind: str = "Adam", weights: NDArray = WEIGHTS, **options: Any
) -> Checkpoint:
    names = [f"part{number}.weight" for number in range(1 + len(more))]
    state = {
        name: {"step": 100, "exp_avg": value, "exp_avg_sq": np.ones(value.shape)}
        for name, value in zip(names, (first, *more), strict=True)
    }
    settings = ADAM | {"weight_decay": 0.01} | options
    return build_checkpoint(
        dict.fromkeys(names, weights), optimizer=state, optimizer_kind=kind, optimizer_options=settings
    )


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (decaying(0.01 * WEIGHTS), True),
        (decaying(0.01 * turned(0.991)), True),
        (decaying(0.01 * turned(0.989)), False),
        (decaying(-0.01 * WEIGHTS), False),
        (decaying(0 * WEIGHTS), True),
        (decaying(0.01 * WEIGHTS, weights=0 * WEIGHTS), False),
        (decaying(0.01 * WEIGHTS[:63], weights=WEIGHTS[:63]), False),
        (decaying(0.01 * WEIGHTS[:32], 0.02 * WEIGHTS[:32], weights=WEIGHTS[:32]), True),
        (decaying(0.01 * WEIGHTS, 0.01 * turned(0.5)), False),
        (decaying(0.01 * WEIGHTS, kind="AdamW"), False),
        (decaying(0.01 * WEIGHTS, decoupled_weight_decay=True), False),
        (decaying(0.01 * WEIGHTS, weight_decay=0), False),
        (decaying(0.01 * WEIGHTS[:60]), False),
    ],
    ids=[
        "decay", "nearly parallel", "not quite parallel", "growth", "nothing", "weights of zero", "too few entries",
        "entries of two", "one with gradients", "decoupled", "decoupled by an option", "without decay", "other shapes",
    ],
)  # fmt: skip
def test_decay_alone_is_a_first_moment_parallel_to_the_weights(checkpoint: Checkpoint, expected: bool) -> None:
    assert holds_decay_alone(checkpoint.optimizers[0], checkpoint) is expected


def split(second: NDArray) -> Checkpoint:
    """Decay for the first tensor's group, and none for the other's, whose moments are these."""
    checkpoint = decaying(0.01 * WEIGHTS, second)
    (optimizer,) = checkpoint.optimizers
    groups = (
        ParameterGroup(options=ADAM | {"weight_decay": 0.01}, indices=(0,)),
        ParameterGroup(options=ADAM | {"weight_decay": 0.0}, indices=(1,)),
    )
    state = {"exp_avg": second, "exp_avg_sq": second**2}
    other = build_checkpoint({"a": WEIGHTS}, optimizer={"a": {"step": 100, **state}}).optimizers[0].parameters[0]
    parameters = (optimizer.parameters[0], replace(other, index=1, tensor="part1.weight"))
    return replace(checkpoint, optimizers=(replace(optimizer, groups=groups, parameters=parameters),))


def test_untouched_parameters_without_decay_are_not_compared_with_their_weights() -> None:
    checkpoint = split(0 * WEIGHTS)
    (optimizer,) = checkpoint.optimizers
    first, second = optimizer.parameters
    nameless = replace(optimizer, parameters=(first, replace(second, tensor=None)))
    assert holds_decay_alone(nameless, checkpoint)
    few = decaying(0.01 * WEIGHTS[:32], 0 * WEIGHTS[:32], weights=WEIGHTS[:32])
    assert holds_decay_alone(few.optimizers[0], few)
    groups = tuple(
        ParameterGroup(options=ADAM | {"weight_decay": decay}, indices=(index,))
        for index, decay in ((0, 0.01), (1, 0.0))
    )
    assert not holds_decay_alone(replace(few.optimizers[0], groups=groups), few), "32 entries are too few"


def test_parameters_without_decay_must_be_untouched() -> None:
    for second, expected in ((0 * WEIGHTS, True), (0.01 * WEIGHTS, False)):
        checkpoint = split(second)
        assert holds_decay_alone(checkpoint.optimizers[0], checkpoint) is expected


def test_parameters_that_nobody_knows_or_that_have_no_state_prove_nothing() -> None:
    checkpoint = decaying(0.01 * WEIGHTS)
    (optimizer,) = checkpoint.optimizers
    (moments,) = optimizer.parameters
    for other in (replace(moments, tensor=None), replace(moments, state={"exp_avg_sq": moments.state["exp_avg_sq"]})):
        assert not holds_decay_alone(replace(optimizer, parameters=(other,)), checkpoint)
    assert not holds_decay_alone(replace(optimizer, groups=()), checkpoint)
    stateless = build_checkpoint({"a": WEIGHTS}, optimizer={"a": {}}, optimizer_options=ADAM | {"weight_decay": 0.1})
    assert not holds_decay_alone(stateless.optimizers[0], stateless)
    both = replace(optimizer, parameters=(replace(moments, state={}), moments))
    assert holds_decay_alone(both, checkpoint), "what has no state received nothing"


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [("Adam", {}, True), ("SGD", {}, False), ("SGD", {"momentum": 0.9}, True), ("SGD", {"momentum": 0}, False)],
)
def test_only_sgd_without_momentum_keeps_no_state(kind: str, options: Mapping[str, Any], expected: bool) -> None:
    assert bool(keeps_state(holding({}, kind=kind, **options).optimizers[0])) is expected


def test_the_largest_count_is_the_optimizers() -> None:
    assert count_updates(holding(adam(step=7), adam(step=9), {"exp_avg": np.zeros(8)}).optimizers[0]) == 9
    assert count_updates(holding({}).optimizers[0]) is None
