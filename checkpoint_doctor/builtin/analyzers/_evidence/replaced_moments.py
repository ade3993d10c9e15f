"""Moments that a repair replaced, recognised by their values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.training import untouched_level
from checkpoint_doctor.checkpoint import Moments, Optimizer

_SMALLEST_ROOT = 1e-15
"""√v above which a second moment was written by a repair: without gradient, it decays through all smaller values."""


def find_replaced(moments: Moments, optimizer: Optimizer, *, along_rows: bool) -> NDArray[np.bool_] | None:
    """Return which rows (or columns) of a parameter's moments were replaced by a repair and not updated since.

    Their first moment is exactly 0 and their second moment is a single number. Training produces neither: first
    moments decay to the smallest number and stay there, and gradients differ from entry to entry. Of lines with a
    single entry, two or more must agree. ``None`` where there is no second moment, and for vectors.
    """
    statistics, second = moments.statistics, moments.second
    if statistics is None or second is None or len(second.shape) < 2:
        return None
    first = statistics.row_first if along_rows else statistics.column_first
    root = statistics.row_second if along_rows else statistics.column_second
    # Some optimizers start their second moment above zero: lines without any gradient then hold a single number too.
    untouched = untouched_level(moments, optimizer, of_root=True)
    if root is None or untouched is None:
        return None
    candidates: NDArray[np.bool_] = root > max(_SMALLEST_ROOT, untouched)
    if first is not None:
        candidates = candidates & (first == 0)
    if not candidates.any():
        return candidates
    lines = second.array if along_rows else np.moveaxis(second.array, 1, 0)
    replaced = candidates.copy()
    replaced[candidates] = _hold_one_number(lines.reshape(root.size, -1)[candidates])
    return replaced


def _hold_one_number(lines: NDArray) -> NDArray[np.bool_]:
    """Tell which lines hold one number; of lines with a single entry, those whose number occurs twice."""
    equal: NDArray[np.bool_]
    if lines.shape[1] > 1:
        equal = (lines == lines[:, :1]).all(axis=1)
        return equal
    _, which, counts = np.unique(lines.reshape(-1), return_inverse=True, return_counts=True)
    equal = counts[which] > 1
    return equal
