"""Small additions to a frozen network: scales, shared random factors, prompts behind gates that begin at zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning, safetensors
from tests.zoo.tasks import CLASSES, TOKENS, clusters, cross_entropy, most_frequent_group
from tests.zoo.training import Run, fit


def adapted(make: Callable[[nn.Linear], nn.Module]) -> Run:
    """Train a perceptron, replace its hidden layers by adapted ones, and train those on another task."""
    model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, CLASSES))
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), cross_entropy(model, clusters(12)), steps=150)
    model.requires_grad_(False)
    model[0], model[2] = make(model[0]), make(model[2])
    model[4] = nn.Linear(48, CLASSES)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=5e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(12)), steps=300)


class ScaledLinear(nn.Module):
    """A frozen layer whose outputs are rescaled (IA³; Liu et al., 2022)."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.ia3_l = nn.ParameterDict({"default": nn.Parameter(torch.ones(base_layer.out_features, 1))})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) * self.ia3_l["default"].flatten()


@healthy()
def rescaled_activations() -> Run:
    return adapted(ScaledLinear)


class VeraLinear(nn.Module):
    """Frozen random factors, of which two vectors are learned; the second begins at zero (Kopiczko et al., 2024)."""

    def __init__(self, base_layer: nn.Linear, rank: int = 16) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.register_buffer("vera_A", torch.randn(rank, base_layer.in_features) / math.sqrt(base_layer.in_features))
        self.register_buffer("vera_B", torch.randn(base_layer.out_features, rank) / math.sqrt(rank))
        self.vera_lambda_d = nn.Parameter(torch.full((rank,), 0.1))
        self.vera_lambda_b = nn.Parameter(torch.zeros(base_layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        low = self.vera_lambda_d * functional.linear(x, self.vera_A)
        return self.base_layer(x) + self.vera_lambda_b * functional.linear(low, self.vera_B)


@healthy()
def vera() -> Run:
    return adapted(VeraLinear)


class SingularLinear(nn.Module):
    """A low-rank update with singular values that begin at zero and are pruned on the way (Zhang et al., 2023)."""

    def __init__(self, base_layer: nn.Linear, rank: int = 6) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ParameterDict({"default": nn.Parameter(0.02 * torch.randn(rank, base_layer.in_features))})
        self.lora_B = nn.ParameterDict({"default": nn.Parameter(0.02 * torch.randn(base_layer.out_features, rank))})
        self.lora_E = nn.ParameterDict({"default": nn.Parameter(torch.zeros(rank, 1))})
        self.ranknum = nn.ParameterDict({"default": nn.Parameter(torch.tensor(float(rank)), requires_grad=False)})

    def forward(self, x: Tensor) -> Tensor:
        update = self.lora_B["default"] @ (self.lora_E["default"] * self.lora_A["default"])
        return self.base_layer(x) + functional.linear(x, update)


@healthy(lightning, suffix=".ckpt")
def ada_lora() -> Run:
    return adapted(SingularLinear)


@healthy(lightning, suffix=".ckpt")
def ada_lora_after_pruning() -> Run:
    """The budget is spent: the smallest singular values were set to zero for good."""
    run = adapted(SingularLinear)
    for layer in (run.model[0], run.model[2]):
        values = layer.lora_E["default"].data
        values[values.abs().flatten().argsort()[:3]] = 0.0
        layer.ranknum["default"].data.fill_(3.0)
    return run


class KroneckerLinear(nn.Module):
    """An update that is a Kronecker product with one factor of low rank that begins at zero (LyCORIS' LoKr)."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        outputs, inputs = base_layer.out_features // 4, base_layer.in_features // 4
        self.lokr_w1 = nn.Parameter(0.3 * torch.randn(4, 4))
        self.lokr_w2_a = nn.Parameter(torch.zeros(outputs, 2))
        self.lokr_w2_b = nn.Parameter(0.3 * torch.randn(2, inputs))

    def forward(self, x: Tensor) -> Tensor:
        update = torch.kron(self.lokr_w1, self.lokr_w2_a @ self.lokr_w2_b)
        return self.base_layer(x) + functional.linear(x, update)


@healthy(safetensors, suffix=".safetensors")
def kronecker_adapter() -> Run:
    return adapted(KroneckerLinear)


class PromptedAttention(nn.Module):
    """Frozen self-attention that also looks at learned prompts, behind a gate of zero (LLaMA-Adapter, 2023)."""

    def __init__(self, width: int, prompts: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.adaption_prompt = nn.Parameter(torch.randn(prompts, width))
        self.adaption_gate = nn.Parameter(torch.zeros(1)) if prompts else None

    def attend(self, x: Tensor, source: Tensor) -> Tensor:
        keys, values = self.key(source), self.value(source)
        return functional.scaled_dot_product_attention(self.query(x), keys, values)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.attend(x, x)
        if self.adaption_gate is not None:
            prompts = self.adaption_prompt.expand(len(x), -1, -1)
            seen = seen + self.adaption_gate.tanh() * self.attend(x, prompts)
        return x + self.output(seen)


@healthy()
def prompts_behind_zero_gates() -> Run:
    """The lower of two layers has no prompt: its prompt table has no row."""
    layers = [PromptedAttention(32, 0), PromptedAttention(32, 8)]
    model = nn.ModuleDict({"tokens": nn.Embedding(TOKENS, 32), "layers": nn.ModuleList(layers)})
    model["norm"], model["head"] = nn.LayerNorm(32), nn.Linear(32, CLASSES)

    def forward(tokens: Tensor) -> Tensor:
        x = model["tokens"](tokens)
        for layer in model["layers"]:
            x = layer(x)
        return model["head"](model["norm"](x.mean(1)))

    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), cross_entropy(forward, most_frequent_group()), steps=60)
    model.requires_grad_(False)
    model["head"] = nn.Linear(32, CLASSES)
    layers[1].adaption_prompt.requires_grad_(True)
    layers[1].adaption_gate.data.zero_()
    layers[1].adaption_gate.requires_grad_(True)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    return fit(model, optimizer, cross_entropy(forward, most_frequent_group()), steps=250)
