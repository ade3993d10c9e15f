"""Averages, momentum encoders and target networks that do not follow, and tensors that are initial under moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.optimizer.initial_values import initial_values
from checkpoint_doctor.builtin.analyzers.resuming.averages import stale_average
from checkpoint_doctor.builtin.analyzers.settings.policy import target_network
from checkpoint_doctor.checkpoint import Content, Part
from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of

Weights = dict[str, NDArray]


def fresh(seed: int = 0) -> Weights:
    """Return a network as PyTorch initialises it."""
    random = np.random.default_rng(seed)
    return {
        "0.weight": random.uniform(-0.25, 0.25, (32, 16)).astype(np.float32),
        "0.bias": random.uniform(-0.25, 0.25, 32).astype(np.float32),
        "1.weight": random.uniform(-(32**-0.5), 32**-0.5, (32, 32)).astype(np.float32),
    }


def moved(weights: Weights, by: float = 0.1) -> Weights:
    """Return the network after training."""
    random = np.random.default_rng(9)
    return {name: (each + by * random.normal(size=each.shape)).astype(np.float32) for name, each in weights.items()}


def named(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: each for name, each in weights.items()}


def trained(tensors: Weights, held: str = "", *, updates: int = 300, **settings: Any) -> Checkpoint:
    """Return a checkpoint whose optimizer holds the tensors with a prefix and has made so many updates."""
    moments = {
        name: {"step": updates, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-4)}
        for name, each in tensors.items()
        if name.startswith(held)
    }
    return build_checkpoint(tensors, optimizer=moments, **settings)


TRAINED = moved(fresh())
FOLLOWED = {name: (0.5 * each + 0.5 * TRAINED[name]).astype(np.float32) for name, each in fresh().items()}


@pytest.mark.parametrize("prefix", ["ema/", "model_ema/", "swa_model/module.", "averaged/", "ema_state_dict/"])
@pytest.mark.parametrize(
    ("copy", "words"),
    [(FOLLOWED, ""), (fresh(), "is still the initial model after 300 updates"), (TRAINED, "is identical to the model")],
)
def test_an_average_follows_the_model(prefix: str, copy: Weights, words: str) -> None:
    check_rule(stale_average)
    tensors = named("model/", TRAINED) | {name: each.copy() for name, each in named(prefix, copy).items()}
    found = findings_of(stale_average, trained(tensors, "model/"))
    assert [each.severity for each in found] == ([Severity.WARNING] if words else [])
    assert all(words in each.message for each in found)


@pytest.mark.parametrize(
    ("counted", "severity"), [(0, Severity.NOTE), (1, None), (2, Severity.WARNING), (None, Severity.WARNING)]
)
def test_an_average_that_has_not_begun_equals_the_model(counted: int | None, severity: Severity | None) -> None:
    tensors = named("model/", TRAINED) | named("ema/", {name: each.copy() for name, each in TRAINED.items()})
    values = {} if counted is None else {"num_updates": counted}
    found = findings_of(stale_average, trained(tensors, "model/", parts=[Part("ema", Content.STATE_DICT, values)]))
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_averages_of_young_and_untrained_models_are_not_judged() -> None:
    tensors = named("model/", TRAINED) | named("ema/", fresh())
    assert findings_of(stale_average, trained(tensors, "model/", updates=19)) == []
    assert findings_of(stale_average, build_checkpoint(tensors)) == []


def test_a_list_of_averaged_parameters_is_compared_in_order() -> None:
    copies = {f"ema/shadow_params/{number}": each for number, each in enumerate(fresh().values())}
    (finding,) = findings_of(stale_average, trained(named("model/", TRAINED) | copies, "model/"))
    assert "ema is still the initial model" in finding.message
    fewer = dict(list(copies.items())[:2])
    assert findings_of(stale_average, trained(named("model/", TRAINED) | fewer, "model/")) == []


def test_a_momentum_encoder_follows() -> None:
    tensors = named("encoder_q.", TRAINED) | named("encoder_k.", fresh())
    (finding,) = findings_of(stale_average, trained(tensors, "encoder_q."))
    assert finding.evidence["average"] == "encoder_k"
    followed = named("encoder_q.", TRAINED) | named("encoder_k.", FOLLOWED)
    assert findings_of(stale_average, trained(followed, "encoder_q.")) == []


def test_a_target_network_that_is_still_initial() -> None:
    tensors = named("q_net.", TRAINED) | named("q_net_target.", fresh())
    (finding,) = findings_of(target_network, trained(tensors, "q_net."))
    assert "q_net_target is still the initial network after 300 updates" in finding.message
    followed = named("q_net.", TRAINED) | named("q_net_target.", FOLLOWED)
    assert findings_of(target_network, trained(followed, "q_net.")) == []
    # An average has a rule of its own.
    average = named("model/", TRAINED) | named("ema/", fresh())
    assert findings_of(target_network, trained(average, "model/")) == []


def test_initial_values_under_trained_moments() -> None:
    check_rule(initial_values)
    weights = {**TRAINED, "1.weight": fresh(4)["1.weight"]}
    (finding,) = findings_of(initial_values, trained(weights))
    assert (finding.tensor, finding.severity) == ("1.weight", Severity.WARNING)
    assert "has the values of the initialisation under moments of 300 updates" in finding.message
    assert findings_of(initial_values, trained(TRAINED)) == []
    # Nothing says how far a weight should have moved.
    assert findings_of(initial_values, trained(fresh())) == []


def with_gains(first: float, second: float, size: float = 1e-3) -> Checkpoint:
    """Return two norms with these gains, the first of which has first moments of this size."""
    tensors = {
        f"norm{number}.{role}": np.full(8, value, np.float32)
        for number, gain in ((1, first), (2, second))
        for role, value in (("weight", gain), ("bias", 0.3), ("running_mean", 0.1), ("running_var", 0.5))
    }
    moments = {
        name: {"step": 300, "exp_avg": np.full(8, size if "1" in name else 1e-3), "exp_avg_sq": np.full(8, 1e-4)}
        for name in tensors
        if "running" not in name
    }
    return build_checkpoint(tensors, optimizer=moments)


@pytest.mark.parametrize(
    ("checkpoint", "tensors"),
    [
        (with_gains(1.0, 1.2), ["norm1.weight"]),
        (with_gains(1.1, 1.2), []),
        (with_gains(1.0, 1.0005), []),
        (with_gains(1.0, 1.2, size=1e-5), []),
    ],
)
def test_a_gain_of_one_beside_one_that_moved(checkpoint: Checkpoint, tensors: list[str]) -> None:
    assert [each.tensor for each in findings_of(initial_values, checkpoint)] == tensors
