"""Half precision that cannot hold what training needs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.sabotage_kinds.pairs import Pair, kind, save_pair
from benchmarks.sabotage_kinds.training import (
    LANGUAGE,
    REGRESSION,
    Training,
    adam,
    decayed_and_others,
    token_cross_entropy,
)
from tests.zoo.sequences import LanguageModel
from tests.zoo.tasks import smooth_functions
from tests.zoo.vectors import ResidualBlock, perceptron


def half_perceptron(dtype: torch.dtype) -> nn.Module:
    """Return the perceptron of the regression with parameters of half precision."""
    return perceptron(nn.ReLU, 16, 64, 64, 4).to(dtype)


def half_residual() -> nn.Module:
    """Return a residual network with normalised blocks in bfloat16."""
    return nn.Sequential(nn.Linear(16, 32), ResidualBlock(32), ResidualBlock(32), nn.Linear(32, 4)).bfloat16()


def error_in_float32(output: Tensor, target: Tensor) -> Tensor:
    """Compute the squared error in full precision."""
    return functional.mse_loss(output.float(), target)


RESIDUAL = Training(
    half_residual,
    lambda: smooth_functions(16, 4),
    error_in_float32,
    partial(adam, lr=1e-2),
    forward=lambda model, x: model(x.bfloat16()),
)

HALF = Training(
    lambda: half_perceptron(torch.float16),
    lambda: smooth_functions(16, 4),
    error_in_float32,
    partial(adam, lr=2e-3, eps=1e-4),
    forward=lambda model, x: model(x.half()),
)


@kind("low-precision")
def bfloat16_gains_stay_at_one(folder: Path) -> Pair:
    """A rate of 1e-5 in bfloat16: gains are exactly 1 under live moments."""
    ill = replace(RESIDUAL, optimizer=partial(adam, lr=1e-5))
    return save_pair(folder, ill.content(), RESIDUAL.content(), "1.norm", "2.norm")


@kind("low-precision")
def bfloat16_language_model_stalls(folder: Path) -> Pair:
    """A rate of 3e-7 in bfloat16: gains and most weights have not moved under live moments."""
    healthy = replace(
        LANGUAGE,
        build=lambda: LanguageModel().bfloat16(),
        loss=lambda output, y: token_cross_entropy(output.float(), y),
    )
    ill = replace(healthy, optimizer=partial(decayed_and_others, lr=3e-7))
    return save_pair(folder, ill.content(), healthy.content(), "h", "wte", "wpe", "ln_f", "optimizer")


@kind("low-precision")
def float16_second_moments_underflow(folder: Path) -> Pair:
    """Squares of gradients underflow in float16: v is 0 where m is not."""
    ill = replace(HALF, loss=lambda output, target: 1e-4 * error_in_float32(output, target))
    return save_pair(folder, ill.content(), HALF.content(), "0", "2", "4", "optimizer")


@kind("low-precision")
def float16_gradients_underflow(folder: Path) -> Pair:
    """Gradients underflow in float16: every moment is exactly 0 after 300 steps."""
    ill = replace(HALF, loss=lambda output, target: 1e-9 * error_in_float32(output, target))
    return save_pair(folder, ill.content(), HALF.content(), "0", "2", "4", "optimizer")


@kind("low-precision")
def float16_overflow(folder: Path) -> Pair:
    """Values beyond 65,504 became infinite in float16."""
    healthy = REGRESSION.content()
    healthy["model"] = {name: tensor.half() for name, tensor in healthy["model"].items()}
    ill = REGRESSION.content()
    # The last layer's output has a unit of its own, which float16 cannot hold.
    ill["model"]["4.weight"] *= 1e6
    ill["model"] = {name: tensor.half() for name, tensor in ill["model"].items()}
    return save_pair(folder, ill, healthy, "4")
