"""Recurrent layers of ONNX: taken apart to the parameters of PyTorch, with their gates in an order of their own."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_onnx import draw, external, field, model, node, open_bytes, tensor

from checkpoint_doctor.acts.fix import FixOptions, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.onnx.loader import loader
from checkpoint_doctor.layers import GATES, ONNX_GATES, Kind, gate_slices
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.sources import FileSource
from checkpoint_doctor.testing import findings_of

RULES = [rule for rule in discover().rules if rule.family == "RNN"]
HIDDEN, INPUTS = 8, 6
BLOCKS = {"LSTM": 4, "GRU": 3, "RNN": 1}
Arrays = dict[str, NDArray[np.float32]]


def cell(operator: str, directions: int = 1) -> Arrays:
    rows = BLOCKS[operator] * HIDDEN
    shapes = {"W": (directions, rows, INPUTS), "R": (directions, rows, HIDDEN), "B": (directions, 2 * rows)}
    return {name: draw(*shape) for name, shape in shapes.items()}


def write(operator: str, arrays: Arrays, name: str = "/lstm/LSTM") -> bytes:
    inputs = ["x", *(each if each in arrays else "" for each in "WRB")]
    return model([tensor(*each) for each in arrays.items()], [node(operator, inputs, ["y"], name)])


def findings(content: bytes) -> list[Any]:
    return [each for rule in RULES for each in findings_of(rule, open_bytes(content))]


@pytest.mark.parametrize(("operator", "kind"), [("LSTM", Kind.LSTM), ("GRU", Kind.GRU), ("RNN", Kind.RNN)])
def test_each_direction_is_a_layer_with_the_parameters_of_torch(operator: str, kind: Kind) -> None:
    arrays = cell(operator, 2)
    found = open_bytes(write(operator, arrays))
    assert [(layer.name, layer.kind) for layer in found.layers] == [("lstm.l0", kind), ("lstm.l0_reverse", kind)]
    rows = BLOCKS[operator] * HIDDEN
    for place, (layer, direction) in enumerate(zip(found.layers, ("forward", "reverse"), strict=True)):
        wanted = {
            "weight_ih": (f"W.{direction}", arrays["W"][place]),
            "weight_hh": (f"R.{direction}", arrays["R"][place]),
            "bias_ih": (f"B.{direction}.input", arrays["B"][place, :rows]),
            "bias_hh": (f"B.{direction}.recurrent", arrays["B"][place, rows:]),
        }
        assert {role: each.name for role, each in layer.tensors.items()} == {
            role: name for role, (name, _) in wanted.items()
        }
        assert all(np.array_equal(layer.tensors[role].array, values) for role, (_, values) in wanted.items())


def test_the_tensors_of_one_direction_keep_their_names() -> None:
    found = open_bytes(write("GRU", cell("GRU")))
    assert [(each.name, each.shape) for each in found.tensors] == [
        ("W", (24, INPUTS)),
        ("R", (24, HIDDEN)),
        ("B.input", (24,)),
        ("B.recurrent", (24,)),
    ]


def test_layers_of_one_module_are_numbered() -> None:
    arrays = {f"{name}{place}": values for place in range(2) for name, values in cell("LSTM").items()}
    arrays["W1"] = draw(1, 4 * HIDDEN, HIDDEN)
    nodes = [
        node("LSTM", ["x", "W0", "R0", "B0"], ["y0"], "/lstm/LSTM"),
        node("LSTM", ["y0", "W1", "R1", "B1"], ["y1"], "/lstm/LSTM_1"),
    ]
    found = open_bytes(model([tensor(*each) for each in arrays.items()], nodes))
    assert [layer.name for layer in found.layers] == ["lstm.l0", "lstm.l1"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("R", draw(1, 4 * HIDDEN, HIDDEN + 1)),
        ("R", draw(4 * HIDDEN, HIDDEN)),
        ("R", draw(3, 4 * HIDDEN, HIDDEN)),
        ("W", draw(1, 3 * HIDDEN, INPUTS)),
    ],
)
def test_tensors_of_other_shapes_stay_whole(name: str, values: NDArray[np.float32]) -> None:
    found = open_bytes(write("LSTM", {**cell("LSTM"), name: values}))
    assert [each.name for each in found.tensors] == ["W", "R", "B"]


def test_biases_of_other_shapes_stay_whole_beside_the_weights() -> None:
    found = open_bytes(write("LSTM", {**cell("LSTM"), "B": draw(1, 3)}))
    assert [(each.name, each.shape) for each in found.tensors[1:]] == [("R", (32, HIDDEN)), ("B", (1, 3))]


def test_numbers_in_fields_and_in_a_file_beside_it_are_taken_apart(tmp_path: Path) -> None:
    arrays, path = cell("LSTM", 2), tmp_path / "model.onnx"
    entries = [
        external("W", arrays["W"], "model.data", offset=4),
        tensor("R", arrays["R"], field(4, arrays["R"].tobytes())),
        tensor("B", arrays["B"].astype(np.float16), field(5, b"".join(_numbers(arrays["B"])))),
    ]
    path.write_bytes(model(entries, [node("LSTM", ["x", "W", "R", "B"], ["y"])]))
    (tmp_path / "model.data").write_bytes(bytes(4) + arrays["W"].tobytes())
    found = loader.open(FileSource(path)).by_name
    assert np.array_equal(found["W.reverse"].array, arrays["W"][1])
    assert np.array_equal(found["R.reverse"].array, arrays["R"][1])
    assert np.array_equal(found["B.reverse.input"].array, arrays["B"][1, :32].astype(np.float16))


def _numbers(values: NDArray[np.float32]) -> list[bytes]:
    bits = values.astype(np.float16).view(np.uint16).ravel()
    return [bytes([int(each) & 0x7F | 0x80, int(each) >> 7 & 0x7F | 0x80, int(each) >> 14]) for each in bits]


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_healthy_cells_stay_silent(operator: str) -> None:
    arrays = cell(operator, 2)
    assert findings(write(operator, arrays)) == []
    del arrays["B"]
    assert findings(write(operator, arrays)) == [], "without biases"


@pytest.mark.parametrize(
    ("operator", "gate", "name", "value", "code", "speaks_of"),
    [
        ("LSTM", "forget", "B", 0.0, "RNN001", "B.input"),
        ("LSTM", "input", "B", 10.0, "RNN003", "B.input"),
        ("LSTM", "output", "B", -10.0, "RNN003", "B.input"),
        ("GRU", "update", "B", 10.0, "RNN003", "B.input"),
        ("GRU", "reset", "B", 10.0, "RNN003", "B.input"),
        ("LSTM", "cell", "WR", 0.0, "RNN004", "R"),
        ("LSTM", "output", "WR", 0.0, "RNN004", "R"),
        ("GRU", "new", "WR", 0.0, "RNN004", "R"),
        ("LSTM", "forget", "R", 1e4, "RNN005", "R"),
        ("GRU", "update", "R", 1e4, "RNN005", "R"),
    ],
)
def test_a_sick_gate_is_named(operator: str, gate: str, name: str, value: float, code: str, speaks_of: str) -> None:
    arrays = cell(operator)
    kind = Kind.LSTM if operator == "LSTM" else Kind.GRU
    rows = gate_slices(kind, BLOCKS[operator] * HIDDEN, ONNX_GATES)[gate]
    for each in name:
        values = arrays[each].reshape(2 if each == "B" else 1, BLOCKS[operator] * HIDDEN, -1)
        values[:, rows] = values[:, rows] * value if value > 1e3 else value
    [found] = findings(write(operator, arrays))
    assert (found.code, found.evidence["gate"], found.tensor) == (code, gate, speaks_of)


def test_the_bias_of_the_forget_gate_is_repaired_in_its_own_block_of_one_direction(tmp_path: Path) -> None:
    path, arrays = tmp_path / "model.onnx", cell("LSTM", 2)
    biases = arrays["B"].reshape(2, 2, 4, HIDDEN)
    forget = ONNX_GATES[Kind.LSTM].index("forget")
    biases[1, :, forget] = 0
    path.write_bytes(write("LSTM", arrays))
    old = path.read_bytes()
    fix([path], FixOptions())
    biases[1, 0, forget] = 1
    assert (tmp_path / "model_FIXED.onnx").read_bytes() == write("LSTM", arrays) != old


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_what_torch_exports_has_the_findings_of_its_state_dict(
    operator: str, bidirectional: bool, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = getattr(torch.nn, operator)(INPUTS, HIDDEN, num_layers=2, bidirectional=bidirectional)
    for gate, rows in gate_slices(Kind(operator.lower()), BLOCKS[operator] * HIDDEN, GATES).items():
        with torch.no_grad():
            if gate in ("forget", "update"):
                network.bias_ih_l1[rows] = -20
            if gate in ("output", "new"):
                network.weight_ih_l0[rows] = 0
                network.weight_hh_l0[rows] = 0
            if gate in ("input", "reset"):
                network.weight_hh_l1[rows] *= 1e4
    torch.save(network.state_dict(), tmp_path / "model.pt")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), torch.randn(5, 1, INPUTS), buffer, dynamo=False)
    (tmp_path / "model.onnx").write_bytes(buffer.getvalue())
    by_format = [
        {
            (each.code, each.evidence["gate"])
            for each in scan([tmp_path / f"model.{ending}"]).checkpoints[0].findings
            if each.code.startswith("RNN")
        }
        for ending in ("pt", "onnx")
    ]
    assert by_format[0] == by_format[1]
    assert len(by_format[0]) == 3
