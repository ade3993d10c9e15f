"""Optimizers and schedules that do not belong to the weights beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.sabotage_kinds.pairs import Content, Pair, kind, save_pair
from benchmarks.sabotage_kinds.training import REGRESSION, Training
from tests.zoo.vectors import perceptron

MLP = ("optimizer", "0", "2", "4")

ANNEALED = replace(REGRESSION, schedule=lambda optimizer: CosineAnnealingLR(optimizer, 400))


def changed(folder: Path, training: Training, change: Callable[[Content], object], *affected: str) -> Pair:
    """Return a checkpoint as it is and with content that was changed in place."""
    ill = training.content()
    change(ill)
    return save_pair(folder, ill, training.content(), *affected)


@kind("optimizer-reset")
def optimizer_begun_anew(folder: Path) -> Pair:
    """The moments count 5 steps, the file 300."""
    ill = replace(REGRESSION, steps=5).content()
    return save_pair(folder, {**REGRESSION.content(), "optimizer": ill["optimizer"]}, REGRESSION.content(), *MLP)


@kind("optimizer-reset")
def empty_state_at_step_300(folder: Path) -> Pair:
    """The optimizer has no state, the file counts 300 steps."""
    return changed(folder, REGRESSION, lambda content: content["optimizer"]["state"].clear(), *MLP)


@kind("optimizer-reset")
def part_of_the_state_lost(folder: Path) -> Pair:
    """One layer's state is missing."""

    def lose(content: Content) -> None:
        for index in (2, 3):
            del content["optimizer"]["state"][index]

    return changed(folder, REGRESSION, lose, "2", "optimizer")


@kind("optimizer-reset")
def moments_out_of_step_with_the_run(folder: Path) -> Pair:
    """The moments count 300 steps, the file 90,000."""
    return changed(folder, REGRESSION, lambda content: content.update(step=90_000, global_step=90_000), "optimizer")


@kind("optimizer-of-another-model")
def optimizer_of_a_wider_model(folder: Path) -> Pair:
    """The state's shapes are those of a wider model."""
    wider = replace(REGRESSION, build=lambda: perceptron(nn.ReLU, 16, 96, 64, 4)).content()
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=wider["optimizer"]), *MLP)


@kind("optimizer-of-another-model")
def optimizer_of_a_deeper_model(folder: Path) -> Pair:
    """The state has more parameters than the model."""
    deeper = replace(REGRESSION, build=lambda: perceptron(nn.ReLU, 16, 64, 64, 64, 4)).content()
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=deeper["optimizer"]), *MLP)


@kind("schedule")
def rate_of_the_scheduler_differs_from_the_optimizers(folder: Path) -> Pair:
    """``_last_lr`` of the scheduler is 2.9e-4, the optimizer's ``lr`` is 2e-3."""

    def reset_rate(content: Content) -> None:
        content["optimizer"]["param_groups"][0]["lr"] = 2e-3

    return changed(folder, ANNEALED, reset_rate, "optimizer", "scheduler")


@kind("schedule")
def scheduler_restarted(folder: Path) -> Pair:
    """``last_epoch`` is 7, the moments count 300 steps."""
    restarted = replace(ANNEALED, steps=7).content()

    def restart(content: Content) -> None:
        content["scheduler"] = restarted["scheduler"]
        content["optimizer"]["param_groups"][0]["lr"] = restarted["optimizer"]["param_groups"][0]["lr"]

    return changed(folder, ANNEALED, restart, "optimizer", "scheduler")
