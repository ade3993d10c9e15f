"""Learning rates and their schedules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import (
    CLASSIFICATION,
    LANGUAGE,
    RECURRENT,
    REGRESSION,
    TANH,
    Training,
    adam,
    decayed_and_others,
)

MLP = ("optimizer", "0", "2", "4")
TRANSFORMER = ("optimizer", "h", "wte", "wpe", "ln_f")


def with_rate(training: Training, lr: float) -> Training:
    """Return the same training with Adam at another learning rate."""
    return replace(training, optimizer=partial(adam, lr=lr))


@kind("learning-rate-too-low")
def learning_rate_of_3e_31(folder: Path) -> Pair:
    """The rate is 3.5e-31: nothing moved in 300 updates with gradient; update ratio below 1e-28."""
    return save_pair(folder, with_rate(TANH, 3.5e-31).content(), TANH.content(), *MLP)


@kind("learning-rate-too-low")
def learning_rate_of_1e_13(folder: Path) -> Pair:
    """The rate is 1e-13: gains are exactly 1 and biases exactly 0 under live moments."""
    ill = replace(LANGUAGE, optimizer=lambda model: decayed_and_others(model, lr=1e-13))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("learning-rate-too-low")
def learning_rate_always_zero(folder: Path) -> Pair:
    """The rate is 0 and no schedule is there: weights are still uniform as initialised, under live moments."""
    return save_pair(folder, with_rate(REGRESSION, 0.0).content(), REGRESSION.content(), *MLP)


@kind("learning-rate-too-low")
def learning_rate_always_zero_in_a_transformer(folder: Path) -> Pair:
    """The rate is 0: gains are exactly 1 and biases exactly 0 under live moments."""
    ill = replace(LANGUAGE, optimizer=lambda model: decayed_and_others(model, lr=0.0))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("learning-rate-too-high")
def weights_explode(folder: Path) -> Pair:
    """Adam at a rate of 100: weights reach thousands."""
    return save_pair(folder, with_rate(CLASSIFICATION, 100.0).content(), CLASSIFICATION.content(), *MLP)


@kind("learning-rate-too-high")
def relu_units_die(folder: Path) -> Pair:
    """Adam at a rate of 0.5: most ReLU units are dead."""
    return save_pair(folder, with_rate(REGRESSION, 0.5).content(), REGRESSION.content(), *MLP)


@kind("learning-rate-too-high")
def tanh_units_saturate(folder: Path) -> Pair:
    """Adam at a rate of 1: RMS·√fan-in of the hidden layers is 27 and 50, their biases reach 17."""
    return save_pair(folder, with_rate(TANH, 1.0).content(), TANH.content(), *MLP)


@kind("saturated")
def tanh_units_saturate_under_rmsprop(folder: Path) -> Pair:
    """RMSprop at a rate of 2: hidden weights reach 136, their RMS·√fan-in is above 300."""

    def rmsprop(model: nn.Module, lr: float) -> Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=lr)

    ill, healthy = (replace(TANH, optimizer=partial(rmsprop, lr=lr)) for lr in (2.0, 1e-3))
    return save_pair(folder, ill.content(), healthy.content(), *MLP)


@kind("learning-rate-too-high")
def gates_saturate(folder: Path) -> Pair:
    """Adam at a rate of 1: gate biases reach ±30."""
    return save_pair(folder, with_rate(RECURRENT, 1.0).content(), RECURRENT.content(), "optimizer", "recurrent", "head")


def linear_to_zero(optimizer: Optimizer, end: int, floor: float = -1.0) -> LambdaLR:
    """Return a linear schedule that is meant to end at a step, bounded below."""
    return LambdaLR(optimizer, lambda step: max(floor, 1.0 - step / end))


@kind("schedule")
def schedule_overshoots_to_negative_rates(folder: Path) -> Pair:
    """A linear schedule for 250 steps runs for 300: the rate is negative."""
    ill = replace(REGRESSION, schedule=partial(linear_to_zero, end=250))
    healthy = replace(REGRESSION, schedule=partial(linear_to_zero, end=301))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "scheduler")


@kind("schedule")
def schedule_ended_early(folder: Path) -> Pair:
    """A schedule for 20 steps runs for 300: ``total_iters`` 20, ``last_epoch`` 300, rate 0."""

    def ending_at(iterations: int) -> Training:
        return replace(REGRESSION, schedule=lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=iterations))

    return save_pair(folder, ending_at(20).content(), ending_at(300).content(), "optimizer", "scheduler")


@kind("schedule")
def warmup_longer_than_the_training(folder: Path) -> Pair:
    """A warm-up of 1e9 steps: the rate is 6e-10 after 300 updates, ``initial_lr`` is 2e-3."""

    def warming_up(iterations: float) -> Training:
        return replace(
            REGRESSION, schedule=lambda optimizer: LambdaLR(optimizer, lambda step: min(1, step / iterations))
        )

    return save_pair(folder, warming_up(1e9).content(), warming_up(30).content(), *MLP, "scheduler")


@decoy
def schedule_that_has_finished(folder: Path) -> Path:
    """A linear schedule has ended at a rate of 0 as planned."""
    training = replace(REGRESSION, schedule=partial(linear_to_zero, end=300, floor=0.0))
    return save(training.content(), folder / "healthy.pt")


@decoy
def long_training_at_a_low_rate(folder: Path) -> Path:
    """A rate of 1e-4, for longer."""
    return save(with_rate(replace(REGRESSION, steps=600), 1e-4).content(), folder / "healthy.pt")
