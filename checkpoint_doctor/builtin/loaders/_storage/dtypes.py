"""PyTorch's element types by their names (without ``torch.``), and the NumPy types with the same bits."""

from __future__ import annotations

import numpy as np

NATIVE = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "?",
    "complex64": "c8",
    "complex128": "c16",
    # The values of quantized types are the stored integers.
    "qint8": "i1",
    "quint8": "u1",
    "qint32": "i4",
    "bits8": "u1",
    "bits16": "u2",
    # PyTorch stores an integer narrower than a byte in a whole byte.
    **{f"uint{bits}": "u1" for bits in range(1, 8)},
    **{f"int{bits}": "i1" for bits in range(1, 8)},
}
"""Types that NumPy has: name to type code."""

EXTENDED = {
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
"""Types that ml_dtypes adds: name to bytes per element."""

PACKED = {"quint4x2": 1, "quint2x4": 1, "float4_e2m1fn_x2": 1, "bits1x8": 1, "bits2x4": 1, "bits4x2": 1}
"""Types with several numbers in one byte: name to bytes per stored element. Their values are not read."""

COMPLEX32 = "complex32"
"""A pair of float16, which NumPy does not have; it is read as float16 and converted to complex64."""

ALIASES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "cfloat": "complex64",
    "cdouble": "complex128",
    "chalf": COMPLEX32,
}

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    # Bytes without an element type; each tensor has its own.
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}
"""Storage class to its element type (``torch.storage._dtype_to_storage_type_map``)."""

NAMES = frozenset(NATIVE) | frozenset(EXTENDED) | frozenset(PACKED) | {COMPLEX32}


def size_of(name: str) -> int:
    """Return the number of bytes of one stored element of a PyTorch type."""
    if name == COMPLEX32:
        return 4
    return EXTENDED.get(name) or PACKED.get(name) or int(np.dtype(NATIVE[name]).itemsize)


def numpy_type(name: str) -> np.dtype:
    """Return the NumPy type for the values of a PyTorch type.

    Raises:
        KeyError: the type packs several numbers into a byte, or PyTorch has no such type.
    """
    if name == COMPLEX32:
        return np.dtype(np.complex64)
    if name in EXTENDED:
        import ml_dtypes

        extended: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return extended
    return np.dtype(NATIVE[name])
