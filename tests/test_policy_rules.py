"""Rules about a reinforcement learning policy, as tables without disk: where they stay silent and where they speak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.settings.policy import (
    discount,
    entropy_coefficient,
    log_std_range,
    target_network,
    twin_critics,
)
from checkpoint_doctor.testing import build_checkpoint, findings_of


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def agent(**settings: Any) -> Checkpoint:
    """Return an agent with two critics and their target networks, and an optimizer that made updates."""
    tensors = {}
    for critic in (0, 1):
        for layer, shape in ((0, (16, 4)), (2, (1, 16))):
            name = f"qf{critic}.{layer}"
            weight, bias = draw(10 * critic + layer, *shape), draw(99 + critic, shape[0])
            tensors |= {f"critic.{name}.weight": weight, f"critic.{name}.bias": bias}
            tensors |= {f"critic_target.{name}.weight": weight * 0.99, f"critic_target.{name}.bias": bias * 0.99}
    tensors |= settings.pop("tensors", {})
    trained = settings.pop("trained", True)
    held = {
        name: {"step": 500, "exp_avg": np.full(value.shape, 1e-3), "exp_avg_sq": np.full(value.shape, 1e-4)}
        for name, value in tensors.items()
        if name.startswith("critic.")
    }
    return build_checkpoint(
        tensors,
        optimizer=held if trained else {},
        hyperparameters={"gamma": 0.99, "tau": 0.005, "target_update_interval": 1, **settings},
        step=20_000,
        updates=500 if trained else 0,
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("log_std", [-9.99, 0.0], ""),
        ("log_std", [-10.01, 0.0], "1 of 2 actions have a log standard deviation below -10"),
        ("log_std", [1.49, 0.0], ""),
        ("log_std", [1.51, 1.6], "2 of 2 actions have a log standard deviation above 1.5"),
        ("actor_logstd", [[-20.0]], "no longer explores"),
        ("log_std", [np.nan, -20.0], ""),
        ("actor.log_std.bias", [-20.0], ""),
    ],
)
def test_log_std(name: str, value: Any, words: str) -> None:
    found = findings_of(log_std_range, build_checkpoint({name: np.array(value, np.float32)}))
    assert [each.message for each in found if words in each.message] == [each.message for each in found]
    assert bool(found) is bool(words)


@pytest.mark.parametrize(
    ("learned", "fixed", "words"),
    [
        (0.0, "auto", ""),
        (np.log(9.9), "auto", ""),
        (np.log(10.1), "auto", "10.1: far too large"),
        (np.log(1.1e-6), "auto", ""),
        (np.log(9e-7), "auto", "vanished"),
        (8.0, "auto", "2.98e+03"),
        (None, 0.0, ""),
        (None, 7.5e-08, ""),
        (None, 0.01, ""),
        (None, np.nan, "nan: the loss of the policy is NaN"),
        (None, -0.01, "negative: exploration is punished"),
        (None, 2980.0, "far too large"),
        (None, "auto", ""),
        (np.nan, "auto", ""),
    ],
)
def test_entropy_coefficient(learned: float | None, fixed: Any, words: str) -> None:
    tensors = {} if learned is None else {"pytorch_variables.pth/log_ent_coef": np.array([learned], np.float32)}
    found = findings_of(entropy_coefficient, agent(tensors=tensors, ent_coef=fixed))
    assert [words in each.message for each in found] == ([True] if words else [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"tau": 0.0}, "never updated: tau is 0"),
        ({"target_update_interval": 20_000}, ""),
        ({"target_update_interval": 1_000_000_000}, "beyond the 20,000 steps of the run"),
    ],
)
def test_settings_that_never_update_a_target_network(settings: dict[str, Any], words: str) -> None:
    found = findings_of(target_network, agent(**settings))
    assert all(words in each.message for each in found)
    assert [each.severity for each in found] == ([Severity.WARNING] if words else [])


@pytest.mark.parametrize(("share", "severities"), [(0.22, []), (0.15, [Severity.ERROR])])
def test_a_target_network_that_is_another_network(share: float, severities: list[Severity]) -> None:
    checkpoint = agent()
    strange = {}
    for tensor in checkpoint.tensors:
        if tensor.name.startswith("critic_target") and len(tensor.shape) > 1:
            online = checkpoint.by_name[tensor.name.replace("_target", "")].array
            other = draw(7, *online.shape)
            other -= online * float((other * online).sum() / (online * online).sum())
            other *= np.linalg.norm(online) / np.linalg.norm(other)
            strange[tensor.name] = share * online + (1 - share**2) ** 0.5 * other
    assert [each.severity for each in findings_of(target_network, agent(tensors=strange))] == severities


def test_a_target_network_before_the_first_update_is_not_judged() -> None:
    assert findings_of(target_network, agent(tau=0.0, trained=False)) == []


def test_critics_that_are_copies_of_each_other() -> None:
    assert findings_of(twin_critics, agent()) == []
    copied = {
        f"critic.qf1.{rest}": agent().by_name[f"critic.qf0.{rest}"].array
        for rest in ("0.weight", "0.bias", "2.weight", "2.bias")
    }
    (found,) = findings_of(twin_critics, agent(tensors=copied))
    assert found.message.startswith("critic.qf0 and critic.qf1 are identical")
    del copied["critic.qf1.2.bias"]
    assert findings_of(twin_critics, agent(tensors=copied)) == []


def test_modules_that_are_equal_without_being_copies() -> None:
    quantizers = {f"q{number}.scale": np.ones(1) for number in (1, 2)}
    constant = {f"q{number}.kernel": np.full((3, 3), 1 / 9) for number in (1, 2)}
    assert findings_of(twin_critics, agent(tensors=quantizers | constant)) == []


@pytest.mark.parametrize(
    ("gamma", "speaks"), [(0.0, False), (1.0, False), (1.0001, True), (1.5, True), (-0.1, True), (np.nan, True)]
)
def test_discount(gamma: float, speaks: bool) -> None:
    assert bool(findings_of(discount, agent(gamma=gamma))) is speaks


def test_the_gamma_of_a_focal_loss_is_no_discount() -> None:
    weights = {"net.weight": draw(0, 4, 4)}
    assert findings_of(discount, build_checkpoint(weights, hyperparameters={"gamma": 2.0, "alpha": 0.25})) == []
    assert findings_of(discount, build_checkpoint(weights, hyperparameters={"gamma": 2.0, "gae_lambda": 0.95}))
