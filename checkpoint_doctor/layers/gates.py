"""The gates of recurrent layers, as PyTorch stores them: one block of rows for each gate, in a fixed order."""

from __future__ import annotations

from checkpoint_doctor.layers.kinds import Kind

GATES = {Kind.LSTM: ("input", "forget", "cell", "output"), Kind.GRU: ("reset", "update", "new")}
"""Order of the gates' rows in weights and biases (``torch.nn.LSTM``, ``torch.nn.GRU``). An RNN has no gates."""

SIGMOID_GATES = frozenset({"input", "forget", "output", "reset", "update"})
"""Gates whose activation is a sigmoid. ``cell`` and ``new`` are squashed by tanh."""


def count_blocks(kind: Kind) -> int:
    """Return the number of blocks of rows in a layer's weights: one for each gate, 1 where it has no gates."""
    return len(GATES.get(kind, ())) or 1


def gate_slices(kind: Kind, rows: int) -> dict[str, slice]:
    """Return each gate's rows in weights and biases of that many rows; empty where there are no gates or no rows."""
    gates = GATES.get(kind, ())
    size = rows // len(gates) if gates else 0
    return {gate: slice(place * size, (place + 1) * size) for place, gate in enumerate(gates)} if size else {}
