"""Values of another time or place: half-written files, fresh layers, copies and states that were not kept up."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from stable_baselines3 import PPO
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from benchmarks.sabotage_kinds.initialization import initialized, zero_layers
from benchmarks.sabotage_kinds.pairs import Content, Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.reach import DISCRETE, beside_healthy, train
from benchmarks.sabotage_kinds.resuming import MLP, changed
from benchmarks.sabotage_kinds.rows import ADAPTED, ADAPTERS, Adapted
from benchmarks.sabotage_kinds.training import (
    CLASSIFICATION,
    IMAGES,
    LANGUAGE,
    RECURRENT,
    REGRESSION,
    Training,
    adam,
)
from benchmarks.sabotage_kinds.values import State, edited
from tests.zoo.tasks import clusters
from tests.zoo.vectors import perceptron


def renew(training: Training, *layers: str) -> Callable[[State], None]:
    """Return an edit that draws layers anew as they were initialised."""

    def edit(state: State) -> None:
        fresh = replace(training, seed=11).initial().state_dict()
        state.update({name: fresh[name] for name in state if name.split(".")[0] in layers})

    return edit


@kind("partial-load")
def fresh_body_under_a_trained_head(folder: Path) -> Pair:
    """Both hidden layers are uniform within ±1/√fan-in, as initialised, under moments of 300 updates."""
    return edited(folder, REGRESSION, renew(REGRESSION, "0", "2"), "0", "2")


@kind("partial-load")
def fresh_recurrent_layer(folder: Path) -> Pair:
    """The recurrent layer is uniform within ±1/√hidden, as initialised, under moments of 150 updates."""
    return edited(folder, RECURRENT, renew(RECURRENT, "recurrent"), "recurrent")


@kind("partial-load")
def fresh_convolutions(folder: Path) -> Pair:
    """Convolutions and norms are as initialised, gains exactly 1, under moments of 150 updates."""
    return edited(folder, IMAGES, renew(IMAGES, "0", "1", "4", "5"), "0", "1", "4", "5")


@kind("saved-wrong-object")
def initial_weights_of_a_cnn_saved_as_the_best(folder: Path) -> Pair:
    """The initial weights under trained moments: gains exactly 1, no batch counted."""
    ill = {**IMAGES.content(), "model": IMAGES.initial().state_dict()}
    return save_pair(folder, ill, IMAGES.content(), "optimizer", "0", "1", "4", "5", "9")


@kind("saved-wrong-object")
def optimizer_saved_as_the_model(folder: Path) -> Pair:
    """Under ``model`` is the optimizer's state once more: no weight is in the file."""
    return changed(folder, REGRESSION, lambda content: content.update(model=content["optimizer"]), "model")


@kind("saved-wrong-object")
def bound_method_saved_as_the_model(folder: Path) -> Pair:
    """``state_dict`` without parentheses: under ``model`` is a bound method."""

    def save_method(content: Content) -> None:
        model = REGRESSION.initial()
        model.load_state_dict(content["model"])
        content["model"] = model.state_dict

    return changed(folder, REGRESSION, save_method, "model")


@kind("overwritten")
def batch_norm_reset_after_training(folder: Path) -> Pair:
    """All gains and biases of a norm are exactly 1 and 0 under live moments."""

    def edit(state: State) -> None:
        state["5.weight"].fill_(1.0)
        state["5.bias"].zero_()

    return edited(folder, IMAGES, edit, "5")


@kind("corrupted-values")
def page_of_zeros(folder: Path) -> Pair:
    """4,096 bytes in the middle of a weight were never written: a run of 1,024 zeros under live moments."""
    return edited(folder, REGRESSION, lambda state: state["2.weight"].view(-1)[650:1674].zero_(), "2.weight")


@kind("corrupted-values")
def page_of_random_bytes(folder: Path) -> Pair:
    """512 bytes in the middle of a weight are random: magnitudes from 1e-38 to 1e38."""

    def edit(state: State) -> None:
        torch.manual_seed(7)
        state["2.weight"].view(-1)[900:1028].view(torch.int32).random_(-(2**31), 2**31 - 1)

    return edited(folder, REGRESSION, edit, "2.weight")


@kind("corrupted-values")
def layer_multiplied_by_a_thousand(folder: Path) -> Pair:
    """A scale was applied to a layer: its values reach hundreds under moments of ordinary size."""
    return edited(folder, REGRESSION, lambda state: state["2.weight"].mul_(1000.0), "2")


@kind("corrupted-values")
def layer_divided_by_a_million(folder: Path) -> Pair:
    """A scale was applied to a layer: its RMS is 1e-7 under moments of ordinary size."""
    return edited(folder, REGRESSION, lambda state: state["2.weight"].mul_(1e-6), "2")


@kind("rounded")
def convolutions_saved_with_one_decimal(folder: Path) -> Pair:
    """All values are multiples of 0.1."""

    def round_all(state: State) -> None:
        for name, tensor in state.items():
            if name.endswith(("weight", "bias")):
                tensor.copy_((tensor * 10).round() / 10)

    return edited(folder, IMAGES, round_all, "0", "4", "9")


@kind("zero-deadlock")
def both_factors_of_adapters_zero(folder: Path) -> Pair:
    """Both factors of the adapters begin at 0: neither receives a gradient."""

    def build() -> nn.Module:
        model = Adapted()
        with torch.no_grad():
            for layer in model.layers:
                layer.lora_A.weight.zero_()
                layer.lora_B.weight.zero_()
        return model

    return save_pair(folder, replace(ADAPTED, build=build).content(), ADAPTED.content(), *ADAPTERS)


def fill(model: nn.Module, value: float, prefix: str = "") -> None:
    """Set all matrices whose name has a prefix to one number, and the biases beside them to zero."""
    for name, parameter in model.named_parameters():
        if name.startswith(prefix):
            parameter.fill_(value if parameter.ndim > 1 else 0.0)


@kind("symmetric-units")
def recurrent_weights_begin_constant(folder: Path) -> Pair:
    """All weights of an LSTM begin at 0.05: rows of a gate stay equal."""
    ill = initialized(RECURRENT, partial(fill, value=0.05))
    return save_pair(folder, ill.content(), RECURRENT.content(), "recurrent", "head")


@kind("symmetric-units")
def filters_begin_equal(folder: Path) -> Pair:
    """All filters of both convolutions begin equal: they stay equal."""

    def repeat(model: nn.Sequential) -> None:
        for place in (0, 4):
            model[place].weight.fill_(0.1)
        model[9].weight.fill_(0.05)
        model[9].weight.add_(0.01 * torch.arange(4.0).unsqueeze(1))

    ill = initialized(IMAGES, repeat)
    return save_pair(folder, ill.content(), IMAGES.content(), "0", "4")


def build_plain_cnn() -> nn.Sequential:
    """Return two convolutions without normalisation and a linear head."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


@kind("dead-relu")
def convolution_biases_of_minus_ten(folder: Path) -> Pair:
    """Biases of the first convolution begin at −10: none of its ReLUs ever fires, v is exactly 0."""
    healthy = replace(IMAGES, build=build_plain_cnn)
    ill = initialized(healthy, lambda model: model[0].bias.fill_(-10.0))
    return save_pair(folder, ill.content(), healthy.content(), "0")


@kind("zero-deadlock")
def both_convolutions_zero(folder: Path) -> Pair:
    """Two convolutions in a row begin at 0: only the head's bias learns."""
    healthy = replace(IMAGES, build=build_plain_cnn)
    ill = initialized(healthy, lambda model: zero_layers(model, 0, 3))
    return save_pair(folder, ill.content(), healthy.content(), "0", "3", "7")


@kind("average-not-updated")
def stochastic_average_never_updated(folder: Path) -> Pair:
    """``update_parameters`` is never called: ``n_averaged`` is 0 and the average is the initial model."""

    def averaged(every: int) -> Content:
        average = AveragedModel(REGRESSION.initial())

        def follow(model: nn.Module, optimizer: Optimizer, number: int) -> None:
            if every and number % every == every - 1:
                average.update_parameters(model)

        content = replace(REGRESSION, after_step=follow).content()
        return {**content, "swa_model": deepcopy(average.state_dict())}

    return save_pair(folder, averaged(0), averaged(10), "swa_model")


@kind("average-not-updated")
def average_without_statistics(folder: Path) -> Pair:
    """The average follows the parameters and not the buffers: its running statistics are still 0 and 1."""

    def averaged(with_buffers: bool) -> Content:
        average = IMAGES.initial()

        @torch.no_grad()
        def follow(model: nn.Module, optimizer: Optimizer, number: int) -> None:
            for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, 0.02)
            if with_buffers:
                for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
                    ours.copy_(theirs)

        content = replace(IMAGES, after_step=follow).content()
        return {**content, "model_ema": deepcopy(average.state_dict())}

    return save_pair(folder, averaged(False), averaged(True), "model_ema")


class MomentumContrast(nn.Module):
    """An encoder of queries, and one of keys that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_q = perceptron(nn.ReLU, 12, 48, 16)
        self.encoder_k = deepcopy(self.encoder_q).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to similarities [batch, batch] of two noisy views."""
        queries = functional.normalize(self.encoder_q(x + 0.1 * torch.randn_like(x)), dim=1)
        with torch.no_grad():
            keys = functional.normalize(self.encoder_k(x + 0.1 * torch.randn_like(x)), dim=1)
        return queries @ keys.T / 0.2


def same_sample(similarities: Tensor, label: Tensor) -> Tensor:
    """Compare every query with the key of the same sample."""
    return functional.cross_entropy(similarities, torch.arange(len(similarities)))


@kind("target-not-synced")
def momentum_encoder_never_updated(folder: Path) -> Pair:
    """The momentum is 1: ``encoder_k`` is the initial encoder, uniform within ±1/√fan-in."""

    def training(momentum: float) -> Training:
        @torch.no_grad()
        def follow(model: nn.Module, optimizer: Optimizer, number: int) -> None:
            for key, query in zip(model.encoder_k.parameters(), model.encoder_q.parameters(), strict=True):
                key.lerp_(query, 1.0 - momentum)

        return Training(
            MomentumContrast,
            lambda: clusters(12),
            same_sample,
            lambda model: adam(model.encoder_q),
            after_step=follow,
        )

    return save_pair(folder, training(1.0).content(), training(0.98).content(), "encoder_k", "encoder_q")


@kind("optimizer-reset")
def momentum_lost(folder: Path) -> Pair:
    """SGD with momentum has no state after 300 steps."""
    healthy = replace(REGRESSION, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    return changed(folder, healthy, lambda content: content["optimizer"]["state"].clear(), *MLP)


@kind("optimizer-reset")
def moments_of_a_transformer_begun_anew(folder: Path) -> Pair:
    """The moments count 5 steps, the file 150."""
    young = replace(LANGUAGE, steps=5).content()
    ill = {**LANGUAGE.content(), "optimizer": young["optimizer"]}
    return save_pair(folder, ill, LANGUAGE.content(), "optimizer", "h", "wte", "wpe", "ln_f")


@kind("optimizer-reset")
def agent_with_an_empty_optimizer(folder: Path) -> Pair:
    """The optimizer was made anew before saving: 32 updates are counted, and there is no state."""
    ill = train(PPO, DISCRETE)
    ill.policy.optimizer = torch.optim.Adam(ill.policy.parameters(), lr=3e-4, eps=1e-5)
    return beside_healthy(folder, ill, DISCRETE, "policy.optimizer", "mlp_extractor", "action_net", "value_net")


@kind("optimizer-of-another-model")
def optimizer_of_a_recurrent_network(folder: Path) -> Pair:
    """The state's shapes are those of an LSTM."""
    other = RECURRENT.content()["optimizer"]
    return changed(folder, REGRESSION, lambda content: content.update(optimizer=other), *MLP)


@decoy
def head_replaced_before_fine_tuning(folder: Path) -> Path:
    """A trained model continues with a new head and a new optimizer, both of the same age."""
    model = CLASSIFICATION.initial()
    model.load_state_dict(CLASSIFICATION.content()["model"])
    torch.manual_seed(3)
    model[4] = nn.Linear(48, 4)
    fresh = deepcopy(model)
    training = replace(CLASSIFICATION, build=lambda: deepcopy(fresh), steps=40)
    return save(training.content(), folder / "healthy.pt")


@decoy
def average_that_begins_later(folder: Path) -> Path:
    """An average that is copied from the model until its time comes."""
    content = REGRESSION.content()
    return save({**content, "ema": {"updates": 0, "module": deepcopy(content["model"])}}, folder / "healthy.pt")
