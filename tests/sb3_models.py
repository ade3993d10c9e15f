"""Fresh Stable-Baselines3 models of every algorithm, trained for a moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from checkpoint_doctor.builtin.loaders.sb3.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.sources import FileSource

IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
CHOICE = spaces.Discrete(2)
FORCE = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Noise(gym.Env):
    """Observations and rewards without meaning: enough to make every gradient flow."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space, self.steps = observation_space, action_space, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.steps >= 4, {}

    def action_masks(self) -> np.ndarray:
        return np.ones(2, bool)


torch.set_num_threads(1)


def _on_policy(kind: type[BaseAlgorithm], policy: str, *where: spaces.Space, **settings: Any) -> BaseAlgorithm:
    settings["policy_kwargs"] = {**settings["policy_kwargs"]}  # SB3 writes into it
    batch = {} if kind is A2C else {"batch_size": 4}
    return kind(policy, Noise(*where), n_steps=4, device="cpu", seed=0, **batch, **settings).learn(8)


def _off_policy(kind: type[BaseAlgorithm], policy: str, *where: spaces.Space, **settings: Any) -> BaseAlgorithm:
    settings["policy_kwargs"] = {**settings["policy_kwargs"]}
    model = kind(
        policy, Noise(*where), learning_starts=2, batch_size=4, buffer_size=50, train_freq=1, device="cpu", seed=0,
        **settings,
    )  # fmt: skip
    return model.learn(8)


SMALL = {"net_arch": [8, 8]}
CNN = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
LSTM = {"net_arch": [8], "lstm_hidden_size": 8}

MODELS: dict[str, Callable[[], BaseAlgorithm]] = {
    "PPO": lambda: _on_policy(PPO, "MlpPolicy", VECTOR, CHOICE, policy_kwargs=SMALL),
    "PPO-continuous-gsde": lambda: _on_policy(PPO, "MlpPolicy", VECTOR, FORCE, use_sde=True, policy_kwargs=SMALL),
    "PPO-cnn-shared": lambda: _on_policy(PPO, "CnnPolicy", IMAGE, CHOICE, policy_kwargs=CNN),
    "PPO-cnn-separate": lambda: _on_policy(
        PPO, "CnnPolicy", IMAGE, FORCE, policy_kwargs={**CNN, "share_features_extractor": False}
    ),
    "A2C": lambda: _on_policy(A2C, "MlpPolicy", VECTOR, FORCE, policy_kwargs=SMALL),
    "A2C-cnn-separate": lambda: _on_policy(
        A2C, "CnnPolicy", IMAGE, CHOICE, policy_kwargs={**CNN, "share_features_extractor": False}
    ),
    "TRPO": lambda: _on_policy(TRPO, "MlpPolicy", VECTOR, FORCE, policy_kwargs=SMALL),
    "TRPO-cnn-shared": lambda: _on_policy(TRPO, "CnnPolicy", IMAGE, CHOICE, cg_max_steps=1, policy_kwargs=CNN),
    "MaskablePPO": lambda: _on_policy(MaskablePPO, "MlpPolicy", VECTOR, CHOICE, policy_kwargs=SMALL),
    "RecurrentPPO": lambda: _on_policy(RecurrentPPO, "MlpLstmPolicy", VECTOR, CHOICE, policy_kwargs=LSTM),
    "RecurrentPPO-shared-lstm": lambda: _on_policy(
        RecurrentPPO,
        "MlpLstmPolicy",
        VECTOR,
        FORCE,
        policy_kwargs={**LSTM, "shared_lstm": True, "enable_critic_lstm": False},
    ),
    "RecurrentPPO-linear-critic": lambda: _on_policy(
        RecurrentPPO, "MlpLstmPolicy", VECTOR, CHOICE, policy_kwargs={**LSTM, "enable_critic_lstm": False}
    ),
    "RecurrentPPO-cnn": lambda: _on_policy(
        RecurrentPPO,
        "CnnLstmPolicy",
        IMAGE,
        CHOICE,
        policy_kwargs={**CNN, "lstm_hidden_size": 8, "n_lstm_layers": 2},
    ),
    "DQN": lambda: _off_policy(DQN, "MlpPolicy", VECTOR, CHOICE, policy_kwargs=SMALL),
    "DQN-cnn": lambda: _off_policy(DQN, "CnnPolicy", IMAGE, CHOICE, policy_kwargs=CNN),
    "QRDQN": lambda: _off_policy(QRDQN, "MlpPolicy", VECTOR, CHOICE, policy_kwargs={**SMALL, "n_quantiles": 5}),
    "QRDQN-cnn": lambda: _off_policy(QRDQN, "CnnPolicy", IMAGE, CHOICE, policy_kwargs={**CNN, "n_quantiles": 5}),
    "SAC": lambda: _off_policy(SAC, "MlpPolicy", VECTOR, FORCE, policy_kwargs=SMALL),
    "SAC-gsde-fixed-entropy": lambda: _off_policy(
        SAC, "MlpPolicy", VECTOR, FORCE, use_sde=True, ent_coef=0.1, policy_kwargs=SMALL
    ),
    "SAC-cnn-shared": lambda: _off_policy(
        SAC, "CnnPolicy", IMAGE, FORCE, policy_kwargs={**CNN, "share_features_extractor": True}
    ),
    "SAC-cnn-separate": lambda: _off_policy(SAC, "CnnPolicy", IMAGE, FORCE, policy_kwargs=CNN),
    "TQC": lambda: _off_policy(TQC, "MlpPolicy", VECTOR, FORCE, policy_kwargs={**SMALL, "n_quantiles": 5}),
    "TQC-cnn-shared": lambda: _off_policy(
        TQC, "CnnPolicy", IMAGE, FORCE, policy_kwargs={**CNN, "n_quantiles": 5, "share_features_extractor": True}
    ),
    "CrossQ": lambda: _off_policy(CrossQ, "MlpPolicy", VECTOR, FORCE, policy_kwargs=SMALL),
    "TD3": lambda: _off_policy(TD3, "MlpPolicy", VECTOR, FORCE, policy_kwargs=SMALL),
    "TD3-cnn-shared": lambda: _off_policy(
        TD3, "CnnPolicy", IMAGE, FORCE, policy_kwargs={**CNN, "share_features_extractor": True}
    ),
    "TD3-cnn-separate": lambda: _off_policy(TD3, "CnnPolicy", IMAGE, FORCE, policy_kwargs=CNN),
    "DDPG": lambda: _off_policy(DDPG, "MlpPolicy", VECTOR, FORCE, policy_kwargs=SMALL),
    "ARS": lambda: ARS("LinearPolicy", Noise(VECTOR, FORCE), n_delta=1, device="cpu", seed=0).learn(8),
}


def save_and_open(model: BaseAlgorithm, path: Path | None = None) -> Checkpoint:
    """Save a model and open the file; its tensors are read while it exists."""
    with tempfile.TemporaryDirectory() as folder:
        path = path or Path(folder) / "model.zip"
        model.save(path)
        source = FileSource(path)
        assert loader.recognizes(source)
        return loader.open(source)


def live_optimizers(model: BaseAlgorithm) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers of a live model by the names of their members."""
    parts = {"policy": model.policy, "actor": getattr(model, "actor", None), "critic": getattr(model, "critic", None)}
    found = {
        f"{name}.optimizer": part.optimizer
        for name, part in parts.items()
        if getattr(part, "optimizer", None) is not None
    }
    entropy = getattr(model, "ent_coef_optimizer", None)
    return found if entropy is None else {**found, "ent_coef_optimizer": entropy}


def live_names(model: BaseAlgorithm) -> dict[int, list[str]]:
    """Return all names of every live parameter by its identity."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.policy.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    if getattr(model, "log_ent_coef", None) is not None:
        names[id(model.log_ent_coef)] = ["pytorch_variables.pth/log_ent_coef"]
    return names
