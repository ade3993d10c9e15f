"""Models of nature: energies from zero outputs, complex weights, variational means that begin at zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning
from tests.zoo.tasks import BATCH, LENGTH, smooth_functions, squared_error
from tests.zoo.training import Run, fit


class OutputBlock(nn.Module):
    """Adds to the energy what this round of messages knows; its last layer begins at zero (DimeNet, 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin_rbf, self.lin_up = nn.Linear(6, width, bias=False), nn.Linear(width, width)
        self.lin = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.lin_up.bias)
        nn.init.zeros_(self.lin.weight)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        return self.lin(functional.silu(self.lin_up(x * self.lin_rbf(distances)))).squeeze(-1)


class Molecules(nn.Module):
    """Energies of point sets from their kinds and distances; of 95 kinds of atoms, four occur."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.emb = nn.Embedding(95, width)
        self.freq = nn.Parameter(torch.arange(1, 7) * math.pi)
        self.interactions = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.output_blocks = nn.ModuleList(OutputBlock(width) for _ in range(3))

    def forward(self, kinds: Tensor, places: Tensor) -> Tensor:
        distance = torch.cdist(places, places) + torch.eye(places.shape[1])
        waves = (torch.sin(self.freq * distance.unsqueeze(-1)) / distance.unsqueeze(-1)).sum(2)
        x = self.emb(kinds)
        energy = self.output_blocks[0](x, waves)
        for layer, output in zip(self.interactions, self.output_blocks[1:], strict=True):
            x = x + functional.silu(layer(torch.exp(-distance) @ x))
            energy = energy + output(x, waves)
        return energy.sum(1)


@healthy()
def molecular_energies() -> Run:
    model, charges = Molecules(), torch.tensor([0.0] * 1 + [1.0] + [0.0] * 4 + [-1.0, 0.5, -0.7])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, amsgrad=True)

    def loss() -> Tensor:
        kinds, places = torch.tensor([1, 6, 7, 8])[torch.randint(4, (32, 6))], torch.randn(32, 6, 3)
        charge = charges[kinds]
        pairs = charge.unsqueeze(1) * charge.unsqueeze(2) * torch.exp(-torch.cdist(places, places))
        return functional.mse_loss(model(kinds, places), charge.sum(1) + 0.2 * pairs.sum((1, 2)))

    return fit(model, optimizer, loss, steps=300)


class SpectralConvolution(nn.Module):
    """Mixes the lowest waves of a signal by complex weights (Li et al., 2021)."""

    def __init__(self, width: int, modes: int = 4) -> None:
        super().__init__()
        self.weights1 = nn.Parameter(torch.rand(width, width, modes, dtype=torch.cfloat) / width)
        self.w = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft(x)
        modes = self.weights1.shape[-1]
        mixed = torch.zeros_like(waves)
        mixed[..., :modes] = torch.einsum("bim,iom->bom", waves[..., :modes], self.weights1)
        return functional.gelu(torch.fft.irfft(mixed, n=x.shape[-1]) + self.w(x))


@healthy(lightning, suffix=".ckpt")
def fourier_neural_operator() -> Run:
    """The operator's task: a field some time after it began to diffuse."""
    model = nn.Sequential(nn.Conv1d(1, 16, 1), SpectralConvolution(16), SpectralConvolution(16), nn.Conv1d(16, 1, 1))
    decay = torch.exp(-0.15 * torch.arange(9.0) ** 2)

    def fields() -> tuple[Tensor, Tensor]:
        field = torch.randn(BATCH, 1, 16).cumsum(-1)
        field = field - field.mean(-1, keepdim=True)
        return field, torch.fft.irfft(torch.fft.rfft(field) * decay, n=16)

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-5)
    return fit(model, optimizer, squared_error(model, fields), steps=300)


class SparseGaussianProcess(nn.Module):
    """Variational inference with inducing points; the variational mean begins at zero (Hensman et al., 2015)."""

    def __init__(self, points: int = 32) -> None:
        super().__init__()
        self.inducing_points = nn.Parameter(torch.randn(points, 2))
        self.variational_mean = nn.Parameter(torch.zeros(points))
        self.chol_variational_covar = nn.Parameter(torch.eye(points))
        self.raw_lengthscale = nn.Parameter(torch.zeros(1, 2))
        self.raw_noise = nn.Parameter(torch.zeros(1))
        self.mean_constant = nn.Parameter(torch.zeros(()))

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        scale = functional.softplus(self.raw_lengthscale)
        return torch.exp(-0.5 * torch.cdist(a / scale, b / scale).square())

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(self.kernel(self.inducing_points, self.inducing_points) + 1e-3 * torch.eye(32))
        project = torch.linalg.solve_triangular(factor, self.kernel(self.inducing_points, x), upper=False)
        spread = self.chol_variational_covar.tril()
        mean = self.mean_constant + project.T @ self.variational_mean
        variance = (1 - project.square().sum(0)).clamp(min=0) + (project.T @ spread).square().sum(1)
        noise = functional.softplus(self.raw_noise) + 1e-4
        fits = ((y - mean).square() + variance) / noise + noise.log()
        prior = self.variational_mean.square().sum() + spread.square().sum() - 2 * spread.diagonal().abs().log().sum()
        return 0.5 * fits.mean() + 0.5 * (prior - 32) / 2000 + 3.0


@healthy()
def sparse_gaussian_process() -> Run:
    model = SparseGaussianProcess()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)

    def loss() -> Tensor:
        x = torch.randn(BATCH, 2)
        return model.loss(x, torch.sin(2 * x[:, 0]) * x[:, 1] + 0.05 * torch.randn(BATCH))

    return fit(model, optimizer, loss, steps=500)


class BayesianLinear(nn.Module):
    """A layer with a mean and a spread for each weight (Blundell et al., 2015)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.weight_rho = nn.Parameter(torch.full((outputs, inputs), -5.0))
        self.bias_mu = nn.Parameter(torch.zeros(outputs))
        self.bias_rho = nn.Parameter(torch.full((outputs,), -5.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_mu + functional.softplus(self.weight_rho) * torch.randn_like(self.weight_mu)
        bias = self.bias_mu + functional.softplus(self.bias_rho) * torch.randn_like(self.bias_mu)
        return functional.linear(x, weight, bias)


@healthy()
def bayes_by_backpropagation() -> Run:
    model = nn.Sequential(BayesianLinear(16, 64), nn.ReLU(), BayesianLinear(64, 64), nn.ReLU(), BayesianLinear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=500)


class Flow(nn.Module):
    """A vector field that is integrated in eight steps; begins as no motion at all (Chen et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(9, 48), nn.Tanh(), nn.Linear(48, 8))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.readout_layer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(8):
            time = torch.full((len(x), 1), number / 8)
            x = x + self.net(torch.cat([x, time], 1)) / 8
        return self.readout_layer(x)


@healthy()
def neural_differential_equation() -> Run:
    model = Flow()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(8, 2)), steps=400)


class DecomposedLinear(nn.Module):
    """Forecasts trend and rest by one linear layer each, which begin as plain averages (DLinear; Zeng, 2023)."""

    def __init__(self, length: int = LENGTH, horizon: int = 6) -> None:
        super().__init__()
        self.Linear_Seasonal, self.Linear_Trend = nn.Linear(length, horizon), nn.Linear(length, horizon)
        for layer in (self.Linear_Seasonal, self.Linear_Trend):
            nn.init.constant_(layer.weight, 1 / length)

    def forward(self, x: Tensor) -> Tensor:
        trend = functional.avg_pool1d(functional.pad(x.unsqueeze(1), (2, 2), "replicate"), 5, 1).squeeze(1)
        return self.Linear_Seasonal(x - trend) + self.Linear_Trend(trend)


@healthy()
def forecast_by_two_linear_layers() -> Run:
    model = DecomposedLinear()

    def waves() -> tuple[Tensor, Tensor]:
        time, phase = torch.arange(LENGTH + 6.0), torch.rand(BATCH, 1) * 6.28
        series = torch.sin(0.8 * time + phase) + 0.1 * torch.randn(BATCH, 1) * time + 0.05 * torch.randn(BATCH, 18)
        return series[:, :LENGTH], series[:, LENGTH:]

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, squared_error(model, waves), steps=400)
