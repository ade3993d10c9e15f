"""The signal profile: what the moments show of inputs, gradients and updates, and where they show nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import nn

from checkpoint_doctor import open_checkpoint
from checkpoint_doctor.builtin.analyzers._evidence.model_inputs import find_first_layers
from checkpoint_doctor.checkpoint import Checkpoint, LayerSignal, signals
from checkpoint_doctor.checkpoint.signals import read_signal, update_ratio
from checkpoint_doctor.statistics import signal
from checkpoint_doctor.statistics.moments import measure_moments
from checkpoint_doctor.statistics.values import InMemory
from checkpoint_doctor.testing import build_checkpoint
from tests.live_models import OUTPUTS, batches, checkpoint_of, train

RANDOM = np.random.default_rng(0)
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
SETTLED = 1 - 0.999**1000


def squares_of(units: int, sizes: NDArray | float, *further: int) -> tuple[NDArray, NDArray]:
    """Second moments of a weight and its bias whose inputs have these sizes."""
    bias = np.exp(RANDOM.normal(size=units)) * 1e-6
    columns = np.broadcast_to(np.square(sizes), (np.size(sizes),)).reshape(1, -1, *[1] * len(further))
    return bias.reshape(-1, *[1] * (columns.ndim - 1)) * columns * np.ones((1, 1, *further)), bias


def held(arrays: Mapping[str, NDArray], step: int = 1000, **others: Any) -> dict[str, dict[str, Any]]:
    """An optimizer's state with these second moments."""
    return {
        name: {"step": step, "exp_avg": 0.3 * np.sqrt(squares), "exp_avg_sq": squares, **others}
        for name, squares in arrays.items()
    }


def network(
    sizes: NDArray | float = 2.0, step: int = 1000, options: Mapping[str, Any] = ADAM, **changes: Any
) -> Checkpoint:
    """A hidden layer of 12 units, whose inputs have these sizes, before a head."""
    weight, bias = squares_of(12, sizes)
    seconds = {
        "net.0.weight": weight,
        "net.0.bias": bias,
        "net.2.weight": np.full((3, 12), 1e-6),
        "net.2.bias": np.full(3, 1e-6),
    }
    seconds = {name: value for name, value in (seconds | changes.pop("seconds", {})).items() if value is not None}
    tensors = {name: np.full(value.shape, 0.1, np.float32) for name, value in seconds.items()} | changes.pop(
        "tensors", {}
    )
    state = held(seconds, step) | changes.pop("state", {})
    state = {name: each for name, each in state.items() if each is not None}
    return build_checkpoint(tensors, optimizer=state, optimizer_options=options, updates=step, **changes)


def test_the_ratio_of_two_second_moments_is_the_size_of_the_inputs():
    read = network(np.array([0.5, 3.0, 64_000.0, 0.0])).signals["net.0"]
    assert read.feature_rms == pytest.approx([0.5, 3.0, 64_000.0, 0.0])
    assert read.input_rms == pytest.approx(np.sqrt((0.25 + 9 + 64_000.0**2) / 4))
    assert read.reason == ""


def test_gradients_are_corrected_for_the_start_at_zero():
    seconds = {"net.0.bias": np.full(12, 4e-6), "net.0.weight": np.full((12, 2), 4e-6)}
    for step in (20, 100, 1000):
        read = network(step=step, seconds={name: value * (1 - 0.999**step) for name, value in seconds.items()})
        assert read.signals["net.0"].gradient_rms == pytest.approx(2e-3)
        assert read.signals["net.0"].input_rms == pytest.approx(1.0)


def test_only_units_that_learn_are_asked():
    weight, bias = squares_of(12, np.array([2.0, 5.0]))
    weight[:4] = 1e-9  # dead units: what is left of their second moments is rounding
    bias[:4] = 1e-13
    read = network(seconds={"net.0.weight": weight, "net.0.bias": bias}).signals["net.0"]
    assert read.feature_rms == pytest.approx([2.0, 5.0])
    assert read.input_rms == pytest.approx(np.sqrt(14.5))


def test_a_convolution_is_read_over_all_positions_of_its_kernel():
    weight, bias = squares_of(8, np.array([2.0, 30.0]), 3, 3)
    seconds = {"conv.weight": weight, "conv.bias": bias}
    read = build_checkpoint(
        {name: np.ones(value.shape, np.float32) for name, value in seconds.items()}, optimizer=held(seconds)
    ).signals["conv"]
    assert read.input_rms == pytest.approx(np.sqrt((4 + 900) / 2))
    assert read.feature_rms == pytest.approx([2.0, 30.0])


def test_a_recurrent_layer_is_read_both_ways():
    into, bias = squares_of(32, np.array([3.0, 300.0, 0.5]))
    hidden, other = squares_of(32, np.full(8, 0.4))
    seconds = {
        "lstm.weight_ih_l0": into,
        "lstm.weight_hh_l0": hidden,
        "lstm.bias_ih_l0": bias,
        "lstm.bias_hh_l0": other,
    }
    read = build_checkpoint(
        {name: np.ones(value.shape, np.float32) for name, value in seconds.items()}, optimizer=held(seconds)
    ).signals["lstm.l0"]
    assert read.feature_rms == pytest.approx([3.0, 300.0, 0.5])
    assert read.hidden_rms == pytest.approx(0.4)


def test_the_rows_of_a_transposed_weight_are_its_inputs():
    weight, bias = squares_of(12, np.array([2.0, 5.0, 0.1]))
    turned = network(seconds={"net.0.weight": weight.T.copy(), "net.0.bias": bias})
    read = read_signal(replace(turned.layer_by_name["net.0"], transposed=True), turned)
    assert read.feature_rms == pytest.approx([2.0, 5.0, 0.1])
    assert read.input_rms == pytest.approx(np.sqrt((4 + 25 + 0.01) / 3))


def test_inputs_that_were_always_zero_read_as_zero():
    read = network(np.zeros(3)).signals["net.0"]
    assert read.input_rms == 0.0
    assert read.constant_features is not None
    assert not read.constant_features.any()


def test_features_that_never_change_are_told_from_others():
    weight, bias = squares_of(12, np.array([0.7, 0.7, 0.0]))
    weight[:, 1] *= RANDOM.uniform(0.9, 1.1, size=12)
    read = network(seconds={"net.0.weight": weight, "net.0.bias": bias}).signals["net.0"]
    assert read.constant_features is not None
    assert read.constant_features.tolist() == [True, False, False]


def test_three_units_are_too_few_to_call_a_feature_constant():
    squares, bias = squares_of(3, np.array([0.7]))
    assert not signal.find_constant_features(squares / squares, bias).any()


def test_units_with_equal_gradients_cannot_tell_a_constant_feature():
    assert not signal.find_constant_features(np.full((12, 2), 0.49), np.full(12, 1e-4)).any()
    assert signal.find_constant_features(np.full((12, 2), 0.49), np.geomspace(1e-4, 1e-2, 12)).all()


def normed(kind: str) -> Checkpoint:
    """A layer before a norm of this kind."""
    weight, bias = squares_of(12, 2.0)
    seconds = {
        "net.0.weight": weight,
        "net.0.bias": bias,
        "net.1.weight": np.full(12, 1e-6),
        "net.1.bias": np.full(12, 1e-6),
    }
    tensors = {name: np.full(value.shape, 0.1, np.float32) for name, value in seconds.items()}
    if kind == "batch norm":
        tensors |= {"net.1.running_mean": np.zeros(12), "net.1.running_var": np.ones(12)}
    return build_checkpoint(tensors, optimizer=held(seconds))


WEIGHT, BIAS = squares_of(12, np.full(5, 2.0))
SILENT: dict[str, tuple[Checkpoint, str]] = {
    "no optimizer": (build_checkpoint({"net.0.weight": np.ones((12, 5)), "net.0.bias": np.ones(12)}), "no optimizer"),
    "no state": (network(state={"net.0.weight": {}}), "no state"),
    "no bias": (network(seconds={"net.0.bias": None}), "no bias"),
    "a frozen bias": (network(state={"net.0.bias": None}), "its bias is not trained"),
    "momentum": (
        network(
            options={"lr": 0.1, "momentum": 0.9},
            state={
                name: {"step": 9, "momentum_buffer": np.ones(shape)}
                for name, shape in (("net.0.weight", (12, 1)), ("net.0.bias", 12))
            },
            optimizer_kind="SGD",
        ),
        "SGD keeps no running mean",
    ),
    "Adamax": (
        network(
            state={
                name: {"step": 1000, "exp_avg": np.ones(shape), "exp_inf": np.ones(shape)}
                for name, shape in (("net.0.weight", (12, 1)), ("net.0.bias", 12))
            },
            optimizer_kind="Adamax",
        ),
        "Adamax keeps no running mean",
    ),
    "factored": (
        network(state={"net.0.weight": {"step": 1000, "exp_avg": np.ones((12, 1)), "exp_avg_sq": np.ones(12)}}),
        "another shape",
    ),
    "factored bias": (
        network(state={"net.0.bias": {"step": 1000, "exp_avg": np.ones(1), "exp_avg_sq": np.ones(1)}}),
        "another shape",
    ),
    "a bias of other units": (
        network(seconds={"net.0.bias": np.full(6, 1e-6)}, tensors={"net.0.bias": np.ones(6)}),
        "another number of units",
    ),
    "trained apart": (
        network(state={"net.0.bias": {"step": 900, "exp_avg": np.ones(12), "exp_avg_sq": np.ones(12)}}),
        "not trained together",
    ),
    "few updates": (network(step=19), "fewer than 20 updates"),
    "not finite": (network(seconds={"net.0.weight": np.full((12, 1), np.inf)}), "not all finite"),
    "too large": (network(seconds={"net.0.weight": np.full(WEIGHT.shape, 1e308)}), "too large to be added up"),
    "silent": (network(seconds={"net.0.weight": WEIGHT * 1e-30, "net.0.bias": BIAS * 1e-30}), "none of its units"),
    "batch norm behind": (normed("batch norm"), "what follows takes"),
    "weight decay": (network(options={**ADAM, "weight_decay": 0.1}), "weight decay inside"),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_where_the_moments_do_not_tell_the_profile_says_why(name: str):
    checkpoint, reason = SILENT[name]
    read = checkpoint.signals["net.0"]
    assert reason in read.reason
    assert (read.input_rms, read.feature_rms, read.constant_features) == (None, None, None)


def test_a_layer_norm_leaves_the_gradient_of_the_bias():
    assert normed("layer norm").signals["net.0"].input_rms == pytest.approx(2.0)


def test_decoupled_weight_decay_is_not_in_the_gradient():
    options = {**ADAM, "weight_decay": 0.1}
    assert network(options=options, optimizer_kind="AdamW").signals["net.0"].input_rms == pytest.approx(2.0)
    assert network(options={**ADAM, "weight_decay": 1e-5}).signals["net.0"].input_rms == pytest.approx(2.0)


def test_a_key_projection_tells_nothing_and_its_neighbours_do():
    weight, bias = squares_of(12, np.full(12, 2.0))
    seconds = {
        f"attn.{part}_proj.{role}": squares for part in "qkv" for role, squares in (("weight", weight), ("bias", bias))
    }
    read = build_checkpoint(
        {name: np.full(value.shape, 0.1) for name, value in seconds.items()}, optimizer=held(seconds)
    ).signals
    assert (read["attn.q_proj"].input_rms, read["attn.v_proj"].input_rms) == pytest.approx((2.0, 2.0))
    assert "what follows" in read["attn.k_proj"].reason


def test_huge_inputs_are_believed_where_the_first_moments_agree():
    weight, bias = squares_of(12, np.array([1.0, 3e7]))
    means = {"net.0.weight": np.sqrt(weight) * 0.3, "net.0.bias": np.sqrt(bias) * 0.3}
    signs = np.array([1.0, -1.0, -1.0] * 4)
    for factor, expected in ((1.0, 3e7), (np.array([1.0, 1.0, -1.0, -1.0] * 3), None)):
        state = held({"net.0.weight": weight, "net.0.bias": bias})
        state["net.0.weight"]["exp_avg"] = means["net.0.weight"] * signs[:, None]
        state["net.0.bias"]["exp_avg"] = means["net.0.bias"] * signs * factor
        read = network(seconds={"net.0.weight": weight, "net.0.bias": bias}, state=state).signals["net.0"]
        assert (None if read.feature_rms is None else float(read.feature_rms.max())) == pytest.approx(expected)
        assert bool(read.reason) is (expected is None)


def test_layers_without_a_matrix_have_no_inputs_to_measure():
    others = {"norm.weight": np.ones(3), "norm.bias": np.ones(3), "scale": np.ones(()), "empty.weight": np.ones((4, 0))}
    read = network(tensors=others).signals
    assert all("does not multiply" in read[name].reason for name in ("norm", "scale", "empty"))
    assert read["norm"] == read["norm"]
    assert isinstance(read["norm"], LayerSignal)


def test_large_weights_are_not_read_twice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signals, "LARGEST_READ", 11)
    read = network().signals["net.0"]
    assert read.feature_rms is None
    assert read.input_rms == pytest.approx(2.0)


def exact_ratio(moments: Mapping[str, Any], weight: NDArray, options: Mapping[str, Any]) -> float:
    """The update ratio by Adam's formula."""
    first = moments["exp_avg"] / (1 - options["betas"][0] ** moments["step"])
    second = moments["exp_avg_sq"] / (1 - options["betas"][1] ** moments["step"])
    step = options["lr"] * first / (np.sqrt(second) + options["eps"])
    return float(np.linalg.norm(step) / np.linalg.norm(weight))


@pytest.mark.parametrize(
    ("epsilon", "tolerance"),
    [(0.0, 1e-5), (1e-8, 0.01), (1e-4, 0.1), (1e-2, 0.25)],
    ids=["none", "small", "as √v", "above"],
)
def test_the_update_ratio_is_that_of_the_next_step(epsilon: float, tolerance: float):
    options = {**ADAM, "eps": epsilon, "lr": -2e-3}
    squares = np.exp(RANDOM.normal(size=(40, 30))) * 1e-8
    state = {"step": 250, "exp_avg": np.sqrt(squares) * RANDOM.normal(size=(40, 30)), "exp_avg_sq": squares}
    weight = RANDOM.normal(size=(40, 30))
    checkpoint = build_checkpoint(
        {"net.0.weight": weight}, optimizer={"net.0.weight": state}, optimizer_options=options
    )
    expected = exact_ratio(state, weight, {**options, "lr": 2e-3})
    assert update_ratio(checkpoint.by_name["net.0.weight"], checkpoint) == pytest.approx(expected, rel=tolerance)


def test_rmsprop_steps_by_its_learning_rate_where_a_gradient_came():
    squares = np.full((4, 5), 1e-4)
    squares[:, 0] = 0.0
    checkpoint = build_checkpoint(
        {"net.0.weight": np.full((4, 5), 0.5)},
        optimizer={"net.0.weight": {"step": 3000, "square_avg": squares}},
        optimizer_options={"lr": 1e-3, "alpha": 0.99, "eps": 1e-8, "momentum": 0},
        optimizer_kind="RMSprop",
    )
    ratio = update_ratio(checkpoint.by_name["net.0.weight"], checkpoint)
    assert ratio == pytest.approx(1e-3 * np.sqrt(0.8) / 0.5)


@pytest.mark.parametrize(
    "checkpoint",
    [
        build_checkpoint({"net.0.weight": np.ones((4, 5))}),
        network(options={"lr": 1.0, "betas": (0.9, 0.999), "d_coef": 1.0}),
        network(options={"lr": 0.1}),
        network(tensors={"net.0.weight": np.zeros((12, 1))}),
    ],
    ids=["no optimizer", "Prodigy", "no betas", "zero weights"],
)
def test_steps_that_the_moments_do_not_show_have_no_ratio(checkpoint: Checkpoint):
    assert checkpoint.signals["net.0"].update_ratio is None


def test_the_sums_of_the_pass_leave_out_what_is_not_finite():
    first = np.array([[1.0, 2.0], [np.nan, 4.0]], np.float32)
    second = np.array([[4.0, np.inf], [1.0, 4.0]], np.float32)
    found = measure_moments(InMemory(first), InMemory(second))
    assert found.row_squares is not None
    assert found.row_squares.tolist() == [4.0, 5.0]
    assert found.total == 9.0
    assert found.ratio_squares == pytest.approx(0.25 + 4.0)


@pytest.mark.parametrize("factor", [1.0, 1000.0, 30_000.0])
@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop], ids=lambda make: make.__name__
)
def test_what_flowed_through_a_trained_network_is_read_within_a_factor_of_two(make: Any, factor: float):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, OUTPUTS))
    seen: list[float] = []
    model[2].register_forward_pre_hook(lambda module, x: seen.append(float(x[0].detach().square().mean())))
    optimizer = make(model.parameters(), lr=1e-3)
    train(model, optimizer, ((factor * x, y) for x, y in batches(8)), 300)
    read = checkpoint_of(model, optimizer).signals
    assert read["0"].input_rms == pytest.approx(factor, rel=0.5)
    assert read["2"].input_rms == pytest.approx(np.sqrt(np.mean(seen[-200:])), rel=0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_a_bias_that_code_subtracts_again_does_not_tell_how_large_inputs_were(scale: float):
    """A norm of which the file shows nothing leaves rounding errors for the bias, some ten-thousandths or less."""
    torch.manual_seed(0)
    first, last = nn.Linear(8, 32), nn.Linear(32, OUTPUTS)

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            units = self.first(x)
            return self.last(torch.tanh(scale * (units - units.mean(dim=0))))

    model = Centred()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 300)
    read = checkpoint_of(model, optimizer).signals["first"]
    assert read.input_rms is None
    assert "no gradient, or next to none" in read.reason


NORMALIZED = (
    "a2c/Ant-v3_1", "a2c/AntBulletEnv-v0_1", "her/PandaReach-v1_1", "ppo/BipedalWalkerHardcore-v3_1", "ppo/Hopper-v3_1",
    "ppo/MountainCarContinuous-v0_1", "tqc/PandaReach-v1_1", "trpo/Walker2DBulletEnv-v0_1",
)  # fmt: skip
"""Agents that the RL Zoo trained with VecNormalize (``normalize: true`` in its hyperparameters)."""


@pytest.mark.parametrize("agent", NORMALIZED)
def test_inputs_that_were_normalized_have_an_rms_near_one(agent: str, corpus: Path):
    (path,) = (corpus / "rl-trained-agents" / agent).glob("*.zip")
    checkpoint = open_checkpoint(path)
    sizes = [checkpoint.signals[layer.name].input_rms for layer in find_first_layers(checkpoint)]
    known = [size for size in sizes if size is not None]
    assert known
    assert all(0.33 < size < 3.0 for size in known)


@pytest.mark.parametrize("lost", [np.inf, np.nan, 1e300])
def test_a_bias_does_not_go_with_gradients_that_are_not_finite(lost: float) -> None:
    mean, squares = np.arange(1.0, 13.0)[:, np.newaxis] * [[1.0, 0.1]], np.ones((12, 2)) * [[2.0, 1.0]]
    assert signal.goes_with_bias(mean, squares, mean[:, 0], np.ones(12))
    changed = mean.copy()
    changed[3] = lost
    assert not signal.goes_with_bias(changed, squares, changed[:, 0], np.ones(12))
