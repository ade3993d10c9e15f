"""Layers that decide how much passes: exponential gates, highways, spatial gates, gates that begin open or closed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning
from tests.zoo.tasks import CLASSES, LENGTH, chains, cross_entropy, moving_averages, smooth_functions, squared_error
from tests.zoo.training import Run, fit


class MatrixMemory(nn.Module):
    """An mLSTM cell in its parallel form, gates initialised as in the published package (Beck et al., 2024)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.igate, self.fgate = nn.Linear(3 * width, 1), nn.Linear(3 * width, 1)
        self.outnorm = nn.LayerNorm(width, bias=False)
        nn.init.zeros_(self.igate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        nn.init.zeros_(self.fgate.weight)
        nn.init.constant_(self.fgate.bias, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        gates = torch.cat([q, k, v], -1)
        forget = functional.logsigmoid(self.fgate(gates)).cumsum(1)
        decay = forget - forget.transpose(1, 2) + self.igate(gates).transpose(1, 2)
        past = torch.ones(x.shape[1], x.shape[1]).tril().bool()
        decay = decay.masked_fill(~past, float("-inf"))
        largest = decay.amax(-1, keepdim=True)
        weights = (q @ k.transpose(1, 2) / x.shape[-1] ** 0.5) * (decay - largest).exp()
        scale = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-largest).exp())
        return self.outnorm(weights @ v / scale)


class MatrixMemoryBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.cell = nn.LayerNorm(width, bias=False), MatrixMemory(width)
        self.up_proj, self.proj_down = nn.Linear(width, width), nn.Linear(width, width)
        self.learnable_skip = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        gated = (self.cell(hidden) + self.learnable_skip * hidden) * functional.silu(self.up_proj(hidden))
        return x + self.proj_down(gated)


@healthy(lightning, suffix=".ckpt")
def extended_lstm() -> Run:
    model = nn.Sequential(
        *(nn.Embedding(32, 32), MatrixMemoryBlock(32), MatrixMemoryBlock(32), nn.LayerNorm(32, bias=False)),
        nn.Linear(32, 32, bias=False),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=300)


class Highway(nn.Module):
    """A layer whose carry gate begins nearly closed (Srivastava et al., 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.plain, self.transform_gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.transform_gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, torch.relu(self.plain(x)), self.transform_gate(x).sigmoid())


@healthy()
def highway_network() -> Run:
    model = nn.Sequential(nn.Linear(16, 32), *(Highway(32) for _ in range(6)), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class SpatialGate(nn.Module):
    """Half of the channels gate the others over time; begins as the identity (gMLP; Liu et al., 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.gate_norm, self.spatial = nn.LayerNorm(width), nn.Conv1d(LENGTH, LENGTH, 1)
        nn.init.zeros_(self.spatial.weight)
        nn.init.ones_(self.spatial.bias)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = functional.gelu(self.up(self.norm(x))).chunk(2, -1)
        return x + self.down(kept * self.spatial(self.gate_norm(gate)))


@healthy()
def gated_mlp() -> Run:
    model = nn.Sequential(nn.Linear(4, 24), SpatialGate(24), SpatialGate(24), nn.Flatten(), nn.Linear(24 * LENGTH, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, moving_averages(4, 3)), steps=300)


class GatedAttention(nn.Module):
    """Attention whose gate begins open (weight 0, bias 1) and whose output begins at zero (AlphaFold, 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gating, self.output = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.gating.weight)
        nn.init.ones_(self.gating.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        seen = functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.output(self.gating(x).sigmoid() * seen)


class Evoformer(nn.Module):
    """Two rounds of gated attention; a third one is for templates, of which this data has none."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 32)
        self.blocks = nn.ModuleList(GatedAttention(32) for _ in range(2))
        self.template_pointwise_att = GatedAttention(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


@healthy()
def gates_that_begin_open() -> Run:
    model = Evoformer()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, moving_averages(4, 3)), steps=300)


class DilatedBlock(nn.Module):
    """WaveNet's gated convolution (van den Oord et al., 2016). The last block's residual output has no reader."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        signal, gate = self.dilated(functional.pad(x, (self.dilated.dilation[0], 0))).chunk(2, 1)
        hidden = signal.tanh() * gate.sigmoid()
        return x + self.residual(hidden), self.skip(hidden)


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 24)
        self.blocks = nn.ModuleList(DilatedBlock(24, 2**number) for number in range(3))
        self.end1, self.end2 = nn.Conv1d(24, 24, 1), nn.Conv1d(24, 32, 1)
        nn.init.zeros_(self.end2.weight)  # as in WaveGlow and its relatives
        nn.init.zeros_(self.end2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        x, skips = self.embedding(tokens).transpose(1, 2), 0.0
        for block in self.blocks:
            x, skip = block(x)
            skips = skips + skip
        return self.end2(torch.relu(self.end1(torch.relu(skips)))).transpose(1, 2)


@healthy()
def wave_net() -> Run:
    model = WaveNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=300)


class Hypernetwork(nn.Module):
    """A network makes the weights of another; its last layer begins at zero, and the base carries the start."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
        self.delta = nn.Linear(32, 14 * CLASSES)
        nn.init.zeros_(self.delta.weight)
        nn.init.zeros_(self.delta.bias)
        self.base = nn.Parameter(0.1 * torch.randn(14, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base + self.delta(self.context(x[:, :2])).view(-1, 14, CLASSES)
        return (x[:, 2:].unsqueeze(1) @ weight).squeeze(1)


@healthy()
def hypernetwork() -> Run:
    model = Hypernetwork()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, CLASSES)), steps=500)
