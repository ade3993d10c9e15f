"""The values of a tensor that is stored flat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.statistics.values import Values


@dataclass(frozen=True)
class ReshapedValues:
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
