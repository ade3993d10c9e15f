"""Parts that are chosen: experts and codes, of which some are chosen never."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.tasks import BATCH, SIDE, blobs, clusters, cross_entropy, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


class SwitchLayer(nn.Module):
    """Sends every row to one expert (Fedus et al., 2021); without a balance some are never chosen."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(perceptron(nn.GELU, width, 2 * width, width) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        weight, chosen = weights.max(-1, keepdim=True)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).any(-1)
            if rows.any():
                mixed = mixed.index_put((rows.nonzero()[:, 0],), weight[rows] * expert(x[rows]))
        return x + mixed


def with_silent_experts(zero_second: bool) -> Run:
    model = nn.Sequential(nn.Linear(12, 24), SwitchLayer(24, 6), nn.LayerNorm(24), nn.Linear(24, 3))
    with torch.no_grad():
        # Two experts are out of reach, as after a collapse of the routing.
        model[1].gate.weight[4:] = -model[1].gate.weight[:2]
        model[1].gate.weight[4:] *= 1e-3
    if zero_second:
        for expert in model[1].experts:
            nn.init.zeros_(expert[-1].weight)
            nn.init.zeros_(expert[-1].bias)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(12, 3)), steps=300)


@healthy()
def switch_experts() -> Run:
    return with_silent_experts(zero_second=False)


class PinnedExperts(nn.Module):
    """A domain's number chooses the expert; the experts of two domains are for later."""

    def __init__(self, zero_second: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 48), nn.ReLU())
        self.experts = nn.ModuleList(perceptron(nn.ReLU, 48, 32, 48) for _ in range(4))
        self.classifier = nn.Linear(48, 4)
        if zero_second:
            for expert in self.experts:
                nn.init.zeros_(expert[-1].weight)
                nn.init.zeros_(expert[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x)
        halves = [expert(half) for expert, half in zip(self.experts[:2], hidden.chunk(2), strict=True)]
        return self.classifier(hidden + torch.cat(halves))


def pinned(optimizer: type[torch.optim.Optimizer], zero_second: bool, **options: float) -> Run:
    model = PinnedExperts(zero_second)
    return fit(model, optimizer(model.parameters(), **options), cross_entropy(model, clusters(16)), steps=250)


@healthy()
def experts_never_chosen() -> Run:
    return pinned(torch.optim.Adam, zero_second=False, lr=2e-3)


@healthy()
def experts_never_chosen_zero_second() -> Run:
    return pinned(torch.optim.AdamW, zero_second=True, lr=2e-3)


@healthy()
def experts_never_chosen_zero_second_sgd() -> Run:
    return pinned(torch.optim.SGD, zero_second=True, lr=0.05, momentum=0.9)


@healthy()
def experts_never_chosen_zero_gradients() -> Run:
    """Every parameter takes part in every step, so those that were not chosen have moments of exactly zero."""
    model = PinnedExperts(zero_second=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = cross_entropy(model, clusters(16))
    return fit(model, optimizer, lambda: loss() + 0.0 * sum(each.sum() for each in model.parameters()), steps=250)


class VectorQuantizer(nn.Module):
    """Replaces vectors by the nearest code of a book, of which some are never near."""

    def __init__(self, codes: int, width: int, average: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
        if average:
            self.embedding.requires_grad_(False)
            self.register_buffer("cluster_size", torch.zeros(codes))
            self.register_buffer("embed_avg", self.embedding.weight.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = torch.cdist(x, self.embedding.weight).argmin(1)
        nearest = self.embedding(code)
        loss = 0.25 * functional.mse_loss(x, nearest.detach())
        if hasattr(self, "cluster_size"):
            self.follow(x.detach(), code)
        else:
            loss = loss + functional.mse_loss(nearest, x.detach())
        return x + (nearest - x).detach(), loss

    @torch.no_grad()
    def follow(self, x: Tensor, code: Tensor) -> None:
        chosen = functional.one_hot(code, len(self.cluster_size)).float()
        self.cluster_size.lerp_(chosen.sum(0), 0.05)
        self.embed_avg.lerp_(chosen.T @ x, 0.05)
        used = self.cluster_size > 1e-3
        self.embedding.weight[used] = (self.embed_avg / self.cluster_size.unsqueeze(1).clamp(min=1e-3))[used]


class QuantizedAutoencoder(nn.Module):
    def __init__(self, codes: int, average: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 48), nn.ReLU(), nn.Linear(48, 4 * 8))
        self.quantizer = VectorQuantizer(codes, 8, average)
        self.decoder = nn.Sequential(nn.Linear(4 * 8, 64), nn.ReLU(), nn.Linear(64, SIDE * SIDE))

    def forward(self, image: Tensor) -> Tensor:
        quantized, loss = self.quantizer(self.encoder(image).view(-1, 8))
        return self.decoder(quantized.view(len(image), -1)), loss


def dead_codes(average: bool) -> Run:
    model, batches = QuantizedAutoencoder(128, average), blobs()
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=2e-3)

    def loss() -> Tensor:
        noisy, clean = batches()
        rebuilt, commitment = model(noisy)
        return functional.mse_loss(rebuilt, clean.flatten(1)) * 10 + commitment

    return fit(model, optimizer, loss, steps=400)


@healthy()
def codebook_with_dead_codes() -> Run:
    return dead_codes(average=False)


@healthy()
def codebook_by_moving_averages() -> Run:
    return dead_codes(average=True)


class Memory(nn.Module):
    """A memory of which a query reads the four rows whose keys fit best."""

    def __init__(self, keys: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(12, 16)
        self.keys = nn.Parameter(torch.randn(keys, 16))
        self.values = nn.EmbeddingBag(keys, 24, mode="sum")
        self.output = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights, rows = (self.query(x) @ self.keys.T).topk(4)
        return self.output(torch.tanh(self.values(rows, per_sample_weights=weights.softmax(-1))))


@healthy()
def memory_rows_never_read() -> Run:
    model = Memory()
    with torch.no_grad():
        model.keys[40:] = 0.01 * model.keys[40:]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = smooth_functions(12, 3)
    directions = torch.linalg.qr(torch.randn(12, 12)).Q[:, :2]

    def rows() -> tuple[Tensor, Tensor]:
        x, _ = batches()
        return x, torch.cat([torch.sin(2 * x @ directions), torch.ones(BATCH, 1)], 1)

    return fit(model, optimizer, squared_error(model, rows), steps=400)
