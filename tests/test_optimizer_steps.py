"""Rules about steps that are zero, nearly zero or far too large, and about parameters that never moved."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, FixOptions, Outcome, Severity, fix
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from checkpoint_doctor.builtin.analyzers.optimizer.second_moments import poisoned_moments
from checkpoint_doctor.builtin.analyzers.optimizer.step_sizes import nothing_moved, update_ratio
from checkpoint_doctor.builtin.analyzers.values.nonfinite import nonfinite_values
from checkpoint_doctor.results.findings import Finding, Safety
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]


def uniform(seed: int = 0) -> Weights:
    """A perceptron as PyTorch initialises it."""
    random, weights = np.random.default_rng(seed), {}
    for number, (outputs, inputs) in enumerate(((64, 16), (64, 64), (4, 64))):
        limit = 1 / sqrt(inputs)
        weights[f"{2 * number}.weight"] = random.uniform(-limit, limit, (outputs, inputs)).astype(np.float32)
        weights[f"{2 * number}.bias"] = random.uniform(-limit, limit, outputs).astype(np.float32)
    return weights


def moved(weights: Weights, by: float) -> Weights:
    """The weights after a random walk of this size."""
    random = np.random.default_rng(7)
    return {name: (value + by * random.normal(size=value.shape)).astype(np.float32) for name, value in weights.items()}


def adam(
    weights: Weights, *, lr: float = 1e-3, steps: int = 1000, first: float = 1e-4, second: float = 1e-6, **options: Any
) -> Checkpoint:
    """A checkpoint under live gradients: first moments of this size, and second moments around this one."""
    random = np.random.default_rng(3)
    state = {
        name: {
            "step": steps,
            "exp_avg": first * random.normal(size=value.shape),
            "exp_avg_sq": second * random.uniform(0.5, 2, value.shape),
        }
        for name, value in weights.items()
    }
    settings = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, **options}
    return build_checkpoint(weights, optimizer=state, optimizer_options=settings)


def normed(gain: float = 1.0, bias: float = 0.0, dtype: str = "float32") -> Weights:
    weights = moved(uniform(), 0.1)
    return weights | {
        "norm.weight": np.full(64, gain).astype(dtype),
        "norm.bias": np.full(64, bias).astype(dtype),
    }


def with_second(checkpoint: Checkpoint, **entries: float) -> Checkpoint:
    """The checkpoint with the first entry of each tensor's second moment replaced."""
    state: dict[str, Mapping[str, Any]] = {}
    for moments in checkpoint.optimizers[0].parameters:
        square = moments.state["exp_avg_sq"].array.copy()
        square.reshape(-1)[0] = entries.get("all", square.reshape(-1)[0])
        if "whole" in entries:
            square[...] = entries["whole"]
        state[moments.tensor or ""] = {
            "step": moments.step,
            "exp_avg": moments.state["exp_avg"].array,
            "exp_avg_sq": square,
        }
    options = checkpoint.optimizers[0].groups[0].options
    return build_checkpoint({t.name: t.array for t in checkpoint.tensors}, optimizer=state, optimizer_options=options)


def examined(rule: Any, whole: Checkpoint) -> list[Finding]:
    return list(rule.examine(whole))


def test_infinite_second_moments_freeze_and_do_not_spread() -> None:
    whole = with_second(adam(moved(uniform(), 0.1)), all=np.inf)
    (finding,) = examined(poisoned_moments, whole)
    assert (finding.severity, finding.evidence["cause"], finding.evidence["infinite"]) == (ERROR, "infinite", 6)
    assert "m/∞ = 0" in finding.message
    assert examined(nonfinite_values, whole) == []
    second = whole.optimizers[0].parameters[0].state["exp_avg_sq"].array
    repaired = finding.repairs[0].renew(second, np.random.default_rng(0))
    assert np.isfinite(repaired).all()
    assert repaired.reshape(-1)[0] == np.median(second.reshape(-1)[1:])


def test_second_moments_that_are_all_infinite_need_a_new_optimizer() -> None:
    whole = with_second(adam(moved(uniform(), 0.1)), whole=np.inf)
    (finding,) = examined(poisoned_moments, whole)
    assert finding.repairs == ()
    assert "new optimizer" in finding.advice


def test_nan_in_second_moments_stays_with_the_values() -> None:
    whole = with_second(adam(moved(uniform(), 0.1)), all=np.nan)
    assert examined(poisoned_moments, whole) == []
    assert len(examined(nonfinite_values, whole)) == 6


LIFTED = adam(moved(uniform(), 0.1), first=1e-3, second=1e10)


def test_one_huge_gradient_lifts_all_second_moments() -> None:
    (finding,) = findings_of(poisoned_moments, LIFTED)
    assert (finding.severity, finding.evidence["cause"]) == (WARNING, "huge gradient")
    assert findings_of(dormant_units, LIFTED) == [], "its units do receive gradients"
    assert findings_of(update_ratio, LIFTED) == []


def test_lifted_second_moments_are_lowered_to_the_present_gradients_on_request() -> None:
    (finding,) = findings_of(poisoned_moments, LIFTED)
    assert finding.fix is Safety.ON_REQUEST
    moments = {each.second.name: each for each in LIFTED.optimizers[0].parameters if each.second is not None}
    assert {repair.tensor for repair in finding.repairs} == moments.keys()
    for repair in finding.repairs:
        held = moments[repair.tensor]
        assert held.first is not None
        assert held.second is not None
        lowered = repair.renew(held.second.array, np.random.default_rng(0))
        # (1 + 0.9) / (1 - 0.9) times the mean square of the first moments.
        assert lowered == pytest.approx(19.0 * np.mean(np.square(held.first.array.astype(np.float64))))


def test_second_moments_are_not_lowered_while_the_huge_gradient_is_in_the_first() -> None:
    (finding,) = findings_of(poisoned_moments, adam(moved(uniform(), 0.1), first=1e3, second=1e20))
    assert finding.repairs == ()


def decayed(norm: float) -> Checkpoint:
    """First moments that are the same share of √v in all entries: the rest of the last gradient that ever came."""
    weights, state = moved(uniform(), 0.1), {}
    for name, value in weights.items():
        square = norm * np.random.default_rng(1).uniform(0.5, 2, value.shape)
        state[name] = {"step": 1000, "exp_avg": 1e-5 * np.sqrt(square), "exp_avg_sq": square}
    return build_checkpoint(weights, optimizer=state)


@pytest.mark.parametrize(
    "healthy",
    [
        adam(moved(uniform(), 0.1)),
        adam(moved(uniform(), 0.1), first=1e-8, second=1e-6),
        adam(moved(uniform(), 0.1), first=1e3, second=1e10),
        decayed(1e6),
        adam(moved(uniform(), 0.1), first=1e-3, second=1e10, steps=20),
    ],
    ids=["ordinary", "converged", "large throughout", "no gradient any more", "young"],
)
def test_small_first_moments_alone_are_not_poisoned(healthy: Checkpoint) -> None:
    assert findings_of(poisoned_moments, healthy) == []


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        (adam(moved(uniform(), 0.1), lr=1e-3), []),
        (adam(moved(uniform(), 0.1), lr=1.0), [WARNING] * 3),
        (adam(moved(uniform(), 0.1), lr=1.0, d=1e-3), []),
        (adam(moved(uniform(), 0.1), lr=1.0, steps=50), []),
        (adam({"0.weight": np.full((8, 8), 1e-4)}, lr=1e-3), []),
        (adam(moved(uniform(), 0.1), lr=1e-9), [NOTE]),
        (adam(moved(uniform(), 0.1), lr=1e-9, initial_lr=1e-3), []),
        (adam(uniform(), lr=1e-11), []),
        (adam(moved(uniform(), 0.1), lr=0.0), []),
    ],
    ids=[
        "ordinary", "far too large", "a scale of its own", "young", "grown from zero", "far too small",
        "lowered by a schedule", "nothing moved", "a rate of zero",
    ],
)  # fmt: skip
def test_update_ratio(whole: Checkpoint, expected: list[Severity]) -> None:
    assert [each.severity for each in findings_of(update_ratio, whole)] == expected


@pytest.mark.parametrize(
    ("whole", "cause"),
    [
        (adam(uniform(), lr=0.0), "learning rate"),
        (adam(uniform(), lr=1e-13), "learning rate"),
        (adam(normed(), lr=0.0), None),
        (adam(uniform() | {"norm.weight": np.ones(64), "norm.bias": np.zeros(64)}, lr=0.0), "learning rate"),
        (adam(uniform(), lr=1e-3, first=1e-14, second=1e-24, eps=1e-3), "step size"),
        (adam(uniform(), lr=1e-3), "initial weights saved"),
        (adam(uniform(), lr=1e-6), None),
        (adam(moved(uniform(), 0.02), lr=1e-3), None),
        (adam(moved(uniform(), 0.02), lr=0.0), None),
        (adam(uniform(), lr=0.0, steps=5), None),
        (adam(uniform(), lr=0.0, first=0.0, second=0.0), None),
        (adam(moved(uniform(), 0.1) | {"0.bias": np.zeros(64)}, lr=1e-3), None),
        (adam({"norm.weight": np.ones(64, np.float16), "norm.bias": np.zeros(64, np.float16)}, lr=1e-3), None),
    ],
    ids=[
        "rate 0", "rate below rounding", "only a norm is initial", "a norm and weights", "ε above all gradients",
        "initial weights saved", "too slow to tell", "moved", "schedule that has finished", "young", "no gradients",
        "one bias is zero", "rounded away in float16",
    ],
)  # fmt: skip
def test_nothing_moved(whole: Checkpoint, cause: str | None) -> None:
    findings = findings_of(nothing_moved, whole)
    assert [(each.severity, each.evidence["cause"]) for each in findings] == ([(ERROR, cause)] if cause else [])


@pytest.mark.usefixtures("one_torch")
def test_fix_makes_infinite_second_moments_finite_and_changes_no_weight(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    optimizer.state_dict()["state"][0]["exp_avg_sq"][0, :2] = torch.inf
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "ill.pt")
    (result,) = fix([tmp_path / "ill.pt"], FixOptions())
    assert result.outcome is Outcome.FIXED, result.error
    content = torch.load(str(result.output))
    assert all(torch.equal(value, content["model"][name]) for name, value in model.state_dict().items())
    assert content["optimizer"]["state"][0]["exp_avg_sq"].isfinite().all()
