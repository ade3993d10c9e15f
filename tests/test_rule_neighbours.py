"""Rules about weights at their borders: what a rule finds, beside the nearest case in which it is silent or milder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.layers import copies, network, norm_gains
from checkpoint_doctor.builtin.analyzers.values import constants, extremes, nonfinite, weight_scale, zeros
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import draw, found, gated, mlp, trained, zeroed

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
INF, NAN = np.inf, np.nan
Weights = dict[str, NDArray]
Case = tuple[Rule, Weights | Checkpoint, Severity | None]


def table(name: str, rows: list[int], count: int = 50, **others: NDArray) -> Weights:
    """A table of vectors in which these rows are zero."""
    return {f"{name}.weight": zeroed(draw(count, 8), rows)} | others


def head(rows: int, zero: list[int]) -> Weights:
    """A network with an output layer in which these rows are zero."""
    return mlp(net__4__weight=zeroed(draw(rows, 8), zero), net__4__bias=draw(rows))


def cut(*numbers: int, layers: int = 4, rows: int = 1) -> Weights:
    """A network of so many layers, of which these have zero rows."""
    return {
        f"net.{2 * number}.weight": zeroed(draw(12, 12, seed=number), list(range(rows)))
        if number in numbers
        else draw(12, 12, seed=number)
        for number in range(layers)
    }


UNITS: Mapping[str, Case] = {
    "one word without a vector": (network.disconnected_units, table("user_vectors", [7]), NOTE),
    "a layer that is no table": (network.disconnected_units, table("fc", [7]), NOTE),
    "a layer with the name of a table and a bias": (
        network.disconnected_units, table("user_vectors", [7, 20], **{"user_vectors.bias": draw(50)}), WARNING
    ),
    "the padding row": (network.disconnected_units, table("embedding", [0]), None),
    "the second row": (network.disconnected_units, table("embedding", [1]), None),
    "the third row": (network.disconnected_units, table("embedding", [2]), None),
    "the fourth row": (network.disconnected_units, table("embedding", [3]), None),
    "the fifth row": (network.disconnected_units, table("embedding", [4]), NOTE),
    "padding and the unknown word": (network.disconnected_units, table("embedding", [0, 1]), None),
    "padding and another": (network.disconnected_units, table("embedding", [0, 2]), WARNING),
    "the second and third row": (network.disconnected_units, table("embedding", [1, 2]), WARNING),
    "the last rows and the padding": (network.disconnected_units, table("embedding", [1, 48, 49]), None),
    "the last rows and one word": (network.disconnected_units, table("embedding", [7, 48, 49]), NOTE),
    "a head that is filled up": (network.disconnected_units, head(16, [12, 13, 14, 15]), None),
    "a head of which half is zero": (network.disconnected_units, head(16, list(range(8, 16))), None),
    "a head of fifteen": (network.disconnected_units, head(15, [12, 13, 14]), WARNING),
    "a head of eighteen": (network.disconnected_units, head(18, [16, 17]), WARNING),
    "a head that ends in weights": (network.disconnected_units, head(16, [12, 13, 14]), WARNING),
    "a head with a zero in the middle": (network.disconnected_units, head(16, [3, 15]), WARNING),
    "a hidden layer that ends in zeros": (
        network.disconnected_units, mlp(net__2__weight=zeroed(draw(8, 12), [6, 7])), WARNING
    ),
    "most layers of four are cut": (network.disconnected_units, cut(0, 1, 2), NOTE),
    "half of the layers are cut": (network.disconnected_units, cut(0, 1), WARNING),
    "all of three layers are cut": (network.disconnected_units, cut(0, 1, 2, layers=3), WARNING),
    "nearly all of most layers is zero": (
        network.disconnected_units, {**cut(0, 1, 2), "net.0.weight": zeroed(draw(40, 12), list(range(39)))}, WARNING
    ),
    "a zero head that waited": (
        network.zero_output_layer,
        trained(mlp(net__4__weight=np.zeros((4, 8))), {"net.4.weight": None, "net.4.bias": None}), None,
    ),
    "a zero head of which every gradient was zero": (
        network.zero_output_layer,
        trained(mlp(net__4__weight=np.zeros((4, 8))), {"net.4.weight": 0.0, "net.4.bias": 0.0}), ERROR,
    ),
    "a readout of which every gradient was zero": (
        network.zero_output_layer,
        trained(
            mlp(net__4__weight=None, net__4__bias=None, readout__weight=np.zeros((4, 8))), {"readout.weight": 0.0}
        ),
        None,
    ),
    "rows of a constant": (copies.duplicate_units, mlp(net__2__weight=draw(8, 12)[[0, 0, 2, 3, 4, 5, 6, 7]]), WARNING),
    "40 bits in float32": (copies.duplicate_units, {"net.0.weight": draw(8, 2)[[0, 0, 2, 3, 4, 5, 6, 7]]}, WARNING),
    "23 bits in float32": (copies.duplicate_units, {"net.0.weight": draw(8, 1)[[0, 0, 2, 3, 4, 5, 6, 7]]}, None),
    "40 bits in float16": (
        copies.duplicate_units, {"net.0.weight": draw(8, 4)[[0, 0, 2, 3, 4, 5, 6, 7]].astype(np.float16)}, WARNING
    ),
    "30 bits in float16": (
        copies.duplicate_units, {"net.0.weight": draw(8, 3)[[0, 0, 2, 3, 4, 5, 6, 7]].astype(np.float16)}, None
    ),
    "one entry in float64": (
        copies.duplicate_units, {"net.0.weight": draw(8, 1)[[0, 0, 2, 3, 4, 5, 6, 7]].astype(np.float64)}, WARNING
    ),
}  # fmt: skip


def buffer(value: Any, name: str = "mask") -> Weights:
    return mlp() | {name: np.asarray(value, np.float32)}


def with_entry(value: float, index: tuple[int, ...] = (3, 4), scale: float = 0.1) -> Weights:
    """A network in which one weight of small ones has this value."""
    weight = scale * draw(8, 12)
    weight[index] = value
    return mlp(net__2__weight=weight)


VALUES: Mapping[str, Case] = {
    "a mask of minus infinity": (nonfinite.nonfinite_values, buffer([[-INF, 0], [0, -INF]], "attn_mask"), None),
    "a mask with positive numbers": (nonfinite.nonfinite_values, buffer([[-INF, 1], [0, -INF]], "attn_mask"), ERROR),
    "a mask with NaN": (nonfinite.nonfinite_values, buffer([[NAN, 0], [0, -INF]], "attn_mask"), ERROR),
    "a matrix that is no buffer": (nonfinite.nonfinite_values, buffer([[-INF, 0], [0, -INF]], "table"), ERROR),
    "an extreme before its first value": (nonfinite.nonfinite_values, buffer([INF, INF], "mask"), None),
    "a lowest extreme": (nonfinite.nonfinite_values, buffer([-INF, -INF], "mask"), None),
    "infinity of both signs": (nonfinite.nonfinite_values, buffer([INF, -INF], "mask"), ERROR),
    "both signs under an extreme's name": (
        nonfinite.nonfinite_values, buffer([INF, -INF, 0], "observer.min_val"), ERROR
    ),
    "one channel before its first value": (nonfinite.nonfinite_values, buffer([INF, 0.5], "observer.min_val"), None),
    "one infinite entry of another name": (nonfinite.nonfinite_values, buffer([INF, 0.5], "observer.other"), ERROR),
    "zero beside an infinity of another name": (
        nonfinite.nonfinite_values, buffer([INF, 0.0], "observer.other"), ERROR
    ),
    "one entry among all": (extremes.value_spike, with_entry(20.0), WARNING),
    "a cut draw": (extremes.value_spike, with_entry(2.0, scale=0.01), None),
    "a cut negative draw": (extremes.value_spike, with_entry(-2.0, scale=0.01), None),
    "beyond a cut draw": (extremes.value_spike, with_entry(2.2, scale=0.01), WARNING),
    "an infinite entry": (extremes.value_spike, with_entry(INF), None),
    "a magnitude of weight normalisation": (
        constants.constant_tensor, {"net.0.weight_g": np.ones((8, 1)), "net.0.weight_v": draw(8, 4)}, None
    ),
    "a constant matrix": (constants.constant_tensor, {"net.0.weight": np.ones((2, 2))}, WARNING),
    "a constant matrix of three entries": (constants.constant_tensor, {"net.0.weight": np.ones((3, 1))}, None),
    "a constant of zero": (constants.constant_tensor, {"net.0.weight": np.zeros((8, 8))}, None),
    "nearly constant": (constants.constant_tensor, {"net.0.weight": np.where(np.eye(8) == 1, 1.001, 1)}, None),
    "a constant vector": (constants.constant_tensor, {"net.0.weight": draw(8, 8), "net.0.bias": np.ones(8)}, None),
    "a constant with NaN": (constants.constant_tensor, {"net.0.weight": np.where(np.eye(8) == 1, NAN, 1.0)}, None),
}  # fmt: skip


def batch_norms(*gains: Any, bias: float = 0.5, prefix: str = "block") -> Weights:
    """Batch norms bn1, bn2 … of one block with these gains."""
    weights: Weights = {}
    for number, gain in enumerate(gains, 1):
        name, array = f"{prefix}.bn{number}", np.asarray(gain, np.float64)
        weights |= {
            f"{name}.weight": array, f"{name}.bias": np.full(array.shape, bias),
            f"{name}.running_mean": np.linspace(-1, 1, array.size),
            f"{name}.running_var": np.linspace(1, 2, array.size),
        }  # fmt: skip
    return weights


ONES, DEAD = np.linspace(0.8, 1.2, 8), np.zeros(8)
HOLED = np.array([0.0, *np.linspace(0.8, 1.2, 7)])


def rms(*gains: Any) -> Weights:
    return {f"layers.{number}.norm.weight": np.asarray(gain, np.float64) for number, gain in enumerate(gains)} | {
        f"layers.{number}.up.weight": draw(16, 16, seed=number) for number in range(len(gains))
    }


NORMS: Mapping[str, Case] = {
    "the last norm of a block starts at zero": (norm_gains.norm_gain_zeros, batch_norms(ONES, DEAD), None),
    "the first norm of a block is zero": (norm_gains.norm_gain_zeros, batch_norms(DEAD, ONES), WARNING),
    "one zero gain": (norm_gains.norm_gain_zeros, batch_norms(HOLED), WARNING),
    "one zero gain whose bias is nearly zero": (norm_gains.norm_gain_zeros, batch_norms(HOLED, bias=0.9e-3), NOTE),
    "one zero gain whose bias is small": (norm_gains.norm_gain_zeros, batch_norms(HOLED, bias=1.1e-3), WARNING),
    "one zero gain whose bias is negative": (norm_gains.norm_gain_zeros, batch_norms(HOLED, bias=-1.1e-3), WARNING),
    "gains down to a twentieth": (
        norm_gains.norm_gain_zeros, batch_norms([0, 0.049, *np.full(6, 1.0)]), NOTE
    ),
    "gains above a twentieth": (
        norm_gains.norm_gain_zeros, batch_norms([0, 0.051, *np.full(6, 1.0)]), WARNING
    ),
    "a dead share below the error": (norm_gains.norm_gain_zeros, batch_norms([0, 0, *ONES[2:]], bias=0), NOTE),
    "a dead share above the error": (norm_gains.norm_gain_zeros, batch_norms([0, 0, 0, *ONES[3:]], bias=0), WARNING),
    "one zero gain without bias": (
        norm_gains.norm_gain_zeros,
        {name: array for name, array in batch_norms(HOLED).items() if not name.endswith("bias")}, WARNING,
    ),
    "a norm without channels that are zero": (norm_gains.norm_gain_zeros, batch_norms(ONES), None),
}  # fmt: skip


def slimmed(*holed: bool) -> list[Severity]:
    gains = [HOLED if each else ONES for each in holed]
    weights = {name: array for n, gain in enumerate(gains) for name, array in batch_norms(gain, prefix=f"b{n}").items()}
    return [each.severity for each in found(norm_gains.norm_gain_zeros, weights)]


def test_zeros_in_most_of_three_batch_norms_are_slimming() -> None:
    assert slimmed(True, True) == [WARNING, WARNING]
    assert slimmed(True, True, False) == [NOTE, NOTE]
    assert slimmed(True, False, False) == [WARNING]
    assert slimmed(True, True, False, False) == [WARNING, WARNING]


def test_two_zero_norms_in_a_block_do_not_start_a_residual() -> None:
    assert [each.severity for each in found(norm_gains.norm_gain_zeros, batch_norms(DEAD, DEAD))] == [WARNING] * 2
    assert [each.tensor for each in found(norm_gains.norm_gain_zeros, batch_norms(ONES, DEAD, ONES))] == [
        "block.bn2.weight"
    ]
    weights = batch_norms(ONES, DEAD) | {
        name.replace("block.bn1", "block.downsample_bn"): array for name, array in batch_norms(ONES).items()
    }
    assert found(norm_gains.norm_gain_zeros, weights) == []


@pytest.mark.parametrize("name", [*UNITS, *VALUES, *NORMS])
def test_a_case_and_its_neighbours(name: str) -> None:
    rule, subject, severity = (UNITS | VALUES | NORMS)[name]
    assert [each.severity for each in found(rule, subject)][:1] == ([] if severity is None else [severity])


# Copied blocks


def blocks(*seeds: int, moments: tuple[int, ...] = (), names: str = "h.{}.fc.weight", **fields: Any) -> Checkpoint:
    """Numbered blocks, drawn by these seeds, with moments drawn by others."""
    weights = {names.format(number): draw(4, 4, seed=seed) for number, seed in enumerate(seeds)}
    state = {
        name: {"step": 9, "exp_avg": draw(4, 4, seed=90 + seed), "exp_avg_sq": draw(4, 4, seed=90 + seed) ** 2}
        for name, seed in zip(weights, moments, strict=False)
    }
    return build_checkpoint(weights, optimizer=state or None, **fields)


@pytest.mark.parametrize(
    ("checkpoint", "pairs"),
    [
        (blocks(1, 2, 1, moments=(1, 2, 3)), [["h.0", "h.2"]]),
        (blocks(1, 1, 1, moments=(1, 2, 3)), [["h.0", "h.1"], ["h.0", "h.2"]]),
        (blocks(1, 2, 3, moments=(1, 2, 3)), []),
        (blocks(1, 1, moments=(1, 1)), []),
        (blocks(1, 1, moments=(1,)), []),
        (blocks(1, 1), []),
        (blocks(1, 1, moments=(1, 2), names="{}.fc.weight"), []),
        (blocks(1, 1, moments=(1, 2), names="h.{}x.fc.weight"), []),
        (blocks(1, 1, moments=(1, 2), names="model.h.{}.1.fc.weight"), [["model.h.0", "model.h.1"]]),
    ],
    ids=["a copy", "two copies", "all different", "equal moments", "one untrained", "no optimizer", "no word before",
         "no number", "the first number counts"],
)  # fmt: skip
def test_blocks_that_were_trained_apart_are_not_equal(checkpoint: Checkpoint, pairs: list[list[str]]) -> None:
    assert [each.evidence["blocks"] for each in found(copies.copied_blocks, checkpoint)] == pairs


def test_a_block_that_received_no_gradient_may_still_be_a_copy() -> None:
    states = {
        f"h.{number}.fc.weight": {"step": 9, "exp_avg": draw(4, 4), "exp_avg_sq": draw(4, 4) ** 2} for number in (0, 1)
    }
    states["h.1.fc.weight"] = {"step": 9, "exp_avg": np.zeros((4, 4)), "exp_avg_sq": np.zeros((4, 4))}
    checkpoint = build_checkpoint(dict.fromkeys(states, draw(4, 4)), optimizer=states)
    assert found(copies.copied_blocks, checkpoint) == []


def test_blocks_of_few_or_constant_entries_may_be_equal() -> None:
    for shape, value, count in (((4, 4), None, 1), ((3, 5), None, 0), ((4, 4), 0.5, 0), ((4, 4), NAN, 0)):
        array = draw(*shape) if value is None or np.isnan(value) else np.full(shape, value)
        array.reshape(-1)[0] = NAN if value is not None and np.isnan(value) else array.reshape(-1)[0]
        state = {
            f"h.{number}.fc.weight": {"step": 9, "exp_avg": draw(*shape, seed=number), "exp_avg_sq": draw(*shape) ** 2}
            for number in range(2)
        }
        state["h.1.fc.weight"]["exp_avg_sq"] = 2 * state["h.1.fc.weight"]["exp_avg_sq"]
        checkpoint = build_checkpoint(dict.fromkeys(state, array), optimizer=state)
        assert len(found(copies.copied_blocks, checkpoint)) == count, (shape, value)


def test_copies_are_told_where_an_optimizer_may_hold_them() -> None:
    doubled = draw(8, 12)[[0, 0, 2, 3, 4, 5, 6, 7]]
    weights = mlp(net__2__weight=doubled)
    assert len(found(copies.duplicate_units, trained(weights))) == 1
    without = trained(weights, without=("net.2.weight",))
    assert found(copies.duplicate_units, without) == []
    unmatched = replace(without, optimizers=(replace(without.optimizers[0], unmatched="several fit"),))
    assert len(found(copies.duplicate_units, unmatched)) == 1
    pair = {"q_net.q_net.0.weight": draw(8, 12, seed=1), "q_net_target.q_net.0.weight": doubled}
    checkpoint = trained(pair, without=("q_net_target.q_net.0.weight",))
    assert [each.tensor for each in found(copies.duplicate_units, checkpoint)] == ["q_net_target.q_net.0.weight"]


# The scale of weights


def grid(step: float, *, smallest: int = 1, largest: int = 40, dtype: Any = np.float32, size: int = 128) -> NDArray:
    """Multiples of a step between these numbers of it, in both signs."""
    magnitudes = np.random.default_rng(0).integers(smallest, largest + 1, size=(size // 8, 8)) * step
    return (magnitudes * np.where(np.arange(8) % 2, 1, -1)).astype(dtype)


@pytest.mark.parametrize(
    ("weight", "step"),
    [
        (grid(0.01), 0.01),
        (grid(0.01, dtype=np.float64), 0.01),
        (grid(0.1), 0.1),
        (grid(1.0), 1.0),
        (grid(10.0), 10.0),
        (grid(0.02), 0.01),
        (grid(1 / 128), None),
        (grid(0.01, dtype=np.float16), None),
        (grid(0.01, largest=4), None),
        (grid(0.01, largest=5), 0.01),
        (grid(0.01, largest=2000), None),
        (grid(0.01, size=56), None),
        (grid(0.01, size=64), 0.01),
        (grid(1e-32), None),
        (grid(1e31), None),
        (draw(16, 8), None),
        (np.append(grid(0.01, size=2048), [[0.005] * 8], axis=0), None),
    ],
    ids=["hundredths", "double precision", "tenths", "ones", "tens", "even hundredths", "a power of two", "half",
         "four magnitudes", "five magnitudes", "too fine", "56 weights", "64 weights", "tiny", "huge", "no grid",
         "off the grid late"],
)  # fmt: skip
def test_a_grid_is_told_by_its_step(weight: NDArray, step: float | None) -> None:
    findings = found(weight_scale.gridded_values, {"net.0.weight": weight})
    assert [each.evidence["grids"] for each in findings] == ([] if step is None else [[pytest.approx(step)]])


def test_a_network_on_a_grid_is_a_warning_unless_something_says_that_it_is_quantised() -> None:
    weights = {"a.weight": grid(0.01), "b.weight": grid(1.0)}
    (finding,) = found(weight_scale.gridded_values, weights)
    assert (finding.severity, finding.tensor, finding.evidence["matrices"]) == (WARNING, None, 2)
    assert "0.01 to 1" in finding.message
    assert "scales they lost" in finding.advice
    (finding,) = found(weight_scale.gridded_values, weights | {"b.weight": draw(16, 8)})
    assert (finding.severity, finding.tensor) == (NOTE, "a.weight")
    assert "text" in finding.advice
    for other in (
        {"a.weight_scale": np.ones(3)}, {"a.scales": np.ones(3)}, {"a.zero_point": np.ones(3)},
        {"packed": np.ones((4, 4), np.int8)},
    ):  # fmt: skip
        assert found(weight_scale.gridded_values, weights | other) == [], other
    for other in ({"ids": np.ones((4, 4), np.int64)}, {"flags": np.ones(4, np.int8)}, {"scale": np.ones(3)}):
        assert len(found(weight_scale.gridded_values, weights | other)) == 1, other
    named = build_checkpoint(weights, hyperparameters={"quantization_config": {}})
    assert found(weight_scale.gridded_values, named) == []
    assert found(weight_scale.gridded_values, replace(build_checkpoint(weights), metadata={"quant_method": "x"})) == []


SMALL = 1e-9


@pytest.mark.parametrize(
    ("weights", "severities"),
    [
        ({"net.0.weight": SMALL * draw(8, 8), "net.2.weight": draw(8, 8)}, [WARNING]),
        ({"net.0.weight": SMALL * draw(8, 8), "net.2.weight": SMALL * draw(8, 8)}, [ERROR]),
        ({"net.0.weight": SMALL * draw(8, 8)}, [WARNING]),
        ({"net.0.weight": np.zeros((8, 8)), "net.2.weight": SMALL * draw(8, 8)}, [WARNING]),
        ({"net.0.weight": np.where(np.eye(8) == 1, NAN, SMALL), "net.2.weight": draw(8, 8)}, []),
        ({"net.0.weight": np.full((4, 8000), 0.9e-8), "net.2.weight": draw(8, 8)}, [WARNING]),
        ({"net.0.weight": np.full((4, 20000), 0.9e-8), "net.2.weight": draw(8, 8)}, []),
        ({"net.0.weight": np.full((8, 8), 0.9e-8), "net.2.weight": draw(8, 8)}, [WARNING]),
        ({"net.0.weight": np.full((8, 8), 1.1e-8), "net.2.weight": draw(8, 8)}, []),
    ],
)
def test_vanished_weights_are_told_by_their_size(weights: Weights, severities: list[Severity]) -> None:
    assert [each.severity for each in found(weight_scale.vanished_values, weights)] == severities


@pytest.mark.parametrize(
    ("dtype", "value", "second", "severity", "words"),
    [
        (np.float32, 1e-39, 1e-4, ERROR, "denormal numbers, though the optimizer recorded gradients"),
        (np.float32, 1e-39, 0.0, WARNING, "all of them are denormal numbers"),
        (np.float32, 1e-37, 1e-4, WARNING, "though the optimizer recorded gradients"),
        (np.float16, 6e-8, 1e-4, WARNING, ""),
    ],
)
def test_denormal_weights_that_were_trained_are_an_error(
    dtype: Any, value: float, second: float, severity: Severity | None, words: str
) -> None:
    weights = mlp(net__2__weight=(np.sign(draw(8, 12)) * value).astype(dtype))
    findings = found(weight_scale.vanished_values, trained(weights, {"net.2.weight": second}))
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    assert all(words in each.message for each in findings)
    assert ("denormal" in words) == any(each.evidence["denormal"] for each in findings)


# Zeros


@pytest.mark.parametrize(
    ("component", "zero", "count"),
    [(3, 2, None), (4, 3, 3), (6, 3, None), (6, 4, 4), (5, 5, 5)],
    ids=["two zero biases", "three of four", "half", "more than half", "all"],
)
def test_most_biases_of_a_component_collapsed(component: int, zero: int, count: int | None) -> None:
    weights = {
        f"net.{2 * number}.{role}": draw(*shape, seed=number) * (role == "weight" or number >= zero)
        for number in range(component)
        for role, shape in (("weight", (8, 8)), ("bias", (8,)))
    }
    findings = found(zeros.bias_collapse, weights)
    assert [each.evidence["biases"] for each in findings] == ([] if count is None else [count])
    for each in findings:
        assert (each.evidence["biases_in_all"], each.evidence["zeros"]) == (component, 8 * zero)
        assert each.evidence["zero_fraction"] == pytest.approx(zero / component / 9)
        assert len(each.repairs) == zero


@pytest.mark.parametrize(
    ("weights", "zero", "fraction"),
    [
        (mlp(net__2__weight=zeroed(draw(8, 12), *[(n % 8, n) for n in range(12)])), 12, 0.125),
        (mlp(net__2__weight=zeroed(draw(8, 12), *[(n % 8, n) for n in range(9)])), None, None),
        (mlp(net__2__weight=zeroed(draw(4, 4), (0, 1), (1, 2), (2, 3))), 3, 0.1875),
        (mlp(net__2__weight=zeroed(draw(3, 5), (0, 1), (1, 2), (2, 3))), None, None),
        (gated(weight_hh=zeroed(draw(32, 8), *[(n, n % 8) for n in range(32)])), 32, 0.125),
    ],
)
def test_scattered_zeros_are_counted(weights: Weights, zero: int | None, fraction: float | None) -> None:
    findings = found(zeros.partial_zeros, weights)
    assert [(each.evidence["zeros"], each.evidence["zero_fraction"]) for each in findings] == (
        [] if zero is None else [(zero, fraction)]
    )


# Exploded values


def sized(value: float, *shape: int) -> NDArray:
    """Entries of this size and either sign."""
    return value * np.sign(draw(*shape))


def peaked(value: float, *shape: int) -> NDArray:
    """One entry of this size among ordinary ones."""
    array = draw(*shape).astype(np.float64)
    array.reshape(-1)[3] = value
    return array


BODY = mlp(net__4__weight=None, net__4__bias=None)
EXPLODED: Mapping[str, tuple[Weights, Severity | None]] = {
    "a weight": (mlp(net__2__weight=peaked(101, 8, 12)), WARNING),
    "a smaller weight": (mlp(net__2__weight=peaked(99, 8, 12)), None),
    "a bias": (mlp(net__2__bias=peaked(1001, 8)), WARNING),
    "a smaller bias": (mlp(net__2__bias=peaked(999, 8)), None),
    "a huge weight": (mlp(net__2__weight=peaked(1.1e6, 8, 12)), ERROR),
    "a large weight": (mlp(net__2__weight=peaked(0.9e6, 8, 12)), WARNING),
    "a large gain": ({"0.weight": sized(51, 4, 16)}, WARNING),
    "a gain in range": ({"0.weight": sized(14, 4, 16)}, None),
    "a large kernel": ({"conv.weight": sized(51, 4, 1, 4, 4)}, WARNING),
    "a recurrent gain of hidden units": (gated(weight_ih=sized(72, 32, 5)), WARNING),
    "a recurrent gain in range": (gated(weight_ih=sized(21, 32, 5)), None),
    "a recurrent gain of many inputs": (gated(weight_ih=sized(51, 32, 16)), WARNING),
    "a mean": (mlp(input_mean=sized(1e5, 8)), None),
    "a scale": (mlp(scale=sized(1e5, 8)), None),
    "a scale of Brevitas": (mlp(act_quant__scaling_impl__value=np.array(5e4)), None),
    "whole numbers": (mlp(bias_integer=np.array([*range(7), -9160.0])), None),
    "a few whole numbers": (mlp(bias_integer=np.array([*range(6), 5, -9160.0])), NOTE),
    "almost whole numbers": (mlp(bias_integer=np.array([*range(6), 6.5, -9160.0])), NOTE),
    "whole numbers beyond the fractions of their type": (
        mlp(bias_integer=np.array([*range(7), -(2.0**23)], np.float32)), ERROR
    ),
    "a value of another name": (mlp(act_quant__impl__value=np.array(5e4)), WARNING),
    "a vector of another name, perhaps constants": (mlp(offsetting=sized(1e5, 8)), NOTE),
    "a matrix of scales, perhaps constants": (mlp(scale=sized(1e5, 8, 2)), NOTE),
    "a vector beyond all that is learned": (mlp(offsetting=sized(4e6, 8)), ERROR),
    "a number of another name": (mlp(temperature=np.float32(2000)), WARNING),
    "a count of batches": (
        {"bn.weight": draw(8), "bn.bias": draw(8), "bn.num_batches_tracked": np.array([46_890.0], np.float32)},
        None,
    ),
    "a table of energies": ({"energies.weight": sized(1e4, 100, 1)}, None),
    "a column with a bias": ({"fc.weight": sized(1e4, 100, 1), "fc.bias": draw(100)}, WARNING),
    "an output in the unit of its targets": (
        {**BODY, "value_net.weight": sized(500, 1, 8), "value_net.bias": sized(1.1e5, 1)},
        None,
    ),
    "an output beside a bias in range": (
        {**BODY, "value_net.weight": sized(500, 1, 8), "value_net.bias": sized(900, 1)},
        WARNING,
    ),
    "an output that moved as far as its bias": (
        {**BODY, "value_net.weight": sized(90, 1, 8), "value_net.bias": sized(46, 1)},
        None,
    ),
    "an output that moved farther than its bias": (
        {**BODY, "value_net.weight": sized(90, 1, 8), "value_net.bias": sized(44, 1)},
        WARNING,
    ),
    "a running mean": (
        {
            "bn.weight": draw(8), "bn.bias": draw(8), "bn.running_mean": sized(1e5, 8),
            "bn.running_var": sized(1e5, 8) ** 2,
        },
        None,
    ),
    "a buffer": (mlp(mask=sized(1e5, 8)), None),
    "integers": (mlp(net__2__weight=np.full((8, 12), 5000)), None),
    "nothing": (mlp(net__2__weight=np.zeros((0, 12))), None),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLODED)
def test_exploded_values_and_their_neighbours(name: str) -> None:
    weights, severity = EXPLODED[name]
    findings = found(extremes.exploded_values, weights)
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    for each in findings:
        array = weights[each.tensor or ""]
        assert each.evidence["largest"] == pytest.approx(np.abs(array).max())
        assert each.evidence["rms"] == pytest.approx(np.sqrt((array.astype(np.float64) ** 2).mean()))
        of_output = name == "an output beside a bias in range"
        assert ("RMS times" in each.message) is (each.evidence["gain"] > 200 and not of_output)


def test_what_no_optimizer_holds_may_have_any_scale() -> None:
    weights = mlp(net__2__weight=peaked(101, 8, 12))
    assert len(found(extremes.exploded_values, trained(weights))) == 1
    assert found(extremes.exploded_values, trained(weights, without=("net.2.weight",))) == []


@pytest.mark.parametrize(("size", "few"), [(20_000, 2), (19_999, 1)])
def test_one_in_ten_thousand_entries_may_be_spikes(size: int, few: int) -> None:
    for count in (few, few + 1):
        array = np.resize(draw(100, 50) * 0.1, (1, size)).copy()
        array[0, :count] = 50.0
        findings = found(extremes.value_spike, {"0.weight": array})
        assert [len(each.evidence["indices"]) for each in findings] == ([count] if count <= few else [])


@pytest.mark.parametrize(
    ("weight", "speaks"),
    [
        (peaked(20, 4, 8), True), (peaked(20, 31, 1), False), (peaked(20, 32, 1), True), (peaked(20, 64), False),
        (np.where(np.arange(64).reshape(8, 8) == 3, 5.0, 0.0), False),
        (np.where(np.arange(64).reshape(8, 8) == 3, 5.0, 0.01), True),
    ],
    ids=["32 entries", "31 entries", "32 rows", "a vector", "beside zeros", "beside equals"],
)  # fmt: skip
def test_a_spike_needs_others_around(weight: NDArray, speaks: bool) -> None:
    assert len(found(extremes.value_spike, {"0.weight": weight})) == speaks
