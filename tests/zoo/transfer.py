"""Models in which something learned is used again: frozen backbones, adapters, averaged teachers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.images import ResNet
from tests.zoo.saving import state_dict, training_state
from tests.zoo.tasks import BATCH, CLASSES, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, fit, healthy
from tests.zoo.vectors import perceptron


@healthy(training_state)
def frozen_backbone() -> Run:
    """A network that was trained on one task, and a new head for another one."""
    model = ResNet()
    pretraining = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(model, pretraining, cross_entropy(model, gratings(3)), steps=60)
    model.requires_grad_(False).eval()
    model.fc = nn.Linear(16, CLASSES)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1, momentum=0.9)
    return fit(model, optimizer, cross_entropy(model, gratings(3, noise=0.8)), steps=150)


class LoraLinear(nn.Module):
    """A frozen linear layer and the product of two small matrices beside it (Hu et al., 2021)."""

    def __init__(self, base_layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2.0 * self.lora_B(self.lora_A(x))


@healthy(training_state)
def lora_fine_tuning() -> Run:
    model, batches = perceptron(nn.GELU, 16, 64, 64, 4), smooth_functions(16, 4)
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), squared_error(model, batches), steps=300)
    # The new task is the old one, seen through rotated inputs.
    rotation = torch.linalg.qr(torch.eye(16) + 0.3 * torch.randn(16, 16)).Q
    for place in (0, 2, 4):
        model[place] = LoraLinear(model[place])
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=5e-3)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x @ rotation), y)

    return fit(model, optimizer, loss, steps=300)


class Contrastive(nn.Module):
    """Two views of a thing are mapped by a network and by its slow average (He et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        self.teacher = copy.deepcopy(self.online).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 0.05)


@healthy(training_state)
def contrastive_teacher() -> Run:
    model = Contrastive()
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    views = torch.randn(2, 8, 24)

    def loss() -> Tensor:
        thing = torch.randn(BATCH, 8)
        first, second = (thing @ view + 0.3 * torch.randn(BATCH, 24) for view in views)
        with torch.no_grad():
            keys = functional.normalize(model.teacher(second), dim=1)
        return functional.cross_entropy(
            functional.normalize(model.online(first), dim=1) @ keys.T / 0.1, torch.arange(BATCH)
        )

    return fit(model, optimizer, loss, steps=300, after_step=model.follow)


class Averaged(nn.Module):
    """A model beside the exponential moving average of its weights, as diffusion models are saved."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.ema = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast, 0.01)


class Denoiser(nn.Module):
    """Predicts the noise in a point from the point and the share of noise in it."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32))
        self.point = nn.Linear(2, 32)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, point: Tensor, time: Tensor) -> Tensor:
        return self.layers(self.point(point) + self.time(time))


@healthy(state_dict, suffix=".pth")
def diffusion_with_average() -> Run:
    model = Averaged(Denoiser())
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=2e-3)

    def loss() -> Tensor:
        angle, time, noise = torch.rand(256, 1) * 6.2832, torch.rand(256, 1), torch.randn(256, 2)
        point = torch.cat([torch.cos(angle), torch.sin(angle)], 1)
        return functional.mse_loss(model.model((1 - time).sqrt() * point + time.sqrt() * noise, time), noise)

    return fit(model, optimizer, loss, steps=400, after_step=model.follow)
