"""The cells of recurrent layers: which layers of Keras are one, and what their gates read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers._evidence.cells import find_blocks, find_cell, gate_rows
from checkpoint_doctor.checkpoint import Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.testing import build_checkpoint

INPUT, HIDDEN = 3, 4


def tensor(name: str, *shape: int) -> Tensor:
    [built] = build_checkpoint({name: np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)}).tensors
    return built


def layer(name: str, transposed: bool, **tensors: Tensor | None) -> Layer:
    known = {role: each for role, each in tensors.items() if each is not None}
    return Layer(name, Kind.LINEAR, known, "", False, None, None, transposed=transposed)


def keras(
    *,
    blocks: int = 4,
    kernel: Tensor | None = None,
    recurrent: Tensor | None = None,
    bias: tuple[int, ...] | None = None,
    name: str = "lstm.input",
    transposed: bool = True,
) -> tuple[Layer, Any]:
    """The layer of an input kernel, and a checkpoint with that of the recurrent kernel."""
    columns = blocks * HIDDEN
    one = layer(
        name, transposed,
        weight=kernel or tensor("lstm.kernel", INPUT, columns), bias=bias and tensor("lstm.bias", *bias),
    )  # fmt: skip
    other = layer("lstm.recurrent", True, weight=recurrent or tensor("lstm.recurrent_kernel", HIDDEN, columns))
    return one, SimpleNamespace(layer_by_name={"lstm.recurrent": other})


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (keras(), Kind.LSTM),
        (keras(blocks=3), Kind.GRU),
        (keras(recurrent=tensor("lstm.recurrent_kernel:0", HIDDEN, 16)), Kind.LSTM),
        (keras(blocks=2), None),
        (keras(blocks=1), None),
        (keras(name="lstm.other"), None),
        (keras(transposed=False), None),
        (keras(recurrent=tensor("lstm.weight", HIDDEN, 16)), None),
        (keras(recurrent=tensor("lstm.recurrent_kernel", 16)), None),
        (keras(recurrent=tensor("lstm.recurrent_kernel", 0, 0)), None),
        (keras(recurrent=tensor("lstm.recurrent_kernel", 1, 4), kernel=tensor("lstm.kernel", INPUT, 4)), Kind.LSTM),
        (keras(kernel=tensor("lstm.kernel", 16)), None),
        (keras(kernel=tensor("lstm.kernel", INPUT, 15)), None),
    ],
)
def test_what_a_cell_of_keras_is(cell: tuple[Layer, Any], kind: Kind | None) -> None:
    found = find_cell(*cell)
    assert (found and found.kind) is kind
    if found is not None:
        assert found.by_columns
        assert [each.shape[1] for each in found.weights] == [found.weights[1].shape[1]] * 2


def test_a_kernel_alone_is_no_cell() -> None:
    one, _ = keras()
    assert find_cell(one, SimpleNamespace(layer_by_name={})) is None  # type: ignore[arg-type]
    bare = SimpleNamespace(layer_by_name={"lstm.recurrent": layer("lstm.recurrent", True)})
    assert find_cell(one, bare) is None  # type: ignore[arg-type]
    _, both = keras()
    assert find_cell(layer("lstm.input", True), both) is None


@pytest.mark.parametrize(
    ("bias", "first"), [((16,), 1.0), ((2, 16), 1.0 + 17.0), ((1, 16), None), ((3, 16), None), (None, None)]
)
def test_the_bias_of_a_cell_of_keras(bias: tuple[int, ...] | None, first: float | None) -> None:
    found = find_cell(*keras(bias=bias))
    assert found is not None
    total = found.effective_bias
    assert (None if total is None else total[0]) == first


def lstm(**changed: Any) -> dict[str, Any]:
    tensors = {
        "weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 4)),
        "bias_ih_l0": np.full(16, 1.0), "bias_hh_l0": np.full(16, 2.0), **changed,
    }  # fmt: skip
    return {f"lstm.{name}": each for name, each in tensors.items() if each is not None}


@pytest.mark.parametrize(
    ("changed", "bias"),
    [
        ({}, 3.0),
        ({"bias_hh_l0": None}, 1.0),
        ({"bias_hh_l0": None, "bias_ih_l0": None}, None),
        ({"bias_hh_l0": np.full(16, np.nan)}, None),
        ({"bias_ih_l0": np.full(16, np.inf)}, None),
        ({"bias_ih_l0": np.full(16, 1), "bias_hh_l0": np.full(16, 1)}, None),
    ],
)
def test_the_biases_of_pytorch_are_added(changed: dict[str, Any], bias: float | None) -> None:
    checkpoint = build_checkpoint(lstm(**changed))
    cell = find_cell(checkpoint.layers[0], checkpoint)
    assert cell is not None
    assert not cell.by_columns
    assert (None if cell.effective_bias is None else cell.effective_bias[0]) == bias


@pytest.mark.parametrize(("zeroed", "expected"), [(slice(4, 8), True), (slice(4, 7), False), (slice(8, 12), False)])
def test_a_gate_whose_weights_are_zero(zeroed: slice, expected: bool) -> None:
    tensors = lstm()
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        tensors[name][zeroed] = 0
    checkpoint = build_checkpoint(tensors)
    cell = find_cell(checkpoint.layers[0], checkpoint)
    assert cell is not None
    assert cell.has_zero_weights("forget") is expected


def test_the_blocks_that_read_the_hidden_state() -> None:
    checkpoint = build_checkpoint(lstm())
    weight, blocks, by_columns = find_blocks(checkpoint.layers[0], checkpoint) or (None, {}, None)
    assert weight is checkpoint.by_name["lstm.weight_hh_l0"]
    assert (blocks["forget"], by_columns) == (slice(4, 8), False)
    weight, blocks, by_columns = find_blocks(*keras()) or (None, {}, None)
    assert (weight and weight.name, blocks["forget"], by_columns) == ("lstm.recurrent_kernel", slice(4, 8), True)


def test_a_network_without_gates_has_one_block() -> None:
    weights = {"rnn.weight_ih_l0": np.ones((4, 3)), "rnn.weight_hh_l0": np.ones((4, 4))}
    checkpoint = build_checkpoint(weights)
    [rnn] = checkpoint.layers
    assert gate_rows(rnn) == {}
    _, blocks, by_columns = find_blocks(rnn, checkpoint) or (None, {}, None)
    assert (blocks, by_columns) == ({"hidden": slice(0, 4)}, False)
    assert find_blocks(replace(rnn, kind=Kind.LINEAR), checkpoint) is None
    assert find_blocks(replace(rnn, tensors={"weight_ih": rnn.tensors["weight_ih"]}), checkpoint) is None


def test_a_cell_with_one_weight_has_no_recurrent_one() -> None:
    checkpoint = build_checkpoint(lstm())
    [one] = checkpoint.layers
    alone = replace(one, tensors={role: each for role, each in one.tensors.items() if role != "weight_hh"})
    cell = find_cell(alone, checkpoint)
    assert cell is not None
    assert cell.recurrent_weight is None
