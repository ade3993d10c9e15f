"""Silent units made able to learn again: ReDo's recycling (Sokar et al., 2302.12902), and how to recognise it.

The incoming weights are drawn anew, the bias becomes 0, and the outgoing weights become 0. A unit whose output was 0
contributes as much as before, nothing, so the function of the network stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.analyzers._evidence.initial_values import initialization_of
from checkpoint_doctor.analyzers._evidence.training import untouched_level
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import at_lines, fill
from checkpoint_doctor.results.findings import Repair, Safety
from checkpoint_doctor.text import quantity

if TYPE_CHECKING:
    from checkpoint_doctor.layers.init_rules import InitRule

_READERS = (Kind.LINEAR, Kind.CONV, Kind.LSTM, Kind.GRU, Kind.RNN)
"""Layers that multiply each of their inputs by weights of its own; a norm would mix it with the others first."""

_RENEWED = 1e-15
"""Root of a second moment above which it is no remainder: one that nothing feeds decays through all smaller values."""


def recycle(layer: Layer, units: Sequence[int], checkpoint: Checkpoint) -> list[Repair]:
    """Return the repairs that recycle units whose output is 0; empty where it cannot be done without other effects.

    It cannot where a norm follows, where not all the layers that read the units are known, and in recurrent layers,
    whose units also read one another. That the output is 0 is for the caller to prove.
    """
    weight = layer.weight
    if not units or weight is None or layer.kind not in (Kind.LINEAR, Kind.CONV) or not layer.followers:
        return []
    rule = initialization_of(weight, layer, checkpoint)
    outgoing = [_outgoing(name, layer, units, checkpoint) for name in layer.followers]
    if rule is None or None in outgoing:
        return []
    count = quantity(len(units), "silent unit")
    axis = 1 if layer.transposed else 0
    repairs = [_repair(weight, f"{count} drawn anew: {rule.words}", at_lines(units, axis, rule.draw))]
    if layer.bias is not None:
        repairs.append(_repair(layer.bias, f"0 for {count}", at_lines(units, 0, fill(0.0))))
    return repairs + [each for each in outgoing if each is not None]


def _repair(tensor: Tensor, words: str, renew: InitRule) -> Repair:
    return Repair(tensor.name, words, renew, Safety.ON_REQUEST)


def _outgoing(name: str, layer: Layer, units: Sequence[int], checkpoint: Checkpoint) -> Repair | None:
    """Return the repair that takes units out of what a layer reads; ``None`` where it has no weights for just them."""
    reader = checkpoint.layer_by_name.get(name)
    weight = None if reader is None else reader.tensors.get("weight_ih") or reader.weight
    if reader is None or weight is None or reader.kind not in _READERS or len(weight.shape) < 2:
        return None
    axis = 0 if reader.transposed else 1
    inputs, before = weight.shape[axis], count_units(layer)
    if not before or inputs % before:
        return None
    # Behind a convolution each channel becomes several inputs, one for each place in the image.
    places = inputs // before
    columns = [unit * places + place for unit in units for place in range(places)]
    words = f"0 for the outgoing weights of {quantity(len(units), 'unit')} of {layer.name}"
    return _repair(weight, words, at_lines(columns, axis, fill(0.0)))


def count_units(layer: Layer) -> int:
    """Return the number of a linear or convolutional layer's units."""
    weight = layer.weight
    if weight is None or len(weight.shape) < 2:
        return 0
    return weight.shape[1 if layer.transposed else 0]


def find_renewed(moments: Moments, optimizer: Optimizer, *, along_rows: bool) -> NDArray[np.bool_] | None:
    """Return which rows (or columns) of a parameter's moments are as a repair leaves them, until the next update.

    Their first moment is exactly 0 and their second moment one single number. Training brings neither about: first
    moments decay to the smallest number and stay there, and gradients differ from entry to entry. Of lines with one
    entry only, two or more must agree. ``None`` where there is no second moment, and for vectors.
    """
    statistics, second = moments.statistics, moments.second
    if statistics is None or second is None or len(second.shape) < 2:
        return None
    first = statistics.row_first if along_rows else statistics.column_first
    root = statistics.row_second if along_rows else statistics.column_second
    if root is None:
        return None
    # Where no gradient ever came, a start above zero is one single number too.
    untouched = untouched_level(moments, optimizer, of_root=True)
    if untouched is None:
        return None
    candidates: NDArray[np.bool_] = root > max(_RENEWED, untouched)
    if first is not None:
        candidates = candidates & (first == 0)
    if not candidates.any():
        return candidates
    lines = second.array if along_rows else np.moveaxis(second.array, 1, 0)
    lines = lines.reshape(root.size, -1)
    chosen = lines[candidates]
    renewed = candidates.copy()
    if lines.shape[1] > 1:
        renewed[candidates] = (chosen == chosen[:, :1]).all(axis=1)
    else:
        _, which, counts = np.unique(chosen.reshape(-1), return_inverse=True, return_counts=True)
        renewed[candidates] = counts[which] > 1
    return renewed
