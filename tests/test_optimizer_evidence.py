"""Why zeros are zero: trained here, with causes we know."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from checkpoint_doctor.acts.scan import open_checkpoint
from checkpoint_doctor.builtin.analyzers._evidence.training import layer_was_trained, was_trained
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import untrained_tensor
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Finding, Severity
from tests.live_models import OUTPUTS, batches, checkpoint_of, train


class Branches(nn.Module):
    """A trunk with two heads; the second one may be cut off from the loss in several ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.main = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, OUTPUTS))
        self.side = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, OUTPUTS))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.detached = False
        self.factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.trunk(x)
        side = self.side(features)
        return self.main(features) + self.factor * (side.detach() if self.detached else side)


def adam(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, **options)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, updates: int = 60) -> Checkpoint:
    optimizer = optimizer or adam(model)
    train(model, optimizer, batches(8), updates)
    return checkpoint_of(model, optimizer)


def explain(checkpoint: Checkpoint, name: str, rows: Any = None) -> ZeroEvidence:
    return explain_zeros(checkpoint.by_name[name], checkpoint, rows)


def untrained(checkpoint: Checkpoint) -> list[Finding]:
    return list(untrained_tensor.examine(checkpoint))


def test_before_the_first_update_zeros_are_how_it_was_initialised():
    model = Branches()
    why = explain(checkpoint_of(model, adam(model), updates=0), "main.0.bias")
    assert (why.cause, why.updates) == (Cause.STEP_0, 0)
    assert untrained(checkpoint_of(model, adam(model), updates=0)) == []


def test_an_optimizer_without_any_state_has_made_no_step():
    model = Branches()
    assert explain(checkpoint_of(model, adam(model)), "main.0.bias").cause is Cause.STEP_0


def test_an_emptied_optimizer_after_counted_updates_knows_nothing():
    model = Branches()
    why = explain(checkpoint_of(model, adam(model), updates=500), "main.0.bias")
    assert why.cause is Cause.UNKNOWN
    assert "500 updates" in why.sentence


def test_without_an_optimizer_the_cause_is_unknown():
    why = explain(checkpoint_of(Branches()), "main.0.bias")
    assert (why.cause, why.updates, why.held) == (Cause.UNKNOWN, None, False)


def test_a_healthy_model_has_no_untrained_tensor():
    checkpoint = trained(Branches())
    assert untrained(checkpoint) == []
    assert all(layer_was_trained(layer, checkpoint) for layer in checkpoint.layers)
    assert checkpoint.updates_of("main.0.bias") == 60


def test_a_frozen_layer_that_the_optimizer_holds():
    model = Branches()
    model.side.requires_grad_(requires_grad=False)
    checkpoint = trained(model)
    why = explain(checkpoint, "side.0.bias")
    assert (why.cause, why.updates) == (Cause.NEVER_TRAINED, 0)
    assert "has no state" in why.sentence
    assert "detached or frozen" in why.advice
    assert layer_was_trained(checkpoint.layer_by_name["side.0"], checkpoint) is False
    (finding,) = untrained(checkpoint)
    assert finding.code == "OPT001"
    assert finding.evidence["tensors"] == ["side.0.weight", "side.0.bias", "side.2.weight", "side.2.bias"]
    assert "side (4 tensors) was never trained in 60 updates" in finding.message


def test_a_detached_branch():
    model = Branches()
    model.detached = True
    checkpoint = trained(model)
    assert explain(checkpoint, "side.0.bias").cause is Cause.NEVER_TRAINED
    (finding,) = untrained(checkpoint)
    assert finding.evidence["without_state"] == finding.evidence["tensors"]
    assert "it received no gradient" in finding.message
    assert ".detach()" in finding.advice


def test_a_branch_multiplied_by_zero_received_gradients_of_zero():
    model = Branches()
    model.factor = 0.0
    checkpoint = trained(model)
    why = explain(checkpoint, "side.0.bias")
    assert (why.cause, why.updates) == (Cause.NEVER_TRAINED, 60)
    assert "second moment is exactly zero after 60 updates" in why.sentence
    (finding,) = untrained(checkpoint)
    assert finding.evidence["without_state"] == []
    assert "every gradient was exactly zero" in finding.message


def test_a_layer_kept_from_the_optimizer_is_said_to_be():
    model = Branches()
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("main.0")]
    checkpoint = trained(model, torch.optim.Adam(others, lr=1e-3))
    why = explain(checkpoint, "main.0.bias")
    assert (why.cause, why.updates, why.held) == (Cause.NEVER_TRAINED, None, False)
    assert "no optimizer in the file holds it" in why.sentence
    assert "requires_grad" in why.advice
    assert layer_was_trained(checkpoint.layer_by_name["main.0"], checkpoint) is None
    assert untrained(checkpoint) == []


def test_a_bias_zeroed_by_hand_after_training():
    model = Branches()
    optimizer = adam(model)
    train(model, optimizer, batches(8), 60)
    nn.init.zeros_(model.main[0].bias)
    checkpoint = checkpoint_of(model, optimizer)
    why = explain(checkpoint, "main.0.bias")
    assert (why.cause, why.updates) == (Cause.OVERWRITTEN, 60)
    assert "not zero after 60 updates, so it was trained and then overwritten" in why.sentence
    assert "reset" in why.advice
    assert untrained(checkpoint) == []


def test_one_gate_zeroed_by_hand_is_explained_by_its_rows():
    torch.manual_seed(0)
    memory, head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, OUTPUTS)
    model = nn.ModuleDict({"memory": memory, "head": head})
    optimizer = adam(model)
    for _, (x, y) in zip(range(30), batches(8), strict=False):
        optimizer.zero_grad()
        (head(memory(x[:, None])[0][:, 0]) - y).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        memory.bias_ih_l0[4:8] = 0.0
    checkpoint = checkpoint_of(model, optimizer)
    # With one step and no memory the forget gate multiplies a state of zero: it never receives a gradient.
    assert explain(checkpoint, "memory.bias_ih_l0", slice(4, 8)).cause is Cause.NEVER_TRAINED
    with torch.no_grad():
        memory.bias_ih_l0[0:4] = 0.0
    checkpoint = checkpoint_of(model, optimizer)
    assert explain(checkpoint, "memory.bias_ih_l0", slice(0, 4)).cause is Cause.OVERWRITTEN
    assert "4 of 8 zeros" in explain(checkpoint, "memory.bias_ih_l0").sentence


def test_a_bias_alone_points_to_gradients_that_are_zero_by_construction():
    model = Branches()
    model.main[0].bias.requires_grad_(requires_grad=False)
    why = explain(trained(model), "main.0.bias")
    assert why.cause is Cause.NEVER_TRAINED
    assert "only the bias" in why.advice


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9), Cause.OVERWRITTEN),
        (lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3), Cause.OVERWRITTEN),
        (lambda model: torch.optim.Adagrad(model.parameters(), initial_accumulator_value=0.5), Cause.OVERWRITTEN),
        (lambda model: torch.optim.Adamax(model.parameters()), Cause.OVERWRITTEN),
        (lambda model: torch.optim.SGD(model.parameters(), lr=1e-2), Cause.UNKNOWN),
    ],
    ids=["momentum", "RMSprop", "Adagrad", "Adamax", "plain SGD"],
)
def test_other_optimizers_tell_overwritten_from_never_trained(make: Any, cause: Cause):
    model = Branches()
    model.factor = 0.0
    optimizer = make(model)
    train(model, optimizer, batches(8), 40)
    nn.init.zeros_(model.main[0].bias)
    checkpoint = checkpoint_of(model, optimizer)
    assert explain(checkpoint, "main.0.bias").cause is cause
    expected = Cause.UNKNOWN if cause is Cause.UNKNOWN else Cause.NEVER_TRAINED
    assert explain(checkpoint, "side.0.bias").cause is expected
    assert was_trained(checkpoint.by_name["side.0.weight"], checkpoint) is (None if cause is Cause.UNKNOWN else False)


def test_rmsprop_of_stable_baselines_starts_at_one():
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    model = Branches()
    model.factor = 0.0
    optimizer = RMSpropTFLike(model.parameters(), lr=1e-3, alpha=0.9)
    train(model, optimizer, batches(8), 60)
    checkpoint = checkpoint_of(model, optimizer)
    assert explain(checkpoint, "side.0.bias").cause is Cause.UNKNOWN
    assert untrained(checkpoint) == []
    train(model, optimizer, batches(8), 340)
    nn.init.zeros_(model.main[0].bias)
    checkpoint = checkpoint_of(model, optimizer)
    assert explain(checkpoint, "side.0.bias").cause is Cause.NEVER_TRAINED
    assert explain(checkpoint, "main.0.bias").cause is Cause.OVERWRITTEN


def test_skipped_steps_of_mixed_precision_are_not_counted_as_updates():
    model = Branches()
    optimizer = adam(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for update, (x, y) in zip(range(60), batches(8), strict=False):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean() * (float("inf") if update % 6 == 0 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    checkpoint = checkpoint_of(model, optimizer)
    assert checkpoint.updates_of("main.0.bias") == 50
    assert untrained(checkpoint) == []
    nn.init.zeros_(model.main[0].bias)
    assert explain(checkpoint_of(model, optimizer), "main.0.bias").updates == 50


def test_a_group_with_a_learning_rate_of_zero_proves_no_overwriting():
    model = Branches()
    optimizer = torch.optim.Adam(
        [{"params": model.main.parameters(), "lr": 0.0}, {"params": model.trunk.parameters()}], lr=1e-3
    )
    train(model, optimizer, batches(8), 20)
    why = explain(checkpoint_of(model, optimizer), "main.0.bias")
    assert why.cause is Cause.UNKNOWN
    assert "learning rate of 0" in why.sentence


# Stable-Baselines3


class Prices(gymnasium.Env):
    """An account that sees raw prices of about 64,000, or the same prices scaled."""

    def __init__(self, scale: float = 1.0) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.scale = scale
        self.random = np.random.default_rng(0)

    def _observe(self) -> np.ndarray:
        prices = 64_000 + 500 * self.random.standard_normal(4)
        return ((prices - (64_000 if self.scale != 1.0 else 0)) * self.scale).astype(np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self._observe(), float(self.random.standard_normal() + action), self.steps >= 32, False, {}


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    from sb3_contrib import TRPO
    from stable_baselines3 import DQN, PPO, SAC

    folder = tmp_path_factory.mktemp("agents")
    pendulum = gymnasium.make("Pendulum-v1")
    small = {"net_arch": [16, 16]}
    models = {
        "raw prices": PPO("MlpPolicy", Prices(), n_steps=128, n_epochs=4, seed=1),
        "prices, one active unit": PPO("MlpPolicy", Prices(), n_steps=128, n_epochs=4, seed=0),
        "scaled prices": PPO("MlpPolicy", Prices(1 / 500), n_steps=128, n_epochs=4, seed=0),
        "TRPO": TRPO("MlpPolicy", Prices(1 / 500), n_steps=128, seed=0, policy_kwargs=small),
        "DQN": DQN("MlpPolicy", Prices(1 / 500), learning_starts=64, seed=0, policy_kwargs=small),
        "SAC": SAC("MlpPolicy", pendulum, learning_starts=64, seed=0, policy_kwargs=small, ent_coef=0.1),
    }
    for name, model in models.items():
        model.learn(512 if "prices" in name else 256)
        model.save(folder / f"{name}.zip")
    return {name: open_checkpoint(folder / f"{name}.zip") for name in models}


def test_prices_of_64000_saturate_tanh_and_the_first_bias_is_never_trained(agents: dict[str, Checkpoint]):
    checkpoint = agents["raw prices"]
    why = explain(checkpoint, "mlp_extractor.policy_net.0.bias")
    assert why.cause is Cause.NEVER_TRAINED
    assert why.updates == 512 // 64 * 4
    assert "saturated" in why.advice
    assert layer_was_trained(checkpoint.layer_by_name["mlp_extractor.policy_net.0"], checkpoint) is False
    assert "mlp_extractor.policy_net.0 (2 tensors)" in " ".join(finding.message for finding in untrained(checkpoint))


def test_a_few_unsaturated_units_do_not_hide_the_saturated_ones(agents: dict[str, Checkpoint]):
    checkpoint = agents["prices, one active unit"]
    (finding,) = [each for each in dormant_units.examine(checkpoint) if each.layer == "mlp_extractor.policy_net.0"]
    assert finding.severity is Severity.ERROR
    assert finding.evidence["never_learned"] == finding.evidence["saturated"]
    assert "63 of 64 units receive no gradient (98%): 63 never received one; 63 saturated" in finding.message
    why = explain(checkpoint, "mlp_extractor.policy_net.0.bias")
    assert "at the zeros" in why.sentence
    assert "saturated" in why.advice


@pytest.mark.parametrize("name", ["scaled prices", "TRPO", "DQN", "SAC"])
def test_agents_with_parts_that_no_optimizer_steps_are_normal(agents: dict[str, Checkpoint], name: str):
    assert untrained(agents[name]) == []


def test_the_policy_of_trpo_is_moved_without_the_optimizer(agents: dict[str, Checkpoint]):
    why = explain(agents["TRPO"], "mlp_extractor.policy_net.0.bias")
    assert why.cause is Cause.UNKNOWN
    assert "TRPO updates its policy without the optimizer" in why.sentence


def test_a_target_network_is_explained_by_its_online_network(agents: dict[str, Checkpoint]):
    checkpoint = agents["DQN"]
    assert was_trained(checkpoint.by_name["q_net_target.q_net.0.weight"], checkpoint) is True
    assert checkpoint.updates_of("q_net_target.q_net.0.weight") is None
    assert "target network's copy of q_net.q_net.0.bias" in explain(checkpoint, "q_net_target.q_net.0.bias").sentence
