"""Settings that no training should have: each limit from both sides, and each condition alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.settings.optimizer_settings import (
    adam_betas,
    learning_rate_range,
    strong_weight_decay,
)
from checkpoint_doctor.builtin.analyzers.settings.policy import discount, target_network
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.testing import build_checkpoint, findings_of

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
STATE = {"step": 300, "exp_avg": np.full((8, 8), 1e-3), "exp_avg_sq": np.full((8, 8), 1e-4)}


def optimized(kind: str = "Adam", *, weight: Any = 0.1, bias: float | None = None, **options: Any) -> Checkpoint:
    """A layer whose weights have this size, under an optimizer with these options."""
    tensors = {"net.0.weight": np.where(np.arange(64).reshape(8, 8) % 3, 1, -1) * np.asarray(weight)}
    state = {"net.0.weight": STATE}
    if bias is not None:
        tensors["net.0.bias"] = np.full(8, bias)
        state["net.0.bias"] = {key: each if key == "step" else np.ones(8) for key, each in STATE.items()}
    fields = {key: options.pop(key) for key in ("format", "algorithm") if key in options}
    given = {key: value for key, value in {**ADAM, **options}.items() if value is not ...}
    return build_checkpoint(tensors, optimizer=state, optimizer_kind=kind, optimizer_options=given, **fields)


def with_groups(checkpoint: Checkpoint, *changes: dict[str, Any]) -> Checkpoint:
    """The checkpoint with so many groups that all hold the same parameters, each with other options."""
    (optimizer,) = checkpoint.optimizers
    (group,) = optimizer.groups
    groups = tuple(replace(group, options={**group.options, **each}) for each in changes)
    return replace(checkpoint, optimizers=(replace(optimizer, groups=groups),))


def messages(rule: Rule, checkpoint: Checkpoint) -> list[str]:
    return [each.message for each in findings_of(rule, checkpoint)]


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (optimized(lr=0.5, weight=24.9), "the learning rate of optimizer is 0.5; the largest that is in use is 0.03"),
        (optimized(lr=0.5, weight=25.1), ""),
        (optimized(lr=0.32, weight=16.0), ""),  # exactly a fiftieth
        (optimized(lr=0.33, weight=16.0), "the learning rate of optimizer is 0.33; the largest that is in use is 0.03"),
        (optimized(lr=0.5, bias=1e9), "the learning rate of optimizer is 0.5; the largest that is in use is 0.03"),
        (optimized(lr=0.5, weight=0.0), ""),
        (optimized(lr=0.5, weight=np.nan), ""),
        (optimized(lr=..., initial_lr=0.5), ""),
        (optimized("SGD", lr=0.5), ""),
        (optimized(lr=1e-3, format="sb3", algorithm="PPO"), ""),
        (
            optimized(lr=5.1e-3, format="sb3", algorithm="PPO"),
            "the learning rate of PPO is 0.0051, unusually high; the tuned range is 2.06e-05 to 0.001",
        ),
        (
            optimized("SGD", lr=0.5, format="sb3", algorithm="PPO", weight=1e9),
            "the learning rate of PPO is 0.5, unusually high; the tuned range is 2.06e-05 to 0.001",
        ),
        (optimized("SGD", lr=0.5, format="sb3", algorithm="ARS"), ""),
        (optimized(lr=0.05, format="sb3", algorithm="ARS"), ""),
        (
            with_groups(optimized(), {}, {"lr": 0.6}, {"lr": 0.7}),
            "the learning rate of optimizer is 0.6; the largest that is in use is 0.03",
        ),
    ],
)
def test_which_learning_rates_are_too_large(checkpoint: Checkpoint, words: str) -> None:
    assert messages(learning_rate_range, checkpoint) == ([words] if words else [])


def test_parameters_that_are_no_weights_of_layers_may_have_large_rates() -> None:
    prompt = build_checkpoint(
        {"prompt": np.full((8, 8), 0.1)}, optimizer={"prompt": STATE}, optimizer_options={**ADAM, "lr": 0.5}
    )
    assert messages(learning_rate_range, prompt) == []
    checkpoint = optimized(lr=0.5)
    (optimizer,) = checkpoint.optimizers
    unknown = replace(optimizer, parameters=tuple(replace(each, tensor=None) for each in optimizer.parameters))
    assert messages(learning_rate_range, replace(checkpoint, optimizers=(unknown,))) == []


BETAS = "optimizer has betas of (0.9, 0.8): squares are forgotten first"


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (optimized(betas=(0.9, 0.8)), BETAS),
        (optimized(betas=[0.9, 0.8]), BETAS),
        (optimized(betas=(0.9, 0.9)), ""),
        (optimized(betas=(2, 1)), ""),
        (optimized(betas=(0.9, 0.8, 0.7)), ""),
        (optimized(betas="no"), ""),
        (optimized(betas=...), ""),
        (optimized("Lion", betas=(0.9, 0.8)), ""),
        (optimized(betas=(0.999, 0.9999)), "optimizer has a momentum of 0.999: steps add up 1,000 gradients"),
        (optimized(betas=(0.9989, 0.9999)), ""),
        (optimized("SGD", betas=..., momentum=1.0), "optimizer has a momentum of 1: steps add up inf gradients"),
        (optimized("SGD", betas=..., momentum=1), ""),
        (optimized("SGD", betas=..., momentum="0.9999"), ""),
        (optimized(betas=(0.9, 0.999), momentum=1.0), ""),  # Adam's own counts
        (with_groups(optimized(), {}, {"betas": (0.9, 0.8)}, {"betas": (0.9, 0.7)}), BETAS),
        (
            with_groups(optimized(), {"betas": (0.999, 1.0)}, {"betas": (0.9999, 1.0)}),
            "optimizer has a momentum of 0.999: steps add up 1,000 gradients",
        ),
    ],
)
def test_which_betas_forget_too_little(checkpoint: Checkpoint, words: str) -> None:
    assert messages(adam_betas, checkpoint) == ([words] if words else [])


def test_betas_of_an_optimizer_of_unknown_kind_are_not_compared() -> None:
    checkpoint = optimized(betas=(0.9, 0.8))
    assert messages(adam_betas, replace(checkpoint, optimizers=(replace(checkpoint.optimizers[0], kind=None),))) == []


def decay(size: float, rate: float, what: str) -> str:
    return f"the weight decay of {size:g} in optimizer, at a learning rate of {rate:.3g}, {what}"


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (optimized("AdamW", lr=0.5, weight_decay=0.04), decay(0.04, 0.5, "halves the weights in 34 updates")),
        (optimized("AdamW", lr=0.5, weight_decay=0.0399), ""),
        (optimized("AdamW", lr=0.5, weight_decay=0.75), decay(0.75, 0.5, "halves the weights in 1 update")),
        (optimized("AdamW", lr=0.5, weight_decay=0.6), decay(0.6, 0.5, "halves the weights in 2 updates")),
        (optimized("AdamW", lr=0.5, weight_decay=1.8), decay(1.8, 0.5, "halves the weights in 1 update")),
        (optimized("AdamW", lr=0.5, weight_decay=2.0), decay(2, 0.5, "halves the weights in 1 update")),
        (optimized("AdamW", lr=0.5, weight_decay=2), decay(2, 0.5, "halves the weights in 1 update")),
        (optimized("AdamW", lr=..., weight_decay=2.0), ""),
        (optimized("AdamW", lr=1e-3, weight_decay=2.0), ""),
        (
            optimized(lr=0.5, weight_decay=0.04, decoupled_weight_decay=True),
            decay(0.04, 0.5, "halves the weights in 34 updates"),
        ),
        (optimized("Adam", lr=0.5, weight_decay=0.04), ""),
        (optimized("Adam", weight_decay=1.0), decay(1, 1e-3, "outweighs the gradients")),
        (optimized("Adam", weight_decay=0.99), ""),
        (optimized("AMSGrad", weight_decay=1.0), decay(1, 1e-3, "outweighs the gradients")),
        (optimized("RMSprop", weight_decay=1.0), ""),
        (optimized("Adam", weight_decay=True), ""),
        (optimized("Adam", weight_decay="1"), ""),
        (
            with_groups(optimized("AdamW", lr=0.5), {"weight_decay": 0}, {"weight_decay": 0.04}, {"weight_decay": 1.0}),
            decay(0.04, 0.5, "halves the weights in 34 updates"),
        ),
    ],
)
def test_which_decay_removes_what_is_learned(checkpoint: Checkpoint, words: str) -> None:
    assert messages(strong_weight_decay, checkpoint) == ([words] if words else [])


def test_the_group_with_the_decay_is_told() -> None:
    checkpoint = with_groups(optimized("AdamW", lr=0.5), {}, {"weight_decay": 0.04})
    (finding,) = findings_of(strong_weight_decay, checkpoint)
    assert finding.evidence == {"optimizer": "optimizer", "group": 1, "weight_decay": 0.04, "shrinkage": 0.02}


def test_the_decay_of_an_empty_group_removes_nothing() -> None:
    checkpoint = optimized("AdamW", lr=0.5, weight_decay=1.0)
    (optimizer,) = checkpoint.optimizers
    empty = replace(optimizer, groups=(replace(optimizer.groups[0], indices=()),))
    assert messages(strong_weight_decay, replace(checkpoint, optimizers=(empty,))) == []


MORE, SIGN = "errors far away count more than near ones", "errors change sign with every step"


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (0.0, ""), (0, ""), (1.0, ""), (1, ""), (True, ""), ("1.5", ""), (None, ""), (1.01, MORE), (2, MORE),
        (-0.01, SIGN), (np.nan, "all advantages are NaN"),
    ],
)  # fmt: skip
def test_factors_of_generalised_advantages(trace: Any, words: str) -> None:
    found = findings_of(discount, build_checkpoint({"net.weight": np.eye(4)}, hyperparameters={"gae_lambda": trace}))
    assert [each.message for each in found] == ([f"gae_lambda is {trace:g}: {words}"] if words else [])
    for each in found:
        assert each.evidence == {"setting": "gae_lambda", "gae_lambda": pytest.approx(trace, nan_ok=True)}


def test_a_target_without_counted_updates_may_be_initial() -> None:
    norm = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    tensors = {f"q_net_target.norm.{role}": np.full(8, value) for role, value in norm.items()}
    tensors |= {f"q_net.norm.{role}": np.full(8, value + 0.3) for role, value in norm.items()}
    tensors |= {f"{net}.out.weight": np.full((4, 8), 0.5) for net in ("q_net", "q_net_target")}
    state = {name: {"step": 300, "exp_avg": each, "exp_avg_sq": each} for name, each in tensors.items()
             if name.startswith("q_net.") and "running" not in name}  # fmt: skip
    found = [each.evidence["cause"] for each in findings_of(target_network, build_checkpoint(tensors, optimizer=state))]
    assert found == ["still initial"]
    assert list(findings_of(target_network, build_checkpoint(tensors), least_updates=1)) == []
