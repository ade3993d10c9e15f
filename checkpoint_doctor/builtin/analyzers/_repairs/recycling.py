"""Recycling of dormant units (ReDo; Sokar et al., 2302.12902), so that they can learn again.

The incoming weights are reinitialised; the bias and the outgoing weights become 0. A unit whose output was 0 still adds
nothing to the layers that read it, so the network's function stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checkpoint_doctor.builtin.analyzers._evidence.readers import count_units, input_weight
from checkpoint_doctor.builtin.analyzers._repairs.initialization import initialization_of
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import FEEDFORWARD, WITH_UNITS
from checkpoint_doctor.layers.init_rules import at_lines, fill
from checkpoint_doctor.results.findings import Repair, Safety
from checkpoint_doctor.text import quantity

if TYPE_CHECKING:
    from checkpoint_doctor.layers.init_rules import InitRule


def recycle(layer: Layer, units: Sequence[int], checkpoint: Checkpoint) -> list[Repair]:
    """Return the repairs that recycle units whose output is 0; empty where they would have other effects.

    They would where a norm follows, where not all the layers that read the units are known, and in recurrent layers,
    whose units also read one another. The caller must have shown that the units' output is 0.
    """
    weight = layer.weight
    if not units or weight is None or layer.kind not in FEEDFORWARD or not layer.followers:
        return []
    rule = initialization_of(weight, layer, checkpoint)
    outgoing = [_outgoing(name, layer, units, checkpoint) for name in layer.followers]
    if rule is None or None in outgoing:
        return []
    count = quantity(len(units), "dormant unit")
    axis = 1 if layer.transposed else 0
    repairs = [_repair(weight, f"{count} reinitialised: {rule.words}", at_lines(units, axis, rule.draw))]
    if layer.bias is not None:
        repairs.append(_repair(layer.bias, f"0 for {count}", at_lines(units, 0, fill(0.0))))
    return repairs + [each for each in outgoing if each is not None]


def _repair(tensor: Tensor, words: str, rule: InitRule) -> Repair:
    return Repair(tensor.name, words, rule, Safety.ON_REQUEST)


def _outgoing(name: str, layer: Layer, units: Sequence[int], checkpoint: Checkpoint) -> Repair | None:
    """Return the repair that sets units' outgoing weights in a layer to 0; ``None`` where they cannot be told apart.

    A norm has no weights for single inputs; it mixes each input with the others.
    """
    reader = checkpoint.layer_by_name.get(name)
    weight = None if reader is None else input_weight(reader)
    if reader is None or weight is None or reader.kind not in WITH_UNITS or len(weight.shape) < 2:
        return None
    axis = 0 if reader.transposed else 1
    inputs, before = weight.shape[axis], count_units(layer)
    if not before or inputs % before:
        return None
    # Behind a flattened convolution, each channel is several inputs: one for every position in the image.
    positions = inputs // before
    columns = [unit * positions + position for unit in units for position in range(positions)]
    words = f"0 for the outgoing weights of {quantity(len(units), 'unit')} of {layer.name}"
    return _repair(weight, words, at_lines(columns, axis, fill(0.0)))
