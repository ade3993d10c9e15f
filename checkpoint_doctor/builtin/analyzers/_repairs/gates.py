"""How a zero bias of a recurrent layer is repaired."""

from __future__ import annotations

from checkpoint_doctor.builtin.analyzers._evidence.cells import find_lines, gate_biases
from checkpoint_doctor.checkpoint import Layer, Tensor
from checkpoint_doctor.layers.init_rules import FORGET_BIAS, draw_uniform, fill, in_turn, within
from checkpoint_doctor.results.findings import Repair


def reinitialise_bias(layer: Layer, tensor: Tensor, limit: float) -> Repair:
    """Return the repair of a zero bias: uniform(±limit), and an LSTM's effective forget-gate bias exactly 1.0."""
    forget = find_lines(layer).get("forget")
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
