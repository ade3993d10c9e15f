"""The gates of a layer: their rows, their biases, and how a zero bias is repaired."""

from __future__ import annotations

from collections.abc import Mapping

from checkpoint_doctor.checkpoint import Layer, Tensor
from checkpoint_doctor.layers import gate_slices
from checkpoint_doctor.layers.init_rules import FORGET_BIAS, draw_uniform, fill, in_turn, within
from checkpoint_doctor.results.findings import Repair


def gate_rows(layer: Layer) -> Mapping[str, slice]:
    """Return each gate's rows in the layer's weights and biases; empty where the layer has no gates."""
    rows = next((part.shape[0] for role, part in layer.tensors.items() if role in ("weight_hh", "bias_ih")), 0)
    return gate_slices(layer.kind, rows)


def gate_biases(layer: Layer) -> list[Tensor]:
    """Return the one or two biases of a recurrent layer, the input-to-hidden bias first."""
    return [layer.tensors[role] for role in ("bias_ih", "bias_hh") if role in layer.tensors]


def reinitialise_bias(layer: Layer, tensor: Tensor, limit: float) -> Repair:
    """Return the repair of a zero bias: uniform(±limit), and an LSTM's effective forget-gate bias exactly 1.0."""
    forget = gate_rows(layer).get("forget")
    if forget is None:
        return Repair(tensor.name, f"uniform(-{limit}, {limit})", draw_uniform(limit))
    other = [each for each in gate_biases(layer) if each is not tensor]
    # PyTorch adds both biases. Where the other one is not zero, the forget gate already has an effective bias.
    if any(each.array[forget].any() for each in other):
        return Repair(tensor.name, f"uniform(-{limit}, {limit})", draw_uniform(limit))
    value = FORGET_BIAS if tensor is layer.tensors.get("bias_ih") or len(gate_biases(layer)) == 1 else 0.0
    return Repair(
        tensor.name,
        f"uniform(-{limit}, {limit}), forget gate {value}",
        in_turn([draw_uniform(limit), within(forget, fill(value))]),
    )
