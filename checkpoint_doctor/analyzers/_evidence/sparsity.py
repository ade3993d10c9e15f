"""Whether scattered zeros follow a pattern that somebody chose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import Kind

PRUNED_SHARE = 0.5
"""Share of a model's large weights with scattered zeros from which the whole model counts as pruned: a fault hits one
layer, pruning goes through all of them."""

NOTICEABLE = 0.05
"""Scattered zeros below this share are not counted towards pruning."""


def scattered_zeros(tensor: Tensor) -> tuple[int, float]:
    """Return number and share of exact zeros that lie neither in a zero row nor in a zero column."""
    statistics = tensor.statistics
    if statistics.zeros == 0 or len(tensor.shape) < 2 or not tensor.size:
        return 0, 0.0
    rows, columns = tensor.shape[0], tensor.shape[1]
    depth = tensor.size // (rows * columns)
    dead_rows, dead_columns = len(statistics.zero_rows), len(statistics.zero_columns)
    structured = (dead_rows * columns + dead_columns * (rows - dead_rows)) * depth
    left = tensor.size - structured
    scattered = statistics.zeros - structured
    return scattered, scattered / left if left else 0.0


def describe_sparsity(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> str:
    """Say which deliberate pattern the zeros of a weight follow; empty where they follow none."""
    if "weight_mask" in layer.tensors or f"{tensor.name}_mask" in checkpoint.by_name:
        return "a pruning mask lies beside it"
    if is_pruned(checkpoint):
        return "most of the model's weights have scattered zeros, as after pruning"
    if tensor.size > 1 << 26:
        return ""
    alive = tensor.array != 0
    return _name_pattern(alive.reshape(alive.shape[0], -1), layer)


def is_pruned(checkpoint: Checkpoint) -> bool:
    """True where zeros are scattered over most of a model's weights, which a fault in one layer does not do."""
    kinds = (Kind.LINEAR, Kind.CONV, Kind.ATTENTION, Kind.LSTM, Kind.GRU, Kind.RNN)
    weights = [
        tensor
        for layer in checkpoint.layers
        if layer.kind in kinds
        for role, tensor in layer.tensors.items()
        if role.startswith("weight") and len(tensor.shape) > 1 and tensor.size >= 64
    ]
    thinned = sum(scattered_zeros(weight)[1] >= NOTICEABLE for weight in weights)
    return thinned >= 3 and thinned >= PRUNED_SHARE * len(weights)


def _name_pattern(alive: NDArray, layer: Layer) -> str:
    per_row = alive.sum(axis=1)
    if per_row.max() == 1:
        return "each row has a single entry: a selection or one-hot matrix"
    rows, columns = alive.shape
    if rows == columns and (not alive[np.triu_indices(rows, 1)].any() or not alive[np.tril_indices(rows, -1)].any()):
        return "a triangular matrix"
    if columns % 4 == 0 and (alive.reshape(rows, -1, 4).sum(axis=2) <= 2).all():
        return "at most two of every four entries are set: 2:4 structured sparsity"
    unique = np.unique(alive, axis=0)
    if rows >= 8 and len(unique) <= max(2, rows // 8):
        return "the zeros stand at the same places in many rows: a masked or grouped layer"
    order = alive[np.argsort(per_row, kind="stable")]
    if len(unique) < rows and rows >= 8 and not (order[:-1] & ~order[1:]).any():
        return "each row's inputs contain the previous row's: an autoregressive mask"
    return ""
