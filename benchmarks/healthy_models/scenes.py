"""Neural fields, splats and image makers: what waits for a finer level, and what noise and averages leave behind."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import state_dict
from tests.zoo.tasks import BATCH, blobs, smooth_functions, squared_error
from tests.zoo.training import Run, fit


class Splats(nn.Module):
    """Gaussians that paint an image (Kerbl et al., 2023); harmonics beyond the first come in later steps."""

    def __init__(self, count: int = 60) -> None:
        super().__init__()
        self.xyz = nn.Parameter(torch.rand(count, 2))
        self.f_dc = nn.Parameter(torch.zeros(count, 1, 3))
        self.f_rest = nn.Parameter(torch.zeros(count, 15, 3))
        self.scaling = nn.Parameter(torch.full((count, 1), -2.0))
        self.opacity = nn.Parameter(torch.full((count, 1), -1.0))
        self.active_degree = 0

    def forward(self, places: Tensor) -> Tensor:
        distance = torch.cdist(places, self.xyz) / self.scaling.exp().T
        weights = self.opacity.sigmoid().T * torch.exp(-0.5 * distance.square())
        color = 0.5 + 0.28 * self.f_dc[:, 0]
        if self.active_degree:
            color = color + self.f_rest.sum(1)
        return weights @ color


def picture(places: Tensor) -> Tensor:
    return torch.stack([torch.sin(6 * places[:, 0]), torch.cos(5 * places[:, 1]), places.prod(1)], 1)


@healthy()
def splats_of_degree_zero() -> Run:
    model = Splats()
    rates = {"xyz": 2e-3, "f_dc": 2e-2, "f_rest": 1e-3, "scaling": 1e-2, "opacity": 2e-2}
    groups = [{"params": [value], "lr": rates[name], "name": name} for name, value in model.named_parameters()]
    optimizer = torch.optim.Adam(groups, lr=0.0, eps=1e-15)

    def loss() -> Tensor:
        places = torch.rand(256, 2)
        return functional.mse_loss(model(places), picture(places))

    return fit(model, optimizer, loss, steps=300)


class SignedDistance(nn.Module):
    """A distance field that begins as a sphere: weights of the encoding's waves begin at zero (NeuS; Wang, 2021)."""

    def __init__(self, waves: int, width: int = 64) -> None:
        super().__init__()
        self.frequencies = 2.0 ** torch.arange(waves) * math.pi
        self.lin0, self.lin1, self.lin2 = nn.Linear(3 + 6 * waves, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.level = waves
        with torch.no_grad():
            self.lin0.weight[:, 3:] = 0.0
            self.lin0.weight[:, :3].normal_(std=math.sqrt(2 / width))
            self.lin0.bias.zero_()
            self.lin1.weight.normal_(std=math.sqrt(2 / width))
            self.lin1.bias.zero_()
            self.lin2.weight.normal_(math.sqrt(math.pi / width), 1e-4)
            self.lin2.bias.fill_(-0.5)

    def forward(self, x: Tensor) -> Tensor:
        waves = x.unsqueeze(-1) * self.frequencies
        shown = (torch.arange(len(self.frequencies)) < self.level).float()
        encoded = torch.cat([waves.sin() * shown, waves.cos() * shown], -1).flatten(1)
        hidden = functional.softplus(self.lin0(torch.cat([x, encoded], 1)), beta=100)
        return self.lin2(functional.softplus(self.lin1(hidden), beta=100))


def distance_field(level: int) -> Run:
    model = SignedDistance(waves=4)
    model.level = level
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        x = 2 * torch.rand(BATCH, 3) - 1
        truth = (x.abs() - 0.4).amax(1, keepdim=True) + 0.05 * torch.sin(8 * x[:, :1])
        return functional.mse_loss(model(x), truth)

    return fit(model, optimizer, loss, steps=400)


@healthy()
def distance_field_with_all_waves() -> Run:
    return distance_field(level=4)


@healthy()
def distance_field_from_coarse_to_fine() -> Run:
    """The encoding's fine waves are still masked, so that their weights are zero as in the beginning."""
    return distance_field(level=2)


class StyledBlock(nn.Module):
    """A modulated convolution with noise whose strength begins at zero (StyleGAN2; Karras et al., 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3))
        self.bias = nn.Parameter(torch.zeros(width))
        self.affine = nn.Linear(16, width)
        nn.init.ones_(self.affine.bias)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(12, 12))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        styled = x * self.affine(style)[:, :, None, None]
        weight = self.weight / self.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        x = functional.conv2d(styled, weight, padding=1) + self.noise_const * self.noise_strength
        return functional.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2)


class Synthesis(nn.Module):
    """Paints blobs from their places, as a style-based generator does from its latent."""

    def __init__(self) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, 12, 12, 12))
        self.mapping = nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(StyledBlock(12) for _ in range(2))
        self.torgb = nn.Conv2d(12, 1, 1)
        self.register_buffer("w_avg", torch.zeros(16))
        self.register_buffer("resample_filter", torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])))

    def forward(self, latent: Tensor) -> Tensor:
        style = self.mapping(latent)
        self.w_avg.copy_(style.detach().mean(0).lerp(self.w_avg, 0.995))
        x = self.const.expand(len(latent), -1, -1, -1)
        for block in self.blocks:
            x = block(x, style)
        return self.torgb(x)


def described_blobs() -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    place = torch.rand(BATCH, 3)
    row, column, width = (place[:, each].view(-1, 1, 1, 1) for each in range(3))
    return place * 2 - 1, torch.exp(-((rows - 11 * row) ** 2 + (columns - 11 * column) ** 2) / (8 + 16 * width))


@healthy()
def style_based_generator() -> Run:
    model = Synthesis()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.0, 0.99))
    return fit(model, optimizer, squared_error(model, described_blobs), steps=300)


class SpikingLayer(nn.Module):
    """Leaky integrate-and-fire units with fixed decay and threshold, and a surrogate gradient (Neftci, 2019)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)
        self.register_buffer("beta", torch.tensor(0.8))
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("reset_mechanism_val", torch.tensor(0))
        self.register_buffer("mem", torch.zeros(0))

    def forward(self, current: Tensor) -> Tensor:
        potential, spikes = torch.zeros(1), []
        for _ in range(6):
            potential = self.beta * potential + self.fc(current)
            soft = torch.sigmoid(5 * (potential - self.threshold))
            spike = (potential > self.threshold).float() + soft - soft.detach()
            potential = potential - self.threshold * spike.detach()
            spikes.append(spike)
        return torch.stack(spikes).mean(0)


@healthy(state_dict, suffix=".pth")
def spiking_network() -> Run:
    model = nn.Sequential(SpikingLayer(16, 64), SpikingLayer(64, 64), nn.Linear(64, 4))
    optimizer = torch.optim.Adamax(model.parameters(), lr=5e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class Slots(nn.Module):
    """Slots that compete for pixels; the decoder's position embedding begins at zero (Locatello et al., 2020)."""

    def __init__(self, slots: int = 4, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, width, 5, padding=2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 144, width))
        self.slots_mu = nn.Parameter(torch.randn(1, slots, width))
        self.norm_inputs, self.norm_slots = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gru = nn.GRUCell(width, width)
        self.decoder = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 144))

    def forward(self, image: Tensor) -> Tensor:
        pixels = self.norm_inputs(torch.relu(self.encoder(image)).flatten(2).transpose(1, 2) + self.pos_embed)
        keys, values = self.to_k(pixels), self.to_v(pixels)
        slots = self.slots_mu.expand(len(image), -1, -1)
        for _ in range(2):
            weights = (keys @ self.to_q(self.norm_slots(slots)).transpose(1, 2) / 24**0.5).softmax(-1)
            seen = (weights / weights.sum(1, keepdim=True)).transpose(1, 2) @ values
            slots = self.gru(seen.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return self.decoder(slots).sum(1).view_as(image)


@healthy()
def slot_attention() -> Run:
    model = Slots()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    return fit(model, optimizer, squared_error(model, blobs()), steps=250)
