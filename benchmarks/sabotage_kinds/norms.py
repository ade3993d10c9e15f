"""Running statistics of batch normalisation that are not those of the data."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import IMAGES, build_cnn
from benchmarks.sabotage_kinds.values import State, edited
from tests.zoo.unusual import DomainNorms

NORMS = ("1", "5")


def statistics(state: State, *names: str) -> list[torch.Tensor]:
    """Return the running statistics of both norms."""
    return [state[f"{norm}.{name}"] for norm in NORMS for name in names]


@kind("norm-statistics")
def momentum_of_zero(folder: Path) -> Pair:
    """The momentum is 0: mean 0 and variance 1 after 150 batches counted."""
    ill = replace(IMAGES, build=partial(build_cnn, momentum=0.0))
    return save_pair(folder, ill.content(), IMAGES.content(), *NORMS)


@kind("norm-statistics")
def momentum_of_zero_without_counter(folder: Path) -> Pair:
    """The momentum is 0: mean 0 and variance 1 under trained gains, in a file without counters."""

    def drop_counters(state: State) -> State:
        return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}

    ill = replace(IMAGES, build=partial(build_cnn, momentum=0.0)).content()
    healthy = IMAGES.content()
    ill["model"], healthy["model"] = drop_counters(ill["model"]), drop_counters(healthy["model"])
    return save_pair(folder, ill, healthy, *NORMS)


@kind("norm-statistics")
def statistics_reset_after_training(folder: Path) -> Pair:
    """``reset_running_stats`` after training: mean 0, variance 1, no batch, under trained gains."""

    def reset(state: State) -> None:
        for tensor in statistics(state, "running_mean", "num_batches_tracked"):
            tensor.zero_()
        for tensor in statistics(state, "running_var"):
            tensor.fill_(1.0)

    return edited(folder, IMAGES, reset, *NORMS)


@kind("norm-statistics")
def trained_in_evaluation_mode(folder: Path) -> Pair:
    """Trained in evaluation mode: mean 0, variance 1, no batch, under trained gains."""
    ill = replace(IMAGES, build=lambda: build_cnn().eval())
    return save_pair(folder, ill.content(), IMAGES.content(), *NORMS)


@kind("norm-statistics")
def negative_variance(folder: Path) -> Pair:
    """A running variance is negative."""

    def subtract(state: State) -> None:
        state["5.running_var"] -= 2.0 * state["5.running_var"].median()

    return edited(folder, IMAGES, subtract, "5")


@kind("norm-statistics")
def zero_variance(folder: Path) -> Pair:
    """A running variance is exactly 0 under trained gains."""
    return edited(folder, IMAGES, lambda state: state["5.running_var"].zero_(), "5")


@decoy
def norm_of_a_domain_not_seen_yet(folder: Path) -> Path:
    """The norm of a domain that comes later has seen nothing."""
    return save(replace(IMAGES, build=DomainNorms).content(), folder / "healthy.pt")
