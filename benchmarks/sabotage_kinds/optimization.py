"""Gradients, learning rates, schedules and settings of the optimizer."""

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
    IMAGES,
    LANGUAGE,
    RECURRENT,
    REGRESSION,
    TANH,
    Hook,
    Training,
    adam,
    decayed_and_others,
)

MLP = ("optimizer", "0", "2", "4")
TRANSFORMER = ("optimizer", "h", "wte", "wpe", "ln_f")


def multiply_gradients(factor: float, at: int) -> Hook:
    """Return a hook that multiplies all gradients of one update."""

    def multiply(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        if number == at:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= factor

    return multiply


def clip(norm: float) -> Hook:
    """Return a hook that clips the norm of all gradients."""
    return lambda model, optimizer, number: nn.utils.clip_grad_norm_(model.parameters(), norm)


def with_rate(training: Training, lr: float) -> Training:
    """Return the same training with Adam at another learning rate."""
    return replace(training, optimizer=partial(adam, lr=lr))


@kind("nonfinite-gradient")
def nan_gradient(folder: Path) -> Pair:
    ill = replace(REGRESSION, before_step=multiply_gradients(torch.nan, at=200))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("nonfinite-gradient")
def nan_gradient_of_a_batch_norm_network(folder: Path) -> Pair:
    ill = replace(IMAGES, before_step=multiply_gradients(torch.inf, at=100))
    return save_pair(folder, ill.content(), IMAGES.content(), "optimizer", "0", "1", "4", "5", "9")


@kind("nonfinite-gradient")
def nan_gradient_of_one_embedding_row(folder: Path) -> Pair:
    def poison_row(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        if number == LANGUAGE.steps - 1:
            model.wte.weight.grad[7, 3] = torch.nan

    ill = replace(LANGUAGE, before_step=poison_row)
    return save_pair(folder, ill.content(), LANGUAGE.content(), "wte", "lm_head")


@kind("poisoned-moments")
def infinity_in_exp_avg_sq(folder: Path) -> Pair:
    ill = replace(REGRESSION, before_step=multiply_gradients(1e23, at=200))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("poisoned-moments")
def one_huge_gradient(folder: Path) -> Pair:
    ill = replace(REGRESSION, before_step=multiply_gradients(1e9, at=50))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("poisoned-moments")
def one_huge_gradient_of_a_transformer(folder: Path) -> Pair:
    ill = replace(LANGUAGE, before_step=multiply_gradients(1e7, at=20))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("learning-rate-too-low")
def learning_rate_of_3e_31(folder: Path) -> Pair:
    return save_pair(folder, with_rate(TANH, 3.5e-31).content(), TANH.content(), *MLP)


@kind("learning-rate-too-low")
def learning_rate_of_1e_13(folder: Path) -> Pair:
    ill = replace(LANGUAGE, optimizer=lambda model: decayed_and_others(model, lr=1e-13))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("learning-rate-too-low")
def learning_rate_always_zero(folder: Path) -> Pair:
    return save_pair(folder, with_rate(REGRESSION, 0.0).content(), REGRESSION.content(), *MLP)


@kind("learning-rate-too-low")
def learning_rate_always_zero_in_a_transformer(folder: Path) -> Pair:
    ill = replace(LANGUAGE, optimizer=lambda model: decayed_and_others(model, lr=0.0))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("learning-rate-too-high")
def weights_explode(folder: Path) -> Pair:
    return save_pair(folder, with_rate(CLASSIFICATION, 100.0).content(), CLASSIFICATION.content(), *MLP)


@kind("learning-rate-too-high")
def relu_units_die(folder: Path) -> Pair:
    return save_pair(folder, with_rate(REGRESSION, 0.5).content(), REGRESSION.content(), *MLP)


@kind("learning-rate-too-high")
def tanh_units_saturate(folder: Path) -> Pair:
    return save_pair(folder, with_rate(TANH, 1.0).content(), TANH.content(), *MLP)


@kind("learning-rate-too-high")
def gates_saturate(folder: Path) -> Pair:
    return save_pair(folder, with_rate(RECURRENT, 1.0).content(), RECURRENT.content(), "optimizer", "recurrent", "head")


def linear_to_zero(optimizer: Optimizer, end: int, floor: float = -1.0) -> LambdaLR:
    """Return a linear schedule that is meant to end at a step, bounded below."""
    return LambdaLR(optimizer, lambda step: max(floor, 1.0 - step / end))


@kind("schedule")
def schedule_overshoots_to_negative_rates(folder: Path) -> Pair:
    ill = replace(REGRESSION, schedule=partial(linear_to_zero, end=250))
    healthy = replace(REGRESSION, schedule=partial(linear_to_zero, end=301))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "scheduler")


@kind("schedule")
def schedule_ended_early(folder: Path) -> Pair:
    def ending_at(iterations: int) -> Training:
        return replace(
            REGRESSION, schedule=lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=iterations)
        )

    return save_pair(folder, ending_at(20).content(), ending_at(300).content(), "optimizer", "scheduler")


@kind("schedule")
def warmup_longer_than_the_training(folder: Path) -> Pair:
    def warming_up(iterations: float) -> Training:
        return replace(REGRESSION, schedule=lambda optimizer: LambdaLR(optimizer, lambda step: min(1, step / iterations)))

    return save_pair(folder, warming_up(1e9).content(), warming_up(30).content(), *MLP, "scheduler")


@kind("clip-too-small")
def clipped_to_1e_12(folder: Path) -> Pair:
    ill, healthy = replace(REGRESSION, before_step=clip(1e-12)), replace(REGRESSION, before_step=clip(1.0))
    settings = {"config": {"max_grad_norm": 1e-12}}, {"config": {"max_grad_norm": 1.0}}
    return save_pair(folder, {**ill.content(), **settings[0]}, {**healthy.content(), **settings[1]}, *MLP)


@kind("clip-too-small")
def clipped_to_1e_10_in_a_transformer(folder: Path) -> Pair:
    ill, healthy = replace(LANGUAGE, before_step=clip(1e-10)), replace(LANGUAGE, before_step=clip(1.0))
    return save_pair(folder, ill.content(), healthy.content(), *TRANSFORMER)


@kind("epsilon-too-large")
def epsilon_of_one(folder: Path) -> Pair:
    ill = replace(REGRESSION, optimizer=partial(adam, eps=1.0))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("epsilon-too-large")
def epsilon_of_one_in_a_transformer(folder: Path) -> Pair:
    def large_epsilon(model: nn.Module) -> Optimizer:
        optimizer = decayed_and_others(model)
        for group in optimizer.param_groups:
            group["eps"] = 1.0
        return optimizer

    return save_pair(folder, replace(LANGUAGE, optimizer=large_epsilon).content(), LANGUAGE.content(), *TRANSFORMER)


def decayed(model: nn.Module, weight_decay: float) -> Optimizer:
    """Return AdamW over all parameters."""
    return torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=weight_decay)


@kind("weight-decay-too-strong")
def weight_decay_of_a_hundred(folder: Path) -> Pair:
    ill = replace(REGRESSION, optimizer=partial(decayed, weight_decay=100.0))
    healthy = replace(REGRESSION, optimizer=partial(decayed, weight_decay=0.01))
    return save_pair(folder, ill.content(), healthy.content(), *MLP)


@kind("weight-decay-too-strong")
def weight_decay_removes_all_weights(folder: Path) -> Pair:
    def sgd(model: nn.Module, weight_decay: float) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)

    ill = replace(IMAGES, optimizer=partial(sgd, weight_decay=1.0))
    healthy = replace(IMAGES, optimizer=partial(sgd, weight_decay=5e-4))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "0", "1", "4", "5", "9")


@decoy
def schedule_that_has_finished(folder: Path) -> Path:
    training = replace(REGRESSION, schedule=partial(linear_to_zero, end=300, floor=0.0))
    return save(training.content(), folder / "healthy.pt")


@decoy
def long_training_at_a_low_rate(folder: Path) -> Path:
    return save(with_rate(replace(REGRESSION, steps=600), 1e-4).content(), folder / "healthy.pt")
