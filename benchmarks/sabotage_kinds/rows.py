"""Rows and columns of a tensor that never had their turn, and adapters that do nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.inputs import transformed
from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import CLASSIFICATION, ENCODER, RECURRENT, REGRESSION, Training, adam
from tests.zoo.tasks import CLASSES, clusters
from tests.zoo.transfer import LoraLinear
from tests.zoo.vectors import perceptron


@kind("unused-rows")
def three_of_four_head_rows(folder: Path) -> Pair:
    """The loss reads one of four outputs: the other rows of the head have a second moment of 0."""
    ill = replace(REGRESSION, loss=lambda output, target: functional.mse_loss(output[:, 0], target[:, 0]))
    return save_pair(folder, ill.content(), REGRESSION.content(), "4")


@kind("masked")
def masked_action(folder: Path) -> Pair:
    """An action has −20 added to its logit: √v of its row is about 1e-9 of the others'."""
    mask = torch.tensor([0.0, 0.0, -20.0, 0.0])

    def loss(output: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(output + mask, torch.where(label == 2, 0, label))

    return save_pair(folder, replace(CLASSIFICATION, loss=loss).content(), CLASSIFICATION.content(), "4")


@kind("masked")
def two_actions_masked_with_minus_infinity(folder: Path) -> Pair:
    """Two of four actions are masked: their rows' second moments are exactly 0."""
    mask = torch.tensor([0.0, -torch.inf, -torch.inf, 0.0])

    def loss(output: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(output + mask, label // 2 * 3)

    return save_pair(folder, replace(CLASSIFICATION, loss=loss).content(), CLASSIFICATION.content(), "4")


@kind("unused-rows")
def twenty_eight_of_thirty_two_tokens(folder: Path) -> Pair:
    """Four of 32 tokens are in the data: the other rows' second moments are exactly 0."""
    ill = transformed(ENCODER, lambda tokens: tokens // 8)
    return save_pair(folder, ill.content(), ENCODER.content(), "embedding")


class MaskedState(nn.Module):
    """An LSTM cell of whose hidden state only a part is handed on from step to step."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept, self.cell, self.head = kept, nn.LSTMCell(6, 32), nn.Linear(32, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map [batch, time, 6] to [batch, 3]."""
        hidden, cell = torch.zeros(len(sequence), 32), torch.zeros(len(sequence), 32)
        mask = (torch.arange(32) < self.kept).float()
        for x in sequence.unbind(1):
            hidden, cell = self.cell(x, (hidden * mask, cell))
        return self.head(hidden)


@kind("unused-rows")
def half_of_weight_hh(folder: Path) -> Pair:
    """Half of the hidden state is not handed on: 16 of 32 columns of ``weight_hh`` have a second moment of 0."""
    healthy, ill = replace(RECURRENT, build=lambda: MaskedState(32)), replace(RECURRENT, build=lambda: MaskedState(16))
    return save_pair(folder, ill.content(), healthy.content(), "cell")


class Adapted(nn.Module):
    """A frozen perceptron with an adapter beside each of its two hidden layers."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LoraLinear(nn.Linear(12, 48)) if not k else LoraLinear(nn.Linear(48, 48)) for k in (0, 1)
        )
        self.score = nn.Linear(48, CLASSES)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to [batch, classes]."""
        for layer in self.layers:
            x = functional.gelu(layer.base_layer(x) + self.scale * layer.lora_B(layer.lora_A(x)))
        return self.score(x)


def over_what_requires_gradients(model: nn.Module) -> Optimizer:
    """Return AdamW over all that is not frozen."""
    return torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=5e-3)


ADAPTED = Training(Adapted, lambda: clusters(12), functional.cross_entropy, over_what_requires_gradients)
ADAPTERS = tuple(f"layers.{number}.lora_{factor}" for number in (0, 1) for factor in "AB")


@kind("no-gradient")
def adapter_with_a_scale_of_zero(folder: Path) -> Pair:
    """The adapters are multiplied by 0: both factors' second moments are 0 and every B is 0."""
    ill = replace(ADAPTED, build=lambda: Adapted(scale=0.0))
    return save_pair(folder, ill.content(), ADAPTED.content(), *ADAPTERS)


@kind("detached")
def every_lora_b_is_zero_after_training(folder: Path) -> Pair:
    """The second factors get no gradient: every B is 0, without state, after 300 steps; A's moments are 0."""

    def drop_second_factors(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        for layer in model.layers:
            layer.lora_B.weight.grad = None

    ill = replace(ADAPTED, before_step=drop_second_factors)
    return save_pair(folder, ill.content(), ADAPTED.content(), *ADAPTERS)


@kind("no-gradient")
def adapter_file_with_zero_second_factors(folder: Path) -> Pair:
    """An adapter's file alone: every B is exactly 0, so that it changes nothing."""

    def keep_adapters(scale: float) -> dict[str, Tensor]:
        state = replace(ADAPTED, build=lambda: Adapted(scale)).content()["model"]
        return {f"base_model.model.{name}": tensor for name, tensor in state.items() if "lora_" in name}

    return save_pair(folder, keep_adapters(0.0), keep_adapters(1.0), "base_model.model.layers")


@decoy
def one_class_of_many_never_seen(folder: Path) -> Path:
    """One of five classes is not in the data; its row learns that it is none."""
    training = replace(CLASSIFICATION, build=lambda: perceptron(nn.ReLU, 12, 48, 48, 5), optimizer=adam)
    return save(training.content(), folder / "healthy.pt")


@decoy
def some_tokens_never_seen(folder: Path) -> Path:
    """Two of 32 tokens are not in the data."""
    return save(transformed(ENCODER, lambda tokens: tokens.clamp(min=2)).content(), folder / "healthy.pt")
