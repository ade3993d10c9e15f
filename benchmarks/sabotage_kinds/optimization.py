"""Gradients that damage the optimizer's state, and settings of the optimizer that stop learning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.pairs import Pair, kind, save_pair
from benchmarks.sabotage_kinds.training import IMAGES, LANGUAGE, REGRESSION, Hook, adam, decayed_and_others

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


@kind("nonfinite-gradient")
def nan_gradient(folder: Path) -> Pair:
    """The gradient of one update is NaN: all weights and moments are NaN."""
    ill = replace(REGRESSION, before_step=multiply_gradients(torch.nan, at=200))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("nonfinite-gradient")
def nan_gradient_of_a_batch_norm_network(folder: Path) -> Pair:
    """The gradient of one update is infinite: weights, moments and statistics are NaN."""
    ill = replace(IMAGES, before_step=multiply_gradients(torch.inf, at=100))
    return save_pair(folder, ill.content(), IMAGES.content(), "optimizer", "0", "1", "4", "5", "9")


@kind("nonfinite-gradient")
def nan_gradient_of_one_embedding_row(folder: Path) -> Pair:
    """One entry of the last gradient is NaN: it is NaN in the weight and both moments, nothing else is."""

    def poison_row(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        if number == LANGUAGE.steps - 1:
            model.wte.weight.grad[7, 3] = torch.nan

    ill = replace(LANGUAGE, before_step=poison_row)
    return save_pair(folder, ill.content(), LANGUAGE.content(), "wte", "lm_head")


@kind("poisoned-moments")
def infinity_in_exp_avg_sq(folder: Path) -> Pair:
    """One gradient's square overflows: infinities in ``exp_avg_sq`` under finite weights."""
    ill = replace(REGRESSION, before_step=multiply_gradients(1e23, at=200))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("poisoned-moments")
def one_huge_gradient(folder: Path) -> Pair:
    """One gradient is 1e9 times as large: √v is near 1e6 everywhere, m long back at 1e-3, steps are almost 0."""
    ill = replace(REGRESSION, before_step=multiply_gradients(1e9, at=50))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("poisoned-moments")
def one_huge_gradient_of_a_transformer(folder: Path) -> Pair:
    """One gradient is 1e7 times as large: |m| is 1e-5 of √v or less in nearly every entry of every tensor."""
    ill = replace(LANGUAGE, before_step=multiply_gradients(1e7, at=20))
    return save_pair(folder, ill.content(), LANGUAGE.content(), *TRANSFORMER)


@kind("clip-too-small")
def clipped_to_1e_12(folder: Path) -> Pair:
    """Gradients are clipped to 1e-12: all √v are far below ε, and steps are a millionth of the rate."""
    ill, healthy = replace(REGRESSION, before_step=clip(1e-12)), replace(REGRESSION, before_step=clip(1.0))
    settings = {"config": {"max_grad_norm": 1e-12}}, {"config": {"max_grad_norm": 1.0}}
    return save_pair(folder, {**ill.content(), **settings[0]}, {**healthy.content(), **settings[1]}, *MLP)


@kind("clip-too-small")
def clipped_to_1e_10_in_a_transformer(folder: Path) -> Pair:
    """Gradients are clipped to 1e-10: all √v are far below ε, and the weights are still normal(0, 0.02)."""
    ill, healthy = replace(LANGUAGE, before_step=clip(1e-10)), replace(LANGUAGE, before_step=clip(1.0))
    return save_pair(folder, ill.content(), healthy.content(), *TRANSFORMER)


@kind("epsilon-too-large")
def epsilon_of_one(folder: Path) -> Pair:
    """ε is 1: all √v are far below it, and steps are 0.2 % of the rate."""
    ill = replace(REGRESSION, optimizer=partial(adam, eps=1.0))
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("epsilon-too-large")
def epsilon_of_one_in_a_transformer(folder: Path) -> Pair:
    """ε is 1: all √v are far below it, and steps are 0.5 % of the rate."""

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
    """Weight decay times rate is 0.2 a step: the weights have vanished."""
    ill = replace(REGRESSION, optimizer=partial(decayed, weight_decay=100.0))
    healthy = replace(REGRESSION, optimizer=partial(decayed, weight_decay=0.01))
    return save_pair(folder, ill.content(), healthy.content(), *MLP)


@kind("weight-decay-too-strong")
def weight_decay_removes_all_weights(folder: Path) -> Pair:
    """A decay of 1 has removed all weights and gains of a CNN: RMS below 1e-3, momentum is the decay's."""

    def sgd(model: nn.Module, weight_decay: float) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)

    ill = replace(IMAGES, optimizer=partial(sgd, weight_decay=1.0))
    healthy = replace(IMAGES, optimizer=partial(sgd, weight_decay=5e-4))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "0", "1", "4", "5", "9")
