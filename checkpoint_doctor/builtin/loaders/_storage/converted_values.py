"""Values whose stored form differs from their numbers: another byte order, complex32, a conjugate bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.dtypes import COMPLEX32, EXTENDED, numpy_type
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues, is_row_major
from checkpoint_doctor.sources import Source
from checkpoint_doctor.statistics.values import Values


class Conversion(Struct, frozen=True):
    """A pair of functions between values as stored and values as PyTorch loads them, both flat."""

    decode: Callable[[NDArray], NDArray]
    encode: Callable[[NDArray], NDArray]


class ConvertedValues(Struct, frozen=True):
    """Values that are converted after reading: from the other byte order, from complex32, or by a conjugate bit."""

    stored: StoredValues
    conversions: tuple[Conversion, ...]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``Values.shape``."""
        return self.stored.shape

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        for block in self.stored.blocks(elements):
            yield self.decode(block)

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return self.decode(self.stored.read().reshape(-1)).reshape(self.shape)

    def decode(self, block: NDArray) -> NDArray:
        """Return the values of flat numbers in their stored form."""
        for conversion in self.conversions:
            block = conversion.decode(block)
        return block

    def encode(self, block: NDArray) -> NDArray:
        """Return the stored form of flat values: the inverse of ``decode``."""
        for conversion in reversed(self.conversions):
            block = conversion.encode(block)
        return block


def raw_type(dtype: str, is_big_endian: bool, has_strides: bool) -> tuple[np.dtype, list[Conversion]]:
    """Return the NumPy type to read from the file, and the conversions to the wanted type."""
    order = ">" if is_big_endian else "<"
    if dtype == COMPLEX32:
        # Two float16 per element; in the other byte order each of them is swapped.
        halves = Conversion(
            lambda block: block.view(f"{order}f2").astype(np.float32).view(np.complex64),
            lambda block: block.view(np.float32).astype(f"{order}f2").view("u4"),
        )
        return np.dtype("u4"), [halves]
    target = numpy_type(dtype)
    if dtype in EXTENDED and (has_strides or (is_big_endian and target.itemsize > 1)):
        # NumPy neither swaps the bytes of ml_dtypes' types nor makes strided views of them.
        bits = f"u{target.itemsize}"
        swapped = np.dtype(order + bits)
        return swapped, [
            Conversion(
                lambda block: block.astype(bits).view(target),
                lambda block: block.view(bits).astype(swapped),
            )
        ]
    if not is_big_endian or target.itemsize == 1:
        return target, []
    foreign = target.newbyteorder(">")
    return foreign, [cast(foreign, target)]


def cast(stored: np.dtype, wanted: np.dtype) -> Conversion:
    return Conversion(lambda block: block.astype(wanted), lambda block: block.astype(stored))


def stored_values(
    source: Source,
    offset: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    *,
    is_big_endian: bool = False,
) -> Values:
    """Return the values of a strided view into the bytes of a source, converted where their stored form differs.

    ``dtype`` is PyTorch's name. The caller checks that every element lies inside the source.
    """
    strides = None if is_row_major(shape, strides) else strides
    raw, conversions = raw_type(dtype, is_big_endian, strides is not None)
    stored = StoredValues(source, offset, raw, shape, strides)
    return ConvertedValues(stored, tuple(conversions), numpy_type(dtype)) if conversions else stored
