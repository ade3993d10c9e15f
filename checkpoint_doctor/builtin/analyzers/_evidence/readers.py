"""Layers that read a layer's units, and the weights they read them with."""

from __future__ import annotations

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import NORMS


def readers_of(layer: Layer, checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers with weights that read this layer's units, directly or through norms."""
    readers: dict[str, Layer] = {}
    seen, waiting = {layer.name}, [*layer.followers] or [layer.following or ""]
    while waiting:
        name = waiting.pop(0)
        reader = checkpoint.layer_by_name.get(name)
        if reader is None or name in seen:
            continue
        seen.add(name)
        if reader.kind in NORMS:
            waiting += [*reader.followers] or [reader.following or ""]
        else:
            readers[name] = reader
    return list(readers.values())


def input_weight(layer: Layer) -> Tensor | None:
    """Return the weight whose columns (rows, where it is transposed) are the layer's inputs."""
    return layer.tensors.get("weight_ih") or layer.weight


def count_inputs(layer: Layer) -> int:
    """Return the number of features (for a convolution, channels) that a layer reads; 0 where it has no matrix."""
    weight = input_weight(layer)
    if weight is None or len(weight.shape) < 2:
        return 0
    return weight.shape[0 if layer.transposed else 1]


def count_units(layer: Layer) -> int:
    """Return the number of units of a linear or convolutional layer; 0 where it has no matrix."""
    weight = layer.weight
    if weight is None or len(weight.shape) < 2:
        return 0
    return weight.shape[1 if layer.transposed else 0]
