"""The tensors of a recurrent node: one for all directions, which are taken apart here."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from msgspec import Struct

from checkpoint_doctor.builtin.loaders.onnx.model import Node
from checkpoint_doctor.layers import ONNX_GATES, Kind, count_blocks

OPERATORS = {"LSTM": Kind.LSTM, "GRU": Kind.GRU, "RNN": Kind.RNN}
"""Operators to the kinds of their layers."""
_DIRECTIONS = (("forward", ""), ("reverse", "_reverse"))
"""The directions in the order of a tensor's first axis, each with the ending of its parameters in PyTorch."""


_SUMMANDS = {"bias_ih": ".input", "bias_hh": ".recurrent"}
"""The biases that one tensor holds, with the ending of their names here."""


class Piece(Struct, frozen=True):
    """A part of a stored tensor that is a parameter by itself."""

    name: str
    """The stored tensor's name, with the direction where there are two, and what a bias is added to."""
    start: int
    """Number of entries of the stored tensor before its first."""
    shape: tuple[int, ...]
    known_as: str
    """The name that it has in ``torch.nn.LSTM``, ``torch.nn.GRU`` or ``torch.nn.RNN``: ``lstm.bias_ih_l0_reverse``."""
    gates: tuple[str, ...]
    """The gates in the order of their blocks of rows."""


def take_apart(node: Node, shapes: Mapping[str, tuple[int, ...]], module: str, depth: int) -> dict[str, list[Piece]]:
    """Return the pieces of the weights and biases of a recurrent node, by the name of the stored tensor.

    ``W`` has the shape (directions, blocks * hidden, inputs), ``R`` (directions, blocks * hidden, hidden) and ``B``
    (directions, 2 * blocks * hidden): in each direction the biases that go with ``W``, then those that go with ``R``.

    Returns an empty mapping where a weight is computed in the graph, or the shapes are others.

    Args:
        node: a node of one of ``OPERATORS``.
        shapes: the names and shapes of the tensors in the file.
        module: the name of its module.
        depth: the number of recurrent layers of the module before it.
    """
    from_input, from_hidden, bias = [*node.inputs[1:4], "", "", ""][:3]
    weights = shapes.get(from_input, ()), shapes.get(from_hidden, ())
    if any(len(shape) != 3 for shape in weights) or from_input == from_hidden:
        return {}
    directions, rows, hidden = weights[1]
    kind = OPERATORS[node.operator]
    if weights[0][:2] != (directions, rows) or rows != count_blocks(kind) * hidden or directions not in (1, 2):
        return {}
    parts = {from_input: [(weights[0][1:], "weight_ih")], from_hidden: [(weights[1][1:], "weight_hh")]}
    if shapes.get(bias) == (directions, 2 * rows):
        parts[bias] = [((rows,), "bias_ih"), ((rows,), "bias_hh")]
    gates = ONNX_GATES.get(kind, ())
    found: dict[str, list[Piece]] = {}
    for name, each in parts.items():
        start = 0
        for direction, ending in _DIRECTIONS[:directions]:
            for shape, role in each:
                called = name + f".{direction}" * (directions > 1) + _SUMMANDS.get(role, "")
                known_as = f"{module}.{role}_l{depth}{ending}"
                found.setdefault(name, []).append(Piece(called, start, shape, known_as, gates))
                start += prod(shape)
    return found
