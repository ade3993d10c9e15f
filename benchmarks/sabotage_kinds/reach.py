"""A tiny world, and how Stable-Baselines3 agents are trained in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.sabotage_kinds.pairs import Pair

SMALL = {"net_arch": [32, 32]}


@dataclass(frozen=True)
class World:
    """How observations and rewards are shown to the agent."""

    scale: float = 1.0
    offset: float = 0.0
    reward: float = 1.0
    discrete: bool = False
    masked: bool = False
    silent: int = 0
    """Features at the end that are always zero."""


class Reach(gym.Env):
    """A point in the plane should reach a target within 32 steps; it sees both, and is paid by their distance."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = spaces.Discrete(5) if world.discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Draw the point and its target."""
        super().reset(seed=seed)
        self.position, self.target = self.np_random.uniform(-1, 1, 2), self.np_random.uniform(-1, 1, 2)
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        """Return both places and the way between them, in the unit of the world."""
        seen = np.concatenate([self.position, self.target, self.target - self.position])
        seen = self.world.offset + self.world.scale * seen
        if self.world.silent:
            seen[-self.world.silent :] = 0.0
        return seen.astype(np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move the point."""
        if self.world.discrete:
            action = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))[int(action)]
        self.position = np.clip(self.position + 0.2 * np.asarray(action), -1, 1)
        self.steps += 1
        distance = float(np.linalg.norm(self.target - self.position))
        return self.observe(), -self.world.reward * distance, False, self.steps >= 32, {}

    def action_masks(self) -> np.ndarray:
        """Say which actions are allowed: all of them, or all but the last two."""
        return np.array([True, True, True, not self.world.masked, not self.world.masked])


CONTINUOUS, DISCRETE = World(), World(discrete=True)
ON_POLICY = {PPO: {"n_steps": 256, "batch_size": 64, "n_epochs": 4}, A2C: {"n_steps": 16}}
ON_POLICY[MaskablePPO] = ON_POLICY[PPO]
STEPS = {PPO: 2048, MaskablePPO: 2048, A2C: 3200, DQN: 1500, SAC: 700, TD3: 700}


def train(
    algorithm: type[BaseAlgorithm],
    world: World,
    *,
    policy: dict[str, Any] | None = None,
    before: Callable[[BaseAlgorithm], object] = lambda model: None,
    **settings: Any,
) -> BaseAlgorithm:
    """Train an agent for a few hundred updates."""
    torch.set_num_threads(1)
    defaults: dict[str, Any] = ON_POLICY.get(algorithm, {"learning_starts": 100, "batch_size": 64, "buffer_size": 2000})
    if algorithm is DQN:
        defaults = {**defaults, "train_freq": 2, "target_update_interval": 100}
    arguments = {**defaults, "policy_kwargs": {**SMALL, **(policy or {})}, **settings}
    model = algorithm("MlpPolicy", Reach(world), device="cpu", seed=0, **arguments)
    before(model)
    return model.learn(STEPS[algorithm])


@cache
def train_healthy(algorithm: type[BaseAlgorithm], world: World) -> BaseAlgorithm:
    """Train an agent without a fault, once."""
    return train(algorithm, world)


def beside_healthy(folder: Path, ill: BaseAlgorithm, world: World, *affected: str) -> Pair:
    """Save an agent beside the one of the same algorithm that was trained without a fault."""
    ill.save(folder / "ill.zip")
    train_healthy(type(ill), world).save(folder / "healthy.zip")
    return Pair(folder / "ill.zip", folder / "healthy.zip", affected)
