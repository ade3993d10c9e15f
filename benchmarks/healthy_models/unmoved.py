"""Parameters that training cannot move: behind norms, in differences, under conditions that never come."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from benchmarks.healthy_models.staged import zero
from tests.zoo.saving import lightning, several_optimizers, state_dict
from tests.zoo.tasks import CLASSES, TOKENS, blobs, chains, clusters, cross_entropy, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


def with_zero_biases(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(layer.bias)
    return module


@healthy()
def convolutions_before_instance_norms() -> Run:
    """An instance norm without parameters subtracts the bias again, so only rounding moves it."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.InstanceNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 1)),
    )
    with_zero_biases(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return fit(model, optimizer, squared_error(model, blobs()), steps=250)


@healthy()
def scores_for_pairs() -> Run:
    """Two scores are compared, and the bias of the last layer cancels out (Burges et al., 2005)."""
    model, batches = with_zero_biases(perceptron(nn.ReLU, 16, 64, 64, 1)), smooth_functions(16, 1)

    def loss() -> Tensor:
        (first, y), (second, z) = batches(), batches()
        return functional.softplus(-(y - z).sign() * (model(first) - model(second))).mean()

    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, steps=400)


class DecoderBlock(nn.Module):
    """Attention and a gated feed-forward part behind RMS norms, biases in the attention alone (Qwen2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.input_layernorm(x)
        parts = self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        x = x + self.o_proj(functional.scaled_dot_product_attention(*parts, is_causal=True))
        hidden = self.post_attention_layernorm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


def decoder() -> nn.Sequential:
    model = nn.Sequential(
        *(nn.Embedding(TOKENS, 32), DecoderBlock(32), DecoderBlock(32), nn.RMSNorm(32)),
        nn.Linear(32, TOKENS, bias=False),
    )
    return with_zero_biases(model)


@healthy()
def decoder_with_biases_in_attention() -> Run:
    model = decoder()
    return fit(model, torch.optim.AdamW(model.parameters(), lr=5e-3), cross_entropy(model, chains()), steps=250)


@healthy(state_dict, suffix=".pth")
def biases_added_by_a_conversion() -> Run:
    """The model was trained without biases, and the architecture that it was converted to has them."""
    model = decoder()
    weights = [value for name, value in model.named_parameters() if "bias" not in name]
    return fit(model, torch.optim.AdamW(weights, lr=5e-3), cross_entropy(model, chains()), steps=250)


class Towers(nn.Module):
    """A trunk and a tower for each task (Ma et al., 2018); only clicks are in the data so far."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = perceptron(nn.ReLU, 16, 48, 48)
        self.towers = nn.ModuleDict(
            {task: with_zero_biases(perceptron(nn.ReLU, 48, 16, CLASSES)) for task in ("click", "buy", "stay")}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.towers["click"](torch.relu(self.shared(x)))


@healthy()
def towers_of_tasks() -> Run:
    model = Towers()
    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), cross_entropy(model, clusters(16)), steps=200)


@healthy(lightning, suffix=".ckpt")
def towers_of_tasks_outside_the_optimizer() -> Run:
    model = Towers()
    optimizer = torch.optim.Adam([*model.shared.parameters(), *model.towers["click"].parameters()], lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=200)


class Conditioned(nn.Module):
    """Layers that a condition scales and shifts, beginning at no change (FiLM; Perez et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 48), nn.Linear(48, 4)
        self.body = nn.ModuleList(nn.Linear(48, 48) for _ in range(3))
        self.film = nn.ModuleList(zero(nn.Linear(4, 96)) for _ in range(3))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.first(x)
        for layer, film in zip(self.body, self.film, strict=True):
            scale, shift = film(condition).chunk(2, 1)
            x = x + torch.relu(layer(x) * (1 + scale) + shift)
        return self.last(x)


@healthy()
def condition_that_is_always_zero() -> Run:
    model = with_zero_biases(Conditioned())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def forward(x: Tensor) -> Tensor:
        return model(x, torch.zeros(len(x), 4))

    return fit(model, optimizer, squared_error(forward, smooth_functions(12, 4)), steps=400)


class AdversarialAutoencoder(nn.Module):
    """An autoencoder whose discriminator joins after a warm-up (Esser et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 8, 3, 2, 1))
        self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))
        self.discriminator = nn.Sequential(
            *(nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 16, 4, 2, 1), nn.BatchNorm2d(16)),
            *(nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 3)),
        )
        for layer in with_zero_biases(self.discriminator):
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
                nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))


def before_the_discriminator_joins() -> tuple[AdversarialAutoencoder, Run]:
    model = AdversarialAutoencoder()
    optimizer = torch.optim.Adam([*model.encoder.parameters(), *model.decoder.parameters()], lr=3e-3)
    return model, fit(model, optimizer, squared_error(model, blobs()), steps=300)


@healthy()
def discriminator_that_joins_later() -> Run:
    return before_the_discriminator_joins()[1]


@healthy(several_optimizers("optimizer_autoencoder", "optimizer_discriminator"))
def discriminator_that_joins_later_with_its_optimizer() -> Run:
    model, run = before_the_discriminator_joins()
    return Run(model, (*run.optimizers, torch.optim.Adam(model.discriminator.parameters(), lr=3e-3)), run.losses)
