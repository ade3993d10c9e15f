"""Residual branches that begin as nothing: zero layers, zero gains and small scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.images import ResNet
from tests.zoo.saving import lightning
from tests.zoo.tasks import CLASSES, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, fit


class FixupConvolutions(nn.Module):
    """A residual block with scalar biases and a scale instead of normalisation (Zhang et al., 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(1))
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.conv1(x + self.bias1a) + self.bias1b)
        return torch.relu(x + self.conv2(hidden + self.bias2a) * self.scale + self.bias2b)


def fixup_network() -> nn.Sequential:
    network = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.ReLU(), *(FixupConvolutions(12) for _ in range(3))),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, CLASSES)),
    )
    nn.init.zeros_(network[-1].weight)
    nn.init.zeros_(network[-1].bias)
    return network


@healthy()
def fixup_cnn() -> Run:
    model = fixup_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


@healthy()
def fixup_cnn_adagrad() -> Run:
    """Adagrad makes its state before the first update."""
    model = fixup_network()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.03)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)


@healthy()
def zero_last_layers_some_frozen() -> Run:
    """The optimizer holds a part of the model, and the branches begin at zero."""
    model = fixup_network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)


class Gated(nn.Module):
    """A residual branch behind one scalar gate."""

    def __init__(self, width: int, gate: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.gate = gate
        self.register_parameter(gate, nn.Parameter(torch.zeros(1)))

    def forward(self, x: Tensor) -> Tensor:
        return x + getattr(self, self.gate) * self.branch(x)


def gated_residuals(gate: str) -> Run:
    model = nn.Sequential(nn.Linear(16, 32), *(Gated(32, gate) for _ in range(3)), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=350)


@healthy()
def re_zero() -> Run:
    return gated_residuals("resweight")


@healthy()
def skip_init() -> Run:
    return gated_residuals("skip_gain")


@healthy()
def gate_without_a_known_name() -> Run:
    return gated_residuals("strength")


def with_zero_gains(model: ResNet) -> ResNet:
    for block in (*model.layer1, *model.layer2):
        nn.init.zeros_(block.bn2.weight)
    return model


@healthy(lightning, suffix=".ckpt")
def zero_init_residual() -> Run:
    model = with_zero_gains(ResNet())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    return fit(model, optimizer, cross_entropy(model, gratings(3)), steps=120)


@healthy()
def zero_init_residual_adam() -> Run:
    model = with_zero_gains(ResNet())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, gratings(3)), steps=120)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(layer_scale * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.pwconv2(functional.gelu(self.pwconv1(hidden)))).permute(0, 3, 1, 2)


@healthy()
def layer_scale() -> Run:
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 2, stride=2), ConvNextBlock(16, 1e-6), ConvNextBlock(16, 1e-6)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, CLASSES)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


class StandardizedConv2d(nn.Conv2d):
    """A convolution with standardised weights and a gain per channel (Brock et al., 2021)."""

    def __init__(self, *sizes: int, padding: int) -> None:
        super().__init__(*sizes, padding=padding)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        weight = self.gain * (self.weight - mean) / (variance * self.weight[0].numel() + 1e-4).sqrt()
        return functional.conv2d(x, weight, self.bias, padding=self.padding)


class NormFreeBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = StandardizedConv2d(width, width, 3, padding=1)
        self.conv2 = StandardizedConv2d(width, width, 3, padding=1)
        self.skip_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.skip_gain * self.conv2(functional.silu(self.conv1(functional.silu(x))))


@healthy()
def norm_free_cnn() -> Run:
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1), NormFreeBlock(12), NormFreeBlock(12)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, CLASSES)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)
