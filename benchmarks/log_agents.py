"""Trains agents with Stable-Baselines3, healthy and with faults, for the bench of training logs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor


class At(BaseCallback):
    """Acts once, when so many steps were made."""

    def __init__(self, step: float, act: Callable[[Any], None]) -> None:
        super().__init__()
        self.step, self.act, self.done = step, act, False

    def _on_step(self) -> bool:
        if not self.done and self.num_timesteps >= self.step:
            self.act(self.model)
            self.done = True
        return True


class Flippable(gym.RewardWrapper):
    """An environment whose rewards can change their sign during the run."""

    sign = 1.0

    def reward(self, reward: float) -> float:
        """Return the reward with the sign of now."""
        return self.sign * float(reward)


def train(
    folder: Path,
    algorithm: str,
    environment: str,
    steps: int,
    *,
    fault: tuple[float, Callable[[Any], None]] | None = None,
    kept: str = "progress.csv",
    evaluations: int = 0,
    interval: int | None = None,
    **options: Any,
) -> Path:
    """Train an agent and return the log that is asked for."""
    work = folder.parent / f"{folder.name}_work"
    made = Monitor(Flippable(gym.make(environment)), str(work / "run"), override_existing=True) if _made(work) else None
    model = getattr(sb3, algorithm)("MlpPolicy", made, seed=0, **options)
    model.set_logger(configure(str(work), ["csv"]))
    callbacks: list[BaseCallback] = []
    if fault:
        callbacks.append(At(fault[0] * steps, fault[1]))
    if evaluations:
        callbacks.append(
            EvalCallback(
                Monitor(gym.make(environment)),
                eval_freq=steps // evaluations,
                n_eval_episodes=5,
                log_path=str(work),
                verbose=0,
            )
        )
    model.learn(steps, callback=callbacks or None, log_interval=interval or (4 if hasattr(model, "tau") else 1))
    path = folder / kept
    shutil.copy(work / ("run.monitor.csv" if kept == "monitor.csv" else kept), path)
    shutil.rmtree(work)
    return path


def _made(work: Path) -> bool:
    work.mkdir(parents=True, exist_ok=True)
    return True


def raise_rate(rate: float) -> Callable[[Any], None]:
    """Return what sets the learning rate of a model."""

    def act(model: Any) -> None:
        model.learning_rate = rate
        model._setup_lr_schedule()

    return act


def flip(model: Any) -> None:
    """Punish from now on what was rewarded."""
    for each in model.env.envs:
        each.env.sign = -1.0


def scramble(model: Any) -> None:
    """Write noise over the policy."""
    rng = np.random.default_rng(0)
    import torch

    with torch.no_grad():
        for each in model.policy.parameters():
            each.add_(torch.as_tensor(rng.normal(0, 3.0, tuple(each.shape)), dtype=each.dtype))


PPO_OPTIONS = {"n_steps": 256, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3}
DQN_OPTIONS = {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100000, "learning_starts": 1000,
    "target_update_interval": 10,
    "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}  # fmt: skip

AGENTS = (
    ("ppo cartpole", None, (), lambda folder: train(folder, "PPO", "CartPole-v1", 30000, **PPO_OPTIONS)),
    (
        "ppo linear rate",
        None,
        (),
        lambda folder: train(
            folder, "PPO", "CartPole-v1", 30000, **{**PPO_OPTIONS, "learning_rate": lambda left: left * 1e-3}
        ),
    ),
    (
        "ppo monitor",
        None,
        (),
        lambda folder: train(folder, "PPO", "CartPole-v1", 25000, kept="monitor.csv", **PPO_OPTIONS),
    ),
    (
        "ppo evaluations",
        None,
        (),
        lambda folder: train(
            folder, "PPO", "CartPole-v1", 25000, kept="evaluations.npz", evaluations=20, **PPO_OPTIONS
        ),
    ),
    ("a2c cartpole", None, (), lambda folder: train(folder, "A2C", "CartPole-v1", 30000, interval=50)),
    ("dqn cartpole", None, (), lambda folder: train(folder, "DQN", "CartPole-v1", 40000, **DQN_OPTIONS)),
    ("sac pendulum", None, (), lambda folder: train(folder, "SAC", "Pendulum-v1", 5000, learning_rate=1e-3)),
    ("td3 pendulum", None, (), lambda folder: train(folder, "TD3", "Pendulum-v1", 6000, learning_starts=500)),
    ("ppo pendulum", None, (), lambda folder: train(folder, "PPO", "Pendulum-v1", 20000, n_steps=512)),
    ("a2c that learns little", None, (), lambda folder: train(folder, "A2C", "Pendulum-v1", 15000, interval=50)),
    ("dqn that never arrives", None, (), lambda folder: train(folder, "DQN", "MountainCar-v0", 10000)),
    ("dqn at its beginning", None, (), lambda folder: train(folder, "DQN", "CartPole-v1", 15000, learning_starts=500)),
    ("ddpg pendulum", None, (), lambda folder: train(folder, "DDPG", "Pendulum-v1", 2500, learning_starts=200)),
    (
        "ppo rate explodes",
        0.6,
        ("LOG002", "LOG004", "LOG008"),
        lambda folder: train(folder, "PPO", "CartPole-v1", 40000, fault=(0.6, raise_rate(0.5)), **PPO_OPTIONS),
    ),
    (
        "ppo reward flipped",
        0.5,
        ("LOG002", "LOG004"),
        lambda folder: train(folder, "PPO", "CartPole-v1", 40000, fault=(0.5, flip), **PPO_OPTIONS),
    ),
    (
        "ppo policy overwritten",
        0.7,
        ("LOG002", "LOG004"),
        lambda folder: train(
            folder,
            "PPO",
            "CartPole-v1",
            40000,
            fault=(0.7, scramble),
            kept="monitor.csv",
            **{**PPO_OPTIONS, "learning_rate": 1e-4, "n_epochs": 20},
        ),
    ),
)
