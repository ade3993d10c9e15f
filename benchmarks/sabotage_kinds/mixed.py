"""Single faults of many kinds, in code and in files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from stable_baselines3 import PPO, SAC
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.copies import learn_values
from benchmarks.sabotage_kinds.leftovers import MomentumContrast, same_sample
from benchmarks.sabotage_kinds.pairs import Pair, kind, save_pair
from benchmarks.sabotage_kinds.parts import Experts
from benchmarks.sabotage_kinds.reach import CONTINUOUS, DISCRETE, beside_healthy, train
from benchmarks.sabotage_kinds.settings import sgd
from benchmarks.sabotage_kinds.training import IMAGES, LANGUAGE, RECURRENT, REGRESSION, Training, adam
from benchmarks.sabotage_kinds.values import State, edited
from tests.zoo.agents import QLearner
from tests.zoo.tasks import clusters


@kind("target-not-synced")
def target_of_another_seed(folder: Path) -> Pair:
    """The target is a network of another seed: its weights have nothing in common with the online network's."""
    ill = learn_values(30)
    torch.manual_seed(77)
    other = QLearner().q_net.state_dict()
    model = {**ill["model"], **{f"q_net_target.{name}": tensor for name, tensor in other.items()}}
    return save_pair(folder, {**ill, "model": model}, learn_values(30), "q_net_target")


class OnlineAndTarget(MomentumContrast):
    """The same pair of encoders under the names of BYOL."""

    def __init__(self) -> None:
        super().__init__()
        self.online_encoder, self.target_encoder = self.encoder_q, self.encoder_k
        del self.encoder_q, self.encoder_k

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to similarities [batch, batch] of two noisy views."""
        queries = functional.normalize(self.online_encoder(x + 0.1 * torch.randn_like(x)), dim=1)
        with torch.no_grad():
            keys = functional.normalize(self.target_encoder(x + 0.1 * torch.randn_like(x)), dim=1)
        return queries @ keys.T / 0.2


@kind("target-not-synced")
def target_encoder_never_updated(folder: Path) -> Pair:
    """``target_encoder`` is the initial encoder, uniform within ±1/√fan-in."""

    def training(momentum: float) -> Training:
        @torch.no_grad()
        def follow(model: nn.Module, optimizer: Optimizer, number: int) -> None:
            pairs = zip(model.target_encoder.parameters(), model.online_encoder.parameters(), strict=True)
            for target, online in pairs:
                target.lerp_(online, 1.0 - momentum)

        over_online = partial(lambda model: adam(model.online_encoder))
        return Training(OnlineAndTarget, lambda: clusters(12), same_sample, over_online, after_step=follow)

    return save_pair(folder, training(1.0).content(), training(0.98).content(), "target_encoder")


@kind("overwritten")
def forget_gates_closed(folder: Path) -> Pair:
    """The biases of the forget gate are −40: the cell keeps nothing."""
    return edited(folder, RECURRENT, lambda state: state["recurrent.bias_hh_l0"][32:64].fill_(-40.0), "recurrent")


@kind("corrupted-values")
def gains_of_ten_thousand(folder: Path) -> Pair:
    """A norm's gains are multiplied by 10,000."""
    return edited(folder, LANGUAGE, lambda state: state["h.1.ln_2.weight"].mul_(1e4), "h.1.ln_2")


@kind(
    "norm-statistics",
    not_visible="a first norm takes inputs of any unit, and gradients behind it do not depend on that",
)
def one_batch_in_another_unit(folder: Path) -> Pair:
    """The last batch was a million times as large and not learned from: running variances are near 1e11."""

    def pass_huge(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        if number == IMAGES.steps - 1:
            with torch.no_grad():
                model(1e6 * torch.randn(16, 1, 12, 12))

    return save_pair(folder, replace(IMAGES, after_step=pass_huge).content(), IMAGES.content(), "1", "5")


@kind("low-precision")
def layer_of_subnormal_halves(folder: Path) -> Pair:
    """A model was cast to float16 with a layer whose values are below 6e-5: they keep one or two digits."""

    def halved(scale: float) -> dict[str, Tensor]:
        state = REGRESSION.content()["model"]
        state["2.weight"] *= scale
        return {name: tensor.half() for name, tensor in state.items()}

    return save_pair(folder, {"model": halved(1e-5)}, {"model": halved(1.0)}, "2")


@kind("rounded")
def codes_with_a_zero_point(folder: Path) -> Pair:
    """All weights are codes between 0 and 255, stored as floats without scale and zero point."""

    def encode(state: State) -> None:
        for name, tensor in state.items():
            if name.endswith("weight"):
                low, high = tensor.min(), tensor.max()
                tensor.copy_(((tensor - low) / (high - low) * 255).round())

    return edited(folder, REGRESSION, encode, "0", "2", "4")


class HardRouting(Experts):
    """Experts whose router's weights are detached, so that only its choice counts."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to [batch, classes]."""
        chosen = self.router(x).argmax(1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return outputs[torch.arange(len(x)), chosen]


@kind("detached")
def router_chooses_without_gradient(folder: Path) -> Pair:
    """Experts are chosen by ``argmax`` and not weighted: the router has no state among trained experts."""
    healthy = Training(Experts, lambda: clusters(12), functional.cross_entropy)
    return save_pair(folder, replace(healthy, build=HardRouting).content(), healthy.content(), "router")


@kind("learning-rate-too-low")
def recurrent_at_a_rate_of_1e_20(folder: Path) -> Pair:
    """SGD at a rate of 1e-20: all tensors are uniform within ±1/√hidden under live momentum."""
    ill, healthy = (replace(RECURRENT, optimizer=partial(sgd, lr=lr)) for lr in (1e-20, 0.05))
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "recurrent", "head")


@kind("learning-rate-too-low")
def learning_rate_of_1e_15_in_ppo(folder: Path) -> Pair:
    """The rate is 1e-15: biases are exactly 0 or next to it, heads orthogonal, under live moments."""
    ill = train(PPO, DISCRETE, learning_rate=1e-15)
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor", "action_net", "value_net", "policy.optimizer")


@kind("entropy-coefficient")
def negative_entropy_coefficient_of_sac(folder: Path) -> Pair:
    """``ent_coef`` is −1: the agent is paid for being predictable."""
    return beside_healthy(folder, train(SAC, CONTINUOUS, ent_coef=-1.0), CONTINUOUS, "actor")


@kind("schedule")
def negative_rate_of_one_group(folder: Path) -> Pair:
    """One of two groups has a negative rate: its parameters climb."""

    def two_groups(model: nn.Module) -> Optimizer:
        return torch.optim.Adam([{"params": model[:4].parameters()}, {"params": model[4].parameters()}], lr=2e-3)

    def turn(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        if number == 250:
            optimizer.param_groups[1]["lr"] = -1e-4

    healthy = replace(REGRESSION, optimizer=two_groups)
    ill = replace(healthy, after_step=turn)
    return save_pair(folder, ill.content(), healthy.content(), "optimizer", "4")
