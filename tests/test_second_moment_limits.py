"""The limits of the rules about second moments, and what optimizers keep that they say nothing about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.optimizer.second_moments import (
    gradient_scale,
    poisoned_moments,
    second_moment_underflow,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Safety, Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

SHAPE = (4, 5)
GRADIENTS = np.random.default_rng(0).normal(size=SHAPE)


def held(*states: Mapping[str, Any], kind: str = "Adam") -> Checkpoint:
    """Weights with these states."""
    optimizer = {f"net.{2 * number}.weight": {"step": 1000, **state} for number, state in enumerate(states)}
    return build_checkpoint({name: np.full(SHAPE, 0.1) for name in optimizer}, optimizer=optimizer, optimizer_kind=kind)


def half(gradient: float | NDArray, square: float) -> dict[str, NDArray]:
    first = np.broadcast_to(np.asarray(gradient, np.float16), SHAPE)
    return {"exp_avg": first, "exp_avg_sq": np.full(SHAPE, square, np.float16)}


@pytest.mark.parametrize(
    ("states", "share", "count"),
    [
        ([half(1e-5, 0)], 1.0, 20),
        ([half(1e-5, 0), half(1e-3, 1e-6)], 0.5, 40),
        ([half(1e-5, 0), half(1e-3, 1e-6), half(1e-3, 1e-6)], None, 0),
        ([half(0, 0)], None, 0),
        ([{"exp_avg": half(1e-5, 0)["exp_avg"]}], None, 0),
        ([{"exp_avg_sq": half(1e-5, 0)["exp_avg_sq"]}], None, 0),
        ([{}], None, 0),
        ([{"exp_avg": half(1e-5, 0)["exp_avg"], "exp_avg_sq": np.zeros(SHAPE, np.float32)}], None, 0),
        ([{"exp_avg": half(1e-5, 0)["exp_avg"], "exp_avg_sq": np.zeros(4, np.float16)}], None, 0),
        ([half(1e-5, 0), {"exp_avg": half(1e-5, 0)["exp_avg"], "exp_avg_sq": np.zeros(4, np.float16)}], 1.0, 20),
    ],
)
def test_squares_that_underflow(states: list[dict[str, Any]], share: float | None, count: int) -> None:
    found = findings_of(second_moment_underflow, held(*states))
    assert [(each.evidence["share"], each.evidence["count"]) for each in found] == (
        [] if share is None else [(share, count)]
    )
    assert all(each.evidence["tensors"] == ["net.0.weight"] for each in found)


def lifted(first: float = 1.0) -> dict[str, NDArray]:
    """First moments of today under second moments that one huge gradient left."""
    return {"exp_avg": first * GRADIENTS / np.abs(GRADIENTS).max(), "exp_avg_sq": np.full(SHAPE, 1e12)}


def test_lifted_moments_become_those_of_the_present_gradients() -> None:
    (finding,) = findings_of(poisoned_moments, held(lifted(), lifted(10.0)))
    assert finding.severity is Severity.WARNING
    assert len(finding.repairs) == 2
    assert {each.safety for each in finding.repairs} == {Safety.ON_REQUEST}
    first = lifted()["exp_avg"]
    new = finding.repairs[0].renew(np.ones(SHAPE), np.random.default_rng(0))
    assert new == pytest.approx(np.full(SHAPE, 1.9 / 0.1 * np.mean(first**2)))


def test_first_moments_that_hold_the_huge_gradient_are_no_guide() -> None:
    (finding,) = findings_of(poisoned_moments, held(lifted(), lifted(10.1)))
    assert finding.repairs == ()


def infinite(**changed: Any) -> dict[str, NDArray]:
    second = np.full(SHAPE, 1e-6)
    second[0, :2] = np.inf
    return {"exp_avg": 1e-3 * GRADIENTS, "exp_avg_sq": second, **changed}


SOUND = {"exp_avg": 1e-3 * GRADIENTS, "exp_avg_sq": np.full(SHAPE, 1e-6)}


@pytest.mark.parametrize(
    ("states", "count", "repairs"),
    [
        ([infinite(), SOUND], (2, 20), 1),
        ([infinite(), infinite()], (4, 40), 2),
        ([infinite(exp_avg_sq=np.full(SHAPE, np.inf)), SOUND], (20, 20), 0),
        ([SOUND], None, 0),
        ([{}, SOUND], None, 0),
        ([{"exp_avg": SOUND["exp_avg"]}, SOUND], None, 0),
        ([infinite(exp_avg_sq=np.where(np.eye(4, 5) > 0, np.nan, 1e-6)), SOUND], None, 0),
    ],
)
def test_infinite_second_moments(states: list[dict[str, Any]], count: tuple[int, int] | None, repairs: int) -> None:
    found = [each for each in findings_of(poisoned_moments, held(*states)) if each.evidence["cause"] == "infinite"]
    assert [(each.evidence["infinite"], each.evidence["count"]) for each in found] == ([] if count is None else [count])
    assert all(len(each.repairs) == repairs for each in found)


@pytest.mark.parametrize(
    ("size", "speaks"), [(1e4 * 0.99, False), (1e4 * 1.01, True), (1e4 * 1.05, True), (np.inf, False)]
)
def test_how_large_the_gradients_of_biases_must_be(size: float, speaks: bool) -> None:
    tensors = {"net.0.weight": np.full(SHAPE, 0.1), "net.0.bias": np.full(4, 0.1)}
    state = {
        "net.0.weight": {"step": 10_000, **SOUND},
        "net.0.bias": {"step": 10_000, "exp_avg": np.full(4, 1.0), "exp_avg_sq": np.full(4, size**2 / 4)},
    }
    found = findings_of(gradient_scale, build_checkpoint(tensors, optimizer=state))
    assert [each.evidence["tensors"] for each in found] == [["net.0.bias"]] * speaks
