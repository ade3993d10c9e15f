"""Networks for sets and patches: pooling, inducing points, latents, capsules, mixers, pointers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning, state_dict
from tests.zoo.tasks import BATCH, CLASSES, LENGTH, SIDE, clusters, cross_entropy, gratings, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


def counted_points() -> tuple[Tensor, Tensor]:
    """Sets of eight points, and a number that depends on all of them."""
    x = torch.randn(BATCH, 8, 4)
    return x, torch.sin(x.sum(1)[:, :2]) + 0.1 * torch.randn(BATCH, 2)


class DeepSets(nn.Module):
    """Every point through one network, their sum through another (Zaheer et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = perceptron(nn.ReLU, 4, 48, 48), perceptron(nn.ReLU, 48, 48, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).sum(1))


@healthy()
def deep_sets() -> Run:
    model = DeepSets()
    return fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), squared_error(model, counted_points), steps=500)


class SetTransformer(nn.Module):
    """Attention through inducing points, which begin as a parameter of noise (Lee et al., 2019)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.inducing = nn.Parameter(torch.randn(1, 6, width) / 6)
        self.seed = nn.Parameter(torch.randn(1, 1, width) / 6)
        self.gather, self.spread, self.pool = (nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(3))
        self.feed = perceptron(nn.ReLU, width, 2 * width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        points = self.gather(self.inducing.expand(len(x), -1, -1), x, x)[0]
        x = x + self.spread(x, points, points)[0]
        x = x + self.feed(x)
        return self.head(self.pool(self.seed.expand(len(x), -1, -1), x, x)[0][:, 0])


@healthy()
def set_transformer() -> Run:
    model = SetTransformer()
    loss = squared_error(
        model, lambda: (lambda x: (x, x.amax(1)[:, :2] + 0.05 * torch.randn(BATCH, 2)))(counted_points()[0])
    )
    return fit(model, torch.optim.AdamW(model.parameters(), lr=2e-3), loss, steps=300)


class Perceiver(nn.Module):
    """A few latents read the pixels again and again through shared weights (Jaegle et al., 2021)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(4, width))
        self.positions = nn.Parameter(0.02 * torch.randn(SIDE**2 // 4, width))
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.read = nn.MultiheadAttention(width, 2, batch_first=True)
        self.think = nn.TransformerEncoderLayer(width, 2, 64, batch_first=True, dropout=0.0)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        pixels = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        latents = self.latents.expand(len(image), -1, -1)
        for _ in range(2):
            latents = latents + self.read(latents, pixels, pixels)[0]
            latents = self.think(latents)
        return self.head(latents.mean(1))


@healthy(lightning, suffix=".ckpt")
def perceiver() -> Run:
    model = Perceiver()
    return fit(model, torch.optim.AdamW(model.parameters(), lr=2e-3), cross_entropy(model, gratings()), steps=250)


class Mixer(nn.Module):
    """Mixes places and channels in turn (Tolstikhin et al., 2021)."""

    def __init__(self, places: int = 16, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.places = nn.ModuleList(perceptron(nn.GELU, places, 32, places) for _ in range(2))
        self.channels = nn.ModuleList(perceptron(nn.GELU, width, 48, width) for _ in range(2))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2)
        for number in range(2):
            x = x + self.places[number](self.norms[2 * number](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[number](self.norms[2 * number + 1](x))
        return self.head(x.mean(1))


@healthy()
def mlp_mixer() -> Run:
    model = Mixer()
    return fit(model, torch.optim.AdamW(model.parameters(), lr=3e-3), cross_entropy(model, gratings()), steps=250)


class Capsules(nn.Module):
    """Vectors that vote for classes, with the votes weighted by how well they agree (Sabour et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Conv2d(1, 32, 5, 3)
        self.votes = nn.Parameter(0.05 * torch.randn(36, CLASSES, 8, 8))

    def forward(self, image: Tensor) -> Tensor:
        parts = self._squash(self.parts(image).flatten(1).view(len(image), -1, 8))
        votes = torch.einsum("bpi,pcio->bpco", parts, self.votes)
        agreement = torch.zeros(votes.shape[:3])
        for _ in range(3):
            classes = self._squash((agreement.softmax(2).unsqueeze(3) * votes).sum(1))
            agreement = agreement + (votes * classes.unsqueeze(1)).sum(3)
        return 8 * classes.norm(dim=2)

    def _squash(self, x: Tensor) -> Tensor:
        size = x.square().sum(-1, keepdim=True)
        return x * size.sqrt() / (1 + size)


@healthy()
def capsules() -> Run:
    model = Capsules()
    return fit(
        model, torch.optim.Adam(model.parameters(), lr=5e-3), cross_entropy(model, gratings(noise=0.2)), steps=300
    )


class Pointer(nn.Module):
    """Points at the largest of the inputs; its decoder makes one step from zero (Vinyals et al., 2015)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.LSTM(1, width, batch_first=True)
        self.decoder = nn.LSTMCell(1, width)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        states, (hidden, cell) = self.encoder(x)
        hidden, _ = self.decoder(torch.zeros(len(x), 1), (hidden[0], cell[0]))
        return self.score(torch.tanh(self.query(hidden).unsqueeze(1) + self.key(states))).squeeze(2)


@healthy(state_dict, suffix=".pth")
def pointer_network() -> Run:
    """The decoder's first input is always zero."""
    model = Pointer()

    def loss() -> Tensor:
        x = torch.rand(BATCH, LENGTH, 1)
        return functional.cross_entropy(model(x), x.squeeze(2).argmax(1))

    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, steps=400)


class Prototypes(nn.Module):
    """Classifies by the nearest mean of a few examples of each class (Snell et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = perceptron(nn.ReLU, 12, 48, 16)

    def forward(self, examples: Tensor, queries: Tensor) -> Tensor:
        return -torch.cdist(self.embed(queries), self.embed(examples).mean(1))


@healthy()
def prototypical_network() -> Run:
    """Every episode has classes of its own; only the last layer's bias has no effect on a distance."""
    model, directions = Prototypes(), torch.randn(5, 12)

    def loss() -> Tensor:
        centres = 2 * torch.randn(CLASSES, 5) @ directions
        examples = centres.unsqueeze(1) + 3 * torch.randn(CLASSES, 5, 12)
        label = torch.randint(CLASSES, (BATCH,))
        return functional.cross_entropy(model(examples, centres[label] + 3 * torch.randn(BATCH, 12)) / 20, label)

    return fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), loss, steps=300)


@healthy()
def margin_for_faces() -> Run:
    """A head of directions with an additive margin and a fixed scale (Deng et al., 2019)."""
    model = nn.ModuleDict({"body": perceptron(nn.PReLU, 12, 48, 24), "head": nn.Linear(24, CLASSES, bias=False)})
    batches = clusters(12)

    def loss() -> Tensor:
        x, label = batches()
        directions = functional.normalize(model["head"].weight)
        cosine = (functional.normalize(model["body"](x)) @ directions.T).clamp(-0.999, 0.999)
        wide = torch.cos(cosine.acos() + 0.2 * functional.one_hot(label, CLASSES))
        return functional.cross_entropy(16 * wide, label)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    return fit(model, optimizer, loss, steps=300)
