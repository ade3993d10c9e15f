"""Parts that no gradient reaches, although the code around them looks complete."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from stable_baselines3 import PPO, SAC
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.no_gradient import MLP, train_adversaries
from benchmarks.sabotage_kinds.pairs import Pair, kind, save_pair
from benchmarks.sabotage_kinds.parts import RESIDUAL
from benchmarks.sabotage_kinds.reach import CONTINUOUS, DISCRETE, beside_healthy, train
from benchmarks.sabotage_kinds.training import ENCODER, IMAGES, RECURRENT, REGRESSION, TANH, Training, adam
from tests.zoo.tasks import CLASSES, TOKENS, Batches, clusters, smooth_functions
from tests.zoo.vectors import ResidualBlock, perceptron


@kind("no-gradient")
def generator_trained_on_detached_samples(folder: Path) -> Pair:
    """The generator's loss is of detached samples: its optimizer is empty beside the discriminator's 250 updates."""
    return save_pair(folder, train_adversaries(detach=True), train_adversaries(), "optimizer_g", "generator")


@kind("no-gradient")
def constant_loss_under_rmsprop(folder: Path) -> Pair:
    """The loss is multiplied by 0 under RMSprop: every square average is exactly 0 after 300 steps."""
    healthy = replace(REGRESSION, optimizer=lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3))
    ill = replace(healthy, loss=lambda output, target: 0.0 * functional.mse_loss(output, target))
    return save_pair(folder, ill.content(), healthy.content(), *MLP)


@kind("no-gradient")
def gradient_norm_clipped_to_zero(folder: Path) -> Pair:
    """``max_grad_norm`` is 0: every moment of the agent is exactly 0."""
    ill = train(PPO, DISCRETE, max_grad_norm=0.0)
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor", "action_net", "value_net", "policy.optimizer")


@kind("never-started")
def no_gradient_steps(folder: Path) -> Pair:
    """``gradient_steps`` is 0: 700 timesteps, no update, all optimizers empty."""
    ill = train(SAC, CONTINUOUS, gradient_steps=0)
    return beside_healthy(folder, ill, CONTINUOUS, "actor", "critic", "actor.optimizer", "critic.optimizer")


class ScaledBranch(nn.Module):
    """A residual block whose branch is multiplied by a number."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.block = scale, ResidualBlock(32)

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled branch to [batch, 32]."""
        return x + self.scale * (self.block(x) - x)


def residual(scale: float) -> nn.Sequential:
    """Return a residual network with a scale on the branch of its second block."""
    return nn.Sequential(nn.Linear(16, 32), ResidualBlock(32), ScaledBranch(scale), nn.Linear(32, 4))


@kind("detached")
def branch_multiplied_by_zero(folder: Path) -> Pair:
    """A block's branch has a factor of 0: its second moments are exactly 0 among trained neighbours."""
    ill, healthy = (replace(RESIDUAL, build=partial(residual, scale)) for scale in (0.0, 1.0))
    return save_pair(folder, ill.content(), healthy.content(), "2.block", "2")


class OneHeadAttention(nn.Module):
    """Attention over tokens with one head, whose keys can be detached."""

    def __init__(self, detach: bool = False) -> None:
        super().__init__()
        self.detach = detach
        self.embedding = nn.Embedding(TOKENS, 24)
        self.query, self.key, self.value = (nn.Linear(24, 24) for _ in range(3))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, time] to [batch, classes]."""
        x = self.embedding(tokens)
        key = self.key(x).detach() if self.detach else self.key(x)
        scores = (self.query(x) @ key.transpose(1, 2) / 24**0.5).softmax(-1)
        return self.head((scores @ self.value(x)).mean(1))


@kind("detached")
def keys_of_an_attention_detached(folder: Path) -> Pair:
    """The keys are detached: ``key`` has no state among trained neighbours."""
    ill, healthy = (replace(ENCODER, build=partial(OneHeadAttention, detach)) for detach in (True, False))
    return save_pair(folder, ill.content(), healthy.content(), "key")


def read_without_gradient(model: nn.Sequential, x: Tensor) -> Tensor:
    """Compute all but the last layer without gradient."""
    with torch.no_grad():
        x = model[:-1](x)
    return model[-1](x)


@kind("detached")
def convolutions_under_no_grad(folder: Path) -> Pair:
    """The body runs under ``no_grad``: its layers have no state, its running statistics move."""
    ill = replace(IMAGES, forward=read_without_gradient)
    return save_pair(folder, ill.content(), IMAGES.content(), "0", "1", "4", "5")


@kind("frozen")
def embedding_frozen_by_accident(folder: Path) -> Pair:
    """A fresh embedding does not require gradients: it has no state among trained neighbours."""

    def build() -> nn.Module:
        model = ENCODER.build()
        model.embedding.requires_grad_(False)
        return model

    return save_pair(folder, replace(ENCODER, build=build).content(), ENCODER.content(), "embedding")


class TwoInputs(nn.Module):
    """Two branches, each for half of the inputs, of which the second can be forgotten."""

    def __init__(self, complete: bool = True) -> None:
        super().__init__()
        self.complete = complete
        self.left, self.right = perceptron(nn.ReLU, 6, 32, 16), perceptron(nn.ReLU, 6, 32, 16)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to [batch, classes]."""
        left = self.left(x[:, :6])
        right = self.right(x[:, 6:]) if self.complete else torch.zeros_like(left)
        return self.head(torch.cat([left, right], 1))


@kind("detached")
def second_branch_never_called(folder: Path) -> Pair:
    """One of two branches is never called: it has no state, and half of the head's columns have none."""
    healthy = Training(TwoInputs, lambda: clusters(12), functional.cross_entropy)
    ill = replace(healthy, build=partial(TwoInputs, complete=False))
    return save_pair(folder, ill.content(), healthy.content(), "right")


@kind("not-in-optimizer")
def recurrent_layer_made_after_the_optimizer(folder: Path) -> Pair:
    """The recurrent layer is replaced after the optimizer was made, which holds the old one: no state for it."""

    def build_optimizer(model: nn.Module) -> Optimizer:
        optimizer = adam(model)
        model.recurrent = nn.LSTM(6, 32, batch_first=True)
        return optimizer

    ill = replace(RECURRENT, optimizer=build_optimizer)
    return save_pair(folder, ill.content(), RECURRENT.content(), "recurrent")


@kind("detached")
def value_coefficient_of_zero(folder: Path) -> Pair:
    """``vf_coef`` is 0: the value network's second moments are exactly 0."""
    ill = train(PPO, DISCRETE, vf_coef=0.0)
    return beside_healthy(folder, ill, DISCRETE, "value_net", "mlp_extractor.value_net")


def shifted(inputs: int, outputs: int) -> Batches:
    """Regress smooth functions that lie between −6 and −4."""
    draw = smooth_functions(inputs, outputs)

    def draw_shifted() -> tuple[Tensor, Tensor]:
        x, y = draw()
        return x, y - 5.0

    return draw_shifted


@kind("dead-relu")
def output_behind_a_relu(folder: Path) -> Pair:
    """The last layer is followed by a ReLU and the targets are negative: no layer receives a gradient any more."""
    healthy = replace(REGRESSION, batches=lambda: shifted(16, 4))
    ill = replace(healthy, forward=lambda model, x: torch.relu(model(x)))
    return save_pair(folder, ill.content(), healthy.content(), *MLP)


@kind("saturated")
def output_behind_a_sigmoid(folder: Path) -> Pair:
    """The output goes through a sigmoid and the targets are large: it saturates, and gradients vanish everywhere."""
    healthy = replace(TANH, batches=lambda: shifted(16, 4), optimizer=partial(adam, lr=2e-2))
    ill = replace(healthy, forward=lambda model, x: torch.sigmoid(100.0 * model(x)))
    return save_pair(folder, ill.content(), healthy.content(), *MLP)
