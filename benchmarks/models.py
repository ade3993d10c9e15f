"""Six small healthy networks, fresh from their constructors and after a few hundred Adam steps on synthetic data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STEPS = 300
"""Adam updates of a trained network: far from convergence, but every parameter has moved and has moments."""

BATCH = 32
LENGTH = 12
"""Time steps of the sequence tasks."""


class Recurrent(nn.Module):
    """Two recurrent layers and a linear head that reads the last time step."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.recurrent = cell(12, 48, num_layers=2, batch_first=True)
        self.head = nn.Linear(48, 6)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map [batch, time, 12] to [batch, 6]."""
        hidden, _ = self.recurrent(sequence)
        return self.head(hidden[:, -1])


class Transformer(nn.Module):
    """Token embedding, two encoder layers as PyTorch builds them, mean pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        layer = nn.TransformerEncoderLayer(32, nhead=4, dim_feedforward=96, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(32, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token numbers [batch, time] to [batch, 6]."""
        return self.head(self.encoder(self.embedding(tokens)).mean(dim=1))


class Block(nn.Module):
    """A residual block: two 3×3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map [batch, before, 8, 8] to [batch, after, 8, 8]."""
        hidden = torch.relu(self.bn1(self.conv1(image)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.shortcut(image))


class ResNet(nn.Module):
    """A stem, three residual blocks, average pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 24))
        self.fc = nn.Linear(24, 6)

    def forward(self, image: Tensor) -> Tensor:
        """Map [batch, 3, 8, 8] to [batch, 6]."""
        hidden = torch.relu(self.bn1(self.conv1(image)))
        return self.fc(self.layer2(self.layer1(hidden)).mean(dim=(2, 3)))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 6))


def _normalized_mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(20, 128), nn.LayerNorm(128), nn.ReLU()),
        *(nn.Linear(128, 64), nn.LayerNorm(64), nn.ReLU()),
        nn.Linear(64, 6),
    )


@dataclass(frozen=True)
class Network:
    """How to build a network, what to feed it, and which weight is its output layer's."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    output: str

    def fresh(self, seed: int = 0) -> nn.Module:
        """Build it with PyTorch's own initialisation, the same for the same seed."""
        torch.manual_seed(seed)
        return self.build()

    def trained(self, seed: int = 0, steps: int = STEPS) -> tuple[nn.Module, torch.optim.Adam]:
        """Fit it to a noisy function of its inputs and return it with its optimizer."""
        network = self.fresh(seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(steps):
            inputs = self.inputs()
            loss = nn.functional.mse_loss(network(inputs), _targets(inputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network, optimizer


def _targets(inputs: Tensor) -> Tensor:
    # Six smooth functions of each sample that none of the networks can fit exactly, so the gradient never dies.
    flat = inputs.reshape(len(inputs), -1).float()
    flat = flat / (1.0 + flat.abs().mean())
    parts = torch.stack([part.mean(dim=1) for part in flat.tensor_split(6, dim=1)], dim=1)
    return torch.sin(3.0 * parts) + parts.roll(1, dims=1) ** 2 + 0.1 * torch.randn_like(parts)


NETWORKS = {
    "MLP": Network(_mlp, lambda: torch.randn(BATCH, 20), output="4.weight"),
    "LayerNorm MLP": Network(_normalized_mlp, lambda: torch.randn(BATCH, 20), output="6.weight"),
    "LSTM": Network(lambda: Recurrent(nn.LSTM), lambda: torch.randn(BATCH, LENGTH, 12), output="head.weight"),
    "GRU": Network(lambda: Recurrent(nn.GRU), lambda: torch.randn(BATCH, LENGTH, 12), output="head.weight"),
    "Transformer": Network(Transformer, lambda: torch.randint(40, (BATCH, LENGTH)), output="head.weight"),
    "ResNet": Network(ResNet, lambda: torch.randn(BATCH, 3, 8, 8), output="fc.weight"),
}
