"""The patients of the study ``does_fixing_help``: real agents, how each fell ill, and the task of its training.

A case makes its own sick file. Every arm of a case trains an agent of the same algorithm with the same settings and the
same seeds on the same task; only the parameters and the optimizer's state that it starts from differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

PUBLISHED = Path("rl-trained-agents/qrdqn/MountainCar-v0_1/MountainCar-v0.zip")
"""The agent with dormant units, by its path in the corpus (from the repository DLR-RM/rl-trained-agents)."""

ILLNESS_SEED = 1000
"""Added to a run's seed for the training that precedes an illness, so that it shares no draw with the run."""

Environments = Callable[[int, int], VecEnv]
"""How many, and the seed of the first, to environments that are stepped together."""


@dataclass(frozen=True)
class Case:
    """A sick agent and the task on which it is trained on."""

    name: str
    illness: str
    """Names the sick files; cases may share them."""
    arms: tuple[str, ...]
    steps: int
    """Environment steps that every arm trains."""
    environments: Environments
    create: Callable[[int], BaseAlgorithm]
    """A fresh agent of a seed, with the settings of all arms."""
    fall_ill: Callable[[int, Path, Path], None]
    """Write the sick file of a seed: the seed, where to write, the folder with the corpus."""
    fix_options: tuple[str, ...] = ()


class WeakerEngine(gym.Wrapper):
    """MountainCar whose engine has lost a fifth of its force: the old way of driving hardly reaches the top."""

    FORCE = 0.0008

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        env.unwrapped.force = self.FORCE


class WithoutVelocities(gym.ObservationWrapper):
    """CartPole that shows where cart and pole are but not how fast they move, so that the agent must remember."""

    SHOWN = (0, 2)

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        full = env.observation_space
        shown = list(self.SHOWN)
        self.observation_space = gym.spaces.Box(full.low[shown], full.high[shown], dtype=np.float32)

    def observation(self, observation: NDArray) -> NDArray:
        """Return the positions alone."""
        return observation[list(self.SHOWN)]


class ForgottenHead(ActorCriticPolicy):
    """A policy with a common mistake: its action head starts at zero and is cut off from training.

    The head is held by the optimizer but asks for no gradient, as after a freeze that was meant for other layers.
    """

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        for parameter in self.action_net.parameters():
            parameter.requires_grad_(False)
            parameter.zero_()


def mountain_car(weaker: bool) -> Environments:
    """Return how to make MountainCar, as published or with a weaker engine."""

    def make(count: int, seed: int) -> VecEnv:
        return make_vec_env("MountainCar-v0", count, seed=seed, wrapper_class=WeakerEngine if weaker else None)

    return make


def cart_pole(masked: bool) -> Environments:
    """Return how to make CartPole, as published or without its velocities."""

    def make(count: int, seed: int) -> VecEnv:
        return make_vec_env("CartPole-v1", count, seed=seed, wrapper_class=WithoutVelocities if masked else None)

    return make


def quantile_agent(environments: Environments) -> Callable[[int], BaseAlgorithm]:
    """Return how to make a fresh QRDQN with all settings of the published agent, its exploration included."""

    def create(seed: int) -> BaseAlgorithm:
        return QRDQN(
            "MlpPolicy",
            environments(1, seed),
            learning_rate=4e-3,
            batch_size=128,
            buffer_size=10_000,
            learning_starts=1000,
            gamma=0.98,
            train_freq=16,
            gradient_steps=8,
            exploration_fraction=0.2,
            exploration_final_eps=0.07,
            target_update_interval=600,
            policy_kwargs={
                "net_arch": [256, 256],
                "n_quantiles": 25,
                "optimizer_class": torch.optim.Adam,
                "optimizer_kwargs": {"eps": 0.01 / 128},
            },
            seed=seed,
            device="cpu",
        )

    return create


def recurrent_agent(seed: int) -> BaseAlgorithm:
    """Return a fresh RecurrentPPO with a small LSTM each in actor and critic."""
    return RecurrentPPO(
        "MlpLstmPolicy",
        cart_pole(masked=True)(8, seed),
        learning_rate=1e-3,
        n_steps=32,
        batch_size=256,
        n_epochs=10,
        gae_lambda=0.8,
        gamma=0.98,
        policy_kwargs={
            "lstm_hidden_size": 32,
            "net_arch": {"pi": [64], "vf": [64]},
            "activation_fn": torch.nn.ReLU,
            "ortho_init": False,
        },
        seed=seed,
        device="cpu",
    )


def feedforward_agent(policy: str | type[ActorCriticPolicy]) -> Callable[[int], BaseAlgorithm]:
    """Return how to make a fresh PPO of a policy class."""

    def create(seed: int) -> BaseAlgorithm:
        return PPO(
            policy,
            cart_pole(masked=False)(8, seed),
            learning_rate=1e-3,
            n_steps=32,
            batch_size=256,
            n_epochs=10,
            gae_lambda=0.8,
            gamma=0.98,
            seed=seed,
            device="cpu",
        )

    return create


def take_published(seed: int, path: Path, corpus: Path) -> None:
    """Copy the published agent; it is the same for every seed."""
    path.write_bytes((corpus / PUBLISHED).read_bytes())


def overwrite_recurrent_biases(seed: int, path: Path, corpus: Path) -> None:
    """Train a recurrent agent, keep it as ``…intact.zip``, and write it again with every LSTM bias at zero."""
    agent = recurrent_agent(seed + ILLNESS_SEED)
    agent.learn(LSTM_STEPS)
    agent.save(path.with_name(f"{path.stem}-intact.zip"))
    with torch.no_grad():
        for name, parameter in agent.policy.named_parameters():
            if ".bias_" in name:
                parameter.zero_()
    agent.save(path)


def train_without_head(seed: int, path: Path, corpus: Path) -> None:
    """Train an agent whose action head the training code forgets."""
    agent = feedforward_agent(ForgottenHead)(seed + ILLNESS_SEED)
    agent.learn(HEAD_STEPS // 2)
    agent.save(path)


CAR_STEPS = 12_000
LSTM_STEPS = 24_576
HEAD_STEPS = 61_440


def recycle_published(task: str, *, weaker: bool) -> Case:
    """Return the case of the published agent, whose dormant units are recycled, on a mountain car."""
    return Case(
        name=f"dormant-units-{task}",
        illness="dormant-units",
        arms=("sick", "fixed", "stale", "scratch"),
        steps=CAR_STEPS,
        environments=mountain_car(weaker=weaker),
        create=quantile_agent(mountain_car(weaker=weaker)),
        fall_ill=take_published,
        fix_options=("--recycle",),
    )


def forget_head(cause: str, policy: str | type[ActorCriticPolicy]) -> Case:
    """Return the case of the head that training forgot, trained on with a policy."""
    return Case(
        name=f"zero-head-cause-{cause}",
        illness="zero-head",
        arms=("sick", "fixed", "scratch"),
        steps=HEAD_STEPS,
        environments=cart_pole(masked=False),
        create=feedforward_agent(policy),
        fall_ill=train_without_head,
    )


CASES = (
    recycle_published("same-task", weaker=False),
    recycle_published("new-task", weaker=True),
    Case(
        name="lstm-biases",
        illness="lstm-biases",
        arms=("sick", "fixed", "intact", "scratch"),
        steps=LSTM_STEPS,
        environments=cart_pole(masked=True),
        create=recurrent_agent,
        fall_ill=overwrite_recurrent_biases,
    ),
    forget_head("stays", ForgottenHead),
    forget_head("gone", "MlpPolicy"),
)
