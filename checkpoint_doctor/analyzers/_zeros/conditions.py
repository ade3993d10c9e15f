"""Layers that feed a condition into others and begin at no change: FiLM, adaptive norms, other modulation."""

from __future__ import annotations

import re

from checkpoint_doctor.analyzers._evidence.readers import count_units
from checkpoint_doctor.analyzers._evidence.training import was_trained
from checkpoint_doctor.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer


def began_at_no_change(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a zero weight without any gradient whose bias was trained, in a layer that reads no known layer.

    The gradient of a weight is that of its bias times the input, so that the inputs were always zero. A layer of the
    network has a random weight then; a weight of zero is that of a condition, which is not in use.
    """
    weight, bias = layer.weight, layer.bias
    if weight is None or bias is None or layer.is_output or layer.previous is not None:
        return False
    return is_zero(weight) and was_trained(weight, checkpoint) is False and was_trained(bias, checkpoint) is True


def may_modulate(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a member of a list of zero layers that has one for each layer of another list, to scale and shift it.

    Each gives a multiple of the features that the other list's layers give.
    """
    own = _list_of(layer)
    if own is None or not count_units(layer):
        return False
    lists: dict[str, dict[str, Layer]] = {}
    for other in checkpoint.layers:
        place = _list_of(other)
        if place is not None and other.weight is not None:
            lists.setdefault(place[0], {})[place[1]] = other
    zero = lists.pop(own[0], {})
    if len(zero) < 2 or not all(is_zero(each.weight) for each in zero.values()):
        return False
    return any(
        others.keys() == zero.keys()
        and all((units := count_units(each)) and count_units(layer) % units == 0 for each in others.values())
        and not any(is_zero(each.weight) for each in others.values())
        for others in lists.values()
    )


def _list_of(layer: Layer) -> tuple[str, str] | None:
    """Return the name of the list that a layer is a member of, and its number there."""
    match = re.fullmatch(r"(.+)\.(\d+)", layer.name)
    return (match[1], match[2]) if match else None
