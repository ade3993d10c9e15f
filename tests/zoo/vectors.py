"""Models of vectors and table rows: multilayer perceptrons and their relatives."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.zoo.saving import legacy_state_dict, legacy_training_state, lightning, state_dict, training_state
from tests.zoo.tasks import BATCH, CLASSES, clusters, cross_entropy, smooth_functions, squared_error
from tests.zoo.training import Run, fit, healthy


def perceptron(activation: type[nn.Module], *sizes: int) -> nn.Sequential:
    """Return linear layers of the given sizes with the activation between them."""
    layers = [part for before, after in pairwise(sizes) for part in (nn.Linear(before, after), activation())]
    return nn.Sequential(*layers[:-1])


@healthy(training_state)
def mlp_relu() -> Run:
    model = perceptron(nn.ReLU, 16, 64, 64, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=500)


@healthy(training_state)
def mlp_tanh() -> Run:
    model = perceptron(nn.Tanh, 12, 48, 48, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return fit(model, optimizer, cross_entropy(model, clusters(12)), steps=400)


@healthy(legacy_training_state)
def mlp_gelu() -> Run:
    model = perceptron(nn.GELU, 16, 64, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=500)


@healthy(training_state)
def mlp_layer_norm() -> Run:
    model = nn.Sequential(
        *(nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU()),
        *(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()),
        nn.Linear(64, 4),
    )
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=500)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


@healthy(lightning)
def residual_mlp() -> Run:
    model = nn.Sequential(nn.Linear(16, 32), *(ResidualBlock(32) for _ in range(4)), nn.LayerNorm(32), nn.Linear(32, 4))
    matrices = [each for each in model.parameters() if each.ndim > 1]
    vectors = [each for each in model.parameters() if each.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=300)


@healthy(training_state)
def deep_narrow_mlp() -> Run:
    model = perceptron(nn.LeakyReLU, 8, *[20] * 8, CLASSES)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(8, spread=0.6)), steps=500)


@healthy(training_state)
def weight_normalized_mlp() -> Run:
    model = nn.Sequential(
        *(weight_norm(nn.Linear(16, 64)), nn.ELU(), weight_norm(nn.Linear(64, 64)), nn.ELU()), nn.Linear(64, 4)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class Siren(nn.Module):
    """Sinusoidal representation network (Sitzmann et al., 2020), with the initialisation of the paper."""

    def __init__(self, width: int = 48, frequency: float = 30.0) -> None:
        super().__init__()
        self.frequency = frequency
        self.layers = nn.ModuleList([nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.output = nn.Linear(width, 1)
        with torch.no_grad():
            self.layers[0].weight.uniform_(-1 / 2, 1 / 2)
            for layer in [*self.layers[1:], self.output]:
                bound = (6 / width) ** 0.5 / frequency
                layer.weight.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.frequency * layer(x))
        return self.output(x)


@healthy(state_dict, suffix=".pth")
def siren() -> Run:
    model = Siren()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def picture() -> tuple[Tensor, Tensor]:
        x = torch.rand(4 * BATCH, 2) * 2 - 1
        return x, torch.sin(6 * x[:, :1]) * torch.cos(9 * x[:, 1:]) + 0.05 * torch.randn(4 * BATCH, 1)

    return fit(model, optimizer, squared_error(model, picture), steps=400)


@healthy(legacy_state_dict, suffix=".pth")
def quantile_regression() -> Run:
    model = perceptron(nn.ReLU, 8, 64, 64, 9)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    levels, batches = torch.arange(1, 10) / 10, smooth_functions(8, 1, noise=0.2)

    def pinball_loss() -> Tensor:
        x, y = batches()
        error = 3 * y - model(x)
        return torch.maximum(levels * error, (levels - 1) * error).mean()

    return fit(model, optimizer, pinball_loss, steps=400)


class MultiTask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = perceptron(nn.ReLU, 16, 64, 64)
        self.heads = nn.ModuleDict({"position": nn.Linear(64, 3), "kind": nn.Linear(64, CLASSES)})


@healthy(training_state)
def multi_task() -> Run:
    model = MultiTask()
    groups = [{"params": model.trunk.parameters(), "lr": 1e-3}, {"params": model.heads.parameters(), "lr": 3e-3}]
    optimizer = torch.optim.Adam(groups)
    regression, classification = smooth_functions(16, 3), clusters(16)

    def loss() -> Tensor:
        position = squared_error(lambda x: model.heads["position"](torch.relu(model.trunk(x))), regression)
        kind = cross_entropy(lambda x: model.heads["kind"](torch.relu(model.trunk(x))), classification)
        return position() + kind()

    return fit(model, optimizer, loss, steps=400)


class MixtureOfExperts(nn.Module):
    """A router sends every row to two of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(12, 4)
        self.experts = nn.ModuleList(perceptron(nn.GELU, 12, 32, 12) for _ in range(4))
        self.output = nn.Linear(12, 3)
        self.balance_loss = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        chosen = weights.topk(2).indices
        kept = weights * torch.zeros_like(weights).scatter(1, chosen, 1.0)
        self.balance_loss = 4 * (weights.mean(0) * (kept > 0).float().mean(0)).sum()
        mixed = sum(weight.unsqueeze(1) * expert(x) for weight, expert in zip(kept.T, self.experts, strict=True))
        return self.output(x + mixed)


@healthy(training_state)
def mixture_of_experts() -> Run:
    model = MixtureOfExperts()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    error = squared_error(model, smooth_functions(12, 3))
    return fit(model, optimizer, lambda: error() + 0.01 * model.balance_loss, steps=500)


class RowClassifier(nn.Module):
    """Embeds the categories of a row, of which it has up to six: number 0 stands for none."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25, 12, padding_idx=0)
        self.layers = perceptron(nn.ReLU, 12, 48, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        there = (rows > 0).sum(1, keepdim=True)
        return self.layers(self.embedding(rows).sum(1) / there)


@healthy(training_state)
def embedded_rows() -> Run:
    model = RowClassifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    meaning = torch.randn(25, CLASSES)

    def rows() -> tuple[Tensor, Tensor]:
        x = torch.randint(1, 25, (BATCH, 6))
        x[torch.arange(6) >= torch.randint(2, 7, (BATCH, 1))] = 0
        scores = (meaning[x] * (x > 0).unsqueeze(-1)).sum(1)
        return x, scores.argmax(1)

    return fit(model, optimizer, cross_entropy(model, rows), steps=400)


class MatrixFactorization(nn.Module):
    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user_factors, self.item_factors = nn.Embedding(users, 6), nn.Embedding(items, 6)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for factors in (self.user_factors, self.item_factors):
            nn.init.normal_(factors.weight, std=0.1)
        for bias in (self.user_bias, self.item_bias):
            nn.init.zeros_(bias.weight)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        bias = self.user_bias(user) + self.item_bias(item)
        return (self.user_factors(user) * self.item_factors(item)).sum(1) + bias.squeeze(1)


@healthy(training_state)
def matrix_factorization() -> Run:
    users, items = 60, 40
    model = MatrixFactorization(users, items)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    tastes, traits, popularity = torch.randn(users, 2), torch.randn(items, 2), torch.randn(items)

    def ratings() -> tuple[Tensor, Tensor]:
        user, item = torch.randint(users, (256,)), torch.randint(items, (256,))
        rating = (tastes[user] * traits[item]).sum(1) + popularity[item] + 0.2 * torch.randn(256)
        return torch.stack([user, item], 1), rating

    return fit(model, optimizer, squared_error(model, ratings), steps=500)
