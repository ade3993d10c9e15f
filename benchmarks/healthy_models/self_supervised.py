"""Networks that learn from other versions of themselves: momentum encoders, teachers, queues, masks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning
from tests.zoo.tasks import BATCH, LENGTH, chains
from tests.zoo.training import Run, fit

THINGS = 8
"""Dimensions of what the two views show."""


VIEWS = torch.randn(2, THINGS, 24, generator=torch.Generator().manual_seed(1))


def views() -> tuple[Tensor, Tensor]:
    thing = torch.randn(BATCH, THINGS)
    first, second = (thing @ view + 0.1 * torch.randn(BATCH, 24) for view in VIEWS)
    return first, second


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    for target, parameter in zip(slow.parameters(), fast.parameters(), strict=True):
        target.lerp_(parameter, rate)


class Byol(nn.Module):
    """A predictor guesses what the slow average of the encoder says of the other view (Grill et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.online_encoder = encoder()
        self.predictor = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.target_encoder = copy.deepcopy(self.online_encoder).requires_grad_(False)

    def loss(self) -> Tensor:
        first, second = views()
        with torch.no_grad():
            target = self.target_encoder(second)
        return 1 - functional.cosine_similarity(self.predictor(self.online_encoder(first)), target).mean()


@healthy(lightning, suffix=".ckpt")
def byol() -> Run:
    """The target is in the optimizer too, which a list of all parameters does; it never gets a gradient."""
    model = Byol()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return fit(
        model, optimizer, model.loss, 300, after_step=lambda: follow(model.target_encoder, model.online_encoder, 0.02)
    )


class Moco(nn.Module):
    """Compares with a queue of earlier keys (He et al., 2020), which begins as noise."""

    def __init__(self, queue: int = 256) -> None:
        super().__init__()
        self.encoder_q = encoder()
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(16, queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def loss(self) -> Tensor:
        first, second = views()
        query = functional.normalize(self.encoder_q(first), dim=1)
        with torch.no_grad():
            key = functional.normalize(self.encoder_k(second), dim=1)
        similarity = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.clone()], 1) / 0.1
        start = int(self.queue_ptr)
        self.queue[:, start : start + BATCH] = key.T
        self.queue_ptr[0] = (start + BATCH) % self.queue.shape[1]
        return functional.cross_entropy(similarity, torch.zeros(BATCH, dtype=torch.long))


@healthy()
def moco() -> Run:
    model = Moco()
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.06, momentum=0.9, weight_decay=1e-4)
    return fit(model, optimizer, model.loss, 600, after_step=lambda: follow(model.encoder_k, model.encoder_q, 0.05))


class Dino(nn.Module):
    """A student follows a teacher's centred and sharpened answers (Caron et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(encoder(), nn.GELU(), nn.Linear(16, 32, bias=False))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, 32))

    def loss(self) -> Tensor:
        first, second = views()
        with torch.no_grad():
            answer = self.teacher(second)
            target = ((answer - self.center) / 0.04).softmax(1)
            self.center.lerp_(answer.mean(0, keepdim=True), 0.1)
        return functional.cross_entropy(self.student(first) / 0.1, target)


@healthy()
def dino() -> Run:
    model = Dino()
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-3)
    return fit(model, optimizer, model.loss, 500, after_step=lambda: follow(model.teacher, model.student, 0.01))


class MaskedAutoencoder(nn.Module):
    """Fills in the tokens that a mask hides; the first token, for a task that comes later, is read by nobody."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(32, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(width))
        waves = torch.arange(LENGTH + 1)[:, None] / 10 ** torch.linspace(0, 3, width // 2)
        self.pos_embed = nn.Parameter(torch.cat([waves.sin(), waves.cos()], 1), requires_grad=False)
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.decoder = nn.LayerNorm(width), nn.Linear(width, 32)
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        embedded = torch.where(hidden.unsqueeze(-1), self.mask_token, self.tokens(tokens))
        sequence = torch.cat([self.cls_token.expand(len(tokens), -1, -1), embedded], 1) + self.pos_embed
        return self.decoder(self.norm(self.encoder(sequence))[:, 1:])


def fill_in(model: MaskedAutoencoder, share: float, steps: int) -> Run:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    batches = chains()

    def loss() -> Tensor:
        tokens, _ = batches()
        hidden = torch.rand(tokens.shape) < share
        return functional.cross_entropy(model(tokens, hidden)[hidden | (share == 0)], tokens[hidden | (share == 0)])

    return fit(model, optimizer, loss, steps)


@healthy()
def masked_autoencoder() -> Run:
    """The pooler is made with the model and is not used by this task."""
    return fill_in(MaskedAutoencoder(), 0.15, 300)


@healthy()
def mask_token_never_used() -> Run:
    """Nothing is hidden in this stage, and the token for hidden places keeps its zeros."""
    return fill_in(MaskedAutoencoder(), 0.0, 100)
