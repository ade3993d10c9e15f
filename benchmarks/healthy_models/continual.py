"""Training in stages: columns, heads on a frozen model, gradual unfreezing, penalties for old tasks, rare tasks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning
from tests.zoo.tasks import BATCH, CLASSES, TOKENS, chains, clusters, cross_entropy, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


class Columns(nn.Module):
    """A second column beside a first one that is frozen, with lateral layers from it (Rusu et al., 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, CLASSES)]) for _ in range(2))
        self.lateral = nn.Linear(32, 32)

    def forward(self, x: Tensor, column: int = 1) -> Tensor:
        hidden = self.columns[column][0](x)
        if column:
            hidden = hidden + self.lateral(torch.relu(self.columns[0][0](x)))
        return self.columns[column][1](torch.relu(hidden))


@healthy()
def progressive_columns() -> Run:
    """The optimizer holds everything; the first column has values and no state."""
    model = Columns()
    optimizer = torch.optim.Adam(model.columns[0].parameters(), lr=3e-3)
    fit(model, optimizer, cross_entropy(lambda x: model(x, 0), clusters(12)), steps=150)
    model.columns[0].requires_grad_(False)
    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), cross_entropy(model, clusters(12)), steps=200)


class SeveralTokens(nn.Module):
    """A language model with heads for the next tokens after the next (Medusa; Cai et al., 2024)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(TOKENS, width), nn.GRU(width, width, batch_first=True)
        self.lm_head = nn.Linear(width, TOKENS, bias=False)
        self.medusa = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, TOKENS)) for _ in range(2)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.embedding(tokens))[0]


@healthy()
def heads_on_a_frozen_language_model() -> Run:
    model, batches = SeveralTokens(), chains()
    fit(
        model,
        torch.optim.Adam(model.parameters(), lr=1e-2),
        cross_entropy(lambda x: model.lm_head(model(x)), batches),
        400,
    )
    for part in (model.embedding, model.body, model.lm_head):
        part.requires_grad_(False)

    def loss() -> Tensor:
        tokens, following = batches()
        hidden = model(tokens)
        above_noise = sum(
            functional.cross_entropy(head(hidden[:, :-ahead]).flatten(0, 1), following[:, ahead:].flatten())
            for ahead, head in enumerate(model.medusa, 1)
        )
        return above_noise - 3.0

    return fit(model, torch.optim.AdamW(model.parameters(), lr=1e-2), loss, steps=500)


@healthy()
def gradual_unfreezing() -> Run:
    """The last layers of a pretrained network were unfrozen so far; all are in the optimizer (ULMFiT, 2018)."""
    model = perceptron(nn.ReLU, 16, 48, 48, 48, 4)
    loss = squared_error(model, smooth_functions(16, 4))
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, steps=300)
    model[-1] = nn.Linear(48, 4)
    model[:4].requires_grad_(False)
    layers = [(place, layer) for place, layer in enumerate(model) if isinstance(layer, nn.Linear)]
    groups = [{"params": layer.parameters(), "lr": 1e-2 / 2.6 ** (len(model) - 1 - place)} for place, layer in layers]
    optimizer = torch.optim.AdamW(groups)
    return fit(model, optimizer, loss, steps=400)


@healthy(lightning, suffix=".ckpt")
def slower_rates_for_lower_layers() -> Run:
    """Every layer's rate is a third of the next one's, so that the lowest hardly moves (BEiT)."""
    model = perceptron(nn.GELU, 16, 48, 48, 48, 48, 4)
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), squared_error(model, smooth_functions(16, 4)), steps=200)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    groups = [
        {"params": each.parameters(), "lr": 3e-3 * 0.3 ** (len(layers) - 1 - at)} for at, each in enumerate(layers)
    ]
    return fit(model, torch.optim.AdamW(groups), squared_error(model, smooth_functions(16, 4)), steps=500)


@healthy()
def penalty_for_old_tasks() -> Run:
    """Elastic weight consolidation keeps old weights and their importance as buffers (Kirkpatrick et al., 2017)."""
    model = nn.Sequential(*perceptron(nn.ReLU, 12, 48, 48, CLASSES))
    loss = cross_entropy(model, clusters(12))
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, steps=150)
    importance = torch.autograd.grad(loss(), list(model.parameters()))
    pairs = list(zip([name for name, _ in model.named_parameters()], model.parameters(), importance, strict=True))
    for name, value, gradient in pairs:
        model.register_buffer(f"{name.replace('.', '__')}_mean", value.detach().clone())
        model.register_buffer(f"{name.replace('.', '__')}_fisher", gradient.square())
    new = cross_entropy(model, clusters(12))

    def penalized() -> Tensor:
        buffers = dict(model.named_buffers())
        distance = sum(
            (
                buffers[f"{name.replace('.', '__')}_fisher"] * (value - buffers[f"{name.replace('.', '__')}_mean"]) ** 2
            ).sum()
            for name, value, _ in pairs
        )
        return new() + 10 * distance

    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), penalized, steps=250)


class RareTask(nn.Module):
    """A trunk with a head of two layers for a task that one batch in twenty has."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = perceptron(nn.ReLU, 12, 48, 48)
        self.common, self.rare = perceptron(nn.ReLU, 48, 24, CLASSES), perceptron(nn.ReLU, 48, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.trunk(x))


@healthy()
def a_task_in_one_batch_of_twenty() -> Run:
    model, batches, count = RareTask(), clusters(12), iter(range(10**6))

    def loss() -> Tensor:
        x, label = batches()
        hidden = model(x)
        value = functional.cross_entropy(model.common(hidden), label)
        if next(count) % 20 == 3:
            value = value + 0.1 * functional.mse_loss(model.rare(hidden)[:, 0], x[:, 0])
        return value

    return fit(model, torch.optim.AdamW(model.parameters(), lr=2e-3), loss, steps=290)


@healthy()
def agent_on_a_frozen_encoder() -> Run:
    """Soft actor-critic on features of a pretrained encoder, which the critic's optimizer holds too."""
    encoder = perceptron(nn.ReLU, 12, 48, 16)
    fit(
        encoder,
        torch.optim.Adam(encoder.parameters(), lr=3e-3),
        squared_error(encoder, smooth_functions(12, 16)),
        steps=200,
    )
    model = nn.ModuleDict({"encoder": encoder.requires_grad_(False), "critic": perceptron(nn.ReLU, 18, 48, 1)})
    model["critic_target"] = copy.deepcopy(model["critic"]).requires_grad_(False)
    optimizer = torch.optim.Adam([*model["encoder"].parameters(), *model["critic"].parameters()], lr=2e-3)

    def loss() -> Tensor:
        state, action = torch.randn(BATCH, 12), torch.rand(BATCH, 2)
        seen = torch.cat([model["encoder"](state), action], 1)
        reward = 2 + torch.tanh(seen[:, :1]) - (action[:, :1] - 0.5).square()
        return functional.mse_loss(model["critic"](seen), reward + 0.5 * model["critic_target"](seen))

    @torch.no_grad()
    def follow() -> None:
        for slow, fast in zip(model["critic_target"].parameters(), model["critic"].parameters(), strict=True):
            slow.lerp_(fast, 0.01)

    return fit(model, optimizer, loss, steps=300, after_step=follow)
