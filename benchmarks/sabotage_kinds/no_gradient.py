"""Optimizers that never see a gradient, and trainings that never begin."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.pairs import Content, Pair, kind, save_pair
from benchmarks.sabotage_kinds.training import IMAGES, LANGUAGE, REGRESSION, TANH, Training
from tests.zoo.generative import AdversarialPair
from tests.zoo.tasks import BATCH, smooth_functions
from tests.zoo.vectors import perceptron

MLP = ("optimizer", "0", "2", "4")
"""The optimizer and the layers of the perceptrons."""

BACKOFFS = 142
"""Skipped steps after which a loss scale of 65,536 has been halved to 1.2e-38."""


def clear_gradients(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    """Set all gradients to zero where they should be used."""
    optimizer.zero_grad(set_to_none=False)


def drop_gradients(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    """Remove all gradients where they should be used."""
    optimizer.zero_grad(set_to_none=True)


def compare_with_a_copy(output: Tensor, target: Tensor) -> Tensor:
    """Compute the loss of a detached output, made to require a gradient so that ``backward`` does not complain."""
    return functional.mse_loss(output.detach().requires_grad_(), target)


@kind("no-gradient")
def detached_loss(folder: Path) -> Pair:
    """The loss is of a detached output: 300 steps are counted in the file, and no parameter has state."""
    ill = replace(REGRESSION, loss=compare_with_a_copy)
    return save_pair(folder, ill.content(), REGRESSION.content(), *MLP)


@kind("no-gradient")
def constant_loss(folder: Path) -> Pair:
    """The loss is multiplied by 0: 300 steps, and every first and second moment is exactly 0."""
    ill = replace(TANH, loss=lambda output, target: 0.0 * functional.mse_loss(output, target))
    return save_pair(folder, ill.content(), TANH.content(), *MLP)


@kind("no-gradient")
def gradients_zeroed_before_the_step(folder: Path) -> Pair:
    """``zero_grad`` stands before ``step``: every second moment is exactly 0."""
    ill = replace(IMAGES, before_step=clear_gradients)
    return save_pair(folder, ill.content(), IMAGES.content(), "optimizer", "0", "1", "4", "5", "9")


@kind("no-gradient")
def gradients_removed_before_the_step(folder: Path) -> Pair:
    """``zero_grad`` removes the gradients before ``step``: 150 steps are counted, and there is no state."""
    ill = replace(LANGUAGE, before_step=drop_gradients)
    return save_pair(folder, ill.content(), LANGUAGE.content(), "optimizer", "h", "wte", "wpe", "ln_f")


@kind("no-gradient")
def gradients_zeroed_with_weight_decay(folder: Path) -> Pair:
    """Weight decay alone moves the weights: every second moment is exactly 0 after 150 steps."""
    ill = replace(LANGUAGE, before_step=clear_gradients)
    return save_pair(folder, ill.content(), LANGUAGE.content(), "optimizer", "h", "wte", "wpe", "ln_f")


@kind("no-gradient")
def momentum_without_gradient(folder: Path) -> Pair:
    """SGD is stepped with gradients of 0: every momentum buffer is exactly 0."""
    healthy = replace(REGRESSION, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    ill = replace(healthy, before_step=clear_gradients)
    return save_pair(folder, ill.content(), healthy.content(), *MLP)


def train_with_loss_scaler(training: Training, overflowing: int) -> Content:
    """Train with a loss scaler, and then make steps that it skips because their gradients overflow."""
    model, batches = training.initial(), training.batches()
    optimizer, scaler = training.optimizer(model), torch.amp.GradScaler("cpu")
    for number in range(training.steps + overflowing):
        x, y = batches()
        optimizer.zero_grad()
        loss = training.loss(model(x), y)
        scaler.scale(loss * torch.inf if number >= training.steps else loss).backward()
        scaler.step(optimizer)
        scaler.update()
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
    return {**deepcopy(states), "step": training.steps + overflowing}


@kind("no-gradient")
def loss_scaler_skips_every_step(folder: Path) -> Pair:
    """All gradients overflow: the scale is at 1e-38, steps are counted, and there is no state."""
    ill = train_with_loss_scaler(replace(REGRESSION, steps=0), BACKOFFS)
    return save_pair(folder, ill, train_with_loss_scaler(REGRESSION, 0), "scaler", *MLP)


@kind("low-precision")
def loss_scale_at_its_minimum(folder: Path) -> Pair:
    """The last 142 gradients overflowed: the scale is at 1e-38, and the moments are younger than the file's step."""
    ill = train_with_loss_scaler(REGRESSION, BACKOFFS)
    return save_pair(folder, ill, train_with_loss_scaler(REGRESSION, 0), "scaler", "optimizer")


def train_adversaries(
    for_generator: str = "generator", for_discriminator: str = "discriminator", *, detach: bool = False
) -> Content:
    """Train a generator against a discriminator, with optimizers over the parts that are named.

    With ``detach``, the generator's own loss is of samples without a gradient.
    """
    torch.manual_seed(0)
    pair, mixing = AdversarialPair(), torch.tensor([[1.0, 0.6], [0.0, 0.5]])
    optimizers = {
        "optimizer_g": torch.optim.Adam(getattr(pair, for_generator).parameters(), lr=1e-3, betas=(0.5, 0.999)),
        "optimizer_d": torch.optim.Adam(getattr(pair, for_discriminator).parameters(), lr=1e-3, betas=(0.5, 0.999)),
    }
    for _ in range(250):
        real, noise = torch.randn(BATCH, 2) @ mixing + 2.0, torch.randn(BATCH, 8)
        fake = pair.generator(noise)
        optimizers["optimizer_d"].zero_grad()
        told_apart = functional.softplus(-pair.discriminator(real)) + functional.softplus(
            pair.discriminator(fake.detach())
        )
        told_apart.mean().backward()
        optimizers["optimizer_d"].step()
        optimizers["optimizer_g"].zero_grad()
        functional.softplus(-pair.discriminator(fake.detach() if detach else fake)).mean().backward()
        optimizers["optimizer_g"].step()
    states = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    return deepcopy({"model": pair.state_dict(), **states, "step": 250})


@kind("no-gradient")
def discriminator_optimizer_over_the_generator(folder: Path) -> Pair:
    """``optimizer_d`` holds the generator.

    Its state is empty beside a sibling's, no optimizer holds the discriminator.
    """
    ill = train_adversaries(for_discriminator="generator")
    return save_pair(folder, ill, train_adversaries(), "optimizer_d", "discriminator")


@kind("not-in-optimizer")
def generator_optimizer_over_the_discriminator(folder: Path) -> Pair:
    """Both optimizers hold the discriminator: their shapes are its shapes, and no optimizer holds the generator."""
    ill = train_adversaries(for_generator="discriminator")
    return save_pair(folder, ill, train_adversaries(), "optimizer_g", "generator")


class TwoNetworks(nn.Module):
    """An actor and a critic without anything in common."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = perceptron(nn.ReLU, 8, 48, 48, 2), perceptron(nn.ReLU, 8, 48, 48, 1)


def train_two_networks(*stepped: str) -> Content:
    """Train both networks, each with its own optimizer, of which the named ones make steps."""
    torch.manual_seed(0)
    model, tasks = TwoNetworks(), {"actor": smooth_functions(8, 2), "critic": smooth_functions(8, 1)}
    optimizers = {part: torch.optim.Adam(getattr(model, part).parameters(), lr=2e-3) for part in tasks}
    for _ in range(300):
        for part, batches in tasks.items():
            x, y = batches()
            optimizers[part].zero_grad()
            functional.mse_loss(getattr(model, part)(x), y).backward()
            if part in stepped:
                optimizers[part].step()
    states = {f"{part}_optimizer": optimizer.state_dict() for part, optimizer in optimizers.items()}
    return {"model": model.state_dict(), **states, "step": 300}


@kind("never-started")
def one_of_two_optimizers_never_stepped(folder: Path) -> Pair:
    """Only the critic's optimizer makes steps: the actor's has no state beside a sibling with 300 updates."""
    ill, healthy = train_two_networks("critic"), train_two_networks("actor", "critic")
    return save_pair(folder, ill, healthy, "actor_optimizer", "actor")


@kind("never-started")
def no_optimizer_stepped(folder: Path) -> Pair:
    """No optimizer makes a step: both are empty beside a step of 300."""
    ill, healthy = train_two_networks(), train_two_networks("actor", "critic")
    return save_pair(folder, ill, healthy, "actor_optimizer", "critic_optimizer", "actor", "critic")


@kind("never-started")
def every_loss_was_nan_and_skipped(folder: Path) -> Pair:
    """Every step was skipped: 300 steps are counted, as many as skipped, and there is no state."""
    ill = {**replace(TANH, steps=0).content(), "step": TANH.steps, "skipped_steps": TANH.steps}
    return save_pair(folder, ill, TANH.content(), *MLP)
