"""The gates of recurrent layers: which rows are whose, and how zero biases are drawn."""

from __future__ import annotations

from collections.abc import Mapping

from checkpoint_doctor.checkpoint import Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import FORGET_BIAS, draw_uniform, fill, in_turn, within
from checkpoint_doctor.results.findings import Repair

_GATES = {Kind.LSTM: ("input", "forget", "cell", "output"), Kind.GRU: ("reset", "update", "new")}
"""Order of the gates' rows in PyTorch's weights and biases (``torch.nn.LSTM``, ``torch.nn.GRU``)."""


def gate_rows(layer: Layer) -> Mapping[str, slice]:
    """Return the rows of each gate in the layer's weights and biases; empty where the layer has no gates."""
    names = _GATES.get(layer.kind, ())
    rows = next((part.shape[0] for role, part in layer.tensors.items() if role in ("weight_hh", "bias_ih")), 0)
    size = rows // len(names) if names else 0
    return {name: slice(order * size, (order + 1) * size) for order, name in enumerate(names)} if size else {}


def gate_biases(layer: Layer) -> list[Tensor]:
    """Return the one or two biases of a recurrent layer, the inputs' first."""
    return [layer.tensors[role] for role in ("bias_ih", "bias_hh") if role in layer.tensors]


def renew_bias(layer: Layer, tensor: Tensor, limit: float) -> Repair:
    """Return the repair of a zero bias: uniform(±limit), and an LSTM's effective forget-gate bias exactly 1.0."""
    forget = gate_rows(layer).get("forget")
    if forget is None:
        return Repair(tensor.name, f"uniform(-{limit}, {limit})", draw_uniform(limit))
    other = [each for each in gate_biases(layer) if each is not tensor]
    # Where the other bias is alive, the pair already has an effective forget bias, and this one need not add to it.
    if any(each.array[forget].any() for each in other):
        return Repair(tensor.name, f"uniform(-{limit}, {limit})", draw_uniform(limit))
    value = FORGET_BIAS if tensor is layer.tensors.get("bias_ih") or len(gate_biases(layer)) == 1 else 0.0
    return Repair(
        tensor.name,
        f"uniform(-{limit}, {limit}), forget gate {value}",
        in_turn([draw_uniform(limit), within(forget, fill(value))]),
    )
