"""Whether scattered zeros follow a deliberate pattern: pruning, masks, structured sparsity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import PROJECTIONS

PRUNED_SHARE = 0.5
"""Share of a model's large weights with scattered zeros from which the model counts as pruned. A fault affects one
layer; pruning affects most of them."""

NOTICEABLE = 0.05
"""Share of scattered zeros from which a weight counts as pruned."""


def scattered_zeros(tensor: Tensor) -> tuple[int, float]:
    """Return number and share of exact zeros that lie neither in a zero row nor in a zero column."""
    statistics = tensor.statistics
    if statistics.zeros == 0 or len(tensor.shape) < 2 or not tensor.size:
        return 0, 0.0
    rows, columns = tensor.shape[0], tensor.shape[1]
    depth = tensor.size // (rows * columns)
    zero_rows, zero_columns = len(statistics.zero_rows), len(statistics.zero_columns)
    structured = (zero_rows * columns + zero_columns * (rows - zero_rows)) * depth
    remaining = tensor.size - structured
    scattered = statistics.zeros - structured
    return scattered, scattered / remaining if remaining else 0.0


def describe_sparsity(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> str:
    """Name the deliberate pattern that the zeros of a weight follow; empty where they follow none."""
    if "weight_mask" in layer.tensors or f"{tensor.name}_mask" in checkpoint.by_name:
        return "the file holds a pruning mask for it"
    if is_pruned(checkpoint):
        return "most of the model's weights have scattered zeros, as after pruning"
    if tensor.size > 1 << 26:
        return ""
    nonzero = tensor.array != 0
    return _name_pattern(nonzero.reshape(nonzero.shape[0], -1))


def is_pruned(checkpoint: Checkpoint) -> bool:
    """True where zeros are scattered over most of a model's weights, as after pruning."""
    weights = [
        tensor
        for layer in checkpoint.layers
        if layer.kind in PROJECTIONS
        for role, tensor in layer.tensors.items()
        if role.startswith("weight") and len(tensor.shape) > 1 and tensor.size >= 64
    ]
    pruned = sum(scattered_zeros(weight)[1] >= NOTICEABLE for weight in weights)
    return pruned >= 3 and pruned >= PRUNED_SHARE * len(weights)


def _name_pattern(nonzero: NDArray) -> str:
    per_row = nonzero.sum(axis=1)
    if per_row.max() == 1:
        return "each row has one non-zero entry: a selection or one-hot matrix"
    rows, columns = nonzero.shape
    if rows == columns and (
        not nonzero[np.triu_indices(rows, 1)].any() or not nonzero[np.tril_indices(rows, -1)].any()
    ):
        return "a triangular matrix"
    if columns % 4 == 0 and (nonzero.reshape(rows, -1, 4).sum(axis=2) <= 2).all():
        return "at most two of every four entries are non-zero: 2:4 structured sparsity"
    unique = np.unique(nonzero, axis=0)
    if rows >= 8 and len(unique) <= max(2, rows // 8):
        return "many rows have zeros at the same positions: a masked or grouped layer"
    order = nonzero[np.argsort(per_row, kind="stable")]
    if len(unique) < rows and rows >= 8 and not (order[:-1] & ~order[1:]).any():
        return "each row's non-zero inputs include those of the row before: an autoregressive mask"
    return ""
