"""Initial values that cannot learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import CLASSIFICATION, RECURRENT, REGRESSION, TANH, Training, adam


def initialized(training: Training, change: Callable[[nn.Module], object]) -> Training:
    """Return the same training, begun from values that were changed."""

    def build() -> nn.Module:
        model = training.build()
        with torch.no_grad():
            change(model)
        return model

    return replace(training, build=build)


def fill_weights(model: nn.Module, value: float) -> None:
    """Set all weights to one number and all biases to zero."""
    for parameter in model.parameters():
        parameter.fill_(value if parameter.ndim > 1 else 0.0)


def widen(model: nn.Module, std: float) -> None:
    """Draw all weights from a wide normal distribution."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)


def zero_layers(model: nn.Module, *positions: int) -> None:
    """Set the weights and biases of layers to zero."""
    for position in positions:
        model[position].weight.zero_()
        model[position].bias.zero_()


@kind("symmetric-units")
def constant_weights(folder: Path) -> Pair:
    """All weights begin at 0.05: equal rows."""
    ill = initialized(TANH, partial(fill_weights, value=0.05))
    return save_pair(folder, ill.content(), TANH.content(), "0", "2", "4")


@kind("symmetric-units")
def all_rows_of_a_layer_equal(folder: Path) -> Pair:
    """All rows of the first layer begin equal, and are read alike: they stay equal."""

    def repeat_first_row(model: nn.Module) -> None:
        model[0].weight.copy_(model[0].weight[:1].clone().expand_as(model[0].weight))
        model[0].bias.fill_(0.1)
        model[2].weight.copy_(model[2].weight[:, :1].clone().expand_as(model[2].weight))

    ill = initialized(REGRESSION, repeat_first_row)
    return save_pair(folder, ill.content(), REGRESSION.content(), "0", "2")


@kind("zero-deadlock")
def two_zero_layers_in_a_row(folder: Path) -> Pair:
    """A zero layer before a zero head: neither gets a gradient."""
    ill = initialized(CLASSIFICATION, lambda model: zero_layers(model, 2, 4))
    return save_pair(folder, ill.content(), CLASSIFICATION.content(), "2", "4")


@kind("zero-deadlock")
def all_layers_zero(folder: Path) -> Pair:
    """All weights and biases begin at 0: the last bias alone learns."""
    ill = initialized(TANH, lambda model: zero_layers(model, 0, 2, 4))
    return save_pair(folder, ill.content(), TANH.content(), "0", "2", "4")


@kind("too-wide-init")
def tanh_saturated_from_the_start(folder: Path) -> Pair:
    """Weights begin with a standard deviation of 20: RMS·√fan-in is 80 and 160, where the healthy twin has 1."""
    ill = initialized(replace(TANH, optimizer=partial(adam, lr=1e-4)), partial(widen, std=20.0))
    return save_pair(folder, ill.content(), TANH.content(), "0", "2", "4")


@kind("too-wide-init")
def gates_saturated_from_the_start(folder: Path) -> Pair:
    """Weights of an LSTM begin with a standard deviation of 30."""
    ill = initialized(replace(RECURRENT, optimizer=partial(adam, lr=1e-4)), partial(widen, std=30.0))
    return save_pair(folder, ill.content(), RECURRENT.content(), "recurrent", "head")


@kind("dead-relu")
def biases_of_minus_thirty(folder: Path) -> Pair:
    """A layer's biases begin at −30: none of its ReLUs ever fires, v is exactly 0."""
    ill = initialized(REGRESSION, lambda model: model[2].bias.fill_(-30.0))
    return save_pair(folder, ill.content(), REGRESSION.content(), "2")


@kind("exploded")
def weights_of_a_million(folder: Path) -> Pair:
    """Weights begin in millions: second moments overflow."""
    ill = initialized(REGRESSION, partial(widen, std=3e6))
    return save_pair(folder, ill.content(), REGRESSION.content(), "0", "2", "4", "optimizer")


@decoy
def zero_output_layer_that_learned(folder: Path) -> Path:
    """The output layer begins at zero and learns."""
    return save(initialized(CLASSIFICATION, lambda model: zero_layers(model, 4)).content(), folder / "healthy.pt")
