"""Zeros of unknown cause: a note where they may be initial values, a warning where the values around them say no."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor import Severity
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import shows_training
from checkpoint_doctor.builtin.analyzers.layers.adapters import no_op_adapter
from checkpoint_doctor.builtin.analyzers.layers.network import disconnected_units, zero_output_layer
from checkpoint_doctor.builtin.analyzers.layers.norm_gains import norm_gain_zeros
from checkpoint_doctor.builtin.analyzers.layers.recurrent import gate_bias_collapse
from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import untrained_tensor
from checkpoint_doctor.builtin.analyzers.values.zeros import bias_collapse, zero_bias, zero_weights
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.repair.planning import plan_repairs
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING = Severity.NOTE, Severity.WARNING
Weights = dict[str, NDArray]


def fresh(rows: int, columns: int, seed: int = 0) -> NDArray:
    """Draw a weight as PyTorch does."""
    limit = 1 / sqrt(columns)
    return np.random.default_rng(seed).uniform(-limit, limit, (rows, columns)).astype(np.float32)


def trained(rows: int, columns: int, seed: int = 0) -> NDArray:
    """Draw a weight and add a strong direction, as training does."""
    random = np.random.default_rng(seed + 1000)
    return fresh(rows, columns, seed) + np.outer(random.normal(size=rows), random.normal(size=columns)) / sqrt(columns)


def bias(size: int) -> NDArray:
    return np.linspace(-0.1, 0.1, size)


TRUNK = {"trunk.0.weight": trained(64, 16), "trunk.0.bias": bias(64), "trunk.2.weight": trained(64, 64)}
HEADS = {**TRUNK, "heads.0.weight": trained(4, 64), "heads.1.weight": np.zeros((4, 64))}
CHAIN = {"net.0.weight": trained(64, 16), "net.2.weight": trained(64, 64), "net.4.weight": trained(4, 64)}
LIVE = {**CHAIN, "net.0.bias": bias(64), "net.2.bias": bias(64)}
SCALES = {
    "up.bias": bias(8),
    "up.weight": trained(8, 16),
    "seg.0.weight": trained(1, 16),
    "seg.1.weight": trained(1, 8),
}
KERNEL = trained(16, 144).reshape(16, 16, 3, 3)
CONVOLUTIONS = {"0.weight": KERNEL, "0.bias": np.zeros(16), "3.weight": KERNEL, "3.bias": bias(16)}
SINGLE = {"net.4.weight": trained(1, 64), "net.4.bias": np.zeros(1)}
ATTENTION = {
    **{f"h.0.attn.{part}_proj.weight": trained(32, 32, seed) for seed, part in enumerate("qkv")},
    "h.0.attn.o_proj.weight": np.zeros((32, 32)),
    "lm_head.weight": trained(50, 32),
}
BRANCH = {"stages.1.1.weight": fresh(96, 48), "stages.1.3.weight": np.zeros((48, 96)), "head.weight": trained(4, 48)}
POLICY = {
    "mlp_extractor.policy_net.0.weight": trained(64, 9), "mlp_extractor.value_net.0.weight": trained(64, 9),
    "action_net.weight": np.zeros((3, 64)), "value_net.weight": trained(1, 64),
}  # fmt: skip
VALUE = {n: {"weight": trained(1, 64), "bias": np.zeros(1) if n == "2" else np.ones(1)} for n in "12"}
FIXED = {"target.0.weight": fresh(64, 8), "target.2.weight": fresh(16, 64), "target.0.bias": np.zeros(64)}
LSTM = {f"extra.weight_{side}_l0": fresh(64, 16, seed) for seed, side in enumerate(("ih", "hh"))}
LSTM |= {f"extra.bias_{side}_l0": np.zeros(64) for side in ("ih", "hh")}


@pytest.mark.parametrize(
    ("rule", "weights", "severity"),
    [
        (zero_output_layer, HEADS, NOTE),
        (zero_output_layer, {**TRUNK, "head.weight": np.zeros((4, 64))}, WARNING),
        (zero_output_layer, POLICY, WARNING),
        (zero_output_layer, {**POLICY, "mlp_extractor.policy_net.0.weight": fresh(64, 9)}, NOTE),
        (zero_weights, BRANCH, NOTE),
        (zero_weights, {**BRANCH, "stages.1.1.weight": trained(96, 48)}, WARNING),
        (zero_weights, {**CHAIN, "net.2.weight": np.zeros((64, 64))}, WARNING),
        (zero_weights, ATTENTION, WARNING),
        (zero_weights, {**ATTENTION, **{name: fresh(32, 32) for name in ATTENTION if name[9] in "qkv"}}, NOTE),
        (zero_weights, {**TRUNK, "up.en.weight": trained(32, 8), "up.sw.weight": np.zeros((32, 8))}, NOTE),
        (zero_weights, {**HEADS, "spare_A.weight": fresh(4, 16), "spare_B.weight": np.zeros((64, 4))}, NOTE),
        (zero_bias, {**CHAIN, "net.2.bias": bias(64), **FIXED}, NOTE),
        (zero_bias, {**CHAIN, **FIXED}, WARNING),
        (zero_bias, {**CHAIN, "net.0.bias": np.zeros(64), "net.4.bias": bias(4)}, WARNING),
        (zero_bias, {**TRUNK, "head.weight": trained(4, 64), "head.bias": np.zeros(4)}, WARNING),
        (zero_bias, {**HEADS, "heads.1.weight": trained(4, 64), "heads.1.bias": np.zeros(4)}, NOTE),
        (zero_bias, {**TRUNK, **FIXED, "other.weight": fresh(64, 16), "other.bias": fresh(64, 16)[:, 0]}, WARNING),
        (zero_bias, {**TRUNK, **{f"value_{n}.{r}": v for n in "12" for r, v in VALUE[n].items()}}, NOTE),
        (zero_bias, {"weight": trained(2, 4), "bias": np.zeros(2)}, NOTE),
        (zero_bias, {**LIVE, "net.4.bias": np.zeros(4)}, WARNING),
        (zero_bias, {**SCALES, "seg.0.bias": np.zeros(1)}, NOTE),
        (zero_bias, CONVOLUTIONS, WARNING),
        (zero_bias, {name: each.astype(np.float16) for name, each in CONVOLUTIONS.items()}, NOTE),
        (zero_bias, {**LIVE, **SINGLE}, NOTE),
        (zero_bias, {**LIVE, "net.2.bias": np.zeros(64), **SINGLE}, WARNING),
        (zero_bias, {**CHAIN, "norm.weight": bias(64), "net.2.bias": np.zeros(64)}, NOTE),
        (zero_bias, {**CHAIN, "norm.weight": bias(64), "norm.bias": np.zeros(64), "net.2.bias": np.zeros(64)}, WARNING),
        (gate_bias_collapse, {**TRUNK, **LSTM}, NOTE),
        (gate_bias_collapse, {**TRUNK, **{name: each + (each != 0) * 0.1 for name, each in LSTM.items()}}, WARNING),
    ],
    ids=[
        "a head beside another", "the only head", "a head whose trunk is its own", "an unused policy",
        "the end of a branch", "the end of a trained branch", "inside a chain", "an attention's output",
        "the output of an unused attention",
        "one adapter of several", "a second factor", "a fixed network", "a file without any other bias",
        "beside trained biases", "of the only head", "of one of two heads",
        "beside biases that were drawn", "beside another value", "the only layer",
        "of several outputs", "one scale of two", "a convolution", "a convolution in float16", "of a single output",
        "of a single output and the layer before",
        "a model without biases", "a model whose norms have biases",
        "an unused LSTM", "a trained LSTM",
    ],
)  # fmt: skip
def test_zeros_of_unknown_cause(rule: Rule, weights: Weights, severity: Severity) -> None:
    found = findings_of(rule, build_checkpoint(weights))
    assert {each.severity for each in found} == {severity}


def test_what_waits_is_not_repaired() -> None:
    checkpoint = build_checkpoint({**HEADS, **FIXED})
    found = [each for rule in (zero_output_layer, zero_bias, bias_collapse) for each in findings_of(rule, checkpoint)]
    assert [each.code for each in found] == ["NET003", "ZER003"]
    assert plan_repairs(checkpoint, found).changes == ()
    assert len(plan_repairs(checkpoint, found, least=NOTE).changes) == 2


def test_a_zero_bias_of_a_zero_layer_is_told_with_its_weight() -> None:
    weights = {**BRANCH, "stages.1.3.bias": np.zeros(48)}
    assert findings_of(zero_bias, build_checkpoint(weights)) == []


@pytest.mark.parametrize(
    ("weight", "answer"),
    [
        (fresh(64, 64), False),
        (fresh(64, 64).astype(np.float16), False),
        (fresh(64, 64) * 1.05, True),
        (trained(64, 64), True),
        (np.linalg.qr(trained(64, 64))[0], False),
        (np.linalg.qr(trained(64, 64))[0] + 1e-3 * trained(64, 64), True),
        (np.random.default_rng(0).normal(0, 0.02, (64, 64)), False),
        (np.random.default_rng(0).normal(0, 0.03, (64, 64)), True),
        (np.random.default_rng(0).normal(0, 0.02, (64, 64)) + 0.02 * np.outer(bias(64), bias(64)) * 100, True),
        (np.zeros((8, 8)), False),
        (trained(4, 4), None),
    ],
)
def test_values_show_training(weight: NDArray, answer: bool | None) -> None:
    (layer,) = build_checkpoint({"layer.weight": weight}).layers
    assert shows_training(layer) is answer


# Units and tables


def pruned_units() -> Weights:
    weights = {name: each.copy() for name, each in CHAIN.items()} | {"net.0.bias": bias(64)}
    weights["net.0.weight"][[3, 7]] = 0
    weights["net.0.bias"][[3, 7]] = 0
    weights["net.2.weight"][:, [3, 7]] = 0
    return weights


def test_units_that_were_removed_as_a_whole_are_notes() -> None:
    weights = pruned_units()
    assert [each.severity for each in findings_of(disconnected_units, build_checkpoint(weights))] == [NOTE, NOTE]
    weights["net.2.weight"] = CHAIN["net.2.weight"]
    assert [each.severity for each in findings_of(disconnected_units, build_checkpoint(weights))] == [WARNING]


def test_zero_columns_at_the_end_of_a_chain_may_be_initial() -> None:
    ends = {name: each.copy() for name, each in CHAIN.items()}
    ends["net.4.weight"][:, 5] = 0
    inside = {name: each.copy() for name, each in CHAIN.items()}
    inside["net.2.weight"][:, 5] = 0
    assert [each.severity for each in findings_of(disconnected_units, build_checkpoint(ends))] == [NOTE]
    assert [each.severity for each in findings_of(disconnected_units, build_checkpoint(inside))] == [WARNING]


@pytest.mark.parametrize(("others", "count", "severity"), [(1.0, 0, WARNING), (0.1, 0, NOTE), (1.0, None, NOTE)])
def test_zero_gains_of_a_batch_norm(others: float, count: int | None, severity: Severity) -> None:
    gain = np.full(20, others)
    gain[:5] = 0
    weights = {"bn.weight": gain, "bn.bias": bias(20), "bn.running_mean": bias(20), "bn.running_var": np.full(20, 2.0)}
    if count is None:
        weights |= {"bn.running_mean": np.zeros(20), "bn.running_var": np.ones(20)}
    assert [each.severity for each in findings_of(norm_gain_zeros, build_checkpoint(weights))] == [severity]


def test_a_fresh_adapter_beside_its_model_is_a_note() -> None:
    factors = {"layer.lora_A.weight": fresh(4, 16), "layer.lora_B.weight": np.zeros((64, 4))}
    model = {**factors, "layer.base_layer.weight": trained(64, 16)}
    assert [each.severity for each in findings_of(no_op_adapter, build_checkpoint(factors))] == [WARNING]
    assert [each.severity for each in findings_of(no_op_adapter, build_checkpoint(model))] == [NOTE]


# Parts that an optimizer holds and never trained


def state_of(weight: NDArray) -> dict[str, object]:
    return {"step": 300, "exp_avg": np.full(weight.shape, 1e-3), "exp_avg_sq": np.full(weight.shape, 1e-5)}


@pytest.mark.parametrize(
    ("weights", "unused", "reason"),
    [
        ({**TRUNK, "heads.0.weight": trained(4, 64), "heads.1.weight": fresh(4, 64)}, "heads.1", "another head"),
        ({**TRUNK, "experts.0.weight": trained(64, 64), "experts.1.weight": fresh(64, 64)}, "experts.1", "of its kind"),
        ({**TRUNK, "up.en.weight": trained(32, 8), "up.sw.weight": fresh(32, 8)}, "up.sw", "of its kind"),
        ({**TRUNK, "value_1.weight": trained(1, 64), "value_2.weight": fresh(1, 64)}, "value_2", "of its kind"),
        ({**TRUNK, "norms.0.weight": bias(8), "norms.1.weight": np.ones(8)}, "norms.1", "of its kind"),
        ({**TRUNK, "blocks.0.weight": trained(64, 64), "blocks.1.weight": fresh(64, 64)}, "blocks.1", ""),
        ({"backbone.weight": trained(64, 16), "head.weight": trained(4, 64)}, "backbone", "frozen"),
        ({"backbone.weight": fresh(64, 16), "head.weight": trained(4, 64)}, "backbone", ""),
        ({"backbone.0.weight": fresh(64, 16), "backbone.2.weight": trained(64, 64), "head.weight": trained(4, 64)},
         "backbone", "frozen"),
        ({"backbone.0.weight": fresh(64, 16), "backbone.2.weight": trained(64, 64), "backbone.4.weight": fresh(64, 64),
          "head.weight": trained(4, 64)}, "backbone", ""),
        ({"first.weight": trained(16, 16), "lost.weight": trained(64, 16), "head.weight": trained(4, 64)}, "lost", ""),
        ({"actor.0.weight": trained(64, 16), "critic.0.weight": fresh(64, 16)}, "critic", "did without it"),
        ({"actor.0.weight": fresh(64, 16), "critic.0.weight": trained(64, 16)}, "actor", ""),
        ({"net.weight": trained(64, 16), "mask_token": np.zeros((1, 1, 64))}, "mask_token", "a token"),
        ({"net.weight": trained(64, 16), "pooler.dense.weight": fresh(64, 64)}, "pooler", "not every training"),
    ],
)  # fmt: skip
def test_a_part_without_state_may_have_a_reason(weights: Weights, unused: str, reason: str) -> None:
    state = {name: {} if name.startswith(unused) else state_of(each) for name, each in weights.items()}
    (finding,) = findings_of(untrained_tensor, build_checkpoint(weights, optimizer=state, step=300))
    assert finding.severity is (NOTE if reason else WARNING)
    assert reason in finding.message


def test_a_head_that_took_part_without_a_gradient_has_no_reason() -> None:
    weights = {**TRUNK, "heads.0.weight": trained(4, 64), "heads.1.weight": fresh(4, 64)}
    state = {name: state_of(each) for name, each in weights.items()}
    state["heads.1.weight"] |= {key: np.zeros((4, 64)) for key in ("exp_avg", "exp_avg_sq")}
    (finding,) = findings_of(untrained_tensor, build_checkpoint(weights, optimizer=state, step=300))
    assert finding.severity is WARNING


@pytest.mark.parametrize(("ending", "severity"), [("_reverse", NOTE), ("", WARNING)])
def test_recurrent_weights_of_one_step(ending: str, severity: Severity) -> None:
    names = [f"lstm.{role}_l0{side}" for role in ("weight_ih", "weight_hh") for side in ("", "_reverse")]
    weights = {name: trained(64, 16, seed) for seed, name in enumerate(names)}
    state = {name: state_of(each) for name, each in weights.items()}
    state[f"lstm.weight_hh_l0{ending}"] |= {key: np.zeros((64, 16)) for key in ("exp_avg", "exp_avg_sq")}
    (finding,) = findings_of(untrained_tensor, build_checkpoint(weights, optimizer=state, step=300))
    assert finding.severity is severity


def blocks(count: int = 3, **changes: NDArray) -> Weights:
    """Blocks with a residual for the next block and a skip connection; the last residual was never trained."""
    last = count - 1
    tensors = {
        name: value
        for block in range(count)
        for name, value in {
            f"blocks.{block}.dilated.weight": trained(64, 32, 10 + block),
            f"blocks.{block}.dilated.bias": bias(64),
            f"blocks.{block}.residual.weight": fresh(32, 32, 7) if block == last else trained(32, 32, block),
            f"blocks.{block}.residual.bias": np.zeros(32) if block == last else bias(32),
            f"blocks.{block}.skip.weight": trained(32, 32, 20 + block),
            f"blocks.{block}.skip.bias": bias(32),
        }.items()
    }
    return {**tensors, "head.weight": trained(4, 32, 40), "head.bias": bias(4)} | {
        name.replace("__", "."): value for name, value in changes.items()
    }


@pytest.mark.parametrize(
    ("tensors", "severity"),
    [
        (blocks(), NOTE),
        (blocks(2), WARNING),
        (blocks(blocks__2__residual__weight=trained(32, 32, 7)), WARNING),
        (blocks(blocks__2__skip__bias=np.zeros(32)), WARNING),
        (blocks(blocks__1__residual__bias=np.zeros(32)), WARNING),
    ],
    ids=["unread", "two blocks", "trained", "nothing beside it was trained", "before the last too"],
)
def test_the_residual_of_the_last_block_has_no_reader(tensors: Weights, severity: Severity) -> None:
    found = {each.tensor: each.severity for each in findings_of(zero_bias, build_checkpoint(tensors))}
    last = max(name for name in tensors if name.endswith("residual.bias"))
    assert found[last] == severity


def orthogonal(size: int, seed: int = 0) -> NDArray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0].astype(np.float32)


@pytest.mark.parametrize(
    ("part", "weight", "severity"),
    [
        ("query", orthogonal(32), NOTE),
        ("query", trained(32, 32), WARNING),
        ("value", orthogonal(32), WARNING),
    ],
)
def test_attention_to_a_single_element_does_not_train_what_chooses(
    part: str, weight: NDArray, severity: Severity
) -> None:
    tensors = {
        "obs.weight": trained(32, 8, 1),
        "obs.bias": bias(32),
        "head.weight": trained(4, 32, 2),
        "head.bias": bias(4),
    }
    for place, name in enumerate(["query", "key", "value", "out_proj"]):
        tensors |= {f"blocks.0.attn.{name}.weight": trained(32, 32, place), f"blocks.0.attn.{name}.bias": bias(32)}
    tensors |= {f"blocks.0.attn.{part}.weight": weight, f"blocks.0.attn.{part}.bias": np.zeros(32)}
    [found] = findings_of(zero_bias, build_checkpoint(tensors))
    assert found.severity == severity


def drawn_layers(count: int, *trained_ones: int, own: float = sqrt(3)) -> Weights:
    """Layers with PyTorch's draws, and one of a graph convolution: its weight is wider, and its bias begins at zero."""
    tensors = {}
    for place in range(count):
        weight = trained(32, 32, place) if place in trained_ones else fresh(32, 32, place)
        bound = 1 / sqrt(32)
        bias_of_layer = np.random.default_rng(place + 50).uniform(-bound, bound, 32).astype(np.float32)
        tensors |= {f"net.{2 * place}.weight": weight, f"net.{2 * place}.bias": bias_of_layer}
    return {**tensors, "net.2.weight": own * tensors["net.2.weight"], "net.2.bias": np.zeros(32)}


@pytest.mark.parametrize(
    ("tensors", "speaks"),
    [
        (drawn_layers(3), False),
        (drawn_layers(3, own=1.0), True),
        ({**drawn_layers(3), "net.4.weight": sqrt(3) * fresh(32, 32, 2)}, True),
        (drawn_layers(2), True),
        (drawn_layers(4, 3), True),
        ({**drawn_layers(3), "norm.weight": np.ones(32), "norm.bias": np.zeros(32)}, False),
        ({**drawn_layers(3), "norm.weight": np.linspace(0.9, 1.1, 32), "norm.bias": np.zeros(32)}, True),
    ],
    ids=[
        "untrained",
        "a layer that PyTorch drew",
        "another own draw with a bias",
        "too few layers to tell",
        "one was trained",
        "initial norm",
        "trained norm",
    ],
)
def test_a_network_that_was_never_trained_has_the_biases_of_its_initialisation(tensors: Weights, speaks: bool) -> None:
    assert bool(findings_of(zero_bias, build_checkpoint(tensors))) is speaks
