"""The values of a tensor that is stored flat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.statistics.values import Values


class ReshapedValues(Struct, frozen=True):
    """``Values`` of another shape with the same elements in the same order."""

    flat: Values
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """See ``Values.dtype``."""
        return self.flat.dtype

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        return self.flat.blocks(elements)

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return self.flat.read().reshape(self.shape)
