"""How far parameters are from where they can have begun, against what the counted updates can have moved them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.initial_parameters import default_limit
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.layers import NORMS, WITH_UNITS
from checkpoint_doctor.statistics.values import as_real

_LARGEST_STEP = 3.0
"""Largest mean step of an entry in units of the learning rate: Adam's bound is (1 − β1)/√(1 − β2) = 3.2 for one step,
and 1 for steady gradients."""

_LARGEST_RMSPROP_STEP = 10.0
"""The same for RMSprop, whose first step is 1/√(1 − α) times the learning rate."""

_MOST_UPDATES = 100_000


def find_travelled_farther(optimizer: Optimizer, checkpoint: Checkpoint, updates: int) -> list[str]:
    """Return gains and biases that are farther from their initial values than so many updates can have moved them.

    Gains begin at 1, biases at 0 or within ±1/√fan_in. Only where every step is bounded by the learning rate (Adam,
    RMSprop). Pretrained parameters have moved before: whoever asks must have a second count that speaks against it.
    """
    if updates > _MOST_UPDATES:
        return []
    if optimizer.takes_adam_steps:
        return list(_farther(optimizer, checkpoint, _LARGEST_STEP * updates))
    if optimizer.kind == "RMSprop" and not any(group.options.get("momentum") for group in optimizer.groups):
        return list(_farther(optimizer, checkpoint, _LARGEST_RMSPROP_STEP * updates))
    return []


def _farther(optimizer: Optimizer, checkpoint: Checkpoint, steps: float) -> Iterator[str]:
    for moments in optimizer.parameters:
        tensor, group = checkpoint.find_tensor(moments.tensor), optimizer.group_of(moments.index)
        if tensor is None or group is None or len(tensor.shape) != 1 or tensor.statistics.nonfinite or not tensor.size:
            continue
        layer = checkpoint.layer_of[tensor.name]
        role = next((role for role, each in layer.tensors.items() if each is tensor), "")
        reach = group.largest_learning_rate * steps
        if layer.kind in NORMS and role in ("weight", "bias"):
            distance = float(np.abs(as_real(tensor.array) - (role == "weight")).max())
        elif role.startswith("bias") and layer.kind in WITH_UNITS:
            distance = tensor.statistics.absmax - (default_limit(layer) or np.inf)
        else:
            continue
        if distance > reach + 1e-3:
            yield tensor.name
