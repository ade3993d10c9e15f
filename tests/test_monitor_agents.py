"""The callback for Stable-Baselines3: every algorithm, healthy and sabotaged."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.callbacks.sb3 import DoctorCallback
from checkpoint_doctor.callbacks.torch import TrainingIsIll
from checkpoint_doctor.results.report import Verdict
from tests.monitored_loops import told
from tests.sb3_models import CHOICE, VECTOR, Noise

STEPS = 48
SMALL = {"net_arch": [16, 16]}

ON_POLICY = {PPO: {"n_steps": 24, "batch_size": 8}, A2C: {}, TRPO: {"n_steps": 24, "batch_size": 8}}
MASKED = {MaskablePPO: {"n_steps": 24, "batch_size": 8}, RecurrentPPO: {"n_steps": 24, "batch_size": 8}}
DISCRETE = {DQN: {"learning_starts": 10, "train_freq": 1}, QRDQN: {"learning_starts": 10, "train_freq": 1}}
CONTINUOUS = {kind: {"learning_starts": 10} for kind in (SAC, TD3, DDPG, TQC, CrossQ)}
ALGORITHMS = {**ON_POLICY, **MASKED, **DISCRETE, **CONTINUOUS}


def build(kind: type[BaseAlgorithm], **settings: Any) -> BaseAlgorithm:
    environment: Any = "Pendulum-v1" if kind in CONTINUOUS else "CartPole-v1"
    if kind is MaskablePPO:
        environment = Noise(VECTOR, CHOICE)
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    off_policy = {"batch_size": 8, "buffer_size": 100} if kind in {**DISCRETE, **CONTINUOUS} else {}
    network = {**SMALL, "lstm_hidden_size": 16} if kind is RecurrentPPO else dict(SMALL)
    options = {**ALGORITHMS[kind], **off_policy, "policy_kwargs": network, **settings}
    return kind(policy, environment, seed=0, device="cpu", **options)


@cache
def train_both(kind: type[BaseAlgorithm]) -> tuple[BaseAlgorithm, BaseAlgorithm, DoctorCallback]:
    alone = build(kind).learn(STEPS)
    watched = build(kind)
    callback = DoctorCallback(check_every=40, stream=io.StringIO())
    watched.learn(STEPS, callback=callback)
    return alone, watched, callback


@pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.__name__)
def test_every_algorithm_trains_as_without_it(kind: type[BaseAlgorithm]) -> None:
    alone, watched, callback = train_both(kind)
    assert callback.examination
    assert callback.examination.algorithm == kind.__name__
    assert callback.examination.verdict is Verdict.HEALTHY
    if kind is MaskablePPO:
        return  # the environment with action masks draws its own random numbers
    pairs = zip(alone.policy.state_dict().values(), watched.policy.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.__name__)
def test_live_and_saved_agents_are_judged_alike(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    _, watched, callback = train_both(kind)
    watched.save(tmp_path / "agent.zip")
    [saved] = scan([tmp_path / "agent.zip"]).checkpoints
    live = callback.examination
    assert live
    assert sorted(map(str, live.tensors)) == sorted(map(str, saved.tensors))
    assert live.hyperparameters == saved.hyperparameters
    assert (live.algorithm, live.step, live.versions) == (saved.algorithm, saved.step, saved.versions)
    # Rules GRD are about a running loop alone, rules FIL about a file.
    assert [(each.code, each.subject, each.message) for each in live.findings if each.code[:3] != "GRD"] == [
        (each.code, each.subject, each.message) for each in saved.findings if each.code[:3] != "FIL"
    ]
    assert [each.message for each in live.diagnoses] == [each.message for each in saved.diagnoses]


class At(BaseCallback):
    """Does something to the model once, at a step."""

    def __init__(self, step: int, act: Callable[[BaseAlgorithm], None]) -> None:
        super().__init__()
        self.step, self.act, self.done = step, act, False

    def _on_step(self) -> bool:
        if not self.done and self.num_timesteps >= self.step:
            self.done = True
            self.act(self.model)
        return True


def one_nan(model: BaseAlgorithm) -> None:
    first: list[bool] = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if not first:
            first.append(True)
            gradient = gradient.clone()
            gradient[1, 2] = float("nan")
        return gradient

    module = model.policy.critic.qf0[2] if isinstance(model, SAC) else model.policy.mlp_extractor.value_net[2]
    module.weight.register_hook(spoil)


@pytest.mark.parametrize("kind", [PPO, SAC], ids=lambda kind: kind.__name__)
def test_stop_keeps_nan_from_the_weights_and_the_healthy_agent_resumes(
    kind: type[BaseAlgorithm], tmp_path: Path
) -> None:
    model, stream, healthy = build(kind), io.StringIO(), tmp_path / "healthy.zip"
    callback = DoctorCallback(check_every=20, on_error="stop", save_healthy=healthy, stream=stream)
    model.learn(200, callback=[callback, At(70, one_nan)])
    assert model.num_timesteps < 120
    assert all(bool(torch.isfinite(each).all()) for each in model.policy.state_dict().values())
    assert "error: nonfinite-gradient, proven" in stream.getvalue()
    resumed = kind.load(healthy, env=model.get_env())
    resumed.learn(30, reset_num_timesteps=False)
    assert resumed.num_timesteps > 40


def test_raise_leaves_the_training() -> None:
    with pytest.raises(TrainingIsIll, match="gradient of mlp_extractor"):
        build(PPO).learn(200, callback=[DoctorCallback(on_error="raise", verbose=0), At(30, one_nan)])


def test_a_bias_zeroed_in_an_agent_that_learns_at_every_step_is_found() -> None:
    callback = DoctorCallback(check_every=50, stream=io.StringIO())

    def zero(model: BaseAlgorithm) -> None:
        model.policy.actor.latent_pi[0].bias.data.zero_()

    build(SAC).learn(110, callback=[callback, At(80, zero)])
    assert told(callback.monitor) == ["began overwritten", "healed overwritten"]


def test_the_figures_go_to_the_logger(tmp_path: Path) -> None:
    model = build(A2C)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(200, log_interval=4, callback=DoctorCallback(check_every=20, per_layer=True, verbose=0))
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert {"doctor/zero_fraction", "doctor/dormant_units", "doctor/grad_norm", "doctor/worst_layer"} <= set(
        header.split(",")
    )
    assert "doctor/grad_norm/action_net" in header
    assert rows


def test_nothing_is_said_before_the_first_update_but_at_the_end() -> None:
    callback = DoctorCallback(check_every=10, stream=io.StringIO())
    build(SAC, learning_starts=1000).learn(60, callback=callback)
    assert "began never-started" in told(callback.monitor)
    assert callback.monitor
    assert callback.monitor.news[0].step == 60


def test_no_random_number_is_drawn() -> None:
    model = build(PPO)
    model.learn(24)
    callback = DoctorCallback(check_every=1, verbose=0)
    callback.init_callback(model)
    callback._on_training_start()
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    assert callback.monitor
    callback.monitor.steps = 1
    callback.monitor.check()
    assert callback.examination
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
