"""The gates of recurrent layers: one block of rows for each gate, in a fixed order; of columns in Keras."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from checkpoint_doctor.layers.kinds import Kind

GATES = {Kind.LSTM: ("input", "forget", "cell", "output"), Kind.GRU: ("reset", "update", "new")}
"""Order of the gates' rows in weights and biases (``torch.nn.LSTM``, ``torch.nn.GRU``). An RNN has no gates."""

KERAS_GATES = {Kind.LSTM: ("input", "forget", "cell", "output"), Kind.GRU: ("update", "reset", "new")}
"""Order of the gates' columns in kernels, and of their entries in biases (``keras.layers.LSTM``, ``keras.layers.GRU``).
With ``reset_after``, which is the default of a GRU, the bias has a second row for the hidden state."""

ONNX_GATES = {Kind.LSTM: ("input", "output", "forget", "cell"), Kind.GRU: ("update", "reset", "new")}
"""Order of the gates' rows in weights and biases of the operators ``LSTM`` and ``GRU`` of ONNX."""

FLAX_GATES = {
    Kind.LSTM: {"i": "input", "f": "forget", "g": "cell", "o": "output"},
    Kind.GRU: {"r": "reset", "z": "update", "n": "new"},
}
"""The letters of the gates in the names of Flax's layers, of which each gate has two: ``hf`` reads the hidden state and
``if`` the inputs of the forget gate (``flax.linen.LSTMCell``, ``flax.linen.GRUCell``)."""

SIGMOID_GATES = frozenset({"input", "forget", "output", "reset", "update"})
"""Gates whose activation is a sigmoid. ``cell`` and ``new`` are squashed by tanh."""


def count_blocks(kind: Kind) -> int:
    """Return the number of blocks of rows in a layer's weights: one for each gate, 1 where it has no gates."""
    return len(GATES.get(kind, ())) or 1


def gate_slices(
    kind: Kind, rows: int, order: Mapping[Kind, tuple[str, ...]] = MappingProxyType(GATES)
) -> dict[str, slice]:
    """Return each gate's rows in weights and biases of that many rows; empty where there are no gates or no rows."""
    gates = order.get(kind, ())
    size = rows // len(gates) if gates else 0
    return {gate: slice(place * size, (place + 1) * size) for place, gate in enumerate(gates)} if size else {}
