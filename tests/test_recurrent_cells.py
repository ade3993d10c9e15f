"""The gates of recurrent layers: which lines of which tensors they are, in the layouts of PyTorch, Keras and Flax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers._evidence.cells import count_hidden, find_gates, find_lines
from checkpoint_doctor.checkpoint import Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.testing import build_checkpoint

INPUT, HIDDEN = 3, 4
EMPTY = build_checkpoint({"a": [1.0]})


def tensor(name: str, *shape: int) -> Tensor:
    [built] = build_checkpoint({name: np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)}).tensors
    return built


def keras(kind: Kind = Kind.LSTM, *, blocks: int = 4, bias: tuple[int, ...] | None = None) -> Layer:
    """A recurrent layer of Keras, whose kernels are stored with their outputs last."""
    columns = blocks * HIDDEN
    tensors = {"weight_ih": tensor("kernel", INPUT, columns), "weight_hh": tensor("recurrent", HIDDEN, columns)}
    if bias is not None:
        tensors["bias_ih"] = tensor("bias", *bias)
    return Layer("lstm", kind, tensors, "", False, None, None, transposed=True)


def lstm(**changed: Any) -> dict[str, Any]:
    tensors = {
        "weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 4)),
        "bias_ih_l0": np.full(16, 1.0), "bias_hh_l0": np.full(16, 2.0), **changed,
    }  # fmt: skip
    return {f"lstm.{name}": each for name, each in tensors.items() if each is not None}


@pytest.mark.parametrize(
    ("layer", "forget"),
    [(keras(), slice(4, 8)), (keras(Kind.GRU, blocks=3), None), (replace(keras(), kind=Kind.LINEAR), None)],
)
def test_the_gates_of_keras_are_columns(layer: Layer, forget: slice | None) -> None:
    gates = find_gates(layer, EMPTY)
    assert ("forget" in gates) == (forget is not None)
    for gate in gates.values():
        assert gate.by_columns
        assert gate.size == HIDDEN == count_hidden(layer)
        assert gate.has_recurrence
    if forget is not None:
        assert gates["forget"].lines == forget


@pytest.mark.parametrize(("bias", "first"), [((16,), 5.0), ((2, 16), 5.0 + 21.0), (None, None)])
def test_the_bias_of_a_layer_of_keras(bias: tuple[int, ...] | None, first: float | None) -> None:
    """The forget gate is the second block; a GRU of Keras may have a second row of biases for the hidden state."""
    total = find_gates(keras(bias=bias), EMPTY)["forget"].effective_bias
    assert (None if total is None else total[0]) == first


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
    gate = find_gates(checkpoint.layers[0], checkpoint)["forget"]
    assert not gate.by_columns
    assert (None if gate.effective_bias is None else gate.effective_bias[0]) == bias


@pytest.mark.parametrize(("zeroed", "expected"), [(slice(4, 8), True), (slice(4, 7), False), (slice(8, 12), False)])
def test_a_gate_whose_weights_are_zero(zeroed: slice, expected: bool) -> None:
    tensors = lstm()
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        tensors[name][zeroed] = 0
    checkpoint = build_checkpoint(tensors)
    assert find_gates(checkpoint.layers[0], checkpoint)["forget"].has_zero_weights is expected


def test_a_network_without_gates_has_one_block() -> None:
    checkpoint = build_checkpoint({"rnn.weight_ih_l0": np.ones((4, 3)), "rnn.weight_hh_l0": np.ones((4, 4))})
    [rnn] = checkpoint.layers
    assert find_lines(rnn) == {}
    assert find_gates(rnn, checkpoint)["hidden"].lines == slice(0, 4)
    assert find_gates(replace(rnn, kind=Kind.LINEAR), checkpoint) == {}
    assert find_gates(replace(rnn, tensors={"weight_ih": rnn.tensors["weight_ih"]}), checkpoint) == {}


def test_a_layer_with_one_weight_has_no_recurrence() -> None:
    checkpoint = build_checkpoint(lstm())
    [one] = checkpoint.layers
    alone = replace(one, tensors={role: each for role, each in one.tensors.items() if role != "weight_hh"})
    assert not any(gate.has_recurrence for gate in find_gates(alone, checkpoint).values())
    assert count_hidden(alone) == 0
