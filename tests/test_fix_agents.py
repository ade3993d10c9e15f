"""Repaired agents in the hands of Stable-Baselines3: they load, act and learn on."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TQC, TRPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import open_checkpoint
from checkpoint_doctor.plugins.catalogue import discover
from tests.sb3_models import MODELS

pytestmark = pytest.mark.usefixtures("one_torch")

CATALOGUE = discover()

KINDS: dict[str, type[BaseAlgorithm]] = {
    "PPO": PPO, "A2C": A2C, "SAC": SAC, "TD3": TD3, "DDPG": DDPG, "DQN": DQN, "QRDQN": QRDQN, "TQC": TQC, "TRPO": TRPO,
    "RecurrentPPO": RecurrentPPO,
}  # fmt: skip


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """ChangeRecord tensors of a saved agent's policy."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    change(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    members["policy.pth"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)


def biases(model: BaseAlgorithm) -> list[str]:
    return [name for name in model.policy.state_dict() if "bias" in name]


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_fixed_agent_loads_acts_and_learns(algorithm: str, tmp_path: Path) -> None:
    model = MODELS[algorithm]()
    path = tmp_path / "agent.zip"
    model.save(path)
    names = biases(model)
    rewrite(path, lambda state: [state[name].zero_() for name in names])
    (result,) = fix([path], catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    environment = model.get_env()
    assert environment is not None
    assert result.output is not None
    settings: dict[str, Any] = {"device": "cpu"}
    well = KINDS[algorithm].load(result.output, env=environment, **settings)
    state = well.policy.state_dict()
    for name in names:
        assert state[name].count_nonzero() > 0, name
        online = name.replace("_target", "")
        if online in state:
            assert torch.equal(state[name], state[online]), name
    observation = environment.reset()
    action, _ = well.predict(observation, deterministic=True)
    assert np.isfinite(np.asarray(action, dtype=float)).all()
    well.learn(48)
    assert all(bool(tensor.isfinite().all()) for tensor in well.policy.state_dict().values())


def test_a_linear_policy_of_random_search(tmp_path: Path) -> None:
    model = MODELS["ARS"]()
    path = tmp_path / "agent.zip"
    model.save(path)
    name = next(name for name in model.policy.state_dict() if name.endswith("weight"))
    rewrite(path, lambda state: state[name].view(-1)[0].fill_(float("nan")))
    (result,) = fix([path], FixOptions(unsafe=True), catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    assert result.output is not None
    well = ARS.load(result.output, env=model.get_env(), device="cpu")
    assert bool(well.policy.state_dict()[name].isfinite().all())
    well.learn(8)


RECYCLED = {
    "dqn/Acrobot-v1_1/Acrobot-v1.zip": (DQN, "Acrobot-v1", 137),
    "qrdqn/MountainCar-v0_1/MountainCar-v0.zip": (QRDQN, "MountainCar-v0", 388),
}


@pytest.mark.parametrize("name", RECYCLED)
def test_recycling_keeps_the_greedy_action(name: str, corpus: Path, tmp_path: Path) -> None:
    kind, task, fewest = RECYCLED[name]
    path = tmp_path / Path(name).name
    shutil.copy(corpus / "rl-trained-agents" / name, path)
    (result,) = fix([path], FixOptions(recycle=True, notes=True), catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    assert result.output is not None
    recycled = [each.entries for each in result.summary.changes if each.tensor.endswith(".bias") and not each.of]
    assert sum(recycled) >= fewest
    environment = gym.make(task)
    settings = {
        "observation_space": environment.observation_space,
        "action_space": environment.action_space,
        "learning_rate": 0.0,
        "lr_schedule": lambda _: 0.0,
        "exploration_schedule": lambda _: 0.0,
    }
    before, after = (kind.load(each, custom_objects=settings, device="cpu") for each in (path, result.output))
    environment.observation_space.seed(0)
    observations = np.stack([environment.observation_space.sample() for _ in range(20_000)])
    agreed = before.predict(observations, deterministic=True)[0] == after.predict(observations, deterministic=True)[0]
    assert agreed.mean() >= 0.999
    online = dict(open_checkpoint(result.output, CATALOGUE).online_tensors)
    state = after.policy.state_dict()
    moved = {each.tensor for each in result.summary.changes if each.tensor in online}
    assert moved
    for change in result.summary.changes:
        if change.tensor in moved:
            entries = np.concatenate([np.arange(*each) for each in change.ranges])
            twin, own = state[online[change.tensor]], state[change.tensor]
            assert torch.equal(own.reshape(-1)[entries], twin.reshape(-1)[entries])
    assert fix([result.output], FixOptions(recycle=True), catalogue=CATALOGUE)[0].outcome is Outcome.NOTHING


def test_an_untrained_agents_dead_units_are_recycled_in_the_target_network_too(tmp_path: Path) -> None:
    """Without a single update no moment says that outgoing weights are zero on purpose."""
    path = tmp_path / "agent.zip"
    DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [32, 32]}, buffer_size=10, seed=0).save(path)
    rewrite(path, lambda state: [state[f"q_net.q_net.0.{part}"][:3].zero_() for part in ("weight", "bias")])
    (result,) = fix([path], FixOptions(recycle=True, notes=True), catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    policy = DQN.load(result.output or "", device="cpu").policy
    for network in (policy.q_net, policy.q_net_target):
        assert network.q_net[0].weight[:3].abs().min() > 0
        assert not network.q_net[2].weight[:, :3].any()
