"""Why units are silent, as the layers that read them tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.analyzers._evidence.units import (
    GradientActivity,
    input_activity,
    input_weight,
    readers_of,
    unit_activity,
)
from checkpoint_doctor.checkpoint import Checkpoint, Layer


@dataclass(frozen=True)
class Downstream:
    """What became of silent units' output. One boolean per unit."""

    dead: NDArray
    """Nothing of their output reaches the readers, which do learn: the output is 0."""
    saturated: NDArray
    """A reader receives their output, but no gradient passes back through them."""
    cut_off: NDArray
    """All their outgoing weights are zero."""
    readers_are_silent: bool
    """No reader learns anything either, so they cannot tell."""


def explain_inactivity(
    layer: Layer, activity: GradientActivity, checkpoint: Checkpoint, ratio: float
) -> Downstream | None:
    """Ask the layers that read the units what they receive of them; ``None`` where none can be asked."""
    units = activity.silent.size
    unheard, weightless = np.ones(units, dtype=bool), np.ones(units, dtype=bool)
    received = np.zeros(units, dtype=bool)
    asked = awake = 0
    for reader in readers_of(layer, checkpoint):
        inputs, rows = input_activity(reader, checkpoint, ratio), unit_activity(reader, checkpoint, ratio)
        weight = input_weight(reader)
        if inputs is None or rows is None or weight is None or inputs.silent.size % units:
            return None
        if rows.renewed.any() and not rows.heard.any():
            return None  # what it remembered was lost in a repair
        asked += 1
        # A convolution's channel becomes several inputs of the linear layer behind it.
        shape = (units, inputs.silent.size // units)
        zero = np.zeros(inputs.silent.size, dtype=bool)
        zero[weight.statistics.zero_rows if reader.transposed else weight.statistics.zero_columns] = True
        weightless &= np.logical_and.reduce(zero.reshape(shape), axis=1)
        if rows.heard.any():
            awake += 1
            unheard &= inputs.folded(shape, axis=1).silent
            received |= np.logical_or.reduce(inputs.heard.reshape(shape), axis=1)
    if not asked:
        return None
    cut_off = activity.silent & weightless
    rest = activity.silent & ~cut_off
    none = np.zeros(units, dtype=bool)
    return Downstream(rest & unheard if awake else none, rest & received, cut_off, not awake)
