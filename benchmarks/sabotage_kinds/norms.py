"""Running statistics of batch normalisation that are not those of the data."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import IMAGES, Hook, build_cnn
from benchmarks.sabotage_kinds.values import State, edited
from tests.zoo.unusual import DomainNorms

NORMS = ("1", "5")


def statistics(state: State, *names: str) -> list[torch.Tensor]:
    """Return the running statistics of both norms."""
    return [state[f"{norm}.{name}"] for norm in NORMS for name in names]


@kind("norm-statistics")
def momentum_of_zero(folder: Path) -> Pair:
    ill = replace(IMAGES, build=partial(build_cnn, momentum=0.0))
    return save_pair(folder, ill.content(), IMAGES.content(), *NORMS)


@kind("norm-statistics")
def momentum_of_zero_without_counter(folder: Path) -> Pair:
    def drop_counters(state: State) -> State:
        return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}

    ill = replace(IMAGES, build=partial(build_cnn, momentum=0.0)).content()
    healthy = IMAGES.content()
    ill["model"], healthy["model"] = drop_counters(ill["model"]), drop_counters(healthy["model"])
    return save_pair(folder, ill, healthy, *NORMS)


@kind("norm-statistics")
def statistics_reset_after_training(folder: Path) -> Pair:
    def reset(state: State) -> None:
        for tensor in statistics(state, "running_mean", "num_batches_tracked"):
            tensor.zero_()
        for tensor in statistics(state, "running_var"):
            tensor.fill_(1.0)

    return edited(folder, IMAGES, reset, *NORMS)


@kind("norm-statistics")
def trained_in_evaluation_mode(folder: Path) -> Pair:
    ill = replace(IMAGES, build=lambda: build_cnn().eval())
    return save_pair(folder, ill.content(), IMAGES.content(), *NORMS)


@kind("norm-statistics")
def negative_variance(folder: Path) -> Pair:
    def subtract(state: State) -> None:
        state["5.running_var"] -= 2.0 * state["5.running_var"].median()

    return edited(folder, IMAGES, subtract, "5")


@kind("norm-statistics")
def zero_variance(folder: Path) -> Pair:
    return edited(folder, IMAGES, lambda state: state["5.running_var"].zero_(), "5")


@kind("norm-statistics")
def last_batch_alone(folder: Path) -> Pair:
    """The momentum is 1, so that the statistics are those of one batch, and the last one was of one constant image."""

    def constant_batch(number: int) -> Hook:
        def show(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
            if step == number:
                with torch.no_grad():
                    model(torch.full((4, 1, 12, 12), 0.5))

        return show

    ill = replace(IMAGES, build=partial(build_cnn, momentum=1.0), after_step=constant_batch(IMAGES.steps - 1))
    return save_pair(folder, ill.content(), IMAGES.content(), *NORMS)


@decoy
def norm_of_a_domain_not_seen_yet(folder: Path) -> Path:
    return save(replace(IMAGES, build=DomainNorms).content(), folder / "healthy.pt")
