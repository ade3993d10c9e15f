"""Settings of optimizers, schedules and agents that no run should have."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from stable_baselines3 import A2C, PPO
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, ReduceLROnPlateau, StepLR

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.reach import CONTINUOUS, DISCRETE, beside_healthy, train
from benchmarks.sabotage_kinds.training import (
    CLASSIFICATION,
    ENCODER,
    IMAGES,
    LANGUAGE,
    REGRESSION,
    Training,
    adam,
    decayed_and_others,
)
from tests.zoo.tasks import Batches, smooth_functions

MLP = ("optimizer", "0", "2", "4")
CNN = ("optimizer", "0", "1", "4", "5", "9")
TRANSFORMER = ("optimizer", "h", "wte", "wpe", "ln_f")


def sgd(model: nn.Module, lr: float, momentum: float = 0.9) -> Optimizer:
    """Return SGD with momentum over all parameters."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


@kind("optimizer-settings")
def betas_in_the_wrong_order(folder: Path) -> Pair:
    """Adam's betas are (0.999, 0.9): the first moment remembers longer than the second."""
    ill = replace(REGRESSION, optimizer=lambda model: torch.optim.Adam(model.parameters(), 2e-3, betas=(0.999, 0.9)))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("optimizer-settings")
def momentum_next_to_one(folder: Path) -> Pair:
    """The momentum is 0.9999: steps grow to ten thousand times the gradient's."""
    ill, healthy = (replace(IMAGES, optimizer=partial(sgd, lr=0.02, momentum=each)) for each in (0.9999, 0.9))
    return save_pair(folder, ill.content(), healthy.content(), *CNN)


@kind("optimizer-settings")
def loss_maximized(folder: Path) -> Pair:
    """``maximize`` is set under a cross entropy: the weights grow without end."""
    ill = replace(CLASSIFICATION, optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-2, maximize=True))
    return save_pair(folder, ill.content(), CLASSIFICATION.content(), *MLP)


@kind("weight-decay-too-strong")
def weight_decay_of_ten_in_a_transformer(folder: Path) -> Pair:
    """Weight decay times rate is 0.02 a step: half of every matrix is gone after 34 steps."""

    def strong(model: nn.Module) -> Optimizer:
        optimizer = decayed_and_others(model)
        optimizer.param_groups[0]["weight_decay"] = 10.0
        return optimizer

    return save_pair(folder, replace(LANGUAGE, optimizer=strong).content(), LANGUAGE.content(), *TRANSFORMER)


class WithoutMetric(ReduceLROnPlateau):
    """Is given the same metric at every step."""

    def step(self, metrics: float = 1.0, epoch: int | None = None) -> None:  # type: ignore[override]
        """Make a step."""
        super().step(metrics)


@kind("schedule")
def plateau_of_a_constant_metric(folder: Path) -> Pair:
    """The metric given to the plateau schedule never changes: the rate has fallen from 2e-3 to about 1e-8."""

    def patient(steps: int) -> Training:
        return replace(REGRESSION, schedule=lambda optimizer: WithoutMetric(optimizer, patience=steps))

    return save_pair(folder, patient(10).content(), patient(1000).content(), "optimizer", "scheduler")


def exponential(optimizer: Optimizer, gamma: float) -> LRScheduler:
    """Return a schedule that multiplies the rate at every step."""
    return ExponentialLR(optimizer, gamma)


@kind("schedule")
def exponential_schedule_stepped_per_batch(folder: Path) -> Pair:
    """A decay of 0.9 meant for epochs is made at every batch: the rate is 4e-17 after 300 steps."""
    ill, healthy = (replace(REGRESSION, schedule=partial(exponential, gamma=gamma)) for gamma in (0.9, 0.995))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "scheduler")


@kind("schedule")
def step_schedule_stepped_per_batch(folder: Path) -> Pair:
    """A tenth every ten steps, meant for epochs: the rate is 2e-33 after 300 steps."""

    def each(steps: int, gamma: float) -> Training:
        return replace(REGRESSION, schedule=lambda optimizer: StepLR(optimizer, steps, gamma))

    return save_pair(folder, each(10, 0.1).content(), each(100, 0.5).content(), "optimizer", "scheduler")


@kind("learning-rate-too-low")
def momentum_at_a_rate_of_1e_12(folder: Path) -> Pair:
    """SGD at a rate of 1e-12: gains are exactly 1 under live momentum."""
    ill, healthy = (replace(IMAGES, optimizer=partial(sgd, lr=lr)) for lr in (1e-12, 0.05))
    return save_pair(folder, ill.content(), healthy.content(), *CNN)


@kind("learning-rate-too-low")
def encoder_at_a_rate_of_1e_12(folder: Path) -> Pair:
    """Adam at a rate of 1e-12: gains are exactly 1 and biases exactly 0 under live moments."""
    ill = replace(ENCODER, optimizer=partial(adam, lr=1e-12))
    return save_pair(folder, ill.content(), ENCODER.content(), "optimizer", "encoder", "embedding", "head")


@kind("learning-rate-too-high")
def language_model_at_a_rate_of_one_half(folder: Path) -> Pair:
    """AdamW at a rate of 0.5: weights that began at 0.02 reach tens."""
    ill = replace(LANGUAGE, optimizer=partial(decayed_and_others, lr=0.5))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("learning-rate-too-high")
def convolutions_at_a_rate_of_fifty(folder: Path) -> Pair:
    """SGD at a rate of 50: normalisation keeps the loss finite while the weights explode."""
    ill, healthy = (replace(IMAGES, optimizer=partial(sgd, lr=lr)) for lr in (50.0, 0.05))
    return save_pair(folder, ill.content(), healthy.content(), *CNN)


def in_millions(inputs: int, outputs: int) -> Batches:
    """Regress smooth functions in another unit."""
    draw = smooth_functions(inputs, outputs)

    def draw_large() -> tuple[Tensor, Tensor]:
        x, y = draw()
        return x, 1e6 * y

    return draw_large


@kind("reward-scale")
def targets_in_millions(folder: Path) -> Pair:
    """Targets of a million: √v of all layers is near 1e6, and the output is still near 1."""
    ill = replace(REGRESSION, batches=lambda: in_millions(16, 4))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("settings-out-of-range")
def gae_lambda_of_one_and_a_half(folder: Path) -> Pair:
    """``gae_lambda`` is 1.5: advantages far away count more than near ones."""
    return beside_healthy(folder, train(PPO, DISCRETE, gae_lambda=1.5), DISCRETE)


@kind("settings-out-of-range")
def negative_gamma(folder: Path) -> Pair:
    """``gamma`` is −0.9."""
    return beside_healthy(folder, train(A2C, CONTINUOUS, gamma=-0.9), CONTINUOUS)


@kind("entropy-coefficient")
def entropy_coefficient_of_a_hundred(folder: Path) -> Pair:
    """``ent_coef`` is 100: the policy is trained to act at random."""
    return beside_healthy(folder, train(PPO, DISCRETE, ent_coef=100.0), DISCRETE)


@kind("exploration-collapsed")
def log_std_init_of_five(folder: Path) -> Pair:
    """``log_std`` begins at 5 and stays there: a standard deviation of 148."""
    return beside_healthy(folder, train(PPO, CONTINUOUS, policy={"log_std_init": 5.0}), CONTINUOUS, "log_std")


@decoy
def rate_lowered_by_an_exponential_schedule(folder: Path) -> Path:
    """An exponential schedule has lowered the rate a thousandfold, as planned."""
    training = replace(REGRESSION, schedule=partial(exponential, gamma=0.977))
    return save(training.content(), folder / "healthy.pt")
