"""Layers whose input is a condition and not the data, and what they look like while it is not given.

FiLM, adaptive norms and other modulation begin at no change. Conditional norms keep gains of 1 and shifts of 0 for
classes that they have not seen. A decoder can run on the state that an encoder hands over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from checkpoint_doctor.analyzers._evidence.readers import count_units
from checkpoint_doctor.analyzers._evidence.training import was_trained
from checkpoint_doctor.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import RECURRENT


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


def are_unseen_conditions(tensor: Tensor, rows: Sequence[int], checkpoint: Checkpoint) -> bool:
    """Tell whether rows of a table are all 0 where those of another are all 1, or the other way round.

    These are the initial shifts and gains of a norm that is conditioned on a class, for classes that were not seen.
    """
    own = tensor.array[list(rows)]
    if len(tensor.shape) != 2 or not ((own == 0).all() or (own == 1).all()):
        return False
    others = (each.weight for each in checkpoint.layers if each.weight is not None and each.weight is not tensor)
    return any(other.shape == tensor.shape and (other.array[list(rows)] == 1 - own).all() for other in others)


def runs_on_its_state(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a recurrent layer whose inputs were always zero beside one of its size whose inputs were not.

    The other one hands its state over, as an encoder does to a decoder that reads nothing.
    """
    if layer.kind not in RECURRENT or layer.previous is not None:
        return False
    inputs, hidden = layer.tensors.get("weight_ih"), layer.tensors.get("weight_hh")
    if inputs is None or hidden is None or was_trained(inputs, checkpoint) is not False:
        return False
    return was_trained(hidden, checkpoint) is True and any(
        other.kind in RECURRENT
        and _module(other) != _module(layer)
        and other.tensors["weight_hh"].shape == hidden.shape
        and was_trained(other.tensors["weight_ih"], checkpoint) is True
        for other in checkpoint.layers
        if {"weight_ih", "weight_hh"} <= other.tensors.keys()
    )


def _module(layer: Layer) -> str:
    """Return the name of the module that holds a recurrent layer: PyTorch numbers those of one module."""
    return re.sub(r"\.l\d+(_reverse)?$", "", layer.name)


def _list_of(layer: Layer) -> tuple[str, str] | None:
    """Return the name of the list that a layer is a member of, and its number there."""
    match = re.fullmatch(r"(.+)\.(\d+)", layer.name)
    return (match[1], match[2]) if match else None
