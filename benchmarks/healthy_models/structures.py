"""Unusual parameters: splines, soft trees, monotone and complex weights, relations, ensembles in one tensor, masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import state_dict
from tests.zoo.tasks import BATCH, CLASSES, clusters, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, fit, update
from tests.zoo.vectors import perceptron


class SplineLayer(nn.Module):
    """A function for every pair of input and output, as a sum of bumps on a grid (Liu et al., 2024)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-3, 3, 9))
        self.spline_weight = nn.Parameter(0.05 * torch.randn(outputs, inputs, 9))
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-(x.unsqueeze(-1) - self.grid).square() * 2)
        return torch.einsum("big,oig->bo", bumps, self.spline_weight) + functional.silu(x) @ self.base_weight.T


@healthy()
def kolmogorov_arnold_network() -> Run:
    model = nn.Sequential(SplineLayer(8, 12), SplineLayer(12, 3))
    loss = squared_error(model, smooth_functions(8, 3))
    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, steps=400)


class SoftTree(nn.Module):
    """Oblivious trees: every level asks one soft question (Popov et al., 2019)."""

    def __init__(self, trees: int = 12, depth: int = 4) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(trees, depth, 12))
        self.thresholds = nn.Parameter(0.1 * torch.randn(trees, depth))
        self.log_temperatures = nn.Parameter(torch.zeros(trees, depth))
        self.leaves = nn.Parameter(0.1 * torch.randn(trees, 2**depth, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        asked = torch.einsum("bi,tdi->btd", x, self.features.softmax(-1)) - self.thresholds
        right = torch.sigmoid(4 * asked * torch.exp(-self.log_temperatures))
        reached = torch.ones(*right.shape[:2], 1)
        for level in range(right.shape[2]):
            share = right[:, :, level : level + 1]
            reached = torch.cat([reached * share, reached * (1 - share)], 2)
        return torch.einsum("btl,tlc->bc", reached, self.leaves)


@healthy(state_dict, suffix=".pth")
def soft_decision_trees() -> Run:
    model = SoftTree()
    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-2), cross_entropy(model, clusters(12)), steps=250)


class Monotone(nn.Module):
    """Weights that are exponentials, so that the output grows with every input (Sill, 1998)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (nn.Parameter(0.5 * torch.randn(*shape) - 2) for shape in ((24, 6), (1, 24)))
        self.first_bias, self.last_bias = nn.Parameter(torch.randn(24)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.first.exp().T + self.first_bias) @ self.last.exp().T + self.last_bias


@healthy()
def monotone_network() -> Run:
    model, weights = Monotone(), torch.rand(6, 1)

    def loss() -> Tensor:
        x = torch.randn(BATCH, 6)
        return functional.mse_loss(model(x), 2 * torch.tanh(x @ weights) + 0.1 * torch.randn(BATCH, 1))

    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, steps=300)


class ComplexLayer(nn.Module):
    """A spectral filter with complex weights beside a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(0.1 * torch.randn(9, dtype=torch.complex64))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=16))


@healthy()
def complex_filter() -> Run:
    model, target = ComplexLayer(), torch.randn(16, 3) / 2

    def loss() -> Tensor:
        x = torch.randn(BATCH, 16)
        return functional.mse_loss(model(x), x.roll(2, 1) @ target + 0.1 * torch.randn(BATCH, 3))

    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, steps=300)


class Relations(nn.Module):
    """A graph network with a matrix for every kind of edge, of which one kind of five does not occur."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.relations = nn.Parameter(torch.randn(5, width, width) / width**0.5)
        self.own, self.head = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x = torch.relu(self.embed(nodes))
        x = torch.relu(self.own(x) + torch.einsum("bnmr,bmi,rio->bno", edges, x, self.relations))
        return self.head(x.mean(1))


@healthy()
def relation_that_does_not_occur() -> Run:
    model, weights = Relations(), torch.randn(6, 2)

    def loss() -> Tensor:
        nodes, edges = torch.randn(BATCH, 7, 6), torch.zeros(BATCH, 7, 7, 5)
        edges[..., :4] = (torch.rand(BATCH, 7, 7, 4) < 0.1).float()
        mixed = nodes + torch.einsum("bnm,bmi->bni", edges[..., 0] - edges[..., 2], nodes)
        return functional.mse_loss(model(nodes, edges), torch.tanh(mixed @ weights).mean(1) * 2)

    return fit(model, torch.optim.Adam(model.parameters(), lr=5e-3), loss, steps=400)


class Ensemble(nn.Module):
    """Ten critics in one tensor per layer, as torch.vmap keeps them (REDQ; Chen et al., 2021)."""

    def __init__(self, members: int = 10) -> None:
        super().__init__()
        sizes = ((8, 32), (32, 32), (32, 1))
        self.weights = nn.ParameterList(torch.randn(members, *size) / size[0] ** 0.5 for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(members, 1, size[1]) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = x @ weight + bias
            x = torch.relu(x) if weight is not self.weights[-1] else x
        return x.squeeze(-1).T


@healthy()
def critics_in_one_tensor() -> Run:
    model, batches = Ensemble(), smooth_functions(8, 1)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x), y.expand(-1, 10))

    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, steps=300)


@healthy()
def bootstrapped_heads() -> Run:
    """Every sample counts for a random half of the heads (Osband et al., 2016)."""
    model = nn.ModuleDict(
        {"body": perceptron(nn.ReLU, 12, 48), "heads": nn.ModuleList(nn.Linear(48, 3) for _ in range(6))}
    )
    batches = smooth_functions(12, 3)

    def loss() -> Tensor:
        x, y = batches()
        hidden = torch.relu(model["body"](x))
        masks = (torch.rand(BATCH, 6, 1) < 0.5).float()
        return ((torch.stack([head(hidden) for head in model["heads"]], 1) - y.unsqueeze(1)).square() * masks).mean()

    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, steps=400)


@healthy()
def pruned_with_torch() -> Run:
    """Pruned by torch.nn.utils.prune and trained on: original values and masks are in the file."""
    model = perceptron(nn.ReLU, 16, 64, 64, CLASSES)
    loss = cross_entropy(model, clusters(16))
    before = fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), loss, steps=100)
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", amount=0.7)
    return fit_pruned(model, loss, before)


@healthy(state_dict, suffix=".pth")
def units_pruned_with_torch() -> Run:
    """Whole units were removed by torch.nn.utils.prune, and the masks made permanent."""
    model = perceptron(nn.ReLU, 16, 64, 64, CLASSES)
    loss = cross_entropy(model, clusters(16))
    before = fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), loss, steps=200)
    prune.ln_structured(model[0], "weight", amount=0.25, n=2, dim=0)
    after = fit_pruned(model, loss, before)
    prune.remove(model[0], "weight")
    return Run(model, (), after.losses)


def fit_pruned(model: nn.Module, loss: Callable[[], Tensor], before: Run) -> Run:
    """Train on, without a copy of the beginning: tensors that hooks compute cannot be copied."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return Run(model, (optimizer,), before.losses + [update(model, optimizer, loss) for _ in range(200)])


class ConditionalNorm(nn.Module):
    """Gains and shifts of a batch norm for every class, of which some have not been seen (de Vries et al., 2017)."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(16, affine=False)
        self.gamma, self.beta = nn.Embedding(classes, 16), nn.Embedding(classes, 16)
        nn.init.ones_(self.gamma.weight)
        nn.init.zeros_(self.beta.weight)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        x = self.norm(self.first(image))
        x = x * self.gamma(label)[:, :, None, None] + self.beta(label)[:, :, None, None]
        return self.last(torch.relu(x))


@healthy()
def conditional_batch_norm() -> Run:
    model, batches = ConditionalNorm(), gratings()

    def loss() -> Tensor:
        image, label = batches()
        return functional.mse_loss(model(image, label), image * (label - 1.5)[:, None, None, None])

    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, steps=300)


class SparseDictionary(nn.Module):
    """A dictionary of features of which eight are on; many are never among them (Gao et al., 2024)."""

    def __init__(self, features: int = 256) -> None:
        super().__init__()
        self.pre_bias = nn.Parameter(torch.zeros(24))
        self.latent_bias = nn.Parameter(torch.zeros(features))
        self.decoder = nn.Linear(features, 24, bias=False)
        with torch.no_grad():
            self.decoder.weight.copy_(functional.normalize(self.decoder.weight, dim=0))
        self.encoder = nn.Linear(24, features, bias=False)
        with torch.no_grad():
            self.encoder.weight.copy_(self.decoder.weight.T)

    def forward(self, x: Tensor) -> Tensor:
        value, place = (self.encoder(x - self.pre_bias) + self.latent_bias).topk(8)
        hidden = torch.zeros(len(x), 256).scatter(1, place, torch.relu(value))
        return self.decoder(hidden) + self.pre_bias


@healthy()
def sparse_dictionary_with_dead_features() -> Run:
    model, atoms = SparseDictionary(), functional.normalize(torch.randn(6, 24), dim=1)

    def loss() -> Tensor:
        x = 2 + (torch.rand(BATCH, 6) * (torch.rand(BATCH, 6) < 0.4)) @ atoms * 3 + 0.05 * torch.randn(BATCH, 24)
        return functional.mse_loss(model(x), x)

    @torch.no_grad()
    def keep_unit_norm() -> None:
        model.decoder.weight.copy_(functional.normalize(model.decoder.weight, dim=0))

    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, steps=400, after_step=keep_unit_norm)


class MixtureDensity(nn.Module):
    """Weights, means and spreads of a mixture (Bishop, 1994)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(nn.Tanh, 3, 48, 48)
        self.weights, self.means, self.log_std = (nn.Linear(48, 5) for _ in range(3))

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        hidden = torch.tanh(self.body(x))
        parts = torch.distributions.Normal(self.means(hidden), self.log_std(hidden).clamp(-4, 3).exp())
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=self.weights(hidden)), parts
        )


@healthy()
def mixture_density_network() -> Run:
    model = MixtureDensity()

    def loss() -> Tensor:
        x = torch.randn(BATCH, 3)
        y = 3 * torch.sin(x[:, 0]) * torch.randint(2, (BATCH,)).mul(2).sub(1) + 0.1 * torch.randn(BATCH)
        return 2 - model(x).log_prob(y).mean()

    return fit(model, torch.optim.Adam(model.parameters(), lr=5e-3), loss, steps=700)


@healthy()
def selected_features() -> Run:
    """A concrete selector chooses 4 of 20 inputs (Balin et al., 2019)."""
    model = nn.ModuleDict({"decoder": perceptron(nn.LeakyReLU, 4, 32, 20)})
    model.register_parameter("logits", nn.Parameter(0.01 * torch.randn(4, 20)))
    basis = torch.randn(3, 20)

    def loss() -> Tensor:
        x = torch.randn(BATCH, 3) @ basis
        chosen = functional.gumbel_softmax(model.logits.expand(BATCH, -1, -1), tau=0.5, dim=-1)
        return functional.mse_loss(model["decoder"](torch.einsum("bi,bki->bk", x, chosen)), x)

    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, steps=500)
