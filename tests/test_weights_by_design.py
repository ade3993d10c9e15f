"""Weights that look damaged and are not, each beside one that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.layers.dead_inputs import dead_inputs
from checkpoint_doctor.builtin.analyzers.layers.network import disconnected_units
from checkpoint_doctor.builtin.analyzers.layers.norm_statistics import norm_statistics
from checkpoint_doctor.builtin.analyzers.values.constants import constant_tensor
from checkpoint_doctor.builtin.analyzers.values.extremes import exploded_values, value_spike
from checkpoint_doctor.builtin.analyzers.values.zeros import zero_bias
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING = Severity.NOTE, Severity.WARNING


def draw(*shape: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def zeroed(rows: int, zeros: Any, columns: int = 12) -> NDArray:
    weight = draw(rows, columns)
    weight[zeros] = 0
    return weight


@pytest.mark.parametrize(
    ("tensors", "units"),
    [
        ({"user_factors.weight": zeroed(50, [0])}, []),
        ({"user_factors.weight": zeroed(50, (slice(None), 3))}, []),
        ({"q_table.weight": zeroed(50, [7, 8])}, [[7, 8]]),
        ({"rel_pos_h.weight": zeroed(50, slice(40, 50))}, []),
        ({"embedding.weight": zeroed(50, [0, 1])}, []),
        ({"embedding.weight": zeroed(50, [0, 7])}, [[0, 7]]),
        ({"net.0.weight": draw(12, 6), "lm_head.weight": zeroed(48, slice(45, 48))}, []),
        ({"net.0.weight": draw(12, 6), "lm_head.weight": zeroed(50, slice(45, 50))}, [[45, 46, 47, 48, 49]]),
        ({"net.0.weight": draw(12, 6), "lm_head.weight": zeroed(48, slice(44, 47))}, [[44, 45, 46]]),
        ({"net.0.weight": draw(12, 6), "lm_head.weight": zeroed(48, slice(24, 48))}, [list(range(24, 48))]),
    ],
)
def test_rows_of_tables_and_heads_may_be_zero(tensors: dict[str, NDArray], units: list[list[int]]) -> None:
    assert [each.evidence["units"] for each in findings_of(disconnected_units, build_checkpoint(tensors))] == units


@pytest.mark.parametrize(
    ("name", "message", "severity"),
    [
        ("embedding", "words without a vector", Severity.WARNING),
        ("q_table", "rows never in use", Severity.NOTE),
        ("first_order", "rows never in use", Severity.NOTE),
    ],
)
def test_rows_of_zeros_are_words_without_a_vector_or_never_in_use(name: str, message: str, severity: Severity) -> None:
    checkpoint = build_checkpoint({f"{name}.weight": zeroed(50, [7, 8])})
    (finding,) = findings_of(disconnected_units, checkpoint)
    assert (finding.message, finding.severity) == (f"2 rows of 50 are exactly zero: {message}", severity)


@pytest.mark.parametrize(("largest", "found"), [(999, 0), (1001, 1)])
def test_a_table_of_data_has_spikes_of_its_own(largest: float, found: int) -> None:
    table = np.array([1.0] * 99 + [largest]).reshape(1, 100)
    assert len(findings_of(value_spike, build_checkpoint({"table": table}))) == found
    network = build_checkpoint({"table": table, "net.0.weight": draw(20, 20)})
    assert len(findings_of(value_spike, network)) == 1


@pytest.mark.parametrize(("values", "found"), [([2.0], 0), ([-2.0, 2.0], 0), ([1.9], 1), ([2.0, 1.9], 1)])
def test_values_where_a_truncated_normal_is_cut_are_no_spikes(values: list[float], found: int) -> None:
    weight = draw(200, 200) * 0.05
    weight.reshape(-1)[: len(values)] = values
    assert len(findings_of(value_spike, build_checkpoint({"net.0.weight": weight}))) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [("last_layer.weight_g", 0), ("last_layer.parametrizations.weight.original0", 0), ("last_layer.weight_v", 1)],
)
def test_the_magnitudes_of_weight_normalisation_may_be_constant(name: str, found: int) -> None:
    tensors = {name: np.ones((16, 1), np.float32), "last_layer.weight_v": draw(16, 12)}
    tensors[name] = np.ones((16, 12 if name.endswith("_v") else 1), np.float32)
    assert len(findings_of(constant_tensor, build_checkpoint(tensors))) == found


def with_inputs(dead: Any, *, first: str = "net.0", source: NDArray | None = None) -> Checkpoint:
    """A layer of six inputs; these never received a gradient. Before it may stand a layer of six units, some dead."""
    shapes: dict[str, tuple[int, ...]] = {f"{first}.weight": (20, 6), f"{first}.bias": (20,), "out.weight": (3, 20)}
    if source is not None:
        shapes = {"stem.weight": (6, 5), "stem.bias": (6,), **shapes}
    squares = {name: np.full(shape, 1e-4, np.float32) for name, shape in shapes.items()}
    squares[f"{first}.weight"][:, dead] = 0
    if source is not None:
        squares["stem.weight"][source] = squares["stem.bias"][source] = 0
    tensors = {name: draw(*shape) for name, shape in shapes.items()}
    held = {name: {"step": 300, "exp_avg": each * 0.1, "exp_avg_sq": each} for name, each in squares.items()}
    return build_checkpoint(tensors, optimizer=held, updates=300)


def test_inputs_that_were_all_zero_are_a_warning() -> None:
    (finding,) = findings_of(dead_inputs, with_inputs(slice(None)))
    assert finding.severity is WARNING
    assert finding.message == "all 6 inputs were always zero in 300 updates: only the layer's bias received gradients"


def test_some_inputs_are_a_note_about_the_data() -> None:
    (finding,) = findings_of(dead_inputs, with_inputs([1, 2]))
    assert finding.severity is NOTE
    assert finding.advice.startswith("Check these inputs in the data")


def test_dead_units_of_the_layer_before_are_no_inputs_of_the_data() -> None:
    subject = with_inputs([1, 2], first="body", source=np.array([1, 2, 4]))
    assert subject.layer_by_name["body"].previous is None
    assert findings_of(dead_inputs, subject) == []


def test_where_inputs_may_be_units_the_data_is_not_accused() -> None:
    (finding,) = findings_of(dead_inputs, with_inputs([1, 2], first="body", source=np.array([4])))
    assert finding.severity is NOTE
    assert "features of the data that are always zero, or outputs of another layer" in finding.advice


BODY = {"0.weight": draw(16, 8), "0.bias": np.zeros(16, np.float32), "3.weight": draw(4, 16)}


def norm(name: str, gains: NDArray) -> dict[str, NDArray]:
    return {f"{name}.weight": gains.astype(np.float32)}


@pytest.mark.parametrize(
    ("norms", "speaks"),
    [
        (norm("1.norm", np.full(16, 0.05)) | norm("2.norm", np.ones(4)), False),
        (norm("1.norm", np.full(16, 0.05)) | norm("2.norm", draw(4) + 1), True),
        (norm("1.norm", np.ones(16)) | norm("2.norm", np.ones(4)) | {"3.bias": draw(4)}, True),
        (norm("1.norm", np.ones(16)), True),
        (norm("1.norm", np.ones(16)) | norm("2.norm", np.ones(3)), True),
    ],
)
def test_zero_biases_of_a_network_whose_norms_were_never_trained_are_initial(
    norms: dict[str, NDArray], speaks: bool
) -> None:
    found = findings_of(zero_bias, build_checkpoint({**BODY, **norms}))
    assert [each.tensor for each in found] == ["0.bias"] * speaks


@pytest.mark.parametrize(("format", "severity"), [("onnx", NOTE), ("torch", WARNING)])
def test_a_zero_bias_may_come_from_the_export_to_onnx(format: str, severity: Severity) -> None:
    (finding,) = findings_of(zero_bias, replace(build_checkpoint(BODY), format=format))
    assert finding.severity is severity
    assert ("ONNX" in finding.message) == (severity is NOTE)


@pytest.mark.parametrize(
    ("name", "speaks"), [("time2freq/stft-imag/kernel:0", False), ("stft-imag.weight", False), ("stiff.weight", True)]
)
def test_a_fourier_basis_is_known_by_its_name_in_every_framework(name: str, speaks: bool) -> None:
    weight = zeroed(12, [0, 6])
    tensors = {name: weight.T if "kernel" in name else weight, "out.weight": draw(4, 12)}
    assert bool(findings_of(disconnected_units, build_checkpoint(tensors))) == speaks


def test_a_weight_that_never_had_a_gradient_did_not_explode() -> None:
    tensors = {"energies.weight": 30 * draw(16, 94), "net.weight": 30 * draw(16, 94), "net.bias": draw(16)}
    moments = {
        name: {"step": 500, "exp_avg": 0.01 * (name != "energies.weight") * np.ones_like(each),
               "exp_avg_sq": 0.01 * (name != "energies.weight") * np.ones_like(each)}
        for name, each in tensors.items()
    }  # fmt: skip
    found = findings_of(exploded_values, build_checkpoint(tensors, optimizer=moments))
    assert {each.tensor: each.severity for each in found} == {"energies.weight": NOTE, "net.weight": WARNING}


@pytest.mark.parametrize(("format", "speaks"), [("onnx", False), ("torch", True)])
def test_statistics_may_be_folded_into_the_gain_of_an_exported_norm(format: str, speaks: bool) -> None:
    statistics = {"bn.running_mean": np.zeros(8, np.float32), "bn.running_var": np.ones(8, np.float32)}
    tensors = {"bn.weight": draw(8) + 1, "bn.bias": draw(8), **statistics}
    assert bool(findings_of(norm_statistics, replace(build_checkpoint(tensors), format=format))) == speaks
