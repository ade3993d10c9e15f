"""Sequence models whose parameters are decays and gates: S4D, Mamba, RWKV, xLSTM, linear recurrences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.tasks import CLASSES, LENGTH, TOKENS, cross_entropy, most_frequent_group
from tests.zoo.training import Run, fit


class Residual(nn.Module):
    """Embeds tokens, mixes them in two residual blocks, and classifies the mean."""

    def __init__(self, mixer: type[nn.Module], width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.mixers = nn.ModuleList(mixer(width) for _ in range(2))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return self.head(x.mean(1))


def most_frequent(mixer: type[nn.Module], steps: int = 150, lr: float = 3e-3) -> Run:
    model = Residual(mixer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return fit(model, optimizer, cross_entropy(model, most_frequent_group()), steps, largest_norm=1.0)


class DiagonalStateSpace(nn.Module):
    """S4D: a convolution with sums of damped waves (Gu et al., 2022)."""

    def __init__(self, width: int, states: int = 8) -> None:
        super().__init__()
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(-6.9, -2.3))
        self.log_A_real = nn.Parameter(torch.full((width, states), 0.5).log())
        self.A_imag = nn.Parameter(torch.pi * torch.arange(states).float().repeat(width, 1))
        self.C = nn.Parameter(torch.randn(width, states, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(width))
        self.output_linear = nn.Conv1d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        decay = torch.complex(-self.log_A_real.exp(), self.A_imag)
        dt_decay = decay * self.log_dt.exp().unsqueeze(1)
        scale = torch.view_as_complex(self.C) * (dt_decay.exp() - 1) / decay
        kernel = 2 * torch.einsum("hn,hnl->hl", scale, (dt_decay.unsqueeze(-1) * torch.arange(LENGTH)).exp()).real
        spectrum = torch.fft.rfft(kernel, 2 * LENGTH) * torch.fft.rfft(x.transpose(1, 2), 2 * LENGTH)
        mixed = torch.fft.irfft(spectrum, 2 * LENGTH)[..., :LENGTH] + x.transpose(1, 2) * self.D.unsqueeze(1)
        return functional.glu(self.output_linear(functional.gelu(mixed)), dim=1).transpose(1, 2)


@healthy()
def diagonal_state_space() -> Run:
    return most_frequent(DiagonalStateSpace)


class Mamba(nn.Module):
    """A state space whose step, input and output depend on the token (Gu and Dao, 2023)."""

    def __init__(self, width: int, states: int = 8, rank: int = 2) -> None:
        super().__init__()
        inner = 2 * width
        self.states, self.rank = states, rank
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        dt = torch.empty(inner).uniform_(-6.9, -2.3).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.arange(1, states + 1).float().repeat(inner, 1).log())
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.in_proj(x).chunk(2, -1)
        x = functional.silu(self.conv1d(x.transpose(1, 2))[..., :LENGTH]).transpose(1, 2)
        dt, b, c = self.x_proj(x).split([self.rank, self.states, self.states], -1)
        dt = functional.softplus(self.dt_proj(dt))
        decay = torch.exp(dt.unsqueeze(-1) * -self.A_log.exp())
        added = (dt * x).unsqueeze(-1) * b.unsqueeze(2)
        state, outputs = torch.zeros_like(added[:, 0]), []
        for place in range(LENGTH):
            state = decay[:, place] * state + added[:, place]
            outputs.append((state * c[:, place].unsqueeze(1)).sum(-1))
        return self.out_proj((torch.stack(outputs, 1) + self.D * x) * functional.silu(gate))


@healthy()
def mamba() -> Run:
    return most_frequent(Mamba, steps=100)


class RwkvTimeMix(nn.Module):
    """RWKV's mixing over time (Peng et al., 2023). Several of its matrices begin at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        ramp = torch.arange(width) / width
        self.time_decay, self.time_first = nn.Parameter(-5 + 8 * ramp), nn.Parameter(torch.full((width,), -1.2))
        self.time_mix_k, self.time_mix_v, self.time_mix_r = (nn.Parameter(ramp.clone().view(1, 1, -1)) for _ in "kvr")
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.receptance, self.output = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        for layer in (self.key, self.receptance, self.output):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        before = functional.pad(x, (0, 0, 1, -1))
        key = self.key(x * self.time_mix_k + before * (1 - self.time_mix_k)).clamp(max=20)
        value = self.value(x * self.time_mix_v + before * (1 - self.time_mix_v))
        gate = self.receptance(x * self.time_mix_r + before * (1 - self.time_mix_r)).sigmoid()
        decay, sums, weights, outputs = torch.exp(-self.time_decay.exp()), 0.0, 0.0, []
        for k, v in zip(key.exp().unbind(1), value.unbind(1), strict=True):
            now = self.time_first.exp() * k
            outputs.append((sums + now * v) / (weights + now + 1e-6))
            sums, weights = decay * sums + k * v, decay * weights + k
        return self.output(gate * torch.stack(outputs, 1))


@healthy()
def rwkv() -> Run:
    return most_frequent(RwkvTimeMix)


class StabilizedLstm(nn.Module):
    """An sLSTM: exponential gates, held in range by a running maximum (Beck et al., 2024)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 4 * width)
        self.recurrent = nn.Parameter(torch.zeros(4 * width, width))
        nn.init.zeros_(self.gates.bias)
        with torch.no_grad():
            self.gates.bias[width : 2 * width] = torch.linspace(3, 6, width)
        self.group_norm, self.out = nn.GroupNorm(4, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = cell = norm = highest = torch.zeros_like(x[:, 0])
        outputs = []
        for projected in self.gates(x).unbind(1):
            i, f, z, o = (projected + hidden @ self.recurrent.T).chunk(4, 1)
            f = functional.logsigmoid(f)
            before, highest = highest, torch.maximum(f + highest, i)
            i, f = torch.exp(i - highest), torch.exp(f + before - highest)
            cell, norm = f * cell + i * torch.tanh(z), f * norm + i
            hidden = torch.sigmoid(o) * cell / norm.clamp(min=1e-6)
            outputs.append(self.group_norm(hidden))
        return self.out(torch.stack(outputs, 1))


@healthy()
def stabilized_lstm() -> Run:
    return most_frequent(StabilizedLstm)


class LinearRecurrence(nn.Module):
    """An LRU: complex decays near the unit circle, saved as complex parameters too (Orvieto et al., 2023)."""

    def __init__(self, width: int, states: int = 16) -> None:
        super().__init__()
        radius = torch.empty(states).uniform_(0.9, 0.999)
        self.nu_log = nn.Parameter((-radius.log()).log())
        self.theta_log = nn.Parameter(torch.empty(states).uniform_(0.1, 3.0).log())
        self.B = nn.Parameter(torch.randn(states, width, dtype=torch.complex64) / (2 * width) ** 0.5)
        self.C = nn.Parameter(torch.randn(width, states, dtype=torch.complex64) / states**0.5)
        self.D = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        decay = torch.polar(torch.exp(-self.nu_log.exp()), self.theta_log.exp())
        added = x.to(torch.complex64) @ self.B.T * (1 - decay.abs() ** 2).sqrt()
        state, outputs = torch.zeros_like(added[:, 0]), []
        for each in added.unbind(1):
            state = decay * state + each
            outputs.append(state)
        return functional.gelu((torch.stack(outputs, 1) @ self.C.T).real + self.D * x)


@healthy()
def linear_recurrence() -> Run:
    return most_frequent(LinearRecurrence)
