"""Makes the files that ``benchmarks.speed`` times: ``python -m benchmarks.speed_files FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import torch
from safetensors.torch import save_file
from stable_baselines3 import PPO

from fixtures.agents import Market

TENSORS = 60
SHAPE = (2048, 2133)
"""60 float32 matrices of this shape are 1.048 GB."""

NAMES = ("gigabyte.safetensors", "gigabyte.pt", "agent.zip")


def make(folder: Path) -> None:
    """Write a gigabyte of ordinary weights in both formats, and an SB3 agent of about 600 KB with its optimizer."""
    torch.manual_seed(0)
    state = {f"layers.{index}.weight": 0.02 * torch.randn(SHAPE) for index in range(TENSORS)}
    save_file(state, folder / NAMES[0])
    torch.save(state, folder / NAMES[1])
    market = Market(8, gymnasium.spaces.Discrete(4))
    agent = PPO("MlpPolicy", market, n_steps=64, policy_kwargs={"net_arch": [150, 150]}, seed=0, device="cpu")
    agent.learn(64)
    agent.save(folder / NAMES[2])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
