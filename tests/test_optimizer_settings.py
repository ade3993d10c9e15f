"""Settings of optimizers, and gradients whose size stops learning, as tables: where the rules speak and are silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.optimizer.gradient_norms import epsilon_dominated
from checkpoint_doctor.builtin.analyzers.optimizer.gradients import no_gradient
from checkpoint_doctor.builtin.analyzers.optimizer.second_moments import gradient_scale, second_moment_underflow
from checkpoint_doctor.builtin.analyzers.settings.optimizer_settings import (
    adam_betas,
    learning_rate_range,
    strong_weight_decay,
)
from checkpoint_doctor.builtin.analyzers.settings.policy import discount
from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def optimized(kind: str = "Adam", *, weight: float = 0.1, **options: Any) -> Checkpoint:
    """Return a layer of weights of this size, and an optimizer with these options."""
    signs = np.where(np.arange(64).reshape(8, 8) % 3, 1, -1)
    state = {"step": 300, "exp_avg": np.full((8, 8), 1e-3), "exp_avg_sq": np.full((8, 8), 1e-4)}
    weights = {"net.0.weight": (weight * signs).astype(np.float32)}
    return build_checkpoint(
        weights, optimizer={"net.0.weight": state}, optimizer_kind=kind, optimizer_options={**ADAM, **options}
    )


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (optimized(lr=0.03), ""),
        (optimized(lr=0.5), "the learning rate of optimizer is 0.5"),
        (optimized(lr=0.001, initial_lr=0.5), "is 0.5"),
        (optimized(lr=400.0, weight=4e4), ""),
        (optimized(lr=1.0, d_coef=1.0), ""),
        (optimized("SGD", lr=5.0), ""),
    ],
)
def test_learning_rates(checkpoint: Checkpoint, words: str) -> None:
    check_rule(learning_rate_range)
    messages = [each.message for each in findings_of(learning_rate_range, checkpoint)]
    assert bool(messages) == bool(words)
    assert all(words in each for each in messages)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (optimized(betas=(0.5, 0.999)), ""),
        (optimized(betas=(0.9, 0.9)), ""),
        (optimized(betas=(0.999, 0.9)), "squares are forgotten first"),
        (optimized("Lion", betas=(0.95, 0.9)), ""),
        (optimized("SGD", betas=None, momentum=0.99), ""),
        (optimized("SGD", betas=None, momentum=0.9999), "steps add up 10,000 gradients"),
    ],
)
def test_betas_and_momentum(checkpoint: Checkpoint, words: str) -> None:
    check_rule(adam_betas)
    messages = [each.message for each in findings_of(adam_betas, checkpoint)]
    assert bool(messages) == bool(words)
    assert all(words in each for each in messages)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (optimized("AdamW", weight_decay=0.1), ""),
        (optimized("AdamW", lr=0.0, weight_decay=10.0), ""),
        (optimized("AdamW", weight_decay=100.0), "halves the weights in 7 updates"),
        (optimized("AdamW", lr=1.0, weight_decay=2.0), "halves the weights in 1 update"),
        (optimized("SGD", lr=0.1, weight_decay=5e-4), ""),
        (optimized("SGD", lr=0.1, weight_decay=1.0), "halves the weights in 7 updates"),
        (optimized("Adam", weight_decay=0.1), ""),
        (optimized("Adam", weight_decay=2.0), "outweighs the gradients"),
    ],
)
def test_weight_decay(checkpoint: Checkpoint, words: str) -> None:
    check_rule(strong_weight_decay)
    messages = [each.message for each in findings_of(strong_weight_decay, checkpoint)]
    assert bool(messages) == bool(words)
    assert all(words in each for each in messages)


def with_gradients(policy: float, value: float = 1e-2, *, epsilon: float = 1e-5) -> Checkpoint:
    """Return an agent under whose policy and value gradients have these sizes."""
    random = np.random.default_rng(0)
    sizes = {
        "mlp_extractor.policy_net": policy,
        "mlp_extractor.value_net": value,
        "action_net": policy,
        "value_net": value,
    }
    tensors, moments = {}, {}
    for part, size in sizes.items():
        for layer in (".0", ".2") if "extractor" in part else ("",):
            name = f"{part}{layer}.weight"
            tensors[name] = random.normal(0, 0.3, (8, 8)).astype(np.float32)
            moments[name] = {
                "step": 1000,
                "exp_avg": np.full((8, 8), size, np.float32),
                "exp_avg_sq": np.full((8, 8), size**2, np.float64),
            }
    return build_checkpoint(tensors, optimizer=moments, optimizer_options={**ADAM, "eps": epsilon})


@pytest.mark.parametrize(
    ("checkpoint", "severity", "words"),
    [
        (with_gradients(1e-4), None, ""),
        (with_gradients(1e-12), Severity.WARNING, "gradients of policy are smaller than ε"),
        (with_gradients(1e-12, epsilon=0.0), None, ""),
        (with_gradients(1e-10, 1e-10), Severity.WARNING, "100% of the gradients in optimizer are smaller than its ε"),
        (with_gradients(1e-6, 1e-6), Severity.NOTE, "100% of the gradients in optimizer are smaller than its ε"),
        (with_gradients(1e-3, 1e-3, epsilon=1.0), Severity.WARNING, "its ε of 1"),
    ],
)
def test_gradients_below_epsilon(checkpoint: Checkpoint, severity: Severity | None, words: str) -> None:
    found = [each for each in findings_of(epsilon_dominated, checkpoint) if severity is None or words in each.message]
    assert [each.severity for each in found] == ([severity] if severity else [])


def with_moments(ratio: float, *, steps: int = 1000, other: float = 0.0) -> Checkpoint:
    """Return two layers whose first moments have sunk to this share of √v, but for one entry."""
    tensors = {f"net.{number}.weight": np.full((8, 8), 0.1 + number, np.float32) for number in (0, 2)}
    first = np.full((8, 8), ratio)
    last = first.copy()
    last[0, 0] = other or ratio
    moments = {
        name: {"step": steps, "exp_avg": mean, "exp_avg_sq": np.ones((8, 8))}
        for name, mean in zip(tensors, (first, last), strict=True)
    }
    return build_checkpoint(tensors, optimizer=moments)


def test_gradients_that_stopped_in_all_tensors() -> None:
    (finding,) = findings_of(no_gradient, with_moments(1e-9))
    assert (finding.severity, finding.evidence["cause"]) == (Severity.WARNING, "stopped")
    # |m|/√v falls by a factor of 0.9/√0.999 in each update without a gradient: 1e-9 after 198.
    assert finding.evidence["updates"] == 197
    assert findings_of(no_gradient, with_moments(1e-9, other=1e-3)) == []
    assert findings_of(no_gradient, with_moments(1e-3)) == []


def test_squares_that_underflowed_in_float16() -> None:
    check_rule(second_moment_underflow)

    def with_squares(kind: Any, gradient: float) -> Checkpoint:
        state = {"step": 300, "exp_avg": np.full((8, 8), gradient, kind), "exp_avg_sq": np.zeros((8, 8), kind)}
        return build_checkpoint({"net.0.weight": np.ones((8, 8), kind)}, optimizer={"net.0.weight": state})

    (finding,) = findings_of(second_moment_underflow, with_squares(np.float16, 1e-5))
    assert "100% of the second moments of optimizer are zero though gradients came" in finding.message
    assert findings_of(second_moment_underflow, with_squares(np.float16, 0.0)) == []
    assert findings_of(second_moment_underflow, with_squares(np.float32, 1e-30)) == []


def test_gradients_of_unscaled_targets() -> None:
    check_rule(gradient_scale)

    def with_norms(weight: float, bias: float) -> Checkpoint:
        tensors = {"net.0.weight": np.full((8, 8), 0.1, np.float32), "net.0.bias": np.full(8, 0.1, np.float32)}
        sizes = {"net.0.weight": weight, "net.0.bias": bias}
        moments = {
            name: {
                "step": 1000,
                "exp_avg": np.full(each.shape, sizes[name]),
                "exp_avg_sq": np.full(each.shape, sizes[name] ** 2),
            }
            for name, each in tensors.items()
        }
        return build_checkpoint(tensors, optimizer=moments)

    (finding,) = findings_of(gradient_scale, with_norms(1e6, 1e6))
    assert "the targets or rewards are not scaled" in finding.message
    # Large inputs make the gradients of a weight large, and not those of its bias.
    assert findings_of(gradient_scale, with_norms(1e6, 10.0)) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (0.95, ""),
        (1.0, ""),
        (1.5, "gae_lambda is 1.5: errors far away count more"),
        (-0.5, "errors change sign"),
        (float("nan"), "all advantages are NaN"),
    ],
)
def test_the_factor_of_generalised_advantages(setting: float, words: str) -> None:
    checkpoint = build_checkpoint({"net.0.weight": np.eye(4)}, hyperparameters={"gamma": 0.99, "gae_lambda": setting})
    messages = [each.message for each in findings_of(discount, checkpoint)]
    assert bool(messages) == bool(words)
    assert all(words in each for each in messages)
