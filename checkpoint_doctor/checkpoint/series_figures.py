"""The figures that a series keeps of a checkpoint, and of the difference between two neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan, prod, sqrt

import numpy as np
from msgspec import Struct

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.layers import Layer
from checkpoint_doctor.checkpoint.series import ColumnRecord, TensorFigures
from checkpoint_doctor.checkpoint.signals import LayerSignal, update_ratio
from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.layers import PROJECTIONS, RECURRENT
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS
from checkpoint_doctor.statistics.vanished import VanishedMoments, count_vanished

WIDEST = 1 << 16
"""Columns of the widest matrix whose columns are looked at one by one."""


class Measured(Struct, frozen=True, eq=False):
    """A tensor's figures in one checkpoint."""

    figures: TensorFigures
    columns: ColumnRecord | None = None


def measure_point(checkpoint: Checkpoint) -> dict[str, Measured]:
    """Return the figures of every tensor of a checkpoint by name, without those that compare it with another one.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    return {tensor.name: _measure(tensor, checkpoint) for tensor in checkpoint.distinct_tensors}


class Change(Struct, frozen=True):
    """How far a tensor has moved between two checkpoints."""

    change: float = nan
    """Norm of the difference over the norm before (over the norm after, where that before is 0); NaN where both are 0.
    Entries that are NaN or infinite in either are left out."""
    still_fraction: float = nan
    """Share of the entries with the very same bits."""
    still_columns: float = nan
    """Share of the columns in which all entries have."""


def measure_change(earlier: Tensor, later: Tensor) -> Change:
    """Return how far a tensor has moved between two checkpoints, block by block; NaN where the shapes differ.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    if earlier.shape != later.shape:
        return Change()
    width = prod(earlier.shape[1:]) if len(earlier.shape) > 1 else 1
    by_column = 1 < width <= WIDEST
    elements = max(1, BLOCK_ELEMENTS // width) * width if by_column else BLOCK_ELEMENTS
    columns_still = np.ones(width if by_column else 0, dtype=bool)
    squares = before = after = 0.0
    still = 0
    comparable = earlier.dtype == later.dtype
    with np.errstate(all="ignore"):
        pairs = zip(earlier.values.blocks(elements), later.values.blocks(elements), strict=True)
        for one, other in pairs:
            equal = _same_bits(one, other) if comparable else np.zeros(one.size, dtype=bool)
            same = int(np.count_nonzero(equal))
            still += same
            if by_column and same < one.size:
                columns_still &= equal.reshape(-1, width).all(axis=0)
            one, other = _wide(one), _wide(other)
            if same < one.size:
                difference = other - one
                if not np.isfinite(total := float(np.vdot(difference, difference).real)):
                    difference = difference[np.isfinite(difference)]
                    total = float(np.vdot(difference, difference).real)
                squares += total
            before += _sum_squares(one)
            after += _sum_squares(other)
    norm = sqrt(before) or sqrt(after)
    change = sqrt(squares) / norm if norm else nan
    if not comparable or not earlier.size:
        return Change(change)
    return Change(change, still / earlier.size, float(columns_still.mean()) if by_column else nan)


def _same_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    size = one.dtype.itemsize
    if size not in (1, 2, 4, 8):
        size = 8 if size % 8 == 0 else 1
    equal = np.asarray(one.view(f"u{size}") == other.view(f"u{size}"))
    return equal if equal.size == one.size else np.asarray(equal.reshape(one.size, -1).all(axis=1))


def _wide(block: np.ndarray) -> np.ndarray:
    kind = np.complex128 if block.dtype.kind == "c" else np.float64
    return block.astype(kind)


def _sum_squares(block: np.ndarray) -> float:
    total = float(np.vdot(block, block).real)
    if np.isfinite(total):
        return total
    finite = block[np.isfinite(block)]
    return float(np.vdot(finite, finite).real)


def _measure(tensor: Tensor, checkpoint: Checkpoint) -> Measured:
    statistics, layer = tensor.statistics, checkpoint.layer_of[tensor.name]
    is_weight = tensor is layer.weight or tensor is layer.tensors.get("weight_ih")
    signal = checkpoint.signals[layer.name] if is_weight else LayerSignal()
    updates = checkpoint.updates_of(tensor.name)
    figures = {
        "zero_fraction": statistics.zero_fraction,
        "nonfinite": float(statistics.nonfinite),
        "norm": nan if statistics.norm is None else statistics.norm,
        "input_rms": _known(signal.input_rms),
        "gradient_rms": _known(signal.gradient_rms),
        "update_ratio": _known(update_ratio(tensor, checkpoint)),
        "updates": nan if updates is None else float(updates),
    }
    vanished = _count_vanished(tensor, checkpoint)
    if vanished is None:
        return Measured(TensorFigures(**figures))
    columns = _record_columns(tensor, vanished, checkpoint)
    figures |= _shares(tensor, layer, vanished)
    if columns is not None:
        figures["untouched_columns"] = columns.untouched.size / tensor.shape[1]
    return Measured(TensorFigures(**figures), columns)


def _known(value: float | None) -> float:
    return nan if value is None else value


def _count_vanished(tensor: Tensor, checkpoint: Checkpoint) -> VanishedMoments | None:
    moments = checkpoint.moments.get(tensor.name)
    if moments is None or moments.first is None or not tensor.size or moments.first.shape != tensor.shape:
        return None
    second = moments.second
    if second is not None and (second.shape != tensor.shape or "exp_inf" in moments.state):
        return None
    return count_vanished(moments.first.values, None if second is None else second.values)


def _shares(tensor: Tensor, layer: Layer, vanished: VanishedMoments) -> Mapping[str, float]:
    shares = {"vanished_fraction": vanished.total / vanished.count}
    if len(tensor.shape) < 2:
        return shares
    dead_units, dead_inputs = vanished.dead_rows, vanished.dead_columns
    is_hidden = tensor is layer.weight and layer.kind in PROJECTIONS and not layer.is_output
    if layer.transposed:
        dead_units, dead_inputs = dead_inputs, dead_units
    if is_hidden and layer.kind not in RECURRENT and len(dead_units) > 1:
        shares["dormant_fraction"] = float(dead_units.mean())
    scattered = vanished.total - int(dead_units.sum()) * len(dead_inputs)
    if layer.previous is not None:
        scattered -= int(dead_inputs.sum()) * int((~dead_units).sum())
    shares["scattered_fraction"] = scattered / vanished.count
    return shares


def _record_columns(tensor: Tensor, vanished: VanishedMoments, checkpoint: Checkpoint) -> ColumnRecord | None:
    statistics = checkpoint.moments[tensor.name].statistics
    if len(tensor.shape) < 2 or statistics is None:
        return None
    recorded = statistics.column_first if statistics.column_second is None else statistics.column_second
    if recorded is None:
        return None
    positions = vanished.columns.size // tensor.shape[1]
    dead = vanished.dead_columns.reshape(-1, positions).all(axis=1)
    return ColumnRecord(np.flatnonzero(dead), np.flatnonzero(recorded == 0))
