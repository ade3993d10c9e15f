"""Which layers may read another one's output, by the sizes of their inputs and the order of the file.

Names and shapes show few links between layers for certain (``Layer.previous``). Sizes show which links are impossible:
a part whose output fits no layer behind it cannot be one that the trained layers need.
"""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_doctor.builtin.analyzers._evidence.cells import count_hidden
from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Optimizer
from checkpoint_doctor.layers import FEEDFORWARD, PROJECTIONS, RECURRENT, Kind


def widths_read(layer: Layer) -> set[int]:
    """Return how many features a layer may read; empty for a table, a norm, or a bare parameter.

    The kernel of a depthwise convolution has one input for each output, as that of a convolution of one channel.
    """
    inputs = count_inputs(layer) if layer.kind in PROJECTIONS else 0
    if _is_turned(layer):
        inputs = count_units(layer)
    elif layer.kind is Kind.CONV and inputs == 1:
        return {1, count_units(layer)}
    return {inputs} - {0}


def widths_given(layer: Layer) -> set[int]:
    """Return how many features a layer may give; PyTorch puts the two directions of a recurrent layer side by side."""
    weight = layer.weight
    if layer.kind in FEEDFORWARD:
        return {count_inputs(layer) if _is_turned(layer) else count_units(layer)} - {0}
    if layer.kind is Kind.EMBEDDING:
        return {weight.shape[1]} if weight is not None and len(weight.shape) == 2 else set()
    if layer.kind is Kind.ATTENTION:
        return widths_read(layer)
    if layer.kind in RECURRENT and "weight_hh" in layer.tensors:
        hidden = count_hidden(layer)
        return {2 * hidden} if layer.name.endswith("_reverse") else {hidden, 2 * hidden}
    return set()


def _is_turned(layer: Layer) -> bool:
    """True for a transposed convolution that its bias gives away, whose size is that of the kernel's second axis."""
    if layer.kind is not Kind.CONV or layer.bias is None:
        return False
    return count_inputs(layer) == layer.bias.size != count_units(layer)


def may_feed(giver: Layer, reader: Layer) -> bool:
    """Tell whether sizes allow a layer to read another's output; a linear one may read a flattened convolution."""
    given, read = widths_given(giver), widths_read(reader)
    if given & read:
        return True
    is_flattened = giver.kind is Kind.CONV and reader.kind is Kind.LINEAR
    return is_flattened and any(inputs % outputs == 0 for inputs in read for outputs in given)


def last_giver(layers: Iterable[Layer]) -> Layer | None:
    """Return the last of the layers that gives features."""
    return next((layer for layer in reversed(list(layers)) if widths_given(layer)), None)


def first_reader(layers: Iterable[Layer]) -> Layer | None:
    """Return the first of the layers that reads features."""
    return next((layer for layer in layers if widths_read(layer)), None)


def judges_the_rest(optimizer: Optimizer, checkpoint: Checkpoint) -> bool:
    """True for an optimizer over a part that reads what an autoencoder puts out, such as its discriminator.

    What was trained reads as many features as it gives, so that it has a loss of its own. A generator that reads noise
    has none but its discriminator's.
    """
    part = _held_layers(optimizer, checkpoint)
    rest = [each for each in checkpoint.layers if each not in part and _is_held(each, checkpoint)]
    judge, last = first_reader(part), last_giver(rest)
    if judge is None or last is None or checkpoint.layers.index(judge) < checkpoint.layers.index(last):
        return False
    data = widths_given(last) & widths_read(judge)
    return any(data & widths_read(layer) for layer in rest if layer is not last)


def _held_layers(optimizer: Optimizer, checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers of an optimizer without state, which does not tell their names.

    These are those of the only component that no optimizer is known to hold and that has as many parameters.
    """
    components: dict[str, list[Layer]] = {}
    for layer in checkpoint.layers:
        components.setdefault(layer.component, []).append(layer)
    fitting = [
        layers
        for layers in components.values()
        if not any(_is_held(layer, checkpoint) for layer in layers)
        and sum(map(_count_parameters, layers)) == len(optimizer.parameters)
    ]
    return fitting[0] if len(fitting) == 1 else []


def _is_held(layer: Layer, checkpoint: Checkpoint) -> bool:
    return any(tensor.name in checkpoint.moments for tensor in layer.tensors.values())


def _count_parameters(layer: Layer) -> int:
    return sum(role.startswith(("weight", "bias", "value")) for role in layer.tensors)
