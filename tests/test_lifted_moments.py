"""Second moments that one huge gradient lifted: each limit, just below and just above."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.lifted_moments import has_lifted_moments, updates_to_recover
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.testing import build_checkpoint

SIZE = 16
LIVE = np.exp(np.linspace(-1, 1, SIZE))
"""Entries as different as gradients: their logarithms have a standard deviation of 0.61."""


def state(ratio: float = 1e-4, root: float = 100.0, step: int = 1000, shape: NDArray = LIVE) -> dict[str, Any]:
    first = ratio * root * shape / shape.max()
    return {"step": step, "exp_avg": first, "exp_avg_sq": np.full(len(shape), root**2)}


def holding(*states: Mapping[str, Any], **fields: Any) -> Optimizer:
    tensors = {f"{number}.weight": np.ones(len(each.get("exp_avg", LIVE))) for number, each in enumerate(states)}
    checkpoint: Checkpoint = build_checkpoint(tensors, optimizer=dict(zip(tensors, states, strict=True)), **fields)
    return checkpoint.optimizers[0]


def rooted(norm: float, step: int = 1000) -> dict[str, Any]:
    """Second moments that imply a gradient of this norm."""
    return state(root=norm / sqrt(SIZE) * sqrt(1 - 0.999**step), step=step)


def spread(deviation: float) -> NDArray:
    logs = np.linspace(-1, 1, SIZE)
    return np.exp(deviation * logs / logs.std())


def with_entry(value: float) -> dict[str, Any]:
    """One second moment of this value, over a first moment of zero."""
    whole = state()
    whole["exp_avg_sq"][0], whole["exp_avg"][0] = value, 0.0
    return whole


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([state()], True),
        ([state(ratio=0.99e-3)], True),
        ([state(ratio=1.01e-3)], False),
        ([state(), state(ratio=1.01e-3)], False),
        ([state(), state(ratio=1.01e-3, root=0.5)], False),
        ([rooted(10.1)], True),
        ([rooted(9.9)], False),
        ([state(step=50)], True),
        ([state(step=49)], False),
        ([state(), state(step=49)], False),
        ([state(), {}], True),
        ([{}], False),
        ([state(ratio=1.01e-8)], True),
        ([state(ratio=0.99e-8)], False),
        ([state(shape=spread(0.31))], True),
        ([state(shape=spread(0.29))], False),
        ([state(shape=LIVE[::2])], True),
        ([state(shape=LIVE[::2][1:])], False),
        ([with_entry(0.0)], True),
        ([with_entry(np.inf)], False),
    ],
    ids=[
        "lifted", "ratio below", "ratio above", "one ratio above",
        "one small ratio above", "norm above", "norm below", "old enough", "young",
        "one young", "one without state", "none with state", "first moments above", "first moments below",
        "spread above", "spread below", "eight entries", "seven entries", "a zero", "an infinity",
    ],
)  # fmt: skip
def test_lifted_moments_are_told_by_each_limit(states: list[Mapping[str, Any]], expected: bool) -> None:
    assert has_lifted_moments(holding(*states)) is expected


def idle() -> dict[str, Any]:
    return {"step": 1000, "exp_avg": np.zeros(SIZE), "exp_avg_sq": np.zeros(SIZE)}


def test_half_of_the_parameters_must_have_received_gradients() -> None:
    assert has_lifted_moments(holding(state(), idle()))
    assert not has_lifted_moments(holding(state(), idle(), idle()))
    assert not has_lifted_moments(holding(idle()))


def test_entries_that_never_received_a_gradient_do_not_count_as_live() -> None:
    few = state()
    few["exp_avg"][:9] = 0.0
    assert not has_lifted_moments(holding(few))
    few["exp_avg"][8] = 1e-4
    assert has_lifted_moments(holding(few))


def test_the_largest_tensor_tells_whether_gradients_are_live() -> None:
    assert has_lifted_moments(holding(state(shape=spread(0.1)[:9]), state()))
    assert not has_lifted_moments(holding(state(shape=spread(0.1)), state(shape=LIVE[1:])))


def test_other_optimizers_are_passed_over() -> None:
    lines = {"step": 1000, "square_avg": np.full(SIZE, 1e4)}
    assert not has_lifted_moments(holding(lines, optimizer_options={"alpha": 0.99, "foreach": None}))
    uncounted = {key: value for key, value in state().items() if key != "step"}
    assert not has_lifted_moments(holding(uncounted))


def test_recovery_takes_as_long_as_the_root_needs_to_fall_to_the_first_moments() -> None:
    optimizer = holding(state(ratio=1e-4), state(ratio=1e-5), idle())
    assert updates_to_recover(optimizer) == int(log(1e5) / (-log(0.999) / 2))
    assert updates_to_recover(holding(idle())) is None
    nameless = replace(optimizer, groups=())
    assert updates_to_recover(nameless) is None
