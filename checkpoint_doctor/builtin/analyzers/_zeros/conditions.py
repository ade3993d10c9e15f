"""Layers whose input is a condition and not the data, and what they look like while it is not given.

FiLM, adaptive norms and other modulation begin at no change. Conditional norms keep gains of 1 and shifts of 0 for
classes that they have not seen. A decoder can run on the state that an encoder hands over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from checkpoint_doctor.builtin.analyzers._evidence.readers import count_units
from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor, found_once

_MOST_TABLES = 16
"""Weights of one shape that are compared with one another; conditional norms have two for each norm."""


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
    place = _list_of(layer)
    if place is None or not count_units(layer):
        return False
    zero = _zero_lists(checkpoint).get(place[0], frozenset())
    return any(count_units(layer) % units == 0 for units in _units_of_lists(checkpoint).get(zero, ()))


@found_once
def _zero_lists(checkpoint: Checkpoint) -> dict[str, frozenset[str]]:
    """Return the numbers of the layers of each list of two or more whose weights are all zero."""
    return {
        name: frozenset(layers)
        for name, layers in _lists(checkpoint).items()
        if len(layers) > 1 and all(is_zero(layer.weight) for layer in layers.values())
    }


@found_once
def _units_of_lists(checkpoint: Checkpoint) -> dict[frozenset[str], set[int]]:
    """Return how many features the layers of lists without zero weights give, by the numbers of the layers."""
    found: dict[frozenset[str], set[int]] = {}
    for layers in _lists(checkpoint).values():
        units = {count_units(layer) for layer in layers.values()}
        if len(units) == 1 and 0 not in units and not any(is_zero(layer.weight) for layer in layers.values()):
            found.setdefault(frozenset(layers), set()).update(units)
    return found


@found_once
def _lists(checkpoint: Checkpoint) -> dict[str, dict[str, Layer]]:
    """Return the layers with a weight that are members of lists, by the name of the list and their number."""
    found: dict[str, dict[str, Layer]] = {}
    for layer in checkpoint.layers:
        place = _list_of(layer)
        if place is not None and layer.weight is not None:
            found.setdefault(place[0], {})[place[1]] = layer
    return found


def are_unseen_conditions(tensor: Tensor, rows: Sequence[int], checkpoint: Checkpoint) -> bool:
    """Tell whether rows of a table are all 0 where those of another are all 1, or the other way round.

    These are the initial shifts and gains of a norm that is conditioned on a class, for classes that were not seen.
    """
    if len(tensor.shape) != 2 or len(tables := _weights_by_shape(checkpoint).get(tensor.shape, [])) > _MOST_TABLES:
        return False
    own = tensor.array[list(rows)]
    if not ((own == 0).all() or (own == 1).all()):
        return False
    return any(other is not tensor and (other.array[list(rows)] == 1 - own).all() for other in tables)


@found_once
def _weights_by_shape(checkpoint: Checkpoint) -> dict[tuple[int, ...], list[Tensor]]:
    found: dict[tuple[int, ...], list[Tensor]] = {}
    for layer in checkpoint.layers:
        if layer.weight is not None:
            found.setdefault(layer.weight.shape, []).append(layer.weight)
    return found


def runs_on_its_state(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a recurrent layer whose inputs were always zero beside one of its size whose inputs were not.

    The other one hands its state over, as an encoder does to a decoder that reads nothing.
    """
    inputs, hidden = layer.tensors.get("weight_ih"), layer.tensors.get("weight_hh")
    if inputs is None or hidden is None or layer.previous is not None or was_trained(inputs, checkpoint) is not False:
        return False
    others = _modules_with_live_inputs(checkpoint).get(hidden.shape, set())
    return was_trained(hidden, checkpoint) is True and bool(others - {_module(layer)})


@found_once
def _modules_with_live_inputs(checkpoint: Checkpoint) -> dict[tuple[int, ...], set[str]]:
    """Return the names of the recurrent modules whose input weights were trained, by the shape of the hidden ones."""
    found: dict[tuple[int, ...], set[str]] = {}
    for layer in checkpoint.layers:
        inputs, hidden = layer.tensors.get("weight_ih"), layer.tensors.get("weight_hh")
        if inputs is not None and hidden is not None and was_trained(inputs, checkpoint):
            found.setdefault(hidden.shape, set()).add(_module(layer))
    return found


def _module(layer: Layer) -> str:
    """Return the name of the module that holds a recurrent layer: PyTorch numbers those of one module."""
    return re.sub(r"\.l\d+(_reverse)?$", "", layer.name)


def _list_of(layer: Layer) -> tuple[str, str] | None:
    """Return the name of the list that a layer is a member of, and its number there."""
    match = re.fullmatch(r"(.+)\.(\d+)", layer.name)
    return (match[1], match[2]) if match else None
