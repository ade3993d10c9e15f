"""Rules about weights, on checkpoints in memory: what they find, what they do not report, what their repairs write."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.files import containers
from checkpoint_doctor.builtin.analyzers.layers import copies, network, norm_gains, norm_statistics, recurrent
from checkpoint_doctor.builtin.analyzers.optimizer import optimizer
from checkpoint_doctor.builtin.analyzers.values import constants, extremes, nonfinite, zeros
from checkpoint_doctor.checkpoint import Checkpoint, Flaw, PickledName
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]


def fresh_mlp() -> Weights:
    """A network as PyTorch starts it: 6 inputs, two hidden layers of 32, 4 outputs."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray:
        limit = 1 / np.sqrt(shape[-1] if len(shape) > 1 else 32)
        return random.uniform(-limit, limit, size=shape).astype(np.float32)

    return {
        "net.0.weight": draw(32, 6),
        "net.0.bias": draw(32),
        "net.2.weight": draw(32, 32),
        "net.2.bias": draw(32),
        "net.4.weight": draw(4, 32),
        "net.4.bias": draw(4),
    }


def mlp(**changes: NDArray) -> Weights:
    """The same network after training, which moved its weights beyond the bounds of their initialisation."""
    random = np.random.default_rng(1)
    weights = {
        name: (array + random.normal(0, 0.05, size=array.shape)).astype(np.float32)
        for name, array in fresh_mlp().items()
    }
    return weights | {name.replace("__", "."): array for name, array in changes.items()}


def changed(name: str, change: Callable[[NDArray], None], base: Weights | None = None) -> Weights:
    weights = base or mlp()
    weights[name] = weights[name].copy()
    change(weights[name])
    return weights


def put(index: object, value: float) -> Callable[[NDArray], None]:
    def change(array: NDArray) -> None:
        array[index] = value

    return change


def scatter(share: float, value: float = 0.0) -> Callable[[NDArray], None]:
    def change(array: NDArray) -> None:
        flat = array.reshape(-1)
        flat[np.random.default_rng(1).permutation(flat.size)[: round(share * flat.size)]] = value

    return change


def scale(factor: float) -> Callable[[NDArray], None]:
    def change(array: NDArray) -> None:
        array *= factor

    return change


def copy_row(source: int, target: int) -> Callable[[NDArray], None]:
    def change(array: NDArray) -> None:
        array[target] = array[source]

    return change


def lstm(hidden: int = 8, gates: int = 4, prefix: str = "lstm.") -> Weights:
    random = np.random.default_rng(2)
    draw = lambda *shape: random.uniform(-0.35, 0.35, size=shape).astype(np.float32)  # noqa: E731
    return {
        f"{prefix}weight_ih_l0": draw(gates * hidden, 5),
        f"{prefix}weight_hh_l0": draw(gates * hidden, hidden),
        f"{prefix}bias_ih_l0": draw(gates * hidden),
        f"{prefix}bias_hh_l0": draw(gates * hidden),
        "fc.weight": draw(2, hidden),
        "fc.bias": draw(2),
    }


def layer_norm_mlp() -> Weights:
    weights = mlp()
    return {
        "head.0.weight": weights["net.0.weight"],
        "head.0.bias": weights["net.0.bias"],
        "head.1.weight": np.linspace(0.9, 1.1, 32, dtype=np.float32),
        "head.1.bias": np.zeros(32, dtype=np.float32),
        "head.3.weight": weights["net.4.weight"],
        "head.3.bias": weights["net.4.bias"],
    }


def batch_norm_net(**changes: NDArray) -> Weights:
    random = np.random.default_rng(3)
    weights = {
        "conv1.weight": random.normal(0, 0.1, (16, 3, 3, 3)).astype(np.float32),
        "bn1.weight": np.linspace(0.5, 1.5, 16, dtype=np.float32),
        "bn1.bias": np.linspace(-0.1, 0.1, 16, dtype=np.float32),
        "bn1.running_mean": np.linspace(-1, 1, 16, dtype=np.float32),
        "bn1.running_var": np.linspace(0.1, 2, 16, dtype=np.float32),
        "bn1.num_batches_tracked": np.array(1000),
        "fc.weight": random.normal(0, 0.1, (10, 16)).astype(np.float32),
        "fc.bias": random.normal(0, 0.1, 10).astype(np.float32),
    }
    return weights | {name.replace("__", "."): array for name, array in changes.items()}


def moments(shape: tuple[int, ...], second: float, step: int = 1000) -> dict[str, object]:
    return {"step": step, "exp_avg": np.full(shape, second / 10), "exp_avg_sq": np.full(shape, second)}


def trained(weights: Weights, **seconds: float | None) -> Checkpoint:
    """A checkpoint whose optimizer holds everything, with the second moments given (1e-4 where not)."""
    named = {name.replace("__", "."): second for name, second in seconds.items()}
    state = {}
    for name, array in weights.items():
        second = named.get(name, 1e-4)
        state[name] = {} if second is None else moments(array.shape, second)
    return build_checkpoint(weights, optimizer=state, updates=1000)


FAMILY = {
    "values": [
        nonfinite.nonfinite_values,
        extremes.exploded_values,
        extremes.value_spike,
        extremes.near_overflow,
        constants.constant_tensor,
    ],
    "zeros": [zeros.zero_weights, zeros.partial_zeros, zeros.zero_bias, zeros.bias_collapse],
    "norms": [
        norm_gains.norm_gain_zeros,
        norm_gains.norm_gain_drift,
        norm_statistics.norm_statistics,
        norm_gains.low_precision_stall,
    ],
    "gates": [
        recurrent.forget_gate_bias,
        recurrent.gate_bias_collapse,
        recurrent.gate_saturation,
        recurrent.dead_gate,
        recurrent.recurrent_norm,
    ],
    "network": [
        network.disconnected_units,
        network.zero_output_layer,
        copies.duplicate_units,
        network.rank_collapse,
    ],
}
RULES = [rule for rules in FAMILY.values() for rule in rules]


@pytest.mark.parametrize(
    "rule", [*RULES, containers.damaged_container, containers.unsafe_pickle, containers.empty_tensor]
)
def test_every_rule_keeps_the_contract(rule: Rule):
    check_rule(rule)


HEALTHY: Mapping[str, Callable[[], Weights]] = {
    "a batch norm of PyTorch 1.1 that the network never calls": lambda: batch_norm_net(
        bn1__weight=np.random.default_rng(0).uniform(size=16).astype(np.float32),
        bn1__bias=np.zeros(16, np.float32),
        bn1__running_mean=np.zeros(16, np.float32),
        bn1__running_var=np.ones(16, np.float32),
        bn1__num_batches_tracked=np.array(0),
    ),
    "a codebook that follows moving averages": lambda: mlp(
        vq___ema_w=np.random.default_rng(0).normal(scale=5000, size=(64, 16)).astype(np.float32),
        vq___ema_cluster_size=np.geomspace(0.001, 5e4, 64).astype(np.float32),
        vq__embedding__weight=np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32),
    ),
    "a fresh network": fresh_mlp,
    "a trained network": mlp,
    "an LSTM": lstm,
    "a GRU": lambda: lstm(gates=3, prefix="gru."),
    "a network with layer norm": layer_norm_mlp,
    "a network with batch norm": batch_norm_net,
    "half precision": lambda: {name: array.astype(np.float16) for name, array in mlp().items()},
    "bfloat16": lambda: {name: array.astype(ml_dtypes.bfloat16) for name, array in mlp().items()},
    "a padding row": lambda: {"embedding.weight": changed("w", put(0, 0), {"w": mlp()["net.2.weight"]})["w"]},
    "a mask of minus infinity": lambda: mlp(attn_mask=np.triu(np.full((4, 4), -np.inf, np.float32), 1)),
    "the key bias of attention": lambda: {
        f"attn.{part}_proj.{role}": np.zeros(32, np.float32)
        if (part, role) == ("k", "bias")
        else mlp()[f"net.2.{role}"]
        for part in "qkv"
        for role in ("weight", "bias")
    },
    "a convolution bias in front of batch norm": lambda: batch_norm_net(conv1__bias=np.zeros(16, np.float32)),
    "a fresh LoRA adapter": lambda: mlp(
        net__2__lora_A__weight=np.random.default_rng(4).normal(size=(4, 32)).astype(np.float32),
        net__2__lora_B__weight=np.zeros((32, 4), np.float32),
    ),
    "zero-centred RMS norms": lambda: {
        f"model.layers.{i}.{name}": array
        for i in range(3)
        for name, array in {
            "input_layernorm.weight": np.linspace(-0.2, 0.3, 32, dtype=np.float32) * (np.arange(32) % 4 > 0) * i,
            "mlp.up_proj.weight": mlp()["net.2.weight"],
        }.items()
    },
    "a Fourier basis": lambda: {
        "stft.forward_basis": np.sin(np.outer(np.arange(9), np.arange(16))).astype(np.float32)[:, None, :]
    },
    "large running statistics": lambda: batch_norm_net(bn1__running_var=np.full(16, 1e7, np.float32)),
    "no tensors": dict,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_normal_has_no_finding(name: str):
    checkpoint = build_checkpoint(HEALTHY[name]())
    found = [(finding.code, finding.tensor, finding.message) for rule in RULES for finding in rule.examine(checkpoint)]
    assert found == []


ILL: Mapping[str, tuple[Rule, Weights | Checkpoint, str, Severity]] = {
    "one NaN": (nonfinite.nonfinite_values, changed("net.2.weight", put((1, 2), np.nan)), "net.2.weight", ERROR),
    "one infinity": (nonfinite.nonfinite_values, changed("net.2.bias", put(3, -np.inf)), "net.2.bias", ERROR),
    "NaN in a running mean": (
        nonfinite.nonfinite_values,
        changed("bn1.running_mean", put(0, np.nan), batch_norm_net()),
        "bn1.running_mean",
        ERROR,
    ),
    "a layer times a thousand": (
        extremes.exploded_values,
        changed("net.2.weight", scale(1000)),
        "net.2.weight",
        WARNING,
    ),
    "a bias of a million and one": (
        extremes.exploded_values,
        changed("net.0.bias", put(0, 1_000_001)),
        "net.0.bias",
        ERROR,
    ),
    "a weight of 1.5e24": (
        extremes.exploded_values, changed("net.0.weight", put((0, 0), 1.5e24)), "net.0.weight", ERROR
    ),
    "a flipped exponent": (extremes.value_spike, changed("net.2.weight", put((4, 4), 300)), "net.2.weight", WARNING),
    "float16 at its end": (
        extremes.near_overflow,
        {"net.0.weight": np.full((4, 4), 65_000, np.float16) * np.eye(4, dtype=np.float16)},
        "net.0.weight",
        WARNING,
    ),
    "a constant matrix": (
        constants.constant_tensor,
        mlp(net__2__weight=np.full((32, 32), 0.1, np.float32)),
        "net.2.weight",
        WARNING,
    ),
    "a zero matrix": (zeros.zero_weights, changed("net.2.weight", put(..., 0)), "net.2.weight", WARNING),
    "a zero matrix over trained weights": (
        zeros.zero_weights,
        trained(changed("net.2.weight", put(..., 0))),
        "net.2.weight",
        ERROR,
    ),
    "15 % scattered zeros": (zeros.partial_zeros, changed("net.2.weight", scatter(0.15)), "net.2.weight", WARNING),
    "40 % scattered zeros": (zeros.partial_zeros, changed("net.2.weight", scatter(0.40)), "net.2.weight", WARNING),
    "40 % scattered zeros over trained weights": (
        zeros.partial_zeros,
        trained(changed("net.2.weight", scatter(0.40))),
        "net.2.weight",
        ERROR,
    ),
    "a zero bias": (zeros.zero_bias, changed("net.2.bias", put(..., 0)), "net.2.bias", WARNING),
    "30.9 % of a gain": (
        norm_gains.norm_gain_zeros,
        changed("head.1.weight", scatter(0.309), layer_norm_mlp()),
        "head.1.weight",
        WARNING,
    ),
    "30.9 % of a gain that was trained": (
        norm_gains.norm_gain_zeros,
        trained(changed("head.1.weight", scatter(0.309), layer_norm_mlp())),
        "head.1.weight",
        ERROR,
    ),
    "a whole gain": (
        norm_gains.norm_gain_zeros,
        changed("head.1.weight", put(..., 0), layer_norm_mlp()),
        "head.1.weight",
        WARNING,
    ),
    "a whole gain that was trained": (
        norm_gains.norm_gain_zeros,
        trained(changed("head.1.weight", put(..., 0), layer_norm_mlp())),
        "head.1.weight",
        ERROR,
    ),
    "one entry of a gain": (
        norm_gains.norm_gain_zeros,
        changed("head.1.weight", put(5, 0), layer_norm_mlp()),
        "head.1.weight",
        WARNING,
    ),
    "a gain of a hundred": (
        norm_gains.norm_gain_drift,
        changed("head.1.weight", put(5, 100), layer_norm_mlp()),
        "head.1.weight",
        NOTE,
    ),
    "a negative variance": (
        norm_statistics.norm_statistics,
        changed("bn1.running_var", put(2, -0.1), batch_norm_net()),
        "bn1.running_var",
        ERROR,
    ),
    "statistics never updated": (
        norm_statistics.norm_statistics,
        batch_norm_net(
            bn1__running_mean=np.zeros(16, np.float32),
            bn1__running_var=np.ones(16, np.float32),
            bn1__num_batches_tracked=np.array(0),
        ),
        "bn1.running_var",
        WARNING,
    ),
    "statistics never updated beside a trained gain": (
        norm_statistics.norm_statistics,
        trained(
            batch_norm_net(
                bn1__running_mean=np.zeros(16, np.float32),
                bn1__running_var=np.ones(16, np.float32),
                bn1__num_batches_tracked=np.array(0),
            )
        ),
        "bn1.running_var",
        ERROR,
    ),
    "gate biases of forty": (
        recurrent.gate_saturation,
        changed("lstm.bias_ih_l0", put(slice(0, 8), 40), lstm()),
        "lstm.bias_ih_l0",
        WARNING,
    ),
    "GRU biases": (
        recurrent.gate_bias_collapse,
        changed("gru.bias_hh_l0", put(..., 0), changed("gru.bias_ih_l0", put(..., 0), lstm(gates=3, prefix="gru."))),
        "gru.bias_hh_l0",
        WARNING,
    ),
    "a dead gate": (
        recurrent.dead_gate,
        changed(
            "lstm.weight_hh_l0",
            put(slice(8, 16), 0),
            changed("lstm.weight_ih_l0", put(slice(8, 16), 0), lstm()),
        ),
        "lstm.weight_hh_l0",
        ERROR,
    ),
    "an exploded recurrence": (
        recurrent.recurrent_norm,
        changed("lstm.weight_hh_l0", scale(1000), lstm()),
        "lstm.weight_hh_l0",
        WARNING,
    ),
    "a dead row": (network.disconnected_units, changed("net.2.weight", put(7, 0)), "net.2.weight", WARNING),
    "a dead column": (
        network.disconnected_units,
        changed("net.2.weight", put((slice(None), 9), 0)),
        "net.2.weight",
        WARNING,
    ),
    "a zero head": (network.zero_output_layer, changed("net.4.weight", put(..., 0)), "net.4.weight", WARNING),
    "a copied row": (copies.duplicate_units, changed("net.2.weight", copy_row(3, 17)), "net.2.weight", WARNING),
    "a matrix of rank one": (
        network.rank_collapse,
        mlp(net__2__weight=np.outer(np.arange(1, 33), np.arange(1, 33)).astype(np.float32) * 1e-3),
        "net.2.weight",
        NOTE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ILL)
def test_what_is_ill_is_found_on_its_tensor(name: str):
    rule, subject, tensor, severity = ILL[name]
    found = findings_of(rule, subject if isinstance(subject, Checkpoint) else build_checkpoint(subject))
    assert (tensor, severity) in {(finding.tensor, finding.severity) for finding in found}


def test_the_first_nonfinite_value_is_placed_and_counted():
    (finding,) = findings_of(nonfinite.nonfinite_values, build_checkpoint(ILL["one NaN"][1]))
    assert finding.evidence["first_index"] == [1, 2]
    assert "1 NaN of 1,024 values, first NaN at [1, 2]" in finding.message
    assert "only a few" in finding.message


def test_all_nan_has_another_explanation_than_one_nan():
    weights = mlp(net__2__weight=np.full((32, 32), np.nan, np.float32))
    (finding,) = findings_of(nonfinite.nonfinite_values, build_checkpoint(weights))
    assert "every entry is NaN" in finding.message


def test_a_spike_is_placed():
    (finding,) = findings_of(extremes.value_spike, build_checkpoint(ILL["a flipped exponent"][1]))
    assert finding.evidence["indices"] == [[4, 4]]


def test_pruning_is_named_and_only_noted():
    weights = mlp()
    for name in ("net.0.weight", "net.2.weight", "net.4.weight"):
        weights = changed(name, scatter(0.5), weights)
    found = findings_of(zeros.partial_zeros, build_checkpoint(weights))
    assert {finding.severity for finding in found} == {NOTE}
    assert all("pruning" in finding.message for finding in found)


@pytest.mark.parametrize("share", [0.9, 0.97, 0.99])
def test_units_that_lost_all_weights_in_pruning_are_only_noted(share: float):
    pruned = {
        name: np.where(np.abs(values) < np.quantile(np.abs(values), share), 0, values) if values.ndim == 2 else values
        for name, values in mlp().items()
    }
    pruned["net.2.weight"][7] = 0
    found = findings_of(network.disconnected_units, build_checkpoint(pruned))
    assert {finding.severity for finding in found} == {NOTE}


def two_of_four() -> NDArray:
    random = np.random.default_rng(5)
    keep = random.permuted(np.tile([True, True, False, False], (32 * 8, 1)), axis=1).reshape(32, 32)
    return np.where(keep, random.normal(size=(32, 32)), 0)


@pytest.mark.parametrize(
    ("matrix", "pattern"),
    [
        (np.tril(np.random.default_rng(0).normal(size=(32, 32))), "triangular"),
        (np.eye(32) * 0.7, "one-hot"),
        (two_of_four(), "2:4"),
    ],
)
def test_zeros_of_a_chosen_pattern_are_named(matrix: NDArray, pattern: str):
    found = findings_of(zeros.partial_zeros, build_checkpoint(mlp(net__2__weight=matrix.astype(np.float32))))
    assert all(finding.severity is NOTE and pattern in finding.message for finding in found)
    assert found


def test_dead_rows_are_listed_completely_and_not_counted_as_scattered():
    weights = changed("net.2.weight", put(slice(0, 32, 2), 0))
    (finding,) = findings_of(network.disconnected_units, build_checkpoint(weights))
    assert finding.evidence["units"] == list(range(0, 32, 2))
    assert findings_of(zeros.partial_zeros, build_checkpoint(weights)) == []


def orthogonal_mlp() -> Weights:
    """A policy as ``orthogonal_`` draws it, beside biases of zero."""
    random = np.random.default_rng(0)
    weights: Weights = {}
    for number, (rows, columns, gain) in enumerate([(32, 6, 1.41), (32, 32, 1.41), (4, 32, 0.01)]):
        turned = np.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))[0]
        turned = turned if rows >= columns else turned.T
        weights[f"net.{2 * number}.weight"] = (gain * turned).astype(np.float32)
        weights[f"net.{2 * number}.bias"] = np.zeros(rows, np.float32)
    return weights


def test_a_policy_that_was_never_trained_may_have_zero_biases():
    assert findings_of(zeros.zero_bias, build_checkpoint(orthogonal_mlp())) == []


def test_zero_biases_beside_one_trained_matrix_are_remarkable():
    trained = orthogonal_mlp()
    trained["net.2.weight"][0] *= np.float32(1.001)
    assert [each.tensor for each in findings_of(zeros.zero_bias, build_checkpoint(trained))] == [
        "net.0.bias",
        "net.2.bias",
        "net.4.bias",
    ]


def test_the_padding_row_of_a_tied_head_is_the_embeddings_own():
    table = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    table[0] = 0
    apart = build_checkpoint({"embed_tokens.weight": table, "lm_head.weight": table})
    (finding,) = findings_of(network.disconnected_units, apart)
    assert finding.tensor == "lm_head.weight"
    tied = tuple(replace(tensor, storage="shared") for tensor in apart.tensors)
    assert findings_of(network.disconnected_units, replace(apart, tensors=tied)) == []


def test_all_biases_zero_is_one_pattern_with_all_its_members():
    weights = mlp()
    for name in ("net.0.bias", "net.2.bias", "net.4.bias"):
        weights = changed(name, put(..., 0), weights)
    (finding,) = findings_of(zeros.bias_collapse, build_checkpoint(weights))
    assert finding.evidence["tensors"] == ["net.0.bias", "net.2.bias", "net.4.bias"]
    assert finding.evidence["zeros"] == 68
    assert len(findings_of(zeros.zero_bias, build_checkpoint(weights))) == 3


@pytest.mark.parametrize(
    ("seconds", "severity", "cause"),
    [
        ({}, ERROR, "overwritten"),
        ({"net__2__bias": 0.0}, WARNING, "never trained"),
        ({"net__2__bias": None}, WARNING, "never trained"),
    ],
)
def test_the_optimizer_decides_what_a_zero_bias_means(seconds, severity, cause):
    (finding,) = findings_of(zeros.zero_bias, trained(changed("net.2.bias", put(..., 0)), **seconds))
    assert (finding.severity, finding.evidence["cause"]) == (severity, cause)


@pytest.mark.parametrize("second", [0.0, None])
def test_a_zero_bias_of_a_layer_that_was_never_trained_is_reported_with_its_layer(second: float | None):
    checkpoint = trained(changed("net.2.bias", put(..., 0)), net__2__bias=second, net__2__weight=second)
    assert findings_of(zeros.zero_bias, checkpoint) == []
    (finding,) = findings_of(optimizer.untrained_tensor, checkpoint)
    assert (finding.severity, finding.layer, finding.evidence["tensors"]) == (
        WARNING,
        "net.2",
        ["net.2.weight", "net.2.bias"],
    )


def test_zero_biases_before_the_first_update_have_no_finding():
    weights = changed("net.2.bias", put(..., 0))
    checkpoint = build_checkpoint(weights, optimizer={name: {} for name in weights}, updates=0)
    assert findings_of(zeros.zero_bias, checkpoint) == []


def test_timesteps_alone_are_no_evidence_of_training():
    weights = changed("net.2.bias", put(..., 0))
    checkpoint = build_checkpoint(weights, optimizer={name: {} for name in weights}, updates=0, step=75_000)
    assert findings_of(zeros.zero_bias, checkpoint) == []


def test_a_key_bias_that_was_overwritten_is_not_excused():
    weights = {"attn.k_proj.weight": mlp()["net.2.weight"], "attn.k_proj.bias": np.zeros(32, np.float32)}
    assert findings_of(zeros.zero_bias, build_checkpoint(weights)) == []
    assert [finding.severity for finding in findings_of(zeros.zero_bias, trained(weights))] == [ERROR]


def reinitialised(rule: Rule, weights: Weights) -> dict[str, NDArray]:
    (finding, *_) = findings_of(rule, build_checkpoint(weights))
    return {repair.tensor: repair.renew(weights[repair.tensor], np.random.default_rng(0)) for repair in finding.repairs}


def test_a_zero_bias_is_repaired_to_small_uniform_values():
    new = reinitialised(zeros.zero_bias, changed("net.2.bias", put(..., 0)))["net.2.bias"]
    assert ((new != 0) & (np.abs(new) < 0.01)).all()
    assert len(np.unique(new)) == 32


def test_zero_gains_become_one_and_the_others_stay():
    weights = changed("head.1.weight", scatter(0.309), layer_norm_mlp())
    new = reinitialised(norm_gains.norm_gain_zeros, weights)["head.1.weight"]
    old = weights["head.1.weight"]
    assert (new[old == 0] == 1.0).all()
    assert (new[old != 0] == old[old != 0]).all()


def test_a_zero_forget_slice_gets_an_effective_bias_of_exactly_one():
    weights = lstm()
    for name in ("lstm.bias_ih_l0", "lstm.bias_hh_l0"):
        weights = changed(name, put(slice(8, 16), 0), weights)
    checkpoint = build_checkpoint(weights)
    (finding,) = findings_of(recurrent.forget_gate_bias, checkpoint)
    assert finding.evidence["rows"] == [8, 16]
    new = reinitialised(recurrent.forget_gate_bias, weights)
    total = new["lstm.bias_ih_l0"] + new["lstm.bias_hh_l0"]
    assert (total[8:16] == 1.0).all()
    untouched = np.r_[0:8, 16:32]
    for name in new:
        assert (new[name][untouched] == weights[name][untouched]).all()


def test_zero_lstm_biases_get_a_forget_bias_of_one_and_small_others():
    weights = lstm()
    for name in ("lstm.bias_ih_l0", "lstm.bias_hh_l0"):
        weights = changed(name, put(..., 0), weights)
    new = {}
    for finding in findings_of(recurrent.gate_bias_collapse, build_checkpoint(weights)):
        for repair in finding.repairs:
            new[repair.tensor] = repair.renew(weights[repair.tensor], np.random.default_rng(0))
    assert ((new["lstm.bias_ih_l0"] + new["lstm.bias_hh_l0"])[8:16] == 1.0).all()
    others = np.r_[0:8, 16:32]
    assert all(((array[others] != 0) & (np.abs(array[others]) < 0.01)).all() for array in new.values())


def test_a_zero_head_is_repaired_within_three_thousandths():
    new = reinitialised(network.zero_output_layer, changed("net.4.weight", put(..., 0)))["net.4.weight"]
    assert ((new != 0) & (np.abs(new) < 0.003)).all()


def test_a_gain_that_bfloat16_rounds_away_is_found():
    weights = layer_norm_mlp() | {"head.1.weight": np.ones(32, ml_dtypes.bfloat16)}
    found = findings_of(norm_gains.low_precision_stall, trained(weights))
    assert [finding.tensor for finding in found] == ["head.1.weight"]
    assert findings_of(norm_gains.low_precision_stall, build_checkpoint(weights)) == []


def test_a_zero_initialised_residual_gamma_has_no_finding_and_an_overwritten_one_has():
    block = {
        f"layer1.0.{name}": array
        for number in (1, 2)
        for name, array in {
            f"conv{number}.weight": np.random.default_rng(number).normal(size=(8, 8, 3, 3)).astype(np.float32),
            f"bn{number}.weight": np.full(8, 2.0 - number, np.float32),
            f"bn{number}.bias": np.zeros(8, np.float32),
            f"bn{number}.running_mean": np.ones(8, np.float32),
            f"bn{number}.running_var": np.ones(8, np.float32) * 0.5,
        }.items()
    }
    assert findings_of(norm_gains.norm_gain_zeros, build_checkpoint(block)) == []
    block["layer1.0.bn1.weight"] = np.zeros(8, np.float32)
    assert {finding.tensor for finding in findings_of(norm_gains.norm_gain_zeros, build_checkpoint(block))} == {
        "layer1.0.bn1.weight",
        "layer1.0.bn2.weight",
    }


def with_names(*names: PickledName) -> Checkpoint:
    return Checkpoint(path="x", format="torch", tensors=(), pickled_names=names)


@pytest.mark.parametrize(
    "name", ["os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.__import__"]
)
def test_a_pickle_that_would_act_is_an_error(name: str):
    module, _, function = name.rpartition(".")
    (finding,) = findings_of(containers.unsafe_pickle, with_names(PickledName(module, function, called=True)))
    assert finding.severity is ERROR
    assert name in finding.message


@pytest.mark.parametrize(
    "name", ["os.system", "Net.__init__.__globals__", "Net.__subclasses__", "serialization.os.popen", "sys.modules"]
)
def test_a_name_that_leads_out_of_its_module_is_an_error(name: str):
    (finding,) = findings_of(containers.unsafe_pickle, with_names(PickledName("torch", name)))
    assert finding.severity is ERROR


def test_a_programs_own_classes_are_a_note():
    (finding,) = findings_of(containers.unsafe_pickle, with_names(PickledName("models.policy", "Actor", called=True)))
    assert finding.severity is NOTE


def test_names_that_describe_data_have_no_finding():
    names = [PickledName("collections", "OrderedDict", known=True), PickledName("builtins", "set")]
    assert [each for each in findings_of(containers.unsafe_pickle, with_names(*names)) if each.severity > NOTE] == []


def test_a_flaw_is_reported_with_both_sizes():
    checkpoint = Checkpoint("x", "torch", (), flaws=(Flaw("is cut short", "data/3", 4096, 1000),))
    (finding,) = findings_of(containers.damaged_container, checkpoint)
    assert finding.message == "data/3: is cut short: expected 4,096, found 1,000"


def test_a_placeholder_without_elements_is_an_error():
    (finding,) = findings_of(containers.empty_tensor, build_checkpoint(mlp(net__2__weight=np.empty((0,), np.float32))))
    assert finding.tensor == "net.2.weight"


def test_schedules_stored_as_code_come_with_the_line_that_replaces_them():
    checkpoint = Checkpoint(
        "x",
        "sb3",
        (),
        hyperparameters={"lr_schedule": {"stored_as": "code", "value": 0.0003}},
        versions={"stable_baselines3": "1.8.0", "python": "3.8.10"},
    )
    (finding,) = findings_of(containers.code_in_schedule, checkpoint)
    assert '"lr_schedule": lambda _: 0.0003' in finding.message
    assert "SB3 1.8.0 and Python 3.8.10" in finding.message


def test_a_recurrent_layer_times_a_thousand_is_found_though_its_inputs_are_few():
    random = np.random.default_rng(6)
    weights = {
        f"gru.{role}_l0": random.uniform(-1 / 16, 1 / 16, size=shape).astype(np.float32)
        for role, shape in {"weight_ih": (768, 4), "weight_hh": (768, 256), "bias_ih": 768, "bias_hh": 768}.items()
    }
    assert findings_of(extremes.exploded_values, build_checkpoint(weights)) == []
    weights = changed("gru.weight_ih_l0", scale(1000), weights)
    assert [finding.tensor for finding in findings_of(extremes.exploded_values, build_checkpoint(weights))] == [
        "gru.weight_ih_l0"
    ]


def test_a_spike_in_a_parameter_of_its_own_is_found():
    positions = np.random.default_rng(7).normal(0, 0.02, size=(1, 16, 32)).astype(np.float32)
    assert findings_of(extremes.value_spike, build_checkpoint({"pos": positions})) == []
    positions[0, 3, 3] = 200
    assert [each.tensor for each in findings_of(extremes.value_spike, build_checkpoint({"pos": positions}))] == ["pos"]


@pytest.mark.parametrize(
    ("rows", "severity"),
    [([0], None), ([98, 99], None), ([17], NOTE), ([17, 18, 40], WARNING)],
)
def test_zero_rows_of_an_embedding_are_padding_or_missing_words(rows: list[int], severity: Severity | None):
    table = np.random.default_rng(8).normal(size=(100, 16)).astype(np.float32)
    table[rows] = 0
    found = findings_of(network.disconnected_units, build_checkpoint({"embedding.weight": table}))
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
