"""The limits of the rules about a run's settings and about the statistics of observations, each from both sides."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.settings.normalizer import missing_normalizer, normalizer_statistics
from checkpoint_doctor.builtin.analyzers.settings.run_settings import (
    batch_and_rollout,
    frozen_fraction,
    gradient_clipping,
    warmup,
    weight_decay_on_norms,
)
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.checkpoint.checkpoint import Missing
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


def agent(algorithm: str = "PPO", format: str = "sb3", **settings: Any) -> Checkpoint:
    return build_checkpoint({"a": [1.0]}, format=format, algorithm=algorithm, hyperparameters=settings, step=5000)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (agent(max_grad_norm=0), "every gradient becomes zero"),
        (agent(max_grad_norm=-1), "every gradient is turned round"),
        (agent("TRPO", max_grad_norm=-1), None),
        (agent("TRPO", max_grad_norm=1e9), None),
        (agent("SAC", max_grad_norm=0.5), "has no such argument"),
        (agent("SAC", "torch", max_grad_norm=0.5), None),
        (agent(max_grad_norm=0.3), None),
        (agent(max_grad_norm=0.29), "max_grad_norm is 0.29"),
        (agent(max_grad_norm=5), None),
        (agent(max_grad_norm=5.1), "max_grad_norm is 5.1"),
        (agent(max_grad_norm=0.5, learning_rate=7.0, gamma=0.1), None),
    ],
)
def test_the_limit_of_the_gradient_norm(checkpoint: Checkpoint, words: str | None) -> None:
    found = findings_of(gradient_clipping, checkpoint)
    assert len(found) == (words is not None)
    assert all(str(words) in each.message for each in found)


ROLLOUT = {"batch_size": 64, "n_steps": 128, "n_envs": 1, "clip_range": 0.2}


@pytest.mark.parametrize(
    ("changed", "severity", "words"),
    [
        ({}, None, ""),
        ({"batch_size": 128}, None, ""),
        ({"batch_size": 129}, NOTE, "a batch of 129 is larger than"),
        ({"batch_size": 63}, NOTE, "does not divide"),
        ({"n_envs": 2, "batch_size": 256}, None, ""),
        ({"batch_size": 1}, WARNING, "normalised over 1 step"),
        ({"batch_size": 2}, None, ""),
        ({"n_steps": 1, "batch_size": 64}, WARNING, "normalised over 1 step"),
        ({"batch_size": 1, "normalize_advantage": False}, None, ""),
        ({"batch_size": 1, "normalize_advantage": True}, WARNING, "normalised over 1 step"),
        ({"n_envs": None, "batch_size": 63}, None, ""),
        ({"n_steps": None, "batch_size": 63}, None, ""),
        ({"batch_size": None}, None, ""),
    ],
)
def test_the_batch_and_the_rollout(changed: dict[str, Any], severity: Severity | None, words: str) -> None:
    found = findings_of(batch_and_rollout, agent(**{**ROLLOUT, **changed}))
    assert [each.severity for each in found] == [severity] * (severity is not None)
    assert all(words.removeprefix("a batch") in each.message for each in found)


@pytest.mark.parametrize(
    ("settings", "speaks"),
    [
        ({"learning_starts": 100, "_total_timesteps": 100}, True),
        ({"learning_starts": 99, "_total_timesteps": 100}, False),
        ({"learning_starts": 1, "_total_timesteps": 1}, True),
        ({"learning_starts": 100, "_total_timesteps": 0}, False),
        ({"learning_starts": 100}, False),
        ({"_total_timesteps": 100}, False),
        ({"batch_size": 63, "n_steps": 128, "n_envs": 1}, False),  # not PPO
    ],
)
def test_a_run_that_ends_before_it_learns(settings: dict[str, Any], speaks: bool) -> None:
    assert bool(findings_of(batch_and_rollout, agent("SAC", **settings))) is speaks
    assert not findings_of(batch_and_rollout, agent("SAC", "torch", **settings))


@pytest.mark.parametrize(
    ("settings", "at", "words"),
    [
        ({"warmup_steps": 100}, {"step": 99}, "saved at step 99 of a warm-up of 100"),
        ({"warmup_steps": 100}, {"step": 100}, None),
        ({"warmup_steps": 100}, {"step": 1}, "saved at step 1 of"),
        ({"warmup_steps": 100}, {"step": 0}, None),
        ({"warmup_steps": 100}, {}, None),
        ({"warmup_steps": 100}, {"step": 50, "updates": 100}, None),
        ({"warmup_steps": 1}, {"step": 0, "updates": 1}, None),
        ({"warmup_steps": 0, "max_steps": 10}, {"step": 5}, None),
        ({"warmup_steps": -5, "max_steps": 10}, {"step": 5}, None),
        ({"warmup_steps": 51, "max_steps": 100}, {"step": 60}, "takes 51 of 100 steps"),
        ({"warmup_steps": 50, "max_steps": 100}, {"step": 60}, None),
        ({"warmup_steps": 51, "total_steps": 100}, {"step": 60}, "takes 51 of 100 steps"),
        ({"warmup_steps": 1, "max_steps": 1}, {"step": 60}, "takes 1 of 1 steps"),
        ({"warmup_steps": 51, "max_steps": -1}, {"step": 60}, None),
        ({"warmup_ratio": 0.6, "max_steps": 100}, {"step": 70}, "takes 60 of 100 steps"),
        ({"warmup_ratio": 0.6, "max_steps": -1}, {"step": 70}, None),
        ({"warmup_ratio": 0.6}, {"step": 70}, None),
        ({"warmup_ratio": 0.6, "warmup_steps": 10, "max_steps": 100}, {"step": 70}, None),
        ({"max_steps": 100}, {"step": 70}, None),
    ],
)
def test_the_warm_up(settings: dict[str, Any], at: dict[str, int], words: str | None) -> None:
    found = findings_of(warmup, build_checkpoint({"a": [1.0]}, hyperparameters=settings, **at))
    assert len(found) == (words is not None)
    assert all(str(words) in each.message for each in found)


def held(trained: int, frozen: int, *, name: str = "frozen.weight") -> Checkpoint:
    """A model of which an optimizer holds some parameters."""
    moments = np.full(trained, 1e-4)
    tensors = {"head.weight": np.ones(trained), name: np.ones(frozen)}
    return build_checkpoint(
        tensors, optimizer={"head.weight": {"step": 9, "exp_avg": moments, "exp_avg_sq": moments}}, step=9
    )


@pytest.mark.parametrize(("trained", "frozen", "speaks"), [(90, 10, True), (91, 9, False), (895, 105, True)])
def test_how_much_must_be_frozen(trained: int, frozen: int, speaks: bool) -> None:
    found = findings_of(frozen_fraction, held(trained, frozen))
    assert [each.evidence["frozen_fraction"] for each in found] == [frozen / (trained + frozen)] * speaks


def test_a_model_without_an_optimizer_is_not_frozen() -> None:
    assert not findings_of(frozen_fraction, build_checkpoint({"a": [1.0, 2.0]}))


def decayed(decay: float, kind: str = "AdamW", weight: tuple[int, ...] = (4, 4)) -> Checkpoint:
    tensors = {"net.weight": np.ones(weight), "norm.weight": np.ones(4), "norm.bias": np.zeros(4)}
    state = {
        name: {"step": 9, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-4)}
        for name, each in tensors.items()
    }
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": decay}
    return build_checkpoint(tensors, optimizer=state, optimizer_kind=kind, optimizer_options=options, step=9)


@pytest.mark.parametrize(
    ("checkpoint", "speaks"),
    [
        (decayed(0.05), True),
        (decayed(0.049), False),
        (decayed(0.052), True),
        (decayed(0.05, "Adam"), False),
        (decayed(0.05, weight=(1, 1)), False),
        (decayed(0.05, weight=(1, 2)), True),
        (decayed(0.05, weight=(4,)), False),
    ],
)
def test_weight_decay_that_holds_gains(checkpoint: Checkpoint, speaks: bool) -> None:
    assert bool(findings_of(weight_decay_on_norms, checkpoint)) is speaks


# The statistics of observations


def with_statistics(
    mean: list[float],
    variance: list[float],
    *,
    count: float | None = None,
    step: int | None = None,
    norm_obs: bool = True,
    key: str = "observations",
    layers: tuple[str, ...] = ("mlp_extractor.policy_net.0",),
    inputs: int = 4,
    name: Content = Content.NORMALIZATION,
) -> Checkpoint:
    statistics = {"mean": mean, "variance": variance, **({} if count is None else {"count": count})}
    part = Part("vecnormalize.pkl", name, {key: statistics, "norm_obs": norm_obs})
    rng = np.random.default_rng(0)
    tensors = {f"{layer}.weight": rng.normal(size=(8, inputs)) for layer in layers}
    tensors["mlp_extractor.policy_net.2.weight"] = rng.normal(size=(8, 8))
    return build_checkpoint(tensors, parts=[part], step=step, format="sb3")


def what(checkpoint: Checkpoint) -> list[tuple[Severity, str]]:
    return [(each.severity, each.evidence["what"]) for each in findings_of(normalizer_statistics, checkpoint)]


ZEROS, ONES = [0.0] * 4, [1.0] * 4


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (with_statistics(ZEROS, ONES), []),
        (with_statistics([np.nan, 0, 0, 0], ONES), [(ERROR, "impossible")]),
        (with_statistics(ZEROS, [1, -0.5, 1, 1]), [(ERROR, "impossible")]),
        (with_statistics(ZEROS, [1, 0.5, 1, 1]), []),
        (with_statistics(ZEROS, [1, np.nan, 1, 1]), [(ERROR, "impossible")]),
        (with_statistics(ZEROS, [1, 1e300, 1, 1]), [(ERROR, "impossible")]),
        (with_statistics(ZEROS, [1, 0, 1, 1]), [(NOTE, "constant")]),
        (with_statistics(ZEROS, ONES, count=1.0), []),
        (with_statistics(ZEROS, ONES, count=0.0), [(WARNING, "count")]),
        (with_statistics(ZEROS, ONES, count=1e13), []),
        (with_statistics(ZEROS, ONES, count=1.05e13), [(WARNING, "count")]),
        # Twice or half of the steps are of the same moment, as far as anybody knows.
        (with_statistics(ZEROS, ONES, count=200, step=100), []),
        (with_statistics(ZEROS, ONES, count=201, step=100), [(NOTE, "another moment")]),
        (with_statistics(ZEROS, ONES, count=50, step=100), []),
        (with_statistics(ZEROS, ONES, count=49, step=100), [(NOTE, "another moment")]),
        (with_statistics(ZEROS, ONES, count=49), []),
        (with_statistics(ZEROS, ONES, step=100), []),
        (with_statistics(ZEROS, ONES, count=1e13, step=100), [(NOTE, "another moment")]),
        (with_statistics(ZEROS, ONES, count=1.05e13, step=100), [(WARNING, "count")]),
        # The features are those that the policy reads.
        (with_statistics([0.0] * 5, [1.0] * 5), [(WARNING, "another agent")]),
        (with_statistics([0.0] * 5, [1.0] * 5, norm_obs=False), []),
        (with_statistics([0.0] * 5, [1.0] * 5, key="observations/camera"), []),
        (with_statistics([np.nan] * 5, [1.0] * 5, key="observations/camera"), [(ERROR, "impossible")]),
        (with_statistics([np.nan] * 5, [1.0] * 5, key="rewards"), []),
        (with_statistics([0.0] * 5, [1.0] * 4), []),
        (with_statistics([], []), []),
        (with_statistics([0.0] * 5, [1.0] * 5, layers=()), []),
        (with_statistics([0.0] * 5, [1.0] * 5, layers=("critic.qf0.0",)), []),
        (with_statistics([0.0] * 5, [1.0] * 5, layers=("qf0.0",)), []),
        (with_statistics([0.0] * 5, [1.0] * 5, layers=("q_net_target.0",)), []),
        (with_statistics([0.0] * 5, [1.0] * 5, layers=("actor.latent_pi.0",)), [(WARNING, "another agent")]),
        (with_statistics([np.nan] * 5, ONES, name=Content.SETTINGS), []),
    ],
)
def test_statistics_of_observations(checkpoint: Checkpoint, expected: list[tuple[Severity, str]]) -> None:
    assert what(checkpoint) == expected


@pytest.mark.parametrize(
    ("measured", "raw", "speaks"),
    [
        ((5.1,), 5.0, True),
        ((5.0,), 5.0, False),
        ((5.4,), 5.0, True),
        ((30.0,), 10.0, True),  # within three times
        ((30.1,), 10.0, False),
        ((10.0,), 30.0, True),
        ((9.9,), 30.0, False),
        ((1.0, 30.0), 30.0, False),
        ((), 5.0, False),
    ],
)
def test_an_agent_that_saw_raw_observations(
    measured: tuple[float, ...], raw: float, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = ("mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")
    sizes: Mapping[str, Any] = {
        name: SimpleNamespace(input_rms=size) for name, size in zip(layers, (*measured, None, None), strict=False)
    }
    monkeypatch.setattr(Checkpoint, "signals", sizes)
    expected = [(WARNING, "raw observations")] * speaks
    assert what(with_statistics([raw * 0.6] * 4, [(raw * 0.8) ** 2] * 4, layers=layers)) == expected


def test_statistics_that_are_not_beside_their_agent() -> None:
    alone = replace(build_checkpoint({"a": [1.0]}, format="sb3"), metadata={"observations": "normalized"})
    part = Part("vecnormalize.pkl", Content.NORMALIZATION, {})
    assert findings_of(missing_normalizer, alone)
    assert not findings_of(missing_normalizer, replace(alone, metadata={}))
    assert not findings_of(missing_normalizer, replace(alone, parts=(part,)))
    assert not findings_of(missing_normalizer, replace(alone, missing=(Missing("model.pt", "b"),)))
