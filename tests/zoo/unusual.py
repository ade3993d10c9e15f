"""Healthy models with something in them that looks like an illness and is none."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from tests.zoo.saving import training_state
from tests.zoo.sequences import DecoderBlock
from tests.zoo.tasks import (
    BATCH,
    CLASSES,
    TOKENS,
    chains,
    clusters,
    cross_entropy,
    gratings,
    moving_averages,
    smooth_functions,
    squared_error,
)
from tests.zoo.training import Run, fit, healthy
from tests.zoo.transfer import LoraLinear
from tests.zoo.vectors import perceptron


class LastStepOfBoth(nn.Module):
    """Reads both directions at the last time step, where the backward one has seen that step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self.lstm(sequence)[0][:, -1])


@healthy(training_state)
def bidirectional_lstm_at_last_step() -> Run:
    model = LastStepOfBoth()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, moving_averages(6, 3)), steps=200)


class ZeroCenteredNorm(nn.Module):
    """Root mean square normalisation whose gain is one plus the weight, as in Gemma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


class ZeroCenteredLanguageModel(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(DecoderBlock(width) for _ in range(2))
        for block in self.layers:
            block.ln_1, block.ln_2 = ZeroCenteredNorm(width), ZeroCenteredNorm(width)
        self.norm = ZeroCenteredNorm(width)
        self.lm_head = nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x)
        return self.lm_head(self.norm(x))


@healthy(training_state)
def zero_centered_gains() -> Run:
    model = ZeroCenteredLanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=200, largest_norm=1.0)


@healthy(training_state)
def pruned_layer() -> Run:
    """The largest layer loses its smallest weights halfway, and is trained on without them."""
    model = perceptron(nn.ReLU, 16, 96, 96, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = squared_error(model, smooth_functions(16, 4))
    before = fit(model, optimizer, loss, steps=250)
    prune.l1_unstructured(model[2], "weight", amount=0.8)
    kept = model[2].weight_mask.bool()
    prune.remove(model[2], "weight")

    @torch.no_grad()
    def keep_pruned() -> None:
        model[2].weight[~kept] = 0.0

    # `prune` made a new parameter of the weight, so the optimizer begins anew, as in its tutorial.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    after = fit(model, optimizer, loss, steps=250, after_step=keep_pruned)
    return Run(model, after.optimizers, before.losses + after.losses)


class TwoStages(nn.Module):
    """A classifier, and a second head for a task whose turn has not come."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.first_head, self.second_head = nn.Linear(64, CLASSES), nn.Linear(64, 3)
        nn.init.zeros_(self.second_head.weight)
        nn.init.zeros_(self.second_head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.first_head(self.trunk(x))


@healthy(training_state)
def head_of_a_later_stage() -> Run:
    model = TwoStages()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=300)


@healthy(training_state)
def adapter_not_in_use() -> Run:
    """Two adapters were made, and so far one of them is trained: for inputs of which three have changed sign."""
    model, batches = nn.ModuleDict({"in": nn.Linear(16, 64), "out": nn.Linear(64, 4)}), smooth_functions(16, 4)

    def forward(x: Tensor) -> Tensor:
        return model["out"](functional.gelu(model["in"](x)))

    fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), squared_error(forward, batches), steps=600)
    model["in"], spare = LoraLinear(model["in"]), LoraLinear(model["in"])
    model["spare_A"], model["spare_B"] = spare.lora_A, spare.lora_B
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    signs = torch.where(torch.arange(16) < 3, -1.0, 1.0)
    return fit(model, optimizer, squared_error(lambda x: forward(x * signs), batches), steps=400)


class DomainNorms(nn.Module):
    """Has batch statistics of its own for every domain (Chang et al., 2019), of which one comes later."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(3))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.conv(image)
        halves = [norm(half) for norm, half in zip(self.norms[:2], maps.chunk(2), strict=True)]
        return self.head(torch.relu(torch.cat(halves)).mean((2, 3)))


@healthy(training_state)
def norm_of_an_unseen_domain() -> Run:
    model = DomainNorms()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)


class Observed(nn.Module):
    """Is prepared for quantisation: observers hold the extremes seen so far, and have seen nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(nn.ReLU, 16, 64, 64, 4)
        self.register_buffer("min_val", torch.tensor(torch.inf))
        self.register_buffer("max_val", torch.tensor(-torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@healthy(training_state)
def observers_before_use() -> Run:
    model = Observed()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=300)


@healthy(training_state)
def energies_in_millions() -> Run:
    """Regresses energies near minus three million in double precision; the last bias begins at their mean."""
    model = perceptron(nn.SiLU, 8, 64, 64, 1).double()
    nn.init.constant_(model[-1].bias, -3.0e6)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = smooth_functions(8, 1)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x.double()), 20 * y.double() - 3.0e6)

    return fit(model, optimizer, loss, steps=500)


@healthy(training_state)
def class_centers_in_the_optimizer() -> Run:
    """The loss has parameters of its own, which the optimizer holds and the model does not (Wen et al., 2016)."""
    model, batches = perceptron(nn.ReLU, 16, 64, 8), clusters(16)
    centers = nn.Parameter(torch.randn(CLASSES, 8))
    optimizer = torch.optim.Adam([*model.parameters(), centers], lr=2e-3)

    def loss() -> Tensor:
        x, label = batches()
        return functional.cross_entropy(-torch.cdist(model(x), centers).square(), label)

    return fit(model, optimizer, loss, steps=300)


class RandomDistillation(nn.Module):
    """Learns what a fixed random network says of a state (Burda et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.target = perceptron(nn.ReLU, 8, 64, 16).requires_grad_(False)
        self.predictor = perceptron(nn.ReLU, 8, 64, 64, 16)
        for layer in [*self.target[::2], *self.predictor[::2]]:
            nn.init.orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)


@healthy(training_state)
def random_network_distillation() -> Run:
    model = RandomDistillation()
    optimizer = torch.optim.Adam(model.predictor.parameters(), lr=1e-3)

    def states() -> tuple[Tensor, Tensor]:
        state = torch.randn(BATCH, 8)
        return state, model.target(state)

    return fit(model, optimizer, squared_error(model.predictor, states), steps=400)


class FixupBlock(nn.Module):
    """A residual block without normalisation, whose second layer begins at zero (Zhang et al., 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(torch.relu(self.first(x)))


@healthy(training_state)
def fixup_residuals() -> Run:
    model = nn.Sequential(nn.Linear(16, 48), FixupBlock(48), FixupBlock(48), FixupBlock(48), nn.Linear(48, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class NonNegativeFactors(nn.Module):
    """Factors that are held at zero or above, so that most of a document's topics vanish."""

    def __init__(self, rows: int, columns: int, rank: int = 12) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(rows, rank))
        self.columns = nn.Parameter(torch.rand(rank, columns))

    @torch.no_grad()
    def clamp(self) -> None:
        self.rows.clamp_(min=0.0)
        self.columns.clamp_(min=0.0)


@healthy(training_state)
def non_negative_factorization() -> Run:
    topics, model = 12, NonNegativeFactors(80, 60)
    truth = (torch.rand(80, topics) * (torch.rand(80, topics) < 0.2)) @ (
        torch.rand(topics, 60) * (torch.rand(topics, 60) < 0.2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def loss() -> Tensor:
        noisy = truth + 0.02 * torch.randn_like(truth)
        return functional.mse_loss(model.rows @ model.columns, noisy) + 1e-4 * (
            model.rows.mean() + model.columns.mean()
        )

    return fit(model, optimizer, loss, steps=600, after_step=model.clamp)
