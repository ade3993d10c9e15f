"""Why units receive no gradient, as the moments of the layers that read them show."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import (
    GradientActivity,
    input_activity,
    unit_activity,
)
from checkpoint_doctor.builtin.analyzers._evidence.readers import input_weight, readers_of, zero_inputs
from checkpoint_doctor.checkpoint import Checkpoint, Layer


class InactivityCauses(Struct, frozen=True):
    """Which inactive units have which cause: arrays with one boolean for each unit."""

    dead: NDArray
    """Their output is 0: the layers that read them learn, but receive nothing from them."""
    saturated: NDArray
    """Their output reaches a layer that learns, but no gradient passes back through them."""
    cut_off: NDArray
    """All their outgoing weights are zero."""
    readers_are_inactive: bool
    """No layer that reads them receives gradients either, so dead and saturated units cannot be told apart."""

    @property
    def are_mostly_saturated(self) -> bool:
        """True where more units are saturated than dead."""
        return bool(self.saturated.sum() > self.dead.sum())


def find_inactivity_causes(
    layer: Layer, activity: GradientActivity, checkpoint: Checkpoint, ratio: float
) -> InactivityCauses | None:
    """Find the causes from the layers that read the units; ``None`` where none is known or the file cannot tell."""
    units = activity.inactive.size
    without_signal, without_weights = np.ones(units, dtype=bool), np.ones(units, dtype=bool)
    with_signal = np.zeros(units, dtype=bool)
    readers = readers_of(layer, checkpoint)
    active_readers = 0
    for reader in readers:
        inputs, outputs = input_activity(reader, checkpoint, ratio), unit_activity(reader, checkpoint, ratio)
        if inputs is None or outputs is None or inputs.inactive.size % units:
            return None
        if outputs.replaced.any() and not outputs.active.any():
            return None  # a repair replaced what its moments recorded
        # A convolution's channel is several inputs of the linear layer behind it.
        shape = (units, inputs.inactive.size // units)
        without_weights &= np.logical_and.reduce(_zero_inputs(reader, inputs.inactive.size).reshape(shape), axis=1)
        if outputs.active.any():
            active_readers += 1
            without_signal &= inputs.folded(shape, axis=1).inactive
            with_signal |= np.logical_or.reduce(inputs.active.reshape(shape), axis=1)
    if not readers:
        return None
    cut_off = activity.inactive & without_weights
    rest = activity.inactive & ~cut_off
    dead = rest & without_signal if active_readers else np.zeros(units, dtype=bool)
    return InactivityCauses(dead, rest & with_signal, cut_off, not active_readers)


def _zero_inputs(reader: Layer, count: int) -> NDArray:
    """Return which inputs of a layer have weights of exactly zero."""
    zero = np.zeros(count, dtype=bool)
    weight = input_weight(reader)
    if weight is not None:
        zero[zero_inputs(reader, weight)] = True
    return zero
