"""The header of an ``.npy`` array: the type of its elements, their order and its shape.

The format (``numpy.lib.format``): the signature, two bytes of version, the header's length (two bytes, from version 2.0
on four), the header, a Python dictionary of ``descr``, ``fortran_order`` and ``shape``; then the elements.
"""

from __future__ import annotations

import re
from math import prod
from typing import NoReturn

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._storage.dtypes import size_of
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import OBJECTS
from checkpoint_doctor.text import shown

SIGNATURE = b"\x93NUMPY"
LONGEST_HEADER = 10_000
"""Bytes; NumPy refuses longer headers by default (``max_header_size``), since Python's parser may crash on them."""
ORDINARY_HEADER = 256
"""Bytes that NumPy writes at most for an array that is no record: 118 for up to about six axes, then steps of 64."""
MOST_AXES = 64
"""NumPy's limit since 2.0."""
LARGEST_SIZE = 1 << 62
"""Product of all axes that are not empty, so that sizes in bytes fit into 64 bits."""

TYPES = {
    "b1": "bool",
    **{f"i{width}": f"int{8 * width}" for width in (1, 2, 4, 8)},
    **{f"u{width}": f"uint{8 * width}" for width in (1, 2, 4, 8)},
    **{f"f{width}": f"float{8 * width}" for width in (2, 4, 8)},
    **{f"c{width}": f"complex{8 * width}" for width in (8, 16)},
    "V2": "bfloat16",
}
"""NumPy's type codes without the byte order to PyTorch's names. NumPy saves ml_dtypes' bfloat16 as ``V2``."""

_CODE = re.compile(r"[<>|=]?(\w+)")


class Header(Struct, frozen=True):
    """What the header of an array says."""

    code: str
    """The type as NumPy writes it: ``<f4``, ``|O``; ``a record`` for a structured one."""
    dtype: str | None
    """PyTorch's name for the type; ``None`` for types that are not read."""
    is_big_endian: bool
    is_fortran: bool
    """True where the first axis varies fastest."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first element in the source."""

    @property
    def holds_objects(self) -> bool:
        """True where the elements are Python objects, which NumPy stores as a pickle."""
        return self.code.lstrip("<>|=") == "O"

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Strides in elements, ``None`` for row-major order."""
        if not self.is_fortran:
            return None
        return tuple(prod(self.shape[:axis]) for axis in range(len(self.shape)))

    @property
    def problem(self) -> str:
        """Why the elements are not read; empty where they are."""
        if self.dtype is not None:
            return ""
        if self.holds_objects:
            return "it holds Python objects, a pickle that NumPy would execute"
        return f"elements of type {shown(self.code)} are not numbers that are read"


def read_header(source: Source) -> Header:
    """Read the header of an array and check it against the number of bytes that follow.

    Raises:
        UnreadableCheckpoint: the header is damaged, or the array's bytes are not all there.
    """
    beginning = source.read(0, min(12, source.size))
    if not beginning.startswith(SIGNATURE) or len(beginning) < 12:
        _refuse(source, "its header is not that of a NumPy array")
    width = 2 if beginning[6] < 2 else 4
    length, first = int.from_bytes(beginning[8 : 8 + width], "little"), 8 + width
    if length > LONGEST_HEADER:
        _refuse(source, f"its header of {length:,} bytes is longer than the {LONGEST_HEADER:,} that NumPy reads")
    # An archive may have thousands of headers that are compressed to nothing, and parsing takes most of the time.
    source.budget.spend(OBJECTS, max(0, length - ORDINARY_HEADER))
    header = _parse(source, source.read(first, length), first + length)
    if header.dtype is not None:
        expected = header.start + prod(header.shape) * size_of(header.dtype)
        if expected > source.size:
            raise UnreadableCheckpoint(
                f"{source.name} is truncated: {expected:,} bytes expected, {source.size:,} found",
                "copy or download the file again",
            )
    return header


def _parse(source: Source, content: bytes, start: int) -> Header:
    import ast

    try:
        fields = ast.literal_eval(content.decode("latin1").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        _refuse(source, "its header is not a Python dictionary")
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        _refuse(source, "its header does not have exactly the keys descr, fortran_order and shape")
    code, is_fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        _refuse(source, "its shape is not a tuple of sizes")
    if len(shape) > MOST_AXES or prod(size for size in shape if size) > LARGEST_SIZE:
        _refuse(source, "its shape has too many or too large axes")
    if not isinstance(is_fortran, bool):
        _refuse(source, "its fortran_order is not a truth value")
    known = _CODE.fullmatch(code) if isinstance(code, str) else None
    return Header(
        code=code if isinstance(code, str) else "a record",
        dtype=TYPES.get(known[1]) if known else None,
        is_big_endian=isinstance(code, str) and code.startswith(">"),
        is_fortran=is_fortran and len(shape) > 1,
        shape=shape,
        start=start,
    )


def _refuse(source: Source, what: str) -> NoReturn:
    raise UnreadableCheckpoint(f"{source.name} is damaged: {what}", "copy or download the file again, or save it anew")
