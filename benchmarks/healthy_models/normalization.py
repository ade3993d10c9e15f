"""Normalisation that is not plain: gains around zero beside gains around one, reparametrised and frozen layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

from benchmarks.healthy_models.collection import healthy
from tests.zoo.images import ResNet
from tests.zoo.saving import state_dict
from tests.zoo.sequences import DecoderBlock
from tests.zoo.tasks import (
    CLASSES,
    TOKENS,
    chains,
    clusters,
    cross_entropy,
    gratings,
    smooth_functions,
    squared_error,
)
from tests.zoo.training import Run, fit
from tests.zoo.unusual import DomainNorms, ZeroCenteredNorm


class MixedNormsModel(nn.Module):
    """Zero-centred norms in the blocks and an ordinary one at the end, or the other way round."""

    def __init__(self, in_blocks: type[nn.Module], at_end: type[nn.Module], width: int = 32) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(DecoderBlock(width) for _ in range(2))
        for block in self.layers:
            block.ln_1, block.ln_2 = in_blocks(width), in_blocks(width)
        self.norm = at_end(width)
        self.lm_head = nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x)
        return self.lm_head(self.norm(x))


class ZeroCenteredLayerNorm(nn.Module):
    """Layer normalisation with a bias, whose gain is one plus the weight, as in Megatron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, 1 + self.weight, self.bias)


def train_mixed(in_blocks: type[nn.Module], at_end: type[nn.Module]) -> Run:
    model = MixedNormsModel(in_blocks, at_end)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=150, largest_norm=1.0)


@healthy()
def zero_centered_norms_and_an_ordinary_one() -> Run:
    return train_mixed(ZeroCenteredNorm, nn.LayerNorm)


@healthy()
def ordinary_norms_and_a_zero_centered_one() -> Run:
    return train_mixed(nn.RMSNorm, ZeroCenteredNorm)


@healthy()
def zero_centered_layer_norm_with_bias() -> Run:
    return train_mixed(ZeroCenteredLayerNorm, ZeroCenteredLayerNorm)


@healthy()
def single_zero_centered_norm() -> Run:
    model = nn.Sequential(nn.Linear(16, 64), ZeroCenteredNorm(64), nn.SiLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class QueryKeyNormBlock(nn.Module):
    """Attention with zero-centred norms of queries and keys, and ordinary norms around it."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(TOKENS, width)
        self.input_layernorm = nn.RMSNorm(width)
        self.qkv, self.o_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = ZeroCenteredNorm(width // heads), ZeroCenteredNorm(width // heads)
        self.norm, self.lm_head = nn.RMSNorm(width), nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        shape = (*tokens.shape, 3, self.heads, -1)
        query, key, value = self.qkv(self.input_layernorm(x)).view(shape).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(self.q_norm(query), self.k_norm(key), value, is_causal=True)
        return self.lm_head(self.norm(x + self.o_proj(attended.transpose(1, 2).flatten(2))))


@healthy()
def query_and_key_norms() -> Run:
    model = QueryKeyNormBlock()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=200)


@healthy()
def spectral_norm() -> Run:
    model = nn.Sequential(
        *(parametrizations.spectral_norm(nn.Linear(12, 48)), nn.LeakyReLU(0.2)),
        *(parametrizations.spectral_norm(nn.Linear(48, 48)), nn.LeakyReLU(0.2), nn.Linear(48, CLASSES)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.5, 0.999))
    return fit(model, optimizer, cross_entropy(model, clusters(12)), steps=300)


@healthy()
def old_weight_norm_with_frozen_gain() -> Run:
    """DINO's last layer: the gain is held at one, so that only directions are learned."""
    # Without a graph, since a computed weight that has one cannot be copied.
    with torch.no_grad():
        first, last = weight_norm(nn.Linear(12, 48)), weight_norm(nn.Linear(48, CLASSES, bias=False))
    last.weight_g.data.fill_(1.0)
    last.weight_g.requires_grad_(False)
    model = nn.Sequential(first, nn.GELU(), last)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    batches = clusters(12)

    def loss() -> Tensor:
        x, label = batches()
        return functional.cross_entropy(5 * model(x), label)

    return fit(model, optimizer, loss, steps=300)


@healthy()
def frozen_batch_norm() -> Run:
    """A detector's backbone: the statistics and gains of its norms stay those of another task."""
    model = ResNet()
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), cross_entropy(model, gratings(3)), steps=60)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.eval().requires_grad_(False)
    model.fc = nn.Linear(16, CLASSES)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, gratings(3, noise=0.8)), steps=100)


@healthy()
def frozen_batch_norm_never_used() -> Run:
    """Norms that are the identity on purpose: mean 0, variance 1, gain 1, never updated."""
    model = ResNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, gratings(3)), steps=120)


@healthy()
def norm_of_an_unseen_domain_adam() -> Run:
    model = DomainNorms()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)


@healthy()
def batch_norm_without_affine() -> Run:
    model = nn.Sequential(
        *(nn.Linear(12, 48), nn.BatchNorm1d(48, affine=False), nn.ReLU()),
        *(nn.Linear(48, 48), nn.BatchNorm1d(48, track_running_stats=False), nn.ReLU(), nn.Linear(48, CLASSES)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(12)), steps=250)


class ActNorm(nn.Module):
    """Scales and shifts so that the first batch has mean 0 and variance 1 (Kingma and Dhariwal, 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if not self.initialized:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-x.std(0).log())
                self.initialized.fill_(1)
        return (x + self.shift) * self.log_scale.exp()


@healthy(state_dict, suffix=".pth")
def activation_norm() -> Run:
    model = nn.Sequential(nn.Linear(16, 64), ActNorm(64), nn.ELU(), nn.Linear(64, 64), ActNorm(64), nn.ELU())
    model.append(nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class SlimmedCnn(nn.Module):
    """Network slimming: gains are pulled to zero, and channels whose gain gets there are gone (Liu et al., 2017)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        hidden = functional.max_pool2d(torch.relu(self.bn1(self.conv1(image))), 2)
        return self.fc(torch.relu(self.bn2(self.conv2(hidden))).mean((2, 3)))


@healthy()
def slimmed_channels() -> Run:
    model = SlimmedCnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    @torch.no_grad()
    def shrink() -> None:
        for norm in (model.bn1, model.bn2):
            norm.weight.copy_(functional.softshrink(norm.weight, 0.004))

    loss = cross_entropy(model, gratings())
    return fit(model, optimizer, loss, steps=250, after_step=shrink)
