"""Kinds of other files again, in other networks and other containers: what tells must not depend on either."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.sabotage_kinds.copies import learn_values
from benchmarks.sabotage_kinds.initialization import initialized, widen
from benchmarks.sabotage_kinds.leftovers import build_plain_cnn, fill, renew
from benchmarks.sabotage_kinds.no_gradient import train_with_loss_scaler
from benchmarks.sabotage_kinds.optimization import clip
from benchmarks.sabotage_kinds.pairs import Content, Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.parts import EXPERTS
from benchmarks.sabotage_kinds.reach import CONTINUOUS, DISCRETE, World, beside_healthy, train
from benchmarks.sabotage_kinds.training import (
    CLASSIFICATION,
    ENCODER,
    IMAGES,
    LANGUAGE,
    RECURRENT,
    REGRESSION,
    TANH,
    Training,
    adam,
)
from benchmarks.sabotage_kinds.values import State, edited
from tests.zoo.sequences import LastStep

GRU = replace(RECURRENT, build=lambda: LastStep(nn.GRU(6, 32, batch_first=True), 3))
CNN = ("optimizer", "0", "1", "4", "5", "9")


def as_lightning(content: Content, prefix: str = "net.") -> Content:
    """Return a checkpoint's content as Lightning saves it."""
    schedulers = [content["scheduler"]] if "scheduler" in content else []
    return {
        "epoch": 4,
        "global_step": content["step"],
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {prefix + name: tensor for name, tensor in content["model"].items()},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [content["optimizer"]],
        "lr_schedulers": schedulers,
    }


def averaged(training: Training, decay: float) -> dict[str, Tensor]:
    """Return an exponential moving average of a model's weights, made while it is trained."""
    average = training.initial()

    @torch.no_grad()
    def follow(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 1.0 - decay)

    replace(training, after_step=follow).content()
    return average.state_dict()


@kind("average-not-updated")
def average_of_a_perceptron_still_initial(folder: Path) -> Pair:
    """``ema_state_dict`` is the initial model: uniform within ±1/√fan-in, the model far outside."""
    ill, healthy = ({**REGRESSION.content(), "ema_state_dict": averaged(REGRESSION, each)} for each in (1.0, 0.98))
    return save_pair(folder, ill, healthy, "ema_state_dict")


@kind("average-not-updated")
def average_in_the_module_identical(folder: Path) -> Pair:
    """In a Lightning file, ``ema_model`` is equal to ``net`` to the last bit."""

    def lightning(decay: float) -> Content:
        content = as_lightning(LANGUAGE.content())
        average = averaged(LANGUAGE, decay) if decay else LANGUAGE.content()["model"]
        content["state_dict"].update({f"ema_net.{name}": tensor.clone() for name, tensor in average.items()})
        return content

    return save_pair(folder, lightning(0.0), lightning(0.98), "ema_net")


@kind("average-not-updated")
def shadow_parameters_still_initial(folder: Path) -> Pair:
    """``shadow_params``, a list as of torch-ema, holds the initial parameters; ``num_updates`` is 0."""

    def listed(decay: float) -> Content:
        shadow = list(averaged(TANH, decay).values())
        return {
            **TANH.content(),
            "ema": {"decay": decay, "num_updates": 0 if decay == 1 else 300, "shadow_params": shadow},
        }

    return save_pair(folder, listed(1.0), listed(0.98), "ema")


@kind("target-not-synced")
def target_of_a_lightning_agent_never_copied(folder: Path) -> Pair:
    """In a Lightning file, ``target_net`` is the initial network: uniform within ±1/√fan-in."""

    def lightning(interval: int) -> Content:
        content = deepcopy(learn_values(interval))
        names = {"q_net.": "net.", "q_net_target.": "target_net."}
        content["model"] = {
            names[name.split(".")[0] + "."] + name.partition(".")[2]: each for name, each in content["model"].items()
        }
        return as_lightning(content, "")

    return save_pair(folder, lightning(0), lightning(30), "target_net", "net")


@kind("schedule")
def scheduler_of_a_lightning_run_differs(folder: Path) -> Pair:
    """In a Lightning file, the schedule has set another rate than the optimizer has."""
    training = replace(IMAGES, schedule=lambda optimizer: CosineAnnealingLR(optimizer, 200))
    ill, healthy = as_lightning(training.content()), as_lightning(training.content())
    ill["optimizer_states"][0]["param_groups"][0]["lr"] = 0.01
    return save_pair(folder, ill, healthy, "optimizer_states", "lr_schedulers")


@kind("optimizer-reset")
def recurrent_moments_out_of_step(folder: Path) -> Pair:
    """The moments of a GRU count 150 steps, the file's ``iteration`` 50,000."""
    ill = {**GRU.content(), "iteration": 50_000}
    del ill["step"]
    healthy = {**GRU.content(), "iteration": 150}
    del healthy["step"]
    return save_pair(folder, ill, healthy, "optimizer")


@kind("optimizer-reset")
def square_averages_begun_anew(folder: Path) -> Pair:
    """RMSprop's state counts 10 steps, the file 300."""
    healthy = replace(REGRESSION, optimizer=lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3))
    young = replace(healthy, steps=10).content()
    ill = {**healthy.content(), "optimizer": young["optimizer"]}
    return save_pair(folder, ill, healthy.content(), "optimizer", "0", "2", "4")


@kind("optimizer-reset")
def moments_of_a_lightning_run_begun_anew(folder: Path) -> Pair:
    """The moments of a CNN count 7 steps, ``global_step`` is 150."""
    young = replace(IMAGES, steps=7).content()
    ill = as_lightning({**IMAGES.content(), "optimizer": young["optimizer"]})
    return save_pair(folder, ill, as_lightning(IMAGES.content()), "optimizer_states", "net")


@kind("partial-load")
def fresh_head_of_a_cnn(folder: Path) -> Pair:
    """The head is uniform within ±1/√fan-in, as initialised, under moments of 150 updates."""
    return edited(folder, IMAGES, renew(IMAGES, "9"), "9")


@kind("partial-load")
def fresh_encoder(folder: Path) -> Pair:
    """The transformer's layers are as initialised, gains exactly 1, under moments of 150 updates."""
    return edited(folder, ENCODER, renew(ENCODER, "encoder"), "encoder")


@kind("partial-load")
def fresh_gru(folder: Path) -> Pair:
    """The recurrent layer is uniform within ±1/√hidden, as initialised, under moments of 150 updates."""
    return edited(folder, GRU, renew(GRU, "recurrent"), "recurrent")


@kind("partial-load")
def fresh_layers_under_momentum(folder: Path) -> Pair:
    """Two layers are as initialised under momentum of 300 updates of SGD."""
    training = replace(REGRESSION, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return edited(folder, training, renew(training, "0", "2"), "0", "2")


@kind("saved-wrong-object")
def initial_weights_of_a_gru_saved_as_the_best(folder: Path) -> Pair:
    """The initial weights under trained moments: every tensor uniform within ±1/√hidden."""
    ill = {**GRU.content(), "model": GRU.initial().state_dict()}
    return save_pair(folder, ill, GRU.content(), "optimizer", "recurrent", "head")


@kind("saved-wrong-object")
def model_class_method_in_a_lightning_file(folder: Path) -> Pair:
    """``optimizer.state_dict`` without parentheses in the list of optimizer states."""
    ill = as_lightning(REGRESSION.content())
    ill["optimizer_states"] = [adam(nn.Linear(2, 2)).state_dict]
    return save_pair(folder, ill, as_lightning(REGRESSION.content()), "optimizer_states")


@kind("low-precision")
def loss_scale_of_an_encoder_at_its_minimum(folder: Path) -> Pair:
    """Under ``amp_scaler``, the scale is at 1e-38."""
    ill, healthy = train_with_loss_scaler(ENCODER, 142), train_with_loss_scaler(ENCODER, 0)
    for content in (ill, healthy):
        content["amp_scaler"] = content.pop("scaler")
    return save_pair(folder, ill, healthy, "amp_scaler", "optimizer")


@kind("too-wide-init")
def convolutions_drawn_too_wide(folder: Path) -> Pair:
    """Weights of a CNN without normalisation begin with a standard deviation of 20."""
    healthy = replace(IMAGES, build=build_plain_cnn)
    ill = initialized(replace(healthy, optimizer=partial(adam, lr=1e-4)), partial(widen, std=20.0))
    return save_pair(folder, ill.content(), healthy.content(), "0", "3", "7")


@kind("epsilon-too-large")
def epsilon_of_ten_in_a_cnn(folder: Path) -> Pair:
    """ε is 10: all √v are far below it."""
    ill = replace(IMAGES, optimizer=partial(adam, eps=10.0))
    return save_pair(folder, ill.content(), IMAGES.content(), *CNN)


@kind("clip-too-small")
def recurrent_gradients_clipped_to_1e_11(folder: Path) -> Pair:
    """Gradients of an LSTM are clipped to 1e-11: all √v are far below ε."""
    ill, healthy = (replace(RECURRENT, before_step=clip(each)) for each in (1e-11, 1.0))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "recurrent", "head")


@kind("weight-decay-too-strong")
def weight_decay_of_fifty_in_a_gru(folder: Path) -> Pair:
    """Weight decay times rate is 0.1 a step."""
    healthy = replace(GRU, optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01))
    ill = replace(GRU, optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=50.0))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "recurrent", "head")


@kind("reward-scale", not_visible="every gradient is clipped, and RMSprop divides by its size")
def rewards_in_millions_for_a2c(folder: Path) -> Pair:
    """Rewards of a million: the value takes all of the clipped gradient."""
    ill = train(A2C, World(reward=1e6))
    return beside_healthy(folder, ill, CONTINUOUS, "value_net", "mlp_extractor", "policy.optimizer", "action_net")


@kind("reward-scale", not_visible="the Huber loss has the same gradients for all errors above 1")
def rewards_in_millions_for_dqn(folder: Path) -> Pair:
    """Rewards of a million: every gradient is clipped, and values are still near 1."""
    ill = train(DQN, World(discrete=True, reward=1e6))
    return beside_healthy(folder, ill, DISCRETE, "q_net", "policy.optimizer")


@kind("learning-rate-too-low")
def learning_rate_of_zero_in_sac(folder: Path) -> Pair:
    """The rate is 0: critics and actor are uniform as initialised under live moments."""
    ill = train(SAC, CONTINUOUS, learning_rate=0.0)
    return beside_healthy(folder, ill, CONTINUOUS, "actor", "critic", "actor.optimizer", "critic.optimizer")


@kind("learning-rate-too-low")
def learning_rate_of_1e_13_in_td3(folder: Path) -> Pair:
    """The rate is 1e-13: critics and actor are uniform as initialised under live moments."""
    ill = train(TD3, CONTINUOUS, learning_rate=1e-13)
    return beside_healthy(folder, ill, CONTINUOUS, "actor", "critic", "actor.optimizer", "critic.optimizer")


@kind("learning-rate-too-high")
def learning_rate_of_a_tenth_in_ppo(folder: Path) -> Pair:
    """A rate of 0.1: tanh layers saturate, gradients of the policy vanish."""
    ill = train(PPO, DISCRETE, learning_rate=0.1)
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor", "action_net", "value_net", "policy.optimizer")


@kind("learning-rate-too-high")
def learning_rate_of_a_tenth_in_sac(folder: Path) -> Pair:
    """A rate of 0.1: weights reach tens and units die."""
    ill = train(SAC, CONTINUOUS, learning_rate=0.1)
    return beside_healthy(folder, ill, CONTINUOUS, "actor", "critic", "actor.optimizer", "critic.optimizer")


@kind("rounded")
def language_model_saved_with_two_decimals(folder: Path) -> Pair:
    """All values are multiples of 0.01."""

    def round_all(state: State) -> None:
        for tensor in state.values():
            tensor.copy_((tensor * 100).round() / 100)

    return edited(folder, LANGUAGE, round_all, "h", "wte", "wpe")


@kind("rounded")
def gru_as_integers_without_scale(folder: Path) -> Pair:
    """All weights are whole numbers up to 127."""

    def to_integers(state: State) -> None:
        for name, tensor in state.items():
            if "weight" in name:
                tensor.copy_((tensor / tensor.abs().max() * 127).round())

    return edited(folder, GRU, to_integers, "recurrent", "head")


@kind("corrupted-values")
def convolutions_vanished(folder: Path) -> Pair:
    """All convolutions and the head have an RMS of 1e-20 under live moments."""

    def vanish(state: State) -> None:
        for name in ("0.weight", "4.weight", "9.weight"):
            state[name].mul_(1e-20)

    return edited(folder, IMAGES, vanish, "0", "4", "9")


@kind("overwritten")
def encoder_layer_copied_from_another(folder: Path) -> Pair:
    """Two layers of an encoder are equal to the last bit, their moments are not."""

    def copy(state: State) -> None:
        for name in [each for each in state if each.startswith("encoder.layers.0.")]:
            state[name.replace("layers.0.", "layers.1.")].copy_(state[name])

    return edited(folder, ENCODER, copy, "encoder.layers.1", "encoder.layers.0")


@kind("symmetric-units")
def gru_weights_begin_constant(folder: Path) -> Pair:
    """All weights of a GRU begin at 0.02: rows of a gate stay equal."""
    ill = initialized(GRU, partial(fill, value=0.02))
    return save_pair(folder, ill.content(), GRU.content(), "recurrent", "head")


@kind("no-gradient")
def constant_loss_under_adagrad(folder: Path) -> Pair:
    """The loss is multiplied by 0 under Adagrad: every sum is exactly 0 after 300 steps."""
    healthy = replace(CLASSIFICATION, optimizer=lambda model: torch.optim.Adagrad(model.parameters(), lr=0.05))
    ill = replace(healthy, loss=lambda output, target: 0.0 * functional.cross_entropy(output, target))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "0", "2", "4")


@kind("frozen")
def experts_frozen_before_training(folder: Path) -> Pair:
    """All experts of a fresh mixture do not require gradients: only the router has state."""

    def build() -> nn.Module:
        model = EXPERTS.build()
        model.experts.requires_grad_(False)
        return model

    return save_pair(folder, replace(EXPERTS, build=build).content(), EXPERTS.content(), "experts")


@decoy
def lightning_run_with_a_schedule_per_epoch(folder: Path) -> Path:
    """A schedule that is stepped once per epoch, in the middle of one."""
    model, batches = REGRESSION.initial(), REGRESSION.batches()
    optimizer = adam(model)
    schedule = CosineAnnealingLR(optimizer, 20)
    for number in range(310):
        x, y = batches()
        optimizer.zero_grad()
        REGRESSION.loss(model(x), y).backward()
        optimizer.step()
        if number % 70 == 69:
            schedule.step()
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    return save(as_lightning(deepcopy({**states, "step": 310})), folder / "healthy.pt")


@decoy
def gradients_accumulated_over_eight_batches(folder: Path) -> Path:
    """The file counts batches, eight for each update."""
    return save({**REGRESSION.content(), "step": 2400}, folder / "healthy.pt")
