"""Other things saved in the place of the trained ones, and models of which only a part was loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.sabotage_kinds.pairs import Content, Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.resuming import ANNEALED, MLP, changed
from benchmarks.sabotage_kinds.training import CLASSIFICATION, LANGUAGE, REGRESSION, adam


@kind("saved-wrong-object")
def initial_weights_saved_as_the_best(folder: Path) -> Pair:
    """The initial weights under trained moments: gains exactly 1, biases exactly 0."""
    ill = {**LANGUAGE.content(), "model": LANGUAGE.initial().state_dict()}
    return save_pair(folder, ill, LANGUAGE.content(), "h", "wte", "wpe", "ln_f", "optimizer")


@kind("saved-wrong-object")
def initial_weights_of_a_perceptron_saved_as_the_best(folder: Path) -> Pair:
    """The initial weights under trained moments: every tensor uniform within ±1/√fan-in."""
    ill = {**REGRESSION.content(), "model": REGRESSION.initial().state_dict()}
    return save_pair(folder, ill, REGRESSION.content(), *MLP)


@kind("saved-wrong-object")
def scheduler_saved_as_the_optimizer(folder: Path) -> Pair:
    """Under ``optimizer`` are a scheduler's fields (``T_max``, ``last_epoch``)."""
    return changed(folder, ANNEALED, lambda content: content.update(optimizer=content["scheduler"]), "optimizer")


@kind("saved-wrong-object")
def bound_method_saved_as_the_optimizer(folder: Path) -> Pair:
    """``state_dict`` without parentheses: under ``optimizer`` is a bound method."""
    return changed(
        folder, REGRESSION, lambda content: content.update(optimizer=adam(nn.Linear(2, 2)).state_dict), "optimizer"
    )


@kind("saved-wrong-object")
def model_saved_as_the_optimizer(folder: Path) -> Pair:
    """Under ``optimizer`` is the model's state dict once more."""
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=content["model"]), "optimizer")


@kind("partial-load")
def fresh_head_under_a_trained_body(folder: Path) -> Pair:
    """The head is uniform within ±1/√fan-in, as initialised, under the old head's moments."""

    def renew(content: Content) -> None:
        fresh = replace(CLASSIFICATION, seed=11).initial().state_dict()
        content["model"].update({name: fresh[name] for name in ("4.weight", "4.bias")})

    return changed(folder, CLASSIFICATION, renew, "4")


@kind("partial-load")
def fresh_zero_head_under_old_moments(folder: Path) -> Pair:
    """The head is truncated normal with a zero bias under the old head's moments."""

    def renew(content: Content) -> None:
        torch.manual_seed(11)
        content["model"]["4.weight"] = nn.init.trunc_normal_(torch.empty(4, 48), std=0.02)
        content["model"]["4.bias"] = torch.zeros(4)

    return changed(folder, CLASSIFICATION, renew, "4")


@kind("partial-load")
def half_of_the_blocks_not_loaded(folder: Path) -> Pair:
    """The second block is fresh under trained moments: gains exactly 1, biases exactly 0."""

    def renew(content: Content) -> None:
        fresh = replace(LANGUAGE, seed=11).initial().state_dict()
        content["model"].update({name: tensor for name, tensor in fresh.items() if name.startswith("h.1.")})

    return changed(folder, LANGUAGE, renew, "h.1")


@decoy
def weights_and_optimizer_before_the_first_step(folder: Path) -> Path:
    """Nothing is trained yet."""
    return save(replace(LANGUAGE, steps=0).content(), folder / "healthy.pt")
