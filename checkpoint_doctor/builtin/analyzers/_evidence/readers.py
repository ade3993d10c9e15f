"""Layers that read a layer's units, and the weights they read them with."""

from __future__ import annotations

import numpy as np

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
    weight, axis = input_weight(layer), layer.input_axis
    return 0 if weight is None or axis is None or len(weight.shape) < 2 else weight.shape[axis]


def count_units(layer: Layer) -> int:
    """Return the number of units of a linear or convolutional layer; 0 where it has no matrix."""
    weight, axis = layer.weight, layer.unit_axis
    return 0 if weight is None or axis is None or len(weight.shape) < 2 else weight.shape[axis]


def zero_units(layer: Layer, weight: Tensor) -> list[int]:
    """Return the units that one of a layer's weights gives no inputs: all of these entries are exactly zero."""
    statistics = weight.statistics
    return list(map(int, statistics.zero_columns if layer.transposed else statistics.zero_rows))


def zero_inputs(layer: Layer, weight: Tensor) -> list[int]:
    """Return the inputs that one of a layer's weights does not read: all of these entries are exactly zero."""
    if layer.transposed:
        return zero_channels(weight)
    return list(map(int, weight.statistics.zero_columns))


def zero_channels(weight: Tensor) -> list[int]:
    """Return the inputs whose entries are all exactly zero in a weight that is stored inputs first.

    In a kernel with its outputs last, an input has a row for each position.
    """
    zero_rows = weight.statistics.zero_rows
    if len(weight.shape) < 3 or not weight.is_kernel:
        return list(map(int, zero_rows))
    is_zero = np.zeros(weight.matrix_shape[0], bool)
    is_zero[zero_rows] = True
    return list(map(int, np.flatnonzero(is_zero.reshape(-1, weight.shape[-2]).all(axis=0))))
