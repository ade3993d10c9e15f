"""Stand-ins for NumPy's arrays, dtypes and scalars in a pickle.

The forms are those of ``numpy._core.multiarray._reconstruct`` with ``ndarray.__setstate__`` (protocols 0 to 4),
``numpy._core.numeric._frombuffer`` (protocol 5) and ``dtype.__setstate__``.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.objects import RebuiltBytes, StoredBytes
from checkpoint_doctor.builtin.loaders._pickle.tensors import Memory, PickledStorage, PickledTensor, dimensions
from checkpoint_doctor.builtin.loaders._storage.dtypes import NATIVE
from checkpoint_doctor.sources import Source

NUMBER = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c8|c16|[bBhHiIlLqQefdFD])")
"""Type codes of numbers that PyTorch also has; arrays of records, text, dates and long doubles are not examined."""

BY_NUMPY_NAME = {name: name for name, code in NATIVE.items() if np.dtype(code).name == name}


class ArrayType(Struct, eq=False):
    """A ``numpy.dtype``: its type code, and the byte order from its state."""

    code: str
    order: str = "="

    def build(self, state: Any) -> None:
        """Set the byte order from ``(version, byteorder, …)``."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    @property
    def number(self) -> np.dtype | None:
        """The numeric type, ``None`` where the elements are not plain numbers."""
        if not NUMBER.fullmatch(self.code):
            return None
        plain = np.dtype(self.code)
        return np.dtype(self.order + plain.str[1:]) if self.order in "<>" else plain


class PickledArray(PickledTensor, eq=False):
    """A NumPy array in a pickle: a tensor whose bytes lie inside the pickle."""

    def build(self, state: Any) -> None:
        """Set shape, dtype and bytes from ``(version, shape, dtype, is_fortran, bytes)``."""
        *_, shape, dtype, is_fortran, content = state
        self._fill(shape, dtype, bool(is_fortran), content)

    def _fill(self, shape: Any, dtype: Any, is_fortran: bool, content: Any) -> None:
        sizes = dimensions(shape)
        if not isinstance(dtype, ArrayType):
            raise TypeError("an array without a dtype")
        self.shape = sizes
        number = dtype.number
        name = BY_NUMPY_NAME.get(number.name) if number is not None else None
        if number is None or name is None:
            self.dtype = "object" if dtype.code.startswith("O") else dtype.code[:20]
            self.problem = f"it is a NumPy array of dtype {self.dtype}, whose elements are not plain numbers"
            return
        source = _bytes_of(content)
        expected = prod(sizes) * number.itemsize
        if source.size != expected:
            raise ValueError(f"an array needs {expected:,} bytes but has {source.size:,}")
        self.dtype = name
        is_big = number.byteorder == ">" or (number.byteorder == "=" and not np.little_endian)
        memory = Memory(source.name, source.size, lambda: source, is_big)
        self.storage = PickledStorage(memory, name, 0, source.size)
        if is_fortran and len(sizes) > 1:
            self.strides = tuple(prod(sizes[:axis]) for axis in range(len(sizes)))
        self.problem = ""


def reconstruct(array_type: object, shape: object, code: object) -> PickledArray:
    """Stand in for ``numpy._core.multiarray._reconstruct``: an empty array, whose state is set afterwards."""
    return PickledArray()


def from_buffer(buffer: object, dtype: object, shape: object, order: object, *_: object) -> PickledArray:
    """Stand in for ``numpy._core.numeric._frombuffer``."""
    array = PickledArray()
    array._fill(shape, dtype, order == "F", buffer)
    return array


def array_type(code: object, *_: object) -> ArrayType:
    """Stand in for ``numpy.dtype``."""
    if isinstance(code, ArrayType):
        return code
    return ArrayType(code if isinstance(code, str) else "V")


def scalar(dtype: object, content: object = None) -> Any:
    """Stand in for ``numpy._core.multiarray.scalar``: a plain Python number, or ``None`` where it is not one."""
    if not isinstance(dtype, ArrayType) or (number := dtype.number) is None or content is None:
        return None
    source = _bytes_of(content)
    if source.size != number.itemsize:
        raise ValueError(f"a scalar needs {number.itemsize} bytes but has {source.size:,}")
    return np.frombuffer(source.read(0, source.size), number)[0].item()


def _bytes_of(content: object) -> Source:
    if isinstance(content, StoredBytes):
        return content.as_source(f"{content.source.name}, byte {content.offset}")
    if isinstance(content, str):
        # Python 2 wrote the bytes as a string, which was decoded as UTF-8.
        content = content.encode("utf-8", "surrogatepass")
    if isinstance(content, bytes | bytearray):
        # Without a name, because arrays never share memory with one another.
        return RebuiltBytes("", bytes(content))
    raise TypeError("an array without bytes")
