"""What goes wrong between training, saving, loading and resuming."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.sabotage_kinds.pairs import Content, Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import CLASSIFICATION, LANGUAGE, REGRESSION, Training, adam
from tests.zoo.agents import QLearner
from tests.zoo.tasks import BATCH
from tests.zoo.vectors import perceptron

MLP = ("optimizer", "0", "2", "4")


def changed(folder: Path, training: Training, change: Callable[[Content], object], *affected: str) -> Pair:
    """Return a checkpoint as it is and with content that was changed in place."""
    ill = training.content()
    change(ill)
    return save_pair(folder, ill, training.content(), *affected)


@kind("saved-wrong-object")
def initial_weights_saved_as_the_best(folder: Path) -> Pair:
    ill = {**LANGUAGE.content(), "model": LANGUAGE.initial().state_dict()}
    return save_pair(folder, ill, LANGUAGE.content(), "h", "wte", "wpe", "ln_f", "optimizer")


@kind("saved-wrong-object")
def initial_weights_of_a_perceptron_saved_as_the_best(folder: Path) -> Pair:
    ill = {**REGRESSION.content(), "model": REGRESSION.initial().state_dict()}
    return save_pair(folder, ill, REGRESSION.content(), *MLP)


ANNEALED = replace(REGRESSION, schedule=lambda optimizer: CosineAnnealingLR(optimizer, 400))


@kind("saved-wrong-object")
def scheduler_saved_as_the_optimizer(folder: Path) -> Pair:
    return changed(folder, ANNEALED, lambda content: content.update(optimizer=content["scheduler"]), "optimizer")


@kind("saved-wrong-object")
def bound_method_saved_as_the_optimizer(folder: Path) -> Pair:
    return changed(
        folder, REGRESSION, lambda content: content.update(optimizer=adam(nn.Linear(2, 2)).state_dict), "optimizer"
    )


@kind("saved-wrong-object")
def model_saved_as_the_optimizer(folder: Path) -> Pair:
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=content["model"]), "optimizer")


@kind("partial-load")
def fresh_head_under_a_trained_body(folder: Path) -> Pair:
    def renew(content: Content) -> None:
        fresh = replace(CLASSIFICATION, seed=11).initial().state_dict()
        content["model"].update({name: fresh[name] for name in ("4.weight", "4.bias")})

    return changed(folder, CLASSIFICATION, renew, "4")


@kind("partial-load")
def fresh_zero_head_under_old_moments(folder: Path) -> Pair:
    def renew(content: Content) -> None:
        torch.manual_seed(11)
        content["model"]["4.weight"] = nn.init.trunc_normal_(torch.empty(4, 48), std=0.02)
        content["model"]["4.bias"] = torch.zeros(4)

    return changed(folder, CLASSIFICATION, renew, "4")


@kind("partial-load")
def half_of_the_blocks_not_loaded(folder: Path) -> Pair:
    def renew(content: Content) -> None:
        fresh = replace(LANGUAGE, seed=11).initial().state_dict()
        content["model"].update({name: tensor for name, tensor in fresh.items() if name.startswith("h.1.")})

    return changed(folder, LANGUAGE, renew, "h.1")


@kind("optimizer-reset")
def optimizer_begun_anew(folder: Path) -> Pair:
    ill = replace(REGRESSION, steps=5).content()
    return save_pair(folder, {**REGRESSION.content(), "optimizer": ill["optimizer"]}, REGRESSION.content(), *MLP)


@kind("optimizer-reset")
def empty_state_at_step_300(folder: Path) -> Pair:
    return changed(folder, REGRESSION, lambda content: content["optimizer"]["state"].clear(), *MLP)


@kind("optimizer-reset")
def part_of_the_state_lost(folder: Path) -> Pair:
    def lose(content: Content) -> None:
        for index in (2, 3):
            del content["optimizer"]["state"][index]

    return changed(folder, REGRESSION, lose, "2", "optimizer")


@kind("optimizer-of-another-model")
def optimizer_of_a_wider_model(folder: Path) -> Pair:
    wider = replace(REGRESSION, build=lambda: perceptron(nn.ReLU, 16, 96, 64, 4)).content()
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=wider["optimizer"]), *MLP)


@kind("optimizer-of-another-model")
def optimizer_of_a_deeper_model(folder: Path) -> Pair:
    deeper = replace(REGRESSION, build=lambda: perceptron(nn.ReLU, 16, 64, 64, 64, 4)).content()
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=deeper["optimizer"]), *MLP)


@kind("schedule")
def rate_of_the_scheduler_differs_from_the_optimizers(folder: Path) -> Pair:
    def reset_rate(content: Content) -> None:
        content["optimizer"]["param_groups"][0]["lr"] = 2e-3

    return changed(folder, ANNEALED, reset_rate, "optimizer", "scheduler")


@kind("schedule")
def scheduler_restarted(folder: Path) -> Pair:
    restarted = replace(ANNEALED, steps=7).content()

    def restart(content: Content) -> None:
        content["scheduler"] = restarted["scheduler"]
        content["optimizer"]["param_groups"][0]["lr"] = restarted["optimizer"]["param_groups"][0]["lr"]

    return changed(folder, ANNEALED, restart, "optimizer", "scheduler")


@kind("optimizer-reset")
def moments_out_of_step_with_the_run(folder: Path) -> Pair:
    return changed(folder, REGRESSION, lambda content: content.update(step=90_000, global_step=90_000), "optimizer")


def train_with_average(decay: float) -> Content:
    """Train with an exponential moving average of the weights; a decay of 1 never moves it, one of 0 copies them."""
    average = LANGUAGE.initial()

    @torch.no_grad()
    def follow(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 1.0 - decay) if decay else ours.copy_(theirs)

    content = replace(LANGUAGE, after_step=follow).content()
    return {**content, "ema": average.state_dict()}


@kind("average-not-updated")
def average_identical_to_the_model(folder: Path) -> Pair:
    return save_pair(folder, train_with_average(0.0), train_with_average(0.98), "ema")


@kind("average-not-updated")
def average_still_initial(folder: Path) -> Pair:
    return save_pair(folder, train_with_average(1.0), train_with_average(0.98), "ema")


@cache
def learn_values(interval: int) -> Content:
    """Learn values of actions, with a target network that is copied at an interval; never where that is 0."""
    torch.manual_seed(0)
    model = QLearner()
    optimizer = adam(model.q_net, 1e-3)
    for number in range(1, 401):
        state, action = torch.rand(BATCH, 2) * 2 - 1, torch.randint(3, (BATCH, 1))
        following = (0.8 * state + 0.2 * (action - 1)).clamp(-1, 1)
        reward = 1 - following.square().sum(1, keepdim=True) + 0.1 * torch.randn(BATCH, 1)
        with torch.no_grad():
            target = reward + 0.9 * model.q_net_target(following).max(1, keepdim=True).values
        optimizer.zero_grad()
        functional.smooth_l1_loss(model.q_net(state).gather(1, action), target).backward()
        optimizer.step()
        if interval and number % interval == 0:
            model.q_net_target.load_state_dict(model.q_net.state_dict())
    return deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 400})


@kind("target-not-synced")
def target_network_never_copied(folder: Path) -> Pair:
    return save_pair(folder, learn_values(0), learn_values(30), "q_net_target", "q_net")


@kind("twin-critics-identical")
def twin_critics_from_one_initialization(folder: Path) -> Pair:
    def critics(copied: bool) -> Training:
        def build() -> nn.Module:
            pair = nn.ModuleDict({name: perceptron(nn.ReLU, 16, 48, 48, 1) for name in ("qf1", "qf2")})
            if copied:
                pair["qf2"].load_state_dict(pair["qf1"].state_dict())
            return pair

        def both(model: nn.Module, x: Tensor) -> Tensor:
            return torch.cat([model["qf1"](x), model["qf2"](x)], 1)

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return functional.mse_loss(output, target[:, :1].expand_as(output))

        return replace(REGRESSION, build=build, forward=both, loss=loss)

    return save_pair(folder, critics(True).content(), critics(False).content(), "qf1", "qf2")


@decoy
def weights_and_optimizer_before_the_first_step(folder: Path) -> Path:
    return save(replace(LANGUAGE, steps=0).content(), folder / "healthy.pt")


@decoy
def target_network_copied_just_now(folder: Path) -> Path:
    return save(learn_values(50), folder / "healthy.pt")
