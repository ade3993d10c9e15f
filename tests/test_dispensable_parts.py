"""Parts without state that the trained network does without, beside those that it may need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from checkpoint_doctor import Severity, open_checkpoint
from checkpoint_doctor.builtin.analyzers.layers.copies import duplicate_units
from checkpoint_doctor.builtin.analyzers.layers.dead_inputs import dead_inputs
from checkpoint_doctor.builtin.analyzers.layers.network import disconnected_units
from checkpoint_doctor.builtin.analyzers.optimizer.gradients import no_gradient
from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import untrained_tensor
from checkpoint_doctor.builtin.analyzers.values.zeros import zero_weights
from checkpoint_doctor.testing import build_checkpoint, findings_of
from tests.diagnosing import diagnose

Weights = dict[str, NDArray]


def draw(*shape: int) -> NDArray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) / np.sqrt(shape[-1])


def linear(name: str, inputs: int, outputs: int) -> Weights:
    return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}


def zero(weights: Weights) -> Weights:
    return {name: np.zeros_like(each) for name, each in weights.items()}


def norm(name: str, size: int, *, ran: bool) -> Weights:
    return {
        f"{name}.weight": np.ones(size),
        f"{name}.bias": np.zeros(size),
        f"{name}.running_mean": draw(size) if ran else np.zeros(size),
        f"{name}.running_var": np.full(size, 2.0) if ran else np.ones(size),
    }


def images(*, ran: bool) -> Weights:
    """Two stages of convolutions, either of which may feed the head."""
    first, second = ({f"{name}.0.weight": draw(12, 12, 3, 3)} for name in ("first", "second"))
    return first | norm("first.1", 12, ran=True) | second | norm("second.1", 12, ran=ran) | linear("head", 12, 4)


def blocks(part: str, count: int = 3) -> Weights:
    weights: Weights = {}
    for number in range(count):
        weights |= linear(f"blocks.{number}.dilated", 24, 48) | linear(f"blocks.{number}.{part}", 24, 24)
    return weights | linear("end", 24, 4)


IMAGES = {"stem.weight": draw(8, 1, 3, 3), "extra.weight": draw(6, 8, 3, 3)}
TRUNK = linear("trunk.0", 16, 64) | linear("trunk.2", 64, 64)
STAGES = linear("stem", 16, 48) | linear("stages.0", 48, 48) | linear("stages.1", 48, 48)
TOWERS = linear("left.0", 6, 20) | linear("left.2", 20, 16) | linear("right.0", 6, 20) | linear("right.2", 20, 16)
READER = {"tokens.weight": draw(32, 24), "reader.weight_ih_l0": draw(96, 24), "reader.weight_hh_l0": draw(96, 32)}
LATER = {f"later.weight_{role}_l0{side}": draw(128, width) for side in ("", "_reverse")
         for role, width in (("ih", 24), ("hh", 32))}  # fmt: skip
POINTS = {"places": draw(60, 2), "colors": draw(60, 1, 3), "details": np.zeros((60, 15, 3))}


@pytest.mark.parametrize(
    ("weights", "unused", "reason"),
    [
        (images(ran=False), "second", "never ran"),
        (images(ran=True), "second", ""),
        (STAGES | zero(linear("stages.2", 48, 48)) | linear("head", 48, 4), "stages.2", "ends in zeros"),
        (STAGES | linear("stages.2", 48, 48) | linear("head", 48, 4), "stages.2", ""),
        (TRUNK | zero(linear("head", 64, 4)), "head", ""),
        (POINTS, "details", "ends in zeros"),
        ({**POINTS, "details": draw(60, 15, 3)}, "details", ""),
        ({**POINTS, "details": np.zeros((1, 3))}, "details", ""),
        (blocks("residual"), "blocks.2.residual", "the same part of the blocks before"),
        (blocks("residual"), "blocks.1.residual", ""),
        (blocks("residual", count=1), "blocks.0.residual", ""),
        (IMAGES | linear("head", 6 * 9, 4), "extra", ""),
        (IMAGES | linear("head", 8 * 7, 4), "extra", "another out"),
        (TRUNK | linear("head", 64, 4) | linear("other.0", 64, 32) | linear("other.2", 32, 7), "other", "another out"),
        (TRUNK | linear("other.0", 64, 32) | linear("other.2", 32, 64) | linear("head", 64, 4), "other", ""),
        (TRUNK | linear("other.0", 16, 32) | linear("other.2", 32, 7) | linear("head", 64, 4), "other", ""),
        (TRUNK | linear("head", 64, 4) | linear("next_trunk.0", 16, 64) | linear("next_trunk.2", 64, 64),
         "next_trunk", "same shapes"),
        (TOWERS | linear("head", 32, 4), "right", ""),
        (TOWERS | linear("head", 16, 4), "right", ""),
        (TRUNK | linear("head", 64, 4) | {"spare_A.weight": draw(4, 16), "spare_B.weight": np.zeros((64, 4))},
         "spare", "adds nothing|only parts"),
        (READER | LATER | {"classifier.weight": draw(4, 32)}, "later", "another out"),
        (READER | LATER | {"classifier.weight": draw(4, 64)}, "later", ""),
    ],
    ids=[
        "a stage that never ran", "a stage that ran",
        "a residual stage that adds zeros", "a residual stage", "the only head, which is zero",
        "zeros for each point", "numbers for each point", "a single row of zeros",
        "what the last block hands on", "what a block in the middle hands on", "what the only block hands on",
        "a convolution that the head can read flattened", "a convolution that the head cannot read",
        "a second decoder", "layers in front of the head", "layers that read the inputs",
        "a copy for later", "one of two towers side by side", "one of two towers that are added",
        "a second adapter", "an encoder that no layer can read", "an encoder that the head can read",
    ],
)  # fmt: skip
def test_what_the_trained_layers_do_without_is_a_note(weights: Weights, unused: str, reason: str) -> None:
    checkpoint = build_checkpoint(weights, optimizer=state_of(weights, unused), step=300)
    found = findings_of(untrained_tensor, checkpoint)
    assert found
    assert {each.severity for each in found} == {Severity.NOTE if reason else Severity.WARNING}
    assert all(any(clause in each.message for clause in reason.split("|")) for each in found)


def state_of(weights: Weights, unused: str) -> dict[str, dict[str, object]]:
    """Adam's state after 300 updates, none for the tensors whose names begin so."""
    return {
        name: {}
        if name.startswith(unused)
        else {"step": 300, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-5)}
        for name, each in weights.items()
        if "running" not in name
    }


def test_a_part_that_waits_is_diagnosed_as_unused() -> None:
    weights = TRUNK | linear("head", 64, 4) | linear("other.0", 64, 32) | linear("other.2", 32, 7)
    checkpoint = build_checkpoint(weights, optimizer=state_of(weights, "other"), step=300)
    assert diagnose(checkpoint) == ["unused-part likely OPT001"]


def test_an_agents_second_network_is_none() -> None:
    weights = TRUNK | linear("head", 64, 4) | linear("other.0", 64, 32) | linear("other.2", 32, 7)
    checkpoint = build_checkpoint(weights, optimizer=state_of(weights, "other"), step=300, algorithm="PPO")
    assert [each.severity for each in findings_of(untrained_tensor, checkpoint)] == [Severity.WARNING]


@pytest.mark.parametrize(("trained", "severity"), [(False, Severity.NOTE), (True, Severity.WARNING)])
def test_imitation_trains_no_spread_of_actions(trained: bool, severity: Severity) -> None:
    weights = linear("actor.0", 8, 16) | linear("critic.0", 8, 16) | {"actor_logstd": np.zeros((1, 2))}
    state = state_of(weights, "actor_logstd" if trained else "critic") | {"actor_logstd": {}}
    found = findings_of(untrained_tensor, build_checkpoint(weights, optimizer=state, step=300))
    assert {each.severity for each in found if each.tensor == "actor_logstd"} == {severity}


@pytest.mark.parametrize(("value", "severity"), [(0.0, Severity.NOTE), (0.1, Severity.WARNING)])
def test_biases_that_no_optimizer_holds_add_nothing_where_they_are_zero(value: float, severity: Severity) -> None:
    weights = {**TRUNK, **linear("head", 64, 4)}
    weights |= {name: np.full(each.shape, value) for name, each in weights.items() if name.endswith("bias")}
    state = {name: each for name, each in state_of(weights, "-").items() if name.endswith("weight")}
    checkpoint = build_checkpoint(weights, optimizer=state, step=300)
    (finding,) = findings_of(untrained_tensor, checkpoint)
    assert finding.severity is severity
    assert diagnose(checkpoint)[0].startswith("not-in-optimizer proven")


# Conditions, experts and discriminators that are not in use


def conditioned(weight: NDArray) -> Weights:
    """Three layers, each with one that scales and shifts it by a condition."""
    weights = linear("first", 12, 48) | linear("last", 48, 4)
    for number in range(3):
        weights |= linear(f"body.{number}", 48, 48)
        weights |= {f"film.{number}.weight": weight, f"film.{number}.bias": draw(96)}
    return weights


@pytest.mark.parametrize(("weight", "severity"), [(np.zeros((96, 4)), Severity.NOTE), (draw(96, 4), Severity.WARNING)])
def test_a_condition_that_began_at_zero_and_was_never_given(weight: NDArray, severity: Severity) -> None:
    weights = conditioned(weight)
    state = state_of(weights, "-")
    for number in range(3):
        state[f"film.{number}.weight"] |= {key: np.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")}
    checkpoint = build_checkpoint(weights, optimizer=state, step=300)
    found = [*findings_of(untrained_tensor, checkpoint), *findings_of(dead_inputs, checkpoint)]
    assert {each.code for each in found} == {"OPT001", "NET006"}
    assert {each.severity for each in found} == {severity}


def test_zero_layers_for_each_layer_of_a_list_may_be_conditions() -> None:
    weights = conditioned(np.zeros((96, 4)))
    assert {each.severity for each in findings_of(zero_weights, build_checkpoint(weights))} == {Severity.NOTE}
    alone = {name: each for name, each in weights.items() if "body" not in name}
    assert {each.severity for each in findings_of(zero_weights, build_checkpoint(alone))} == {Severity.WARNING}


@pytest.mark.parametrize(("parts", "severity"), [("experts", Severity.NOTE), ("layers", Severity.WARNING)])
def test_an_expert_whose_gradients_were_all_zero_was_never_chosen(parts: str, severity: Severity) -> None:
    weights = TRUNK | linear(f"{parts}.0", 64, 32) | linear(f"{parts}.1", 64, 32) | linear("head", 32, 4)
    state = state_of(weights, "-")
    for role in ("weight", "bias"):
        name = f"{parts}.1.{role}"
        state[name] |= {key: np.zeros_like(weights[name]) for key in ("exp_avg", "exp_avg_sq")}
    (finding,) = findings_of(untrained_tensor, build_checkpoint(weights, optimizer=state, step=300))
    assert finding.severity is severity


def save_adversaries(path: Path, reads: int, gives: int) -> None:
    """A network that was trained, and a discriminator whose optimizer made no step."""
    model = nn.ModuleDict(
        {
            "first": nn.Sequential(nn.Linear(reads, 24), nn.ReLU(), nn.Linear(24, gives)),
            "judge": nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 1)),
        }
    )
    optimizers = {name: torch.optim.Adam(model[name].parameters(), lr=1e-3) for name in ("first", "judge")}
    for _ in range(20):
        model["first"](torch.randn(8, reads)).square().mean().backward()
        optimizers["first"].step()
    torch.save({"model": model.state_dict(), **{key: each.state_dict() for key, each in optimizers.items()}}, path)


@pytest.mark.parametrize(
    ("reads", "gives", "severity"),
    [(6, 6, Severity.NOTE), (3, 6, Severity.WARNING), (5, 5, Severity.WARNING)],
    ids=["of an autoencoder", "of a generator", "of something else"],
)
def test_a_discriminator_may_join_an_autoencoder_later(
    reads: int, gives: int, severity: Severity, tmp_path: Path
) -> None:
    save_adversaries(tmp_path / "run.pt", reads, gives)
    (finding,) = findings_of(no_gradient, open_checkpoint(tmp_path / "run.pt"))
    assert finding.severity is severity


# Rows and inputs that were not in use


@pytest.mark.parametrize(("other", "severity"), [(1.0, Severity.NOTE), (0.9, Severity.WARNING)])
def test_classes_that_a_conditional_norm_has_not_seen(other: float, severity: Severity) -> None:
    gains, shifts = 1 + draw(12, 16), draw(12, 16)
    gains[5:], shifts[5:] = other, 0
    checkpoint = build_checkpoint(linear("first", 3, 16) | {"gamma.weight": gains, "beta.weight": shifts})
    found = [*findings_of(disconnected_units, checkpoint), *findings_of(duplicate_units, checkpoint)]
    assert [(each.code, each.tensor) for each in found] == [("NET002", "beta.weight"), ("NET004", "gamma.weight")]
    assert {each.severity for each in found} == {severity}


@pytest.mark.parametrize(
    ("rows", "bias", "severity"),
    [([3, 9, 20, 33], 0.5, Severity.NOTE), ([3, 9, 20], 0.5, Severity.WARNING), ([3, 4, 5, 6], 0.5, Severity.WARNING),
     ([3, 9, 20, 33], 0.0, Severity.WARNING)],
    ids=["here and there", "too few to tell", "one run", "with their biases"],
)  # fmt: skip
def test_units_that_were_pruned_by_their_size(rows: list[int], bias: float, severity: Severity) -> None:
    weights = {name: each.copy() for name, each in (TRUNK | linear("head", 64, 4)).items()}
    weights["trunk.0.weight"][rows] = 0
    weights["trunk.0.bias"] = np.where(np.isin(np.arange(64), rows), bias, weights["trunk.0.bias"])
    (finding,) = findings_of(disconnected_units, build_checkpoint(weights))
    assert finding.severity is severity


@pytest.mark.parametrize(("encoder", "severity"), [(24, Severity.NOTE), (20, Severity.WARNING)])
def test_a_decoder_that_runs_on_its_state(encoder: int, severity: Severity) -> None:
    weights: Weights = {}
    for name, size in (("encoder", encoder), ("decoder", 24)):
        for role, inputs in (("ih", 3), ("hh", size)):
            weights |= {f"{name}.weight_{role}_l0": draw(4 * size, inputs), f"{name}.bias_{role}_l0": draw(4 * size)}
    state = state_of(weights, "-")
    state["decoder.weight_ih_l0"] |= {key: np.zeros((96, 3)) for key in ("exp_avg", "exp_avg_sq")}
    checkpoint = build_checkpoint(weights, optimizer=state, step=300)
    found = [*findings_of(untrained_tensor, checkpoint), *findings_of(dead_inputs, checkpoint)]
    assert [each.code for each in found] == ["OPT001", "NET006"]
    assert {each.severity for each in found} == {severity}


@pytest.mark.parametrize(("scale", "severity"), [(3.0, Severity.NOTE), (1.0, Severity.WARNING)])
def test_parameters_without_a_name_are_frozen_where_no_weight_is_initial(
    scale: float, severity: Severity, tmp_path: Path
) -> None:
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in ((16, 32), (32, 32), (32, 32), (32, 32), (32, 4))))
    for parameter in model[:4].parameters():
        parameter.data *= scale
    model[:2].requires_grad_(False)
    optimizer = torch.optim.Adam([{"params": layer.parameters()} for layer in model])
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randn(8, 16)).square().mean().backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    (finding,) = findings_of(untrained_tensor, open_checkpoint(tmp_path / "run.pt"))
    assert "which ones is not known" in finding.message
    assert finding.severity is severity
