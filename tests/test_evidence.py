"""What rules go by: how layers are drawn at the start, why zeros are zero, how fast optimizers forget, who recycles."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, log, sqrt
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.activations import activation_of
from checkpoint_doctor.builtin.analyzers._evidence.replaced_moments import find_replaced
from checkpoint_doctor.builtin.analyzers._evidence.training import layer_was_trained, untouched_level, was_trained
from checkpoint_doctor.builtin.analyzers._repairs.gates import reinitialise_bias
from checkpoint_doctor.builtin.analyzers._repairs.initialization import (
    initialization_of,
    reinitialise,
    reinitialise_nonfinite,
)
from checkpoint_doctor.builtin.analyzers._repairs.recycling import recycle
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import is_drawn_orthogonally
from checkpoint_doctor.builtin.analyzers.values import zeros
from checkpoint_doctor.builtin.analyzers.values.nonfinite import nonfinite_values
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.moment_decay import DecayRates, decay_rates_of, second_moment_correction
from checkpoint_doctor.checkpoint.optimizer_steps import (
    effective_step,
    implied_gradient_norm,
)
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.results.findings import Safety
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import draw, found, gated, mlp, trained

Weights = dict[str, NDArray]


# How a tensor is drawn at the start


def drawn(weights: Weights, name: str, **fields: Any) -> tuple[str, NDArray] | None:
    """The words of a tensor's init rule, and a draw by it."""
    checkpoint = build_checkpoint(weights, **fields)
    tensor = checkpoint.by_name[name]
    rule = initialization_of(tensor, checkpoint.layer_of[name], checkpoint)
    return None if rule is None else (rule.words, rule.draw(np.ones(tensor.shape), np.random.default_rng(0)))


PPO = {"format": "sb3", "algorithm": "PPO"}
POLICY = {
    "mlp_extractor.policy_net.0.weight": draw(64, 8),
    "mlp_extractor.policy_net.0.bias": draw(64),
    "mlp_extractor.value_net.0.weight": draw(64, 8),
    "features_extractor.cnn.0.weight": draw(32, 4, 3, 3),
    "action_net.weight": draw(32, 64),
    "action_net.bias": draw(32),
    "value_net.weight": draw(1, 64),
    "value_net.bias": draw(1),
    "log_std": draw(4),
}


@pytest.mark.parametrize(
    ("weights", "name", "limit"),
    [
        (mlp(net__2__weight=draw(64, 100)), "net.2.weight", 0.1),
        (mlp(net__2__weight=draw(64, 100), net__2__bias=draw(64)), "net.2.bias", 0.1),
        ({"net.0.weight": draw(64, 1), "net.0.bias": draw(64)}, "net.0.bias", 1.0),
        ({"net.0.weight": draw(64, 1), "net.0.bias": draw(64)}, "net.0.weight", 1.0),
        ({"conv.weight": draw(16, 4, 5, 5), "fc.weight": draw(4, 16)}, "conv.weight", 0.1),
        ({"lstm.weight_ih_l0": draw(64, 5), "lstm.weight_hh_l0": draw(64, 16)}, "lstm.weight_ih_l0", 0.25),
        ({"gru.weight_ih_l0": draw(48, 5), "gru.weight_hh_l0": draw(48, 16)}, "gru.weight_hh_l0", 0.25),
        ({"rnn.weight_ih_l0": draw(16, 5), "rnn.weight_hh_l0": draw(16, 16)}, "rnn.weight_hh_l0", 0.25),
        (
            {"attn.in_proj_weight": draw(48, 16), "attn.in_proj_bias": draw(48), "attn.out_proj.weight": draw(16, 16)},
            "attn.in_proj_weight",
            sqrt(6 / 64),
        ),
    ],
    ids=["linear", "bias", "bias of one input", "one input", "convolution", "LSTM", "GRU", "RNN", "attention"],
)
def test_uniform_draws_have_the_documented_width(weights: Weights, name: str, limit: float):
    initial = drawn(weights, name)
    assert initial is not None
    assert f"±{limit:.3g}" in initial[0]
    assert 0.9 * limit < np.abs(initial[1]).max() <= limit
    assert abs(initial[1].mean()) < 0.2 * limit


@pytest.mark.parametrize(("transposed", "limit"), [(False, 0.1), (True, 0.125)])
def test_of_a_transposed_matrix_the_rows_are_the_inputs(transposed: bool, limit: float):
    checkpoint = build_checkpoint({"net.0.weight": draw(64, 100)})
    layer = replace(checkpoint.layers[0], transposed=transposed)
    rule = initialization_of(checkpoint.tensors[0], layer, checkpoint)
    assert rule is not None
    assert f"±{limit:.3g}" in rule.words


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("mlp_extractor.policy_net.0.weight", sqrt(2)),
        ("features_extractor.cnn.0.weight", sqrt(2)),
        ("action_net.weight", 0.01),
        ("value_net.weight", 1.0),
        ("mlp_extractor.value_net.0.weight", sqrt(2)),
    ],
)
def test_policies_are_drawn_orthogonally_with_the_librarys_gains(name: str, gain: float):
    initial = drawn(POLICY, name, **PPO)
    assert initial is not None
    assert initial[0] == f"orthogonal, gain {gain:.3g}"
    matrix = initial[1].reshape(initial[1].shape[0], -1)
    lines = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    assert np.allclose(lines @ lines.T, gain**2 * np.eye(len(lines)), atol=1e-12)


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "sb3", "algorithm": "SAC"},
        {"format": "torch", "algorithm": "PPO"},
        PPO | {"hyperparameters": {"policy_kwargs": "{'ortho_init': False}"}},
    ],
)
def test_other_policies_are_drawn_as_pytorch_does(fields: Mapping[str, Any]):
    initial = drawn(POLICY, "mlp_extractor.policy_net.0.weight", **fields)
    assert initial is not None
    assert initial[0].startswith("kaiming_uniform")
    bias = drawn(POLICY, "mlp_extractor.policy_net.0.bias", **fields)
    assert bias is not None
    assert bias[1].any()


@pytest.mark.parametrize(
    ("weights", "name", "value", "fields"),
    [
        (POLICY, "mlp_extractor.policy_net.0.bias", 0.0, PPO),
        (POLICY, "log_std", 0.0, PPO),
        (POLICY, "log_std", -3.0, {"format": "sb3", "algorithm": "SAC"}),
        (POLICY, "log_std", -1.5, PPO | {"hyperparameters": {"policy_kwargs": "{'log_std_init': -1.5}"}}),
        (POLICY, "log_std", 2e-1, PPO | {"hyperparameters": {"policy_kwargs": {"log_std_init": 2e-1}}}),
        ({"norm.weight": draw(8), "norm.bias": draw(8)}, "norm.weight", 1.0, {}),
        ({"norm.weight": draw(8), "norm.bias": draw(8)}, "norm.bias", 0.0, {}),
        ({"bn.weight": draw(8), "bn.running_mean": draw(8), "bn.running_var": draw(8)}, "bn.running_var", 1.0, {}),
        ({"bn.weight": draw(8), "bn.running_mean": draw(8), "bn.running_var": draw(8)}, "bn.running_mean", 0.0, {}),
        ({"attn.in_proj_weight": draw(48, 16), "attn.in_proj_bias": draw(48)}, "attn.in_proj_bias", 0.0, {}),
    ],
)
def test_some_tensors_start_at_one_value(weights: Weights, name: str, value: float, fields: Mapping[str, Any]):
    initial = drawn(weights, name, **fields)
    assert initial is not None
    assert (initial[1] == value).all()


def test_embeddings_are_drawn_from_a_normal_distribution():
    initial = drawn({"embedding.weight": draw(100, 50)}, "embedding.weight")
    assert initial is not None
    assert initial[0] == "normal(0, 1)"
    assert initial[1].std() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        (mlp(scale=draw(4)), "scale"),
        ({"bn.weight": draw(8), "bn.running_var": draw(8), "bn.num_batches_tracked": np.array(3)},
         "bn.num_batches_tracked"),
        (mlp(attn_mask=draw(4, 4)), "attn_mask"),
    ],
)  # fmt: skip
def test_what_has_no_documented_start_is_not_drawn(weights: Weights, name: str):
    assert drawn(weights, name) is None
    checkpoint = build_checkpoint(weights)
    subject = checkpoint.by_name[name], checkpoint.layer_of[name], checkpoint
    assert reinitialise(*subject) == reinitialise_nonfinite(*subject) == []


@pytest.mark.parametrize(
    ("role", "roles"), [("bias", ["bias"]), ("bias", ["vector", "bias"]), ("scale", ["weight", "scale"])]
)
def test_layers_without_a_matrix_have_no_fan_in(role: str, roles: list[str]):
    tensors = {"vector": draw(12), "weight": draw(12, 6), "bias": draw(12), "scale": draw(12)}
    whole = build_checkpoint({f"net.0.{each}": array for each, array in tensors.items()})
    parts = {"weight" if each == "vector" else each: whole.by_name[f"net.0.{each}"] for each in roles}
    layer = replace(build_checkpoint(mlp()).layer_by_name["net.0"], tensors=parts)
    assert initialization_of(parts[role], layer, whole) is None


def test_only_entries_that_are_not_finite_are_drawn_anew():
    weights = mlp()
    old = weights["net.2.weight"].copy()
    old[2, 3], old[4, 4] = np.nan, np.inf
    checkpoint = build_checkpoint(weights | {"net.2.weight": old})
    (repair,) = [each for finding in found(nonfinite_values, checkpoint) for each in finding.repairs]
    assert repair.safety is Safety.UNSAFE
    new = repair.renew(old, np.random.default_rng(0))
    assert np.isfinite(new).all()
    assert np.argwhere(new != old).tolist() == [[2, 3], [4, 4]]


# Which activation follows


@pytest.mark.parametrize(
    ("name", "fields", "activation"),
    [
        ("mlp_extractor.policy_net.0", PPO, "Tanh"),
        ("mlp_extractor.policy_net.0", {"format": "sb3", "algorithm": "SAC"}, "ReLU"),
        ("mlp_extractor.policy_net.0", {"format": "sb3", "algorithm": "Other"}, None),
        ("mlp_extractor.policy_net.0", PPO | {"hyperparameters": {"policy_kwargs": "{'activation_fn': ELU}"}}, "ELU"),
        ("features_extractor.cnn.0", PPO, "ReLU"),
        ("features_extractor.linear.0", PPO, "ReLU"),
        ("features_extractor.conv1", PPO, "ReLU"),
        ("features_extractor.mlp.0", PPO, None),
        ("mlp_extractor.policy_net.0", {"hyperparameters": {"activation": "nn.GELU()"}}, "GELU"),
        ("mlp_extractor.policy_net.0", {"hyperparameters": {"policy_kwargs": "ELU"}}, None),
        ("mlp_extractor.policy_net.0", {"algorithm": "PPO"}, None),
    ],
)
def test_the_activation_is_the_named_one_or_the_librarys(name: str, fields: Mapping[str, Any], activation: str | None):
    extractors = {f"features_extractor.{part}.0.weight": draw(8, 8) for part in ("linear", "mlp")}
    extractors |= {"features_extractor.conv1.weight": draw(8, 4, 3, 3)}
    checkpoint = build_checkpoint(POLICY | extractors, **fields)
    assert activation_of(checkpoint.layer_by_name[name], checkpoint) == activation


def test_recurrent_layers_squash():
    checkpoint = build_checkpoint(gated())
    assert activation_of(checkpoint.layers[0], checkpoint) == "Tanh"


# Gates


@pytest.mark.parametrize(
    ("changes", "tensor", "forget"),
    [
        ({"bias_ih": np.zeros(32), "bias_hh": np.zeros(32)}, "bias_ih", 1.0),
        ({"bias_ih": np.zeros(32), "bias_hh": np.zeros(32)}, "bias_hh", 0.0),
        ({"bias_ih": np.zeros(32), "bias_hh": None}, "bias_ih", 1.0),
        ({"bias_ih": None, "bias_hh": np.zeros(32)}, "bias_hh", 1.0),
        ({"bias_ih": np.zeros(32)}, "bias_ih", None),
    ],
)
def test_a_pair_of_zero_biases_gets_a_forget_bias_of_one(changes: dict[str, Any], tensor: str, forget: float | None):
    checkpoint = build_checkpoint(gated(**changes))
    (layer,) = checkpoint.layers
    new = reinitialise_bias(layer, layer.tensors[tensor], 0.01).renew(np.zeros(32), np.random.default_rng(0))
    others = np.r_[0:8, 16:32]
    assert ((new[others] != 0) & (np.abs(new[others]) < 0.01)).all()
    assert (new[8:16] == forget).all() if forget is not None else (np.abs(new[8:16]) < 0.01).all()


# How fast optimizers forget


def moments_of(kind: str, options: Mapping[str, Any], step: int = 10, **state: Any) -> Checkpoint:
    weights = {"net.0.weight": draw(4, 4)}
    arrays = {key: np.broadcast_to(value, (4, 4)) for key, value in state.items()}
    return build_checkpoint(
        weights, optimizer={"net.0.weight": {"step": step, **arrays}}, optimizer_kind=kind, optimizer_options=options
    )


BETAS = {"betas": (0.9, 0.99)}


@pytest.mark.parametrize(
    ("options", "state", "memory"),
    [
        (BETAS, {"exp_avg": 1.0, "exp_avg_sq": 1.0}, DecayRates(-log(0.9), -log(0.99) / 2)),
        (BETAS, {"exp_avg": 1.0, "exp_inf": 1.0}, DecayRates(-log(0.9), -log(0.99))),
        (BETAS, {"exp_avg": 1.0}, DecayRates(-log(0.99), None)),
        ({"betas": (0.0, 0.99)}, {"exp_avg": 1.0, "exp_avg_sq": 1.0}, DecayRates(inf, -log(0.99) / 2)),
        ({"alpha": 0.99}, {"square_avg": 1.0}, DecayRates(None, -log(0.99) / 2)),
        ({"momentum": 0.9}, {"momentum_buffer": 1.0}, DecayRates(-log(0.9), None)),
        ({}, {"sum": 1.0}, DecayRates(None, 0.0)),
        ({"betas": (0.9,)}, {"exp_avg": 1.0, "exp_avg_sq": 1.0}, None),
        ({"betas": (0.9, 1.0)}, {"exp_avg": 1.0, "exp_avg_sq": 1.0}, None),
        ({"betas": (-0.1, 0.9)}, {"exp_avg": 1.0, "exp_avg_sq": 1.0}, None),
        ({"betas": 0.9}, {"exp_avg": 1.0, "exp_avg_sq": 1.0}, None),
        ({}, {"square_avg": 1.0}, None),
        ({}, {"momentum_buffer": 1.0}, None),
    ],
)
def test_an_optimizers_settings_tell_how_fast_it_forgets(
    options: Mapping[str, Any], state: Mapping[str, Any], memory: DecayRates | None
):
    (optimizer,) = moments_of("Adam", options, **state).optimizers
    heard = decay_rates_of(optimizer.parameters[0], optimizer)
    assert heard == (memory and DecayRates(pytest.approx(memory.first), pytest.approx(memory.second)))


@pytest.mark.parametrize(
    ("memory", "ratio"),
    [
        (DecayRates(0.1, 0.01), 0.09),
        (DecayRates(None, 0.1), None),
        (DecayRates(0.1, None), None),
        (DecayRates(inf, 0.1), None),
    ],
)
def test_the_ratio_of_two_moments_fades_at_the_difference_of_their_rates(memory: DecayRates, ratio: float | None):
    assert memory.ratio == (ratio and pytest.approx(ratio))


@pytest.mark.parametrize(
    ("options", "step", "state", "norm"),
    [
        (BETAS, 10, {"exp_avg": 0.0, "exp_avg_sq": 1e-4}, sqrt(16 * 1e-4 / (1 - 0.99**10))),
        ({"alpha": 0.9}, 1000, {"square_avg": 1e-4}, sqrt(16 * 1e-4)),
        ({"alpha": 0.9}, 190, {"square_avg": 1e-4}, None),
        ({"alpha": 0.9}, 200, {"square_avg": 1e-4}, sqrt(16 * 1e-4)),
        (BETAS, 0, {"exp_avg": 0.0, "exp_avg_sq": 1e-4}, None),
        (BETAS, 10, {"exp_avg": 0.0, "exp_inf": 1e-4}, None),
        ({}, 10, {"sum": 1e-4}, None),
        (BETAS, 10, {"exp_avg": 0.0, "exp_avg_sq": np.nan}, None),
    ],
)
def test_the_second_moments_imply_a_gradient_norm(
    options: Mapping[str, Any], step: int, state: Mapping[str, Any], norm: float | None
):
    (optimizer,) = moments_of("Adam", options, step, **state).optimizers
    assert implied_gradient_norm(optimizer) == (norm and pytest.approx(norm))


def test_the_size_of_the_next_step_is_that_of_the_corrected_moments():
    options = {**BETAS, "eps": 1e-2}
    (optimizer,) = moments_of("Adam", options, 10, exp_avg=1e-3, exp_avg_sq=1e-4).optimizers
    root = sqrt(1e-4 / (1 - 0.99**10)) + 1e-2
    assert effective_step(optimizer) == pytest.approx(1e-3 / (1 - 0.9**10) / root)
    assert second_moment_correction(optimizer.parameters[0], optimizer) == pytest.approx(1 - 0.99**10)
    (optimizer,) = moments_of("Adam", options, 10, exp_avg=1e-3).optimizers
    assert effective_step(optimizer) is None


# What was ever trained


@pytest.mark.parametrize(
    ("options", "step", "state", "level"),
    [
        (BETAS, 10, {"exp_avg": 0.0, "exp_avg_sq": 0.0}, 0.0),
        ({**BETAS, "eps": 1e-8}, 10, {"exp_avg": 0.0, "exp_inf": 1e-8}, 1.001e-8),
        (BETAS, 10, {"exp_avg": 0.0, "exp_inf": 0.0}, 0.0),
        ({"initial_accumulator_value": 0.1}, 10, {"sum": 0.1}, 0.1),
        ({}, 10, {"sum": 0.0}, 0.0),
        ({"alpha": 0.9, "foreach": None}, 10, {"square_avg": 0.9**10}, 0.0),
        ({"alpha": 0.9}, 0, {"square_avg": 1.0}, 0.0),
        ({"alpha": 0.9}, 10, {"square_avg": 0.9**10}, None),
        ({"alpha": 0.9}, 10, {"square_avg": 0.9**10 / 2}, 0.0),
        ({"alpha": 0.9}, 262, {"square_avg": 0.9**262}, None),
        ({"alpha": 0.9}, 263, {"square_avg": 0.9**263}, 0.9**263),
        ({"alpha": 0.9}, 1000, {"square_avg": 1.0}, 0.0),
    ],
)
def test_what_was_never_touched_has_the_value_of_the_start(
    options: Mapping[str, Any], step: int, state: Mapping[str, Any], level: float | None
):
    (optimizer,) = moments_of("any", options, step, **state).optimizers
    found = untouched_level(optimizer.parameters[0], optimizer)
    assert found == (level if not level else pytest.approx(level, rel=1e-4))
    if level and "exp_inf" not in state:
        assert found is not None
        assert found > level  # with room for rounding
        root = untouched_level(optimizer.parameters[0], optimizer, of_root=True)
        assert root == pytest.approx(sqrt(level), rel=1e-4)


@pytest.mark.parametrize(
    ("seconds", "layer"),
    [
        ({}, True),
        ({"net.2.weight": 0.0}, False),
        ({"net.2.weight": None}, False),
        ({"net.2.bias": 0.0}, True),
        (dict.fromkeys(mlp()), None),
    ],
)
def test_a_layer_was_trained_where_its_weights_were(seconds: Mapping[str, Any], layer: bool | None):
    checkpoint = trained(mlp(), seconds)
    assert layer_was_trained(checkpoint.layer_by_name["net.2"], checkpoint) is layer


def test_before_the_first_update_nothing_was_trained():
    checkpoint = build_checkpoint(mlp(), optimizer={name: {} for name in mlp()}, updates=0)
    assert {was_trained(tensor, checkpoint) for tensor in checkpoint.tensors} == {False}
    assert was_trained(checkpoint.tensors[0], build_checkpoint(mlp())) is None


@pytest.mark.parametrize(
    ("kind", "fields", "untrained"),
    [
        ("Adam", {"updates": 0}, True),
        ("Adam", {"updates": 0, "step": 75_000}, True),
        ("Adam", {"updates": 1}, False),
        ("Adam", {"step": 0}, True),
        ("Adam", {"step": 1}, False),
        ("Adam", {}, True),
        ("SGD", {"step": 0}, True),
        ("SGD", {}, False),
    ],
)
def test_a_checkpoint_without_state_is_untrained_where_nothing_says_otherwise(
    kind: str, fields: Mapping[str, Any], untrained: bool
):
    state: dict[str, dict[str, Any]] = {name: {} for name in mlp()}
    assert build_checkpoint(mlp(), optimizer=state, optimizer_kind=kind, **fields).is_untrained is untrained
    assert not build_checkpoint(mlp(), **fields | {"updates": None}).is_untrained
    state["net.0.bias"] = {"step": 1, "exp_avg": np.zeros(12), "exp_avg_sq": np.zeros(12)}
    assert not build_checkpoint(mlp(), optimizer=state, optimizer_kind=kind, **fields).is_untrained


def test_some_rows_can_be_asked_about():
    second = np.full((8, 12), 1e-4)
    second[2:4] = 0
    checkpoint = trained(mlp(), {"net.2.weight": second})
    weight = checkpoint.by_name["net.2.weight"]
    asked = [was_trained(weight, checkpoint, rows) for rows in (slice(2, 4), slice(3, 5), slice(0, 8), slice(4, 4))]
    assert asked == [False, True, True, None]


# Why zeros are zero


def explained(
    seconds: Mapping[str, Any], rows: Any = None, without: tuple[str, ...] = (), **fields: Any
) -> ZeroEvidence:
    checkpoint = trained(mlp(net__2__bias=np.zeros(8)), seconds, without=without, **fields)
    return explain_zeros(checkpoint.by_name["net.2.bias"], checkpoint, rows)


HALF = np.array([1e-4] * 4 + [0.0] * 4)


@pytest.mark.parametrize(
    ("seconds", "rows", "cause", "words", "advice"),
    [
        ({}, None, Cause.OVERWRITTEN, "its second moment is not zero after 1,000 updates", "reset"),
        ({"net.2.bias": HALF}, None, Cause.OVERWRITTEN, "is not zero at 4 of 8 zeros after 1,000 updates", "reset"),
        ({"net.2.bias": HALF}, slice(4, 8), Cause.NEVER_TRAINED, "its second moment is exactly zero", "only the bias"),
        ({"net.2.bias": HALF}, slice(0, 4), Cause.OVERWRITTEN, "its second moment is not zero", "reset"),
        ({"net.2.bias": 0.0}, None, Cause.NEVER_TRAINED, "exactly zero after 1,000 updates", "only the bias"),
        ({"net.2.bias": 0.0, "net.2.weight": 0.0}, None, Cause.NEVER_TRAINED, "is exactly zero", "inputs so large"),
        ({"net.2.bias": None}, None, Cause.NEVER_TRAINED, "5 of its 6 parameters were updated", "only the bias"),
        ({"net.2.bias": None, "net.2.weight": None}, None, Cause.NEVER_TRAINED, "in 1,000 updates", "inputs so large"),
        (dict.fromkeys(mlp()), None, Cause.UNKNOWN, "1,000 updates are counted but", ""),
    ],
)  # fmt: skip
def test_the_optimizers_record_says_why_zeros_are_zero(
    seconds: Mapping[str, Any], rows: Any, cause: Cause, words: str, advice: str
):
    heard = explained(seconds, rows)
    assert heard.cause is cause
    assert words in heard.sentence
    assert advice in heard.advice
    assert bool(heard.advice) is bool(advice)
    assert heard.held


def test_a_tensor_that_no_optimizer_holds_beside_others_that_it_does():
    heard = explained({}, without=("net.2.bias",))
    assert (heard.cause, heard.held, heard.updates) == (Cause.NEVER_TRAINED, False, None)
    assert "they hold 5 other tensors" in heard.sentence
    checkpoint = trained(mlp(net__2__bias=np.zeros(8)), without=("net.2.bias",))
    nameless = replace(checkpoint, optimizers=(replace(checkpoint.optimizers[0], unmatched="two of one shape"),))
    heard = explain_zeros(nameless.by_name["net.2.bias"], nameless)
    assert (heard.cause, heard.held) == (Cause.UNKNOWN, False)
    assert "two of one shape" in heard.sentence
    heard = explained({}, without=tuple(mlp()))
    assert (heard.cause, heard.held) == (Cause.UNKNOWN, False)
    assert "the file holds no optimizer" not in heard.sentence


@pytest.mark.parametrize(("algorithm", "words"), [("ARS", "without gradients"), ("PPO", "no optimizer state")])
def test_without_an_optimizer_the_algorithm_says_why_nothing_is_known(algorithm: str, words: str):
    checkpoint = build_checkpoint(mlp(net__2__bias=np.zeros(8)), algorithm=algorithm)
    heard = explain_zeros(checkpoint.by_name["net.2.bias"], checkpoint)
    assert (heard.cause, heard.held) == (Cause.UNKNOWN, False)
    assert words in heard.sentence


def test_a_record_of_another_shape_tells_nothing():
    weights = mlp(net__2__bias=np.zeros(8))
    state = {"net.2.bias": {"step": 5, "exp_avg": np.zeros(4), "exp_avg_sq": np.zeros(4)}}
    checkpoint = build_checkpoint(weights, optimizer=state, updates=5)
    heard = explain_zeros(checkpoint.by_name["net.2.bias"], checkpoint)
    assert (heard.cause, heard.updates) == (Cause.UNKNOWN, 5)


def test_zeros_among_units_that_never_learned_point_upstream_though_other_units_did():
    bias = np.array([0.5] * 4 + [0.0] * 4, np.float32)
    second = np.full((8, 12), 1e-4)
    second[4:] = 0
    checkpoint = trained(mlp(net__2__bias=bias), {"net.2.bias": HALF, "net.2.weight": second})
    heard = explain_zeros(checkpoint.by_name["net.2.bias"], checkpoint)
    assert heard.cause is Cause.NEVER_TRAINED
    assert "at the zeros, its second moment is exactly zero" in heard.sentence
    assert "inputs so large" in heard.advice


# Recycling


def recycled(weights: Weights, layer: str, units: list[int], **changes: Any) -> list[str]:
    checkpoint = build_checkpoint(weights)
    found = replace(checkpoint.layer_by_name[layer], **changes)
    return [each.tensor for each in recycle(found, units, checkpoint)]


def conv_net(places: int = 4) -> Weights:
    return {
        "net.0.weight": draw(6, 3, 3, 3), "net.0.bias": draw(6),
        "net.3.weight": draw(5, 6 * places), "net.3.bias": draw(5), "net.5.weight": draw(2, 5),
    }  # fmt: skip


def test_units_are_recycled_with_all_that_reads_them():
    assert recycled(mlp(), "net.0", [1, 2]) == ["net.0.weight", "net.0.bias", "net.2.weight"]
    assert recycled(mlp(net__0__bias=None), "net.0", [1, 2]) == ["net.0.weight", "net.2.weight"]


LSTM = build_checkpoint(gated()).layers[0].name


def test_a_recycled_unit_starts_without_bias():
    checkpoint = build_checkpoint(mlp())
    _, bias, _ = recycle(checkpoint.layer_by_name["net.0"], [1, 4], checkpoint)
    old = mlp()["net.0.bias"]
    assert np.flatnonzero(bias.renew(old, np.random.default_rng(0)) != old).tolist() == [1, 4]
    assert bias.renew(old, np.random.default_rng(0))[[1, 4]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("weights", "layer", "units", "changes"),
    [
        (mlp(), "net.0", [], {}),
        (mlp(), "net.4", [1], {}),
        (mlp(), "net.0", [1], {"followers": ()}),
        (mlp(), "net.0", [1], {"followers": ("net.2", "nobody")}),
        (mlp(), "net.0", [1], {"followers": ("net.4",)}),
        (mlp(), "net.0", [1], {"kind": Kind.EMBEDDING}),
        (mlp(), "net.0", [1], {"tensors": {}}),
        (gated() | {"fc.weight": draw(2, 8)}, LSTM, [1], {"followers": ("fc",)}),
    ],
    ids=[
        "no units",
        "outputs",
        "no readers",
        "an unknown reader",
        "a reader of another width",
        "an embedding",
        "no weight",
        "recurrent",
    ],
)
def test_units_are_not_recycled_where_it_would_have_other_effects(
    weights: Weights, layer: str, units: list[int], changes: Mapping[str, Any]
):
    assert recycled(weights, layer, units, **changes) == []


def test_the_units_of_a_transposed_matrix_are_recycled_as_columns():
    weights = mlp(net__0__weight=draw(6, 12), net__2__weight=draw(12, 8))
    checkpoint = build_checkpoint(weights)
    layer, reader = (replace(checkpoint.layer_by_name[name], transposed=True) for name in ("net.0", "net.2"))
    changed = replace(checkpoint)
    vars(changed)["layer_by_name"] = {**checkpoint.layer_by_name, "net.2": reader}
    incoming, _, outgoing = recycle(replace(layer, followers=("net.2",)), [1, 4], changed)
    new = incoming.renew(weights["net.0.weight"], np.random.default_rng(0))
    assert np.flatnonzero((new != weights["net.0.weight"]).any(axis=0)).tolist() == [1, 4]
    new = outgoing.renew(weights["net.2.weight"], np.random.default_rng(0))
    assert np.flatnonzero((new == 0).all(axis=1)).tolist() == [1, 4]


def test_a_channel_is_recycled_with_all_its_places():
    checkpoint = build_checkpoint(conv_net())
    layer = replace(checkpoint.layer_by_name["net.0"], followers=("net.3",))
    *_, outgoing = recycle(layer, [1, 4], checkpoint)
    new = outgoing.renew(conv_net()["net.3.weight"], np.random.default_rng(0))
    assert np.flatnonzero((new == 0).all(axis=0)).tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert outgoing.safety is Safety.ON_REQUEST


def renewed(first: NDArray, second: NDArray, *, along_rows: bool) -> list[int] | None:
    weights = {"net.0.weight": draw(*second.shape)}
    state = {"net.0.weight": {"step": 100, "exp_avg": first, "exp_avg_sq": second}}
    (optimizer,) = build_checkpoint(weights, optimizer=state).optimizers
    found = find_replaced(optimizer.parameters[0], optimizer, along_rows=along_rows)
    return None if found is None else np.flatnonzero(found).tolist()


def test_lines_are_renewed_where_their_moments_are_as_a_repair_leaves_them():
    first, second = np.full((6, 5), 1e-3), np.abs(draw(6, 5)) * 1e-4
    assert renewed(first, second, along_rows=True) == []
    first[[1, 3, 4]], second[[1, 3]] = 0, 1e-5
    assert renewed(first, second, along_rows=True) == [1, 3]
    assert renewed(first.T.copy(), second.T.copy(), along_rows=False) == [1, 3]
    second[3] = 0
    assert renewed(first, second, along_rows=True) == [1]
    second[1] = 0.9e-30
    assert renewed(first, second, along_rows=True) == []
    second[1] = 1.2e-30
    assert renewed(first, second, along_rows=True) == [1]
    assert renewed(np.zeros(5), np.full(5, 1e-5), along_rows=True) is None


def test_lines_of_one_entry_are_renewed_where_two_agree():
    first, second = np.zeros((4, 1)), np.array([[1e-5], [2e-5], [1e-5], [3e-5]])
    assert renewed(first, second, along_rows=True) == [0, 2]


# Zeros of a network that was never trained


def turned(rows: int, columns: int, seed: int = 0) -> NDArray:
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns))))[0]
    return basis if rows >= columns else basis.T


@pytest.mark.parametrize(
    ("weights", "fresh"),
    [
        ({"net.0.weight": turned(16, 8), "net.2.weight": 0.01 * turned(4, 16)}, True),
        ({"net.0.weight": turned(16, 8), "net.2.weight": draw(4, 16)}, False),
        ({"net.0.weight": turned(16, 8).astype(np.float16), "net.2.weight": turned(4, 16)}, True),
        ({"net.0.weight": turned(16, 27).reshape(16, 3, 3, 3), "fc.weight": turned(4, 16)}, True),
        ({"net.0.weight": turned(2, 16)}, True),
        ({"net.0.weight": turned(16, 8), "value_net.weight": draw(1, 16)}, True),
        ({"net.0.weight": draw(1, 16)}, False),
        ({"net.0.weight": draw(16, 1)}, False),
        ({"net.0.weight": np.eye(8, dtype=np.float16)}, True),
        ({"net.0.weight": np.diag([1.0] * 9 + [1.01] * 3)}, False),
        ({"net.0.weight": np.vstack([np.eye(9, 12), np.full((1, 12), 1 / sqrt(12))])}, False),
        ({"net.0.weight": np.zeros((8, 8))}, False),
    ],
    ids=[
        "fresh", "one drawn otherwise", "half precision", "kernels", "two rows", "a head of one row", "one row",
        "one column",        "half precision to the bit", "two scales",
        "the last row", "zeros",
    ],
)  # fmt: skip
def test_an_orthogonal_network_was_never_trained(weights: Weights, fresh: bool):
    assert is_drawn_orthogonally(build_checkpoint(weights)) is fresh


@pytest.mark.parametrize("name", ["attn.k_proj", "attn.key", "block.self_attn.k_lin"])
def test_a_key_bias_may_be_zero_and_another_may_not(name: str):
    assert found(zeros.zero_bias, {f"{name}.weight": draw(8, 8), f"{name}.bias": np.zeros(8)}) == []
    other = name.replace("k_", "v_").replace("key", "value")
    assert len(found(zeros.zero_bias, {f"{other}.weight": draw(8, 8), f"{other}.bias": np.zeros(8)})) == 1
