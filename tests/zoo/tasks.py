"""Synthetic tasks. Their noise keeps gradients coming when a task is learned, as real data do."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Batches = Callable[[], tuple[Tensor, Tensor]]

BATCH = 64
CLASSES = 4
TOKENS = 32
LENGTH = 12
"""Time steps of a sequence."""
SIDE = 12
"""Pixels of an image's side."""


def smooth_functions(inputs: int, outputs: int, noise: float = 0.1) -> Batches:
    """Regress smooth functions of normal inputs: [batch, inputs] to [batch, outputs]."""
    directions = torch.randn(inputs, outputs) * 1.5 / math.sqrt(inputs)

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.randn(BATCH, inputs)
        return x, torch.sin(x @ directions) + noise * torch.randn(BATCH, outputs)

    return draw


def clusters(inputs: int, spread: float = 1.0) -> Batches:
    """Classify points around centres: [batch, inputs] to classes [batch]."""
    centres = torch.randn(CLASSES, inputs)

    def draw() -> tuple[Tensor, Tensor]:
        label = torch.randint(CLASSES, (BATCH,))
        return centres[label] + spread * torch.randn(BATCH, inputs), label

    return draw


def gratings(channels: int = 1, noise: float = 0.5) -> Batches:
    """Classify waves by their direction: images [batch, channels, 12, 12] to classes [batch]."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")

    def draw() -> tuple[Tensor, Tensor]:
        label = torch.randint(CLASSES, (BATCH,))
        angle = (label * math.pi / CLASSES).view(-1, 1, 1, 1)
        phase = torch.rand(BATCH, channels, 1, 1) * 2 * math.pi
        wave = torch.sin(1.2 * (rows * torch.cos(angle) + columns * torch.sin(angle)) + phase)
        return wave + noise * torch.randn_like(wave), label

    return draw


def blobs() -> Batches:
    """Find bright spots under noise: noisy images [batch, 1, 12, 12] to the clean ones."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")

    def draw() -> tuple[Tensor, Tensor]:
        row, column, width = (torch.rand(BATCH, 1, 1, 1) * size for size in (SIDE, SIDE, 2.0))
        clean = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (1.0 + width) ** 2))
        return clean + 0.1 * torch.randn_like(clean), clean

    return draw


def moving_averages(inputs: int, outputs: int) -> Batches:
    """Regress averages in which the past counts less and less: [batch, 12, inputs] to [batch, outputs]."""
    directions = torch.randn(inputs, outputs) / math.sqrt(inputs)
    weights = 0.8 ** torch.arange(LENGTH - 1, -1, -1.0)

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.randn(BATCH, LENGTH, inputs)
        average = torch.einsum("bti,io,t->bo", x, directions, weights)
        return x, torch.tanh(average) + 0.1 * torch.randn(BATCH, outputs)

    return draw


def most_frequent_group() -> Batches:
    """Say which quarter of the vocabulary most tokens of a sequence are from: [batch, 12] to classes [batch]."""

    def draw() -> tuple[Tensor, Tensor]:
        label = torch.randint(CLASSES, (BATCH,))
        from_group = torch.randint(TOKENS // CLASSES, (BATCH, LENGTH)) + (label * TOKENS // CLASSES).unsqueeze(1)
        tokens = torch.where(torch.rand(BATCH, LENGTH) < 0.5, from_group, torch.randint(TOKENS, (BATCH, LENGTH)))
        return tokens, label

    return draw


def chains() -> Batches:
    """Predict the next token, which follows a rule four times out of five: [batch, 12] to [batch, 12]."""

    def draw() -> tuple[Tensor, Tensor]:
        tokens = torch.randint(TOKENS, (BATCH, LENGTH + 1))
        for place in range(LENGTH):
            by_rule = (5 * tokens[:, place] + 3) % TOKENS
            tokens[:, place + 1] = torch.where(torch.rand(BATCH) < 0.8, by_rule, tokens[:, place + 1])
        return tokens[:, :-1], tokens[:, 1:]

    return draw


def squared_error(model: Callable[[Tensor], Tensor], batches: Batches) -> Callable[[], Tensor]:
    """Return a loss that draws a batch and compares what the model makes of it."""

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x), y)

    return loss


def cross_entropy(model: Callable[[Tensor], Tensor], batches: Batches) -> Callable[[], Tensor]:
    """Return a loss that draws a batch and compares the classes that the model gives it."""

    def loss() -> Tensor:
        x, y = batches()
        return functional.cross_entropy(model(x).flatten(0, -2), y.flatten())

    return loss
