"""Conditions that begin without an effect: adaLN-Zero, zero convolutions, closed gates, zero output layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.sequences import DecoderBlock
from tests.zoo.tasks import BATCH, CLASSES, LENGTH, SIDE, TOKENS, chains, gratings
from tests.zoo.training import Run, fit


def noised(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mix images with noise; return the mixture, the share of noise [batch], and the noise."""
    time, noise = torch.rand(len(images)), torch.randn_like(images)
    share = time.view(-1, 1, 1, 1)
    return (1 - share).sqrt() * images + share.sqrt() * noise, time, noise


class DitBlock(nn.Module):
    """A transformer block whose norms and branches are modulated by the condition (Peebles and Xie, 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, -1)
        hidden = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attn(hidden, hidden, hidden, need_weights=False)[0]
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class DiffusionTransformer(nn.Module):
    def __init__(self, width: int = 32, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.x_embedder = nn.Conv2d(1, width, patch, stride=patch)
        self.t_embedder = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width))
        # One class more than there are stands for "no class".
        self.y_embedder = nn.Embedding(CLASSES + 1, width)
        self.pos_embed = nn.Parameter(0.2 * torch.randn(1, (SIDE // patch) ** 2, width), requires_grad=False)
        self.blocks = nn.ModuleList(DitBlock(width) for _ in range(2))
        self.final_layer = FinalLayer(width, patch**2)
        for zero in (*(block.adaLN_modulation[1] for block in self.blocks), self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)
        nn.init.zeros_(self.final_layer.linear.weight)
        nn.init.zeros_(self.final_layer.linear.bias)

    def forward(self, image: Tensor, time: Tensor, label: Tensor) -> Tensor:
        waves = time.unsqueeze(1) * 2.0 ** torch.arange(4)
        condition = self.t_embedder(torch.cat([waves.sin(), waves.cos()], 1)) + self.y_embedder(label)
        x = self.x_embedder(image).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        patches = self.final_layer(x, condition).transpose(1, 2)
        return functional.fold(patches, (SIDE, SIDE), self.patch, stride=self.patch)


def denoising_loss(model: nn.Module, drop: float) -> Tensor:
    image, label = SMOOTH_GRATINGS()
    mixed, time, noise = noised(image)
    label = torch.where(torch.rand(len(label)) < drop, CLASSES, label)
    return functional.mse_loss(model(mixed, time, label), noise)


SMOOTH_GRATINGS = gratings(noise=0.05)


@healthy()
def diffusion_transformer() -> Run:
    model = DiffusionTransformer()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3, weight_decay=0)
    return fit(model, optimizer, lambda: denoising_loss(model, 0.1), steps=300)


@healthy()
def diffusion_transformer_always_conditioned() -> Run:
    """No class is ever left out, so the row for "no class" never gets a gradient."""
    model = DiffusionTransformer()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3, weight_decay=0)
    return fit(model, optimizer, lambda: denoising_loss(model, 0.0), steps=300)


class UnetBlock(nn.Module):
    """A residual block of a diffusion model, whose last convolution begins at zero (Dhariwal and Nichol, 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(16, width))
        self.out_layers = nn.Sequential(
            *(nn.GroupNorm(4, width), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(width, width, 3, padding=1))
        )
        zero(self.out_layers[-1])

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedded)[:, :, None, None]
        return x + self.out_layers(hidden)


def zero(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class DiffusionUnet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.input = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList(UnetBlock(width) for _ in range(2))
        self.out = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), zero(nn.Conv2d(width, 1, 3, padding=1)))

    def embed(self, time: Tensor) -> Tensor:
        waves = time.unsqueeze(1) * 2.0 ** torch.arange(4)
        return self.time_embed(torch.cat([waves.sin(), waves.cos()], 1))

    def forward(self, image: Tensor, time: Tensor, hints: tuple[Tensor, ...] = ()) -> Tensor:
        x, embedded = self.input(image), self.embed(time)
        for number, block in enumerate(self.down):
            x = block(x, embedded) + (hints[number] if hints else 0.0)
        return self.out(x)


def train_unet(steps: int) -> tuple[DiffusionUnet, Run]:
    model = DiffusionUnet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        mixed, time, noise = noised(SMOOTH_GRATINGS()[0])
        return functional.mse_loss(model(mixed, time), noise)

    return model, fit(model, optimizer, loss, steps)


@healthy()
def diffusion_unet() -> Run:
    return train_unet(150)[1]


class ControlNet(nn.Module):
    """A frozen diffusion model, and a trained copy of its encoder behind zero convolutions (Zhang et al., 2023)."""

    def __init__(self, locked: DiffusionUnet, width: int = 16) -> None:
        super().__init__()
        self.locked = locked.requires_grad_(False)
        self.control = copy.deepcopy(locked.down).requires_grad_(True)
        self.input_hint_block = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.SiLU(), zero(nn.Conv2d(width, width, 1))
        )
        self.zero_convs = nn.ModuleList(zero(nn.Conv2d(width, width, 1)) for _ in range(2))

    def forward(self, image: Tensor, time: Tensor, hint: Tensor) -> Tensor:
        embedded = self.locked.embed(time)
        x = self.locked.input(image) + self.input_hint_block(hint)
        hints = []
        for block, convolution in zip(self.control, self.zero_convs, strict=True):
            x = block(x, embedded)
            hints.append(convolution(x))
        return self.locked(image, time, tuple(hints))


@healthy()
def control_net() -> Run:
    model = ControlNet(train_unet(80)[0])
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=5e-3)

    def loss() -> Tensor:
        image = SMOOTH_GRATINGS()[0]
        mixed, time, noise = noised(image)
        return functional.mse_loss(model(mixed, time, image), noise)

    return fit(model, optimizer, loss, steps=150)


class GatedCrossAttention(nn.Module):
    """Lets a frozen language model see something else, through gates that begin closed (Alayrac et al., 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.attn_gate, self.ff_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.attn_gate.tanh() * self.attn(x, seen, seen, need_weights=False)[0]
        return x + self.ff_gate.tanh() * self.ff(x)


class Flamingo(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(TOKENS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(DecoderBlock(width) for _ in range(2))
        self.lm_head = nn.Linear(width, TOKENS, bias=False)
        self.requires_grad_(False)
        self.see = nn.Linear(TOKENS, width)
        self.gated = nn.ModuleList(GatedCrossAttention(width) for _ in range(2))

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        seen = self.see(image).unsqueeze(1)
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block, gated in zip(self.blocks, self.gated, strict=True):
            x = block(gated(x, seen))
        return self.lm_head(x)


@healthy()
def flamingo_gates() -> Run:
    """What is seen names the next token to say."""
    model, batches = Flamingo(), chains()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=5e-3)

    def loss() -> Tensor:
        tokens, _ = batches()
        answer = torch.randint(TOKENS, (BATCH,))
        image = functional.one_hot(answer, TOKENS) + 0.1 * torch.randn(BATCH, TOKENS)
        said = model(tokens, image)
        return functional.cross_entropy(said.flatten(0, 1), answer.repeat_interleave(tokens.shape[1]))

    return fit(model, optimizer, loss, steps=200)
