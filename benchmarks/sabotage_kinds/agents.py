"""Agents of Stable-Baselines3 in a tiny world, trained with settings or observations that make them ill."""

from __future__ import annotations

import copy
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

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind

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


MLP = ("mlp_extractor", "action_net", "value_net", "policy.optimizer")
ACTOR, CRITIC = ("actor", "actor.optimizer"), ("critic", "critic.optimizer")


@kind("never-started")
def policy_delay_of_a_million(folder: Path) -> Pair:
    return beside_healthy(folder, train(TD3, CONTINUOUS, policy_delay=1_000_000), CONTINUOUS, *ACTOR)


@kind("never-started")
def learning_starts_after_the_end(folder: Path) -> Pair:
    ill = train(DQN, DISCRETE, learning_starts=50_000)
    return beside_healthy(folder, ill, DISCRETE, "q_net", "policy.optimizer")


@kind("never-started")
def learning_starts_after_the_end_of_sac(folder: Path) -> Pair:
    ill = train(SAC, CONTINUOUS, learning_starts=50_000)
    return beside_healthy(folder, ill, CONTINUOUS, *ACTOR, *CRITIC, "ent_coef_optimizer")


@kind("never-started")
def rollout_longer_than_the_training(folder: Path) -> Pair:
    def never_train(model: BaseAlgorithm) -> None:
        model.train = lambda: None

    ill = train(PPO, CONTINUOUS, before=never_train)
    del ill.train
    return beside_healthy(folder, ill, CONTINUOUS, *MLP)


PRICES = {"scale": 3_000.0, "offset": 64_000.0}


@kind("unscaled-inputs")
def prices_as_observations(folder: Path) -> Pair:
    ill = train(PPO, World(discrete=True, **PRICES))
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")


@kind("unscaled-inputs")
def prices_as_observations_of_a_q_network(folder: Path) -> Pair:
    return beside_healthy(folder, train(DQN, World(discrete=True, **PRICES)), DISCRETE, "q_net.q_net.0")


@kind("unscaled-inputs")
def actor_saturated_by_raw_observations(folder: Path) -> Pair:
    ill = train(TD3, World(scale=1e4, offset=1e5))
    return beside_healthy(folder, ill, CONTINUOUS, *ACTOR, "critic.qf0.0", "critic.qf1.0")


@kind("constant-inputs")
def observations_always_zero(folder: Path) -> Pair:
    ill = train(PPO, World(scale=0.0, discrete=True))
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")


@kind("constant-inputs")
def four_of_six_observations_always_zero(folder: Path) -> Pair:
    ill = train(SAC, World(silent=4))
    return beside_healthy(folder, ill, CONTINUOUS, "actor.latent_pi.0", "critic.qf0.0", "critic.qf1.0")


@kind("reward-scale")
def rewards_in_millions(folder: Path) -> Pair:
    return beside_healthy(folder, train(DQN, World(reward=1e6, discrete=True)), DISCRETE, "q_net", "policy.optimizer")


@kind("reward-scale")
def rewards_in_millions_for_ppo(folder: Path) -> Pair:
    ill = train(PPO, World(reward=1e6))
    return beside_healthy(folder, ill, CONTINUOUS, "value_net", "mlp_extractor.value_net", "policy.optimizer")


@kind("reward-scale")
def rewards_in_millions_for_sac(folder: Path) -> Pair:
    return beside_healthy(folder, train(SAC, World(reward=1e6)), CONTINUOUS, *CRITIC, *ACTOR)


@kind("target-not-synced")
def tau_of_zero(folder: Path) -> Pair:
    return beside_healthy(folder, train(SAC, CONTINUOUS, tau=0.0), CONTINUOUS, "critic_target", "critic")


@kind("target-not-synced")
def tau_of_zero_in_td3(folder: Path) -> Pair:
    ill = train(TD3, CONTINUOUS, tau=0.0)
    return beside_healthy(folder, ill, CONTINUOUS, "critic_target", "critic", "actor_target", "actor")


@kind("target-not-synced")
def target_interval_of_a_billion(folder: Path) -> Pair:
    ill = train(DQN, DISCRETE, target_update_interval=1_000_000_000)
    return beside_healthy(folder, ill, DISCRETE, "q_net_target", "q_net")


@kind("twin-critics-identical")
def twin_critics_of_sac(folder: Path) -> Pair:
    def copy_critic(model: BaseAlgorithm) -> None:
        for critic in (model.critic, model.critic_target):
            critic.qf1.load_state_dict(copy.deepcopy(critic.qf0.state_dict()))

    return beside_healthy(folder, train(SAC, CONTINUOUS, before=copy_critic), CONTINUOUS, "critic.qf0", "critic.qf1")


@kind("exploration-collapsed")
def log_std_of_minus_twenty(folder: Path) -> Pair:
    def collapse(model: BaseAlgorithm) -> None:
        model.policy.log_std.data.fill_(-20.0)
        model.policy.log_std.requires_grad_(False)

    return beside_healthy(folder, train(A2C, CONTINUOUS, before=collapse), CONTINUOUS, "log_std")


@kind("exploration-collapsed")
def log_std_init_of_minus_twenty(folder: Path) -> Pair:
    return beside_healthy(folder, train(PPO, CONTINUOUS, policy={"log_std_init": -20.0}), CONTINUOUS, "log_std")


@kind("entropy-coefficient")
def negative_entropy_coefficient(folder: Path) -> Pair:
    return beside_healthy(folder, train(PPO, DISCRETE, ent_coef=-0.1), DISCRETE)


@kind("entropy-coefficient")
def entropy_coefficient_of_2980(folder: Path) -> Pair:
    ill = train(SAC, CONTINUOUS, ent_coef="auto_2980")
    return beside_healthy(folder, ill, CONTINUOUS, "log_ent_coef", "ent_coef_optimizer")


@kind("settings-out-of-range")
def gamma_of_one_and_a_half(folder: Path) -> Pair:
    return beside_healthy(folder, train(PPO, DISCRETE, gamma=1.5), DISCRETE)


@kind("settings-out-of-range")
def gamma_of_one_and_a_half_in_dqn(folder: Path) -> Pair:
    return beside_healthy(folder, train(DQN, DISCRETE, gamma=1.5), DISCRETE, "q_net", "policy.optimizer")


@kind("learning-rate-too-low")
def learning_rate_always_zero_in_ppo(folder: Path) -> Pair:
    return beside_healthy(folder, train(PPO, DISCRETE, learning_rate=0.0), DISCRETE, *MLP)


@kind("schedule")
def schedule_of_an_agent_overshoots(folder: Path) -> Pair:
    ill = train(A2C, CONTINUOUS, learning_rate=lambda left: 7e-4 * (2.0 * left - 1.0))
    return beside_healthy(folder, ill, CONTINUOUS, *MLP)


@kind("learning-rate-too-high")
def learning_rate_of_one(folder: Path) -> Pair:
    return beside_healthy(folder, train(DQN, DISCRETE, learning_rate=1.0), DISCRETE, "q_net", "policy.optimizer")


@kind("clip-too-small")
def gradients_clipped_to_1e_12(folder: Path) -> Pair:
    return beside_healthy(folder, train(PPO, CONTINUOUS, max_grad_norm=1e-12), CONTINUOUS, *MLP)


@kind("masked")
def two_actions_always_masked(folder: Path) -> Pair:
    ill = train(MaskablePPO, World(discrete=True, masked=True))
    return beside_healthy(folder, ill, DISCRETE, "action_net")


@decoy
def agent_before_its_first_update(folder: Path) -> Path:
    model = PPO("MlpPolicy", Reach(CONTINUOUS), device="cpu", seed=0)
    model.save(folder / "healthy.zip")
    return folder / "healthy.zip"
