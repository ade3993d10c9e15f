"""The values of a tensor in a file: the offset of its bytes, and how to stream them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.sources import Source


def is_row_major(shape: Sequence[int], strides: Sequence[int] | None) -> bool:
    """Return whether elements are contiguous in row-major order; ``strides`` are in elements."""
    if strides is None or 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def count_spanned(shape: Sequence[int], strides: Sequence[int] | None) -> int:
    """Return the number of elements from the first to the last one of a view, gaps included."""
    if 0 in shape:
        return 0
    if strides is None or is_row_major(shape, strides):
        return prod(shape)
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1


class StoredValues(Struct, frozen=True):
    """``Values`` of a strided view into the bytes of a source.

    The loader checks that every element lies inside the source before it builds one.
    """

    source: Source
    offset: int
    """Byte offset of the first element in the source."""
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    """Strides in elements; ``None`` for row-major without gaps."""

    @property
    def is_contiguous(self) -> bool:
        """True where the elements are contiguous in row-major order."""
        return is_row_major(self.shape, self.strides)

    @property
    def extent(self) -> int:
        """Bytes from the first element to the end of the last one, gaps included."""
        return count_spanned(self.shape, self.strides) * self.dtype.itemsize

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        if not self.is_contiguous:
            yield from self._gather(elements)
            return
        total, itemsize = prod(self.shape), self.dtype.itemsize
        buffer = bytearray(min(elements, total) * itemsize)
        for start in range(0, total, elements):
            count = min(elements, total - start)
            window = memoryview(buffer)[: count * itemsize]
            self.source.read_into(self.offset + start * itemsize, window)
            yield np.frombuffer(window, dtype=self.dtype)

    def _gather(self, elements: int) -> Iterator[NDArray]:
        # A view with gaps or transposed axes reads its bytes in another order, so its extent is read once as a whole.
        flat = self._view().reshape(-1)
        for start in range(0, flat.size, elements):
            yield flat[start : start + elements]

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return np.ascontiguousarray(self._view()).reshape(self.shape)

    def _view(self) -> NDArray:
        buffer = bytearray(self.extent)
        self.source.read_into(self.offset, memoryview(buffer))
        flat = np.frombuffer(buffer, dtype=self.dtype)
        if self.strides is None or 0 in self.shape:
            return flat.reshape(self.shape)
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps)
