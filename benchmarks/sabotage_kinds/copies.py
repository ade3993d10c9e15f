"""Copies that do not follow what they are copies of, and twins that should not be copies."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.sabotage_kinds.pairs import Content, Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import LANGUAGE, REGRESSION, Training, adam
from tests.zoo.agents import QLearner
from tests.zoo.tasks import BATCH
from tests.zoo.vectors import perceptron


def train_with_average(decay: float) -> Content:
    """Train with an exponential moving average of the weights; a decay of 1 never moves it, one of 0 copies them."""
    average = LANGUAGE.initial()

    @torch.no_grad()
    def follow(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 1.0 - decay) if decay else ours.copy_(theirs)

    content = replace(LANGUAGE, after_step=follow).content()
    return {**content, "ema": average.state_dict()}


@kind("average-not-updated")
def average_identical_to_the_model(folder: Path) -> Pair:
    """The average is equal to the model to the last bit."""
    return save_pair(folder, train_with_average(0.0), train_with_average(0.98), "ema")


@kind("average-not-updated")
def average_still_initial(folder: Path) -> Pair:
    """The average is the initial model: gains exactly 1, biases exactly 0."""
    return save_pair(folder, train_with_average(1.0), train_with_average(0.98), "ema")


@cache
def learn_values(interval: int) -> Content:
    """Learn values of actions, with a target network that is copied at an interval; never where that is 0."""
    torch.manual_seed(0)
    model = QLearner()
    optimizer = adam(model.q_net, 1e-3)
    for number in range(1, 401):
        state, action = torch.rand(BATCH, 2) * 2 - 1, torch.randint(3, (BATCH, 1))
        following = (0.8 * state + 0.2 * (action - 1)).clamp(-1, 1)
        reward = 1 - following.square().sum(1, keepdim=True) + 0.1 * torch.randn(BATCH, 1)
        with torch.no_grad():
            target = reward + 0.9 * model.q_net_target(following).max(1, keepdim=True).values
        optimizer.zero_grad()
        functional.smooth_l1_loss(model.q_net(state).gather(1, action), target).backward()
        optimizer.step()
        if interval and number % interval == 0:
            model.q_net_target.load_state_dict(model.q_net.state_dict())
    return deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 400})


@kind("target-not-synced")
def target_network_never_copied(folder: Path) -> Pair:
    """The target is the initial network: uniform within ±1/√fan-in, far from the online network."""
    return save_pair(folder, learn_values(0), learn_values(30), "q_net_target", "q_net")


@kind("twin-critics-identical")
def twin_critics_from_one_initialization(folder: Path) -> Pair:
    """Both critics and their moments are equal to the last bit."""

    def critics(copied: bool) -> Training:
        def build() -> nn.Module:
            pair = nn.ModuleDict({name: perceptron(nn.ReLU, 16, 48, 48, 1) for name in ("qf1", "qf2")})
            if copied:
                pair["qf2"].load_state_dict(pair["qf1"].state_dict())
            return pair

        def both(model: nn.Module, x: Tensor) -> Tensor:
            return torch.cat([model["qf1"](x), model["qf2"](x)], 1)

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return functional.mse_loss(output, target[:, :1].expand_as(output))

        return replace(REGRESSION, build=build, forward=both, loss=loss)

    return save_pair(folder, critics(True).content(), critics(False).content(), "qf1", "qf2")


@decoy
def target_network_copied_just_now(folder: Path) -> Path:
    """The target is equal to the online network, copied at the last step."""
    return save(learn_values(50), folder / "healthy.pt")
