"""The largest magnitudes of a tensor and where they are, without a copy of its values in memory."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, Values, as_real


class Largest(Struct, frozen=True, eq=False):
    """The entries of a tensor with the largest magnitudes, the smallest of them first."""

    positions: NDArray
    """Flat, row-major indices."""
    magnitudes: NDArray
    """Magnitudes in double precision, in rising order."""


def find_largest(values: Values, count: int, *, below: float) -> Largest | None:
    """Find the ``count`` entries with the largest magnitudes, in one pass that ends early where it can.

    The values must be finite. Returns ``None`` as soon as ``count`` magnitudes have reached ``below``. Among equal
    magnitudes at the lower end, the first ones are taken.
    """
    positions, magnitudes = np.empty(0, dtype=np.int64), np.empty(0)
    start, least = 0, -1.0
    with np.errstate(all="ignore"):
        for block in values.blocks(BLOCK_ELEMENTS):
            size = np.abs(block.astype(np.float32) if block.dtype.itemsize < 4 else block)
            larger = np.flatnonzero(size > least)
            start, offset = start + block.size, start
            if not larger.size:
                continue
            positions = np.concatenate((positions, larger + offset))
            magnitudes = np.concatenate((magnitudes, as_real(size[larger])))
            if magnitudes.size > count:
                kept = np.sort(np.argpartition(-magnitudes, count - 1)[:count])
                positions, magnitudes = positions[kept], magnitudes[kept]
            if magnitudes.size == count:
                least = float(magnitudes.min())
                if least >= below:
                    return None
    order = np.argsort(magnitudes, kind="stable")
    return Largest(positions[order], magnitudes[order])
