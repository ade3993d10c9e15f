"""Paths of which only some are taken: early exits, searched architectures, growing images, languages, side tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from benchmarks.healthy_models.staged import zero
from tests.zoo.saving import lightning, state_dict
from tests.zoo.tasks import BATCH, CLASSES, LENGTH, TOKENS, clusters, cross_entropy, gratings, most_frequent_group
from tests.zoo.training import Run, fit
from tests.zoo.vectors import ResidualBlock


class EarlyExits(nn.Module):
    """A classifier behind every block; only the last one is in the loss so far, the others begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 32)
        self.blocks = nn.ModuleList(ResidualBlock(32) for _ in range(3))
        self.exits = nn.ModuleList(zero(nn.Linear(32, CLASSES)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.exits[-1](x)


@healthy()
def early_exits_that_wait() -> Run:
    model = EarlyExits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=250)


class MixedOperation(nn.Module):
    """Several operations weighted by a softmax over numbers that begin at zero (DARTS; Liu et al., 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            (nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1), nn.AvgPool2d(3, 1, 1), nn.Identity())
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))


class SearchedCell(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.cells = nn.ModuleList(MixedOperation(width) for _ in range(3))
        self.alphas_normal = nn.Parameter(1e-3 * torch.randn(3, 4))
        self.alphas_reduce = nn.Parameter(torch.zeros(3, 4))
        self.classifier = nn.Linear(width * 4, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.stem(image))
        for cell, weights in zip(self.cells, self.alphas_normal.softmax(-1), strict=True):
            x = torch.relu(cell(x, weights))
        return self.classifier(functional.adaptive_avg_pool2d(x, 2).flatten(1))


@healthy()
def searched_architecture() -> Run:
    """This depth has no reduction cell, so the table for it stays as it was."""
    model = SearchedCell()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


class LanguageAdapters(nn.Module):
    """A shared encoder with an adapter for each language; its up-projection begins at zero (MAD-X, 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, 32)
        self.down = nn.ModuleDict({name: nn.Linear(32, 8) for name in ("en", "de", "sw")})
        self.up = nn.ModuleDict({name: zero(nn.Linear(8, 32)) for name in ("en", "de", "sw")})
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, tokens: Tensor, language: str) -> Tensor:
        x = self.tokens(tokens).mean(1)
        return self.classifier(x + self.up[language](torch.relu(self.down[language](x))))


@healthy()
def adapters_of_languages() -> Run:
    """No Swahili in the data yet."""
    model, batches = LanguageAdapters(), most_frequent_group()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        tokens, label = batches()
        half = len(tokens) // 2
        output = torch.cat([model(tokens[:half], "en"), model(tokens[half:], "de")])
        return functional.cross_entropy(output, label)

    return fit(model, optimizer, loss, steps=250)


@healthy(lightning, suffix=".ckpt")
def adapters_of_languages_outside_the_optimizer() -> Run:
    model, batches = LanguageAdapters(), most_frequent_group()
    used = [value for name, value in model.named_parameters() if ".de." not in name and ".sw." not in name]
    optimizer = torch.optim.Adam(used, lr=5e-3)
    return fit(model, optimizer, cross_entropy(lambda tokens: model(tokens, "en"), batches), steps=250)


class GrowingGenerator(nn.Module):
    """Makes small images; the layers for larger ones wait (Karras et al., 2018). Biases begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.const = nn.Linear(CLASSES, 8 * 3 * 3)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.to_rgb = nn.ModuleList(nn.Conv2d(8, 1, 1) for _ in range(4))
        for layer in (*self.convs, *self.to_rgb):
            nn.init.zeros_(layer.bias)

    def forward(self, label: Tensor) -> Tensor:
        x = self.const(functional.one_hot(label, CLASSES).float()).view(-1, 8, 3, 3)
        for conv in self.convs[:2]:
            x = functional.leaky_relu(conv(functional.interpolate(x, scale_factor=2)), 0.2)
        return self.to_rgb[1](x)


def growing(save_of_stage: float) -> Run:
    model = GrowingGenerator()
    in_use = [*model.const.parameters(), *model.convs[:2].parameters(), *model.to_rgb[1].parameters()]
    optimizer = torch.optim.Adam(in_use if save_of_stage else model.parameters(), lr=3e-3)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    angles = (torch.arange(CLASSES) * 0.785).view(-1, 1, 1, 1)
    pictures = torch.sin(0.5 * (rows * angles.cos() + columns * angles.sin()))

    def loss() -> Tensor:
        label = torch.randint(CLASSES, (BATCH,))
        return functional.mse_loss(model(label), pictures[label] + 0.05 * torch.randn(BATCH, 1, 12, 12))

    return fit(model, optimizer, loss, steps=300)


@healthy()
def growing_generator() -> Run:
    return growing(save_of_stage=0.0)


@healthy()
def growing_generator_with_an_optimizer_of_its_stage() -> Run:
    return growing(save_of_stage=1.0)


class WideAndDeep(nn.Module):
    """A wide part of hashed crosses that begins at zero, beside a deep one (Cheng et al., 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.EmbeddingBag(4096, 1, mode="sum")
        nn.init.zeros_(self.wide.weight)
        self.embeddings = nn.ModuleList(nn.Embedding(50, 8) for _ in range(3))
        self.deep = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, fields: Tensor) -> Tensor:
        crosses = (fields[:, [0, 1, 0]] * 53 + fields[:, [1, 2, 2]] * 7) % 4096
        deep = torch.cat([table(field) for table, field in zip(self.embeddings, fields.T, strict=True)], 1)
        return (self.wide(crosses) + self.deep(deep) + self.bias).flatten()


def clicks(model: nn.Module, tables: Tensor) -> Tensor:
    fields = (50 * torch.rand(BATCH, 3) ** 2).long()
    score = sum(tables[number][fields[:, number]] for number in range(3))
    return functional.mse_loss(model(fields), torch.tanh(score))


@healthy()
def wide_and_deep() -> Run:
    model, tables = WideAndDeep(), torch.randn(3, 50)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, lambda: clicks(model, tables), steps=500)


class FactorizationMachine(nn.Module):
    """First-order weights that begin at zero, and factors for pairs (Rendle, 2010)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.factors = nn.Embedding(160, 1), nn.Embedding(160, 8)
        nn.init.zeros_(self.linear.weight)
        nn.init.normal_(self.factors.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, fields: Tensor) -> Tensor:
        rows = fields + torch.tensor([0, 50, 100])
        factors = self.factors(rows)
        pairs = factors.sum(1).square() - factors.square().sum(1)
        return self.bias + self.linear(rows).sum((1, 2)) + 0.5 * pairs.sum(1)


@healthy(state_dict, suffix=".pth")
def factorization_machine() -> Run:
    """The table was made for 160 rows, and the data use 150 of them: the last ten are zero as in the beginning."""
    model, tables = FactorizationMachine(), 0.3 * torch.randn(3, 50)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    return fit(model, optimizer, lambda: clicks(model, tables), steps=600)


class SequentialRecommender(nn.Module):
    """Self-attention over what a user chose before; item 0 is padding, and most sequences are short (SASRec, 2018)."""

    def __init__(self, items: int = 60, width: int = 24) -> None:
        super().__init__()
        self.item_emb, self.pos_emb = nn.Embedding(items, width, padding_idx=0), nn.Embedding(50, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm, self.forward_layer = nn.LayerNorm(width), ResidualBlock(width)

    def forward(self, items: Tensor) -> Tensor:
        x = self.item_emb(items) + self.pos_emb(torch.arange(items.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(items.shape[1])
        x = x + self.attention(self.norm(x), self.norm(x), self.norm(x), attn_mask=mask, need_weights=False)[0]
        return self.forward_layer(x) @ self.item_emb.weight.T


@healthy()
def sequential_recommender() -> Run:
    model = SequentialRecommender()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))

    def loss() -> Tensor:
        items = torch.randint(1, 60, (BATCH, LENGTH + 1))
        for place in range(LENGTH):
            items[:, place + 1] = torch.where(
                torch.rand(BATCH) < 0.85, 1 + (7 * items[:, place] + 2) % 59, items[:, place + 1]
            )
        items[: BATCH // 2, :6] = 0
        output = model(items[:, :-1])
        return functional.cross_entropy(output.flatten(0, 1), items[:, 1:].flatten(), ignore_index=0)

    return fit(model, optimizer, loss, steps=400)


class FocalDetector(nn.Module):
    """One head of convolutions for all places, whose last bias begins far below zero (RetinaNet; Lin et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.cls_logits = nn.Conv2d(16, 20, 3, padding=1)
        for layer in (self.trunk[0], self.trunk[2], self.cls_logits):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cls_logits.bias, -4.6)

    def forward(self, image: Tensor) -> Tensor:
        return self.cls_logits(torch.relu(self.trunk(image)))


@healthy()
def focal_detector() -> Run:
    """Twenty classes, of which one occurs."""
    model = FocalDetector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def loss() -> Tensor:
        place = torch.randint(2, 10, (BATCH, 2))
        truth = torch.zeros(BATCH, 20, 12, 12)
        truth[torch.arange(BATCH), 3, place[:, 0], place[:, 1]] = 1.0
        image = functional.max_pool2d(truth[:, 3:4], 3, 1, 1) + 0.1 * torch.randn(BATCH, 1, 12, 12)
        logits = model(image)
        chance = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
        return (
            -torch.where(truth > 0, 0.25, 0.75) * (1 - chance).square() * chance.clamp(min=1e-6).log()
        ).sum() / BATCH

    return fit(model, optimizer, loss, steps=250, largest_norm=5.0)
