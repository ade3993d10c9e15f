"""The part of msgpack that Flax writes (``flax.serialization``): maps of texts, numbers, lists, and arrays.

An array is an extension of type 1: a list of its shape, the name of its type, and its bytes, which stay in the file. An
array of more than 1 GiB is a map of its shape and its chunks.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import prod
from typing import NoReturn

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.converted_values import stored_values
from checkpoint_doctor.builtin.loaders._storage.cursor import Cursor
from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type, size_of
from checkpoint_doctor.builtin.loaders._trees.leaves import NUMBERS, Leaf, Path
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import OBJECTS, TENSORS
from checkpoint_doctor.statistics.values import InMemory, Values
from checkpoint_doctor.text import shown

DEEPEST = 64
"""Maps and lists inside one another."""
LONGEST_TEXT = 1 << 16
"""Bytes of a key."""
MOST_AXES = 64
LARGEST_SIZE = 1 << 62
ARRAY, COMPLEX, SCALAR = 1, 2, 3
"""Types of extensions (``flax.serialization._MsgpackExtType``)."""
FIRST_ARRAY = re.compile(rb"(?:\xc7.|\xc8..|\xc9....)\x01\x93", re.S)
"""An extension of type 1 that begins with a list of three."""


def begins_like_state(beginning: bytes) -> bool:
    """Tell whether a file begins as a msgpack map of texts with an array of Flax in it."""
    first = beginning[0] if beginning else 0
    key = {0xDE: 3, 0xDF: 5}.get(first, 1 if 0x81 <= first <= 0x8F else 0)
    is_text = key > 0 and len(beginning) > key and (0xA0 <= beginning[key] <= 0xBF or beginning[key] in (0xD9, 0xDA))
    return is_text and FIRST_ARRAY.search(beginning) is not None


def read_leaves(source: Source) -> list[Leaf]:
    """Return the arrays and numbers of a state, in the order of the file.

    Raises:
        UnreadableCheckpoint: the file is truncated or damaged, or holds what Flax does not write.
    """
    reader = _Reader(source)
    reader.read((), 0)
    if reader.cursor.position != source.size:
        _refuse(source, f"{source.size - reader.cursor.position:,} bytes follow its end")
    return list(_join_chunks(reader.leaves, source))


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.cursor = Cursor(source)
        self.cursor.inside = "its content"
        self.leaves: list[Leaf] = []

    def read(self, path: Path, depth: int) -> None:
        """Read the next object, and add its leaves."""
        self.source.budget.spend(OBJECTS, 1)
        if depth > DEEPEST:
            _refuse(self.source, "its content is nested too deeply")
        kind = self.cursor.byte()
        if (count := self._count(kind, 0x80, (0xDE, 0xDF))) is not None:
            for _ in range(count):
                key = self._read_text()
                self.read((*path, key), depth + 1)
        elif (count := self._count(kind, 0x90, (0xDC, 0xDD))) is not None:
            for place in range(count):
                self.read((*path, str(place)), depth + 1)
        elif (length := self._length(kind, (0xC7, 0xC8, 0xC9))) is not None or 0xD4 <= kind <= 0xD8:
            self._read_extension(path, length if length is not None else 1 << kind - 0xD4)
        elif (length := self._text_length(kind)) is not None or (
            length := self._length(kind, (0xC4, 0xC5, 0xC6))
        ) is not None:
            self.cursor.skip(length)
        elif kind not in (0xC0, 0xC2, 0xC3):
            self._add_number(path, self._read_number(kind))

    def _count(self, kind: int, short: int, long: tuple[int, int]) -> int | None:
        if short <= kind <= short + 15:
            return kind - short
        return self._number(2 if kind == long[0] else 4) if kind in long else None

    def _length(self, kind: int, kinds: tuple[int, int, int]) -> int | None:
        return self._number(1 << kinds.index(kind)) if kind in kinds else None

    def _text_length(self, kind: int) -> int | None:
        return kind - 0xA0 if 0xA0 <= kind <= 0xBF else self._length(kind, (0xD9, 0xDA, 0xDB))

    def _number(self, width: int) -> int:
        return int.from_bytes(self.cursor.take(width), "big")

    def _read_text(self) -> str:
        length = self._text_length(self.cursor.byte())
        if length is None or length > LONGEST_TEXT:
            _refuse(self.source, f"a key before its byte {self.cursor.position:,} is not text")
        return self.cursor.take(length).decode("utf-8", "replace")

    def _read_number(self, kind: int) -> int | float:
        if kind <= 0x7F or kind >= 0xE0:
            return kind if kind <= 0x7F else kind - 256
        codes = {0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"}
        codes |= {0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
        if kind not in codes:
            _refuse(self.source, f"byte {self.cursor.position - 1:,} is {kind:#x}, which is not a type of msgpack")
        code = ">" + codes[kind]
        number: int | float = struct.unpack(code, self.cursor.take(struct.calcsize(code)))[0]
        return number

    def _add_number(self, path: Path, number: int | float) -> None:
        dtype = "float64" if isinstance(number, float) else "int64" if number < 1 << 63 else "uint64"
        self.leaves.append(Leaf(path, (), dtype, InMemory(np.array(number, dtype))))

    def _read_extension(self, path: Path, length: int) -> None:
        kind, end = self.cursor.byte(), self.cursor.position + length
        if kind not in (ARRAY, SCALAR):
            self.cursor.skip(length)
            if kind != COMPLEX:
                self.leaves.append(Leaf(path, (), "", None, f"extensions of type {kind} are not known"))
            return
        if length < 4 or self.cursor.byte() != 0x93:
            _refuse(self.source, f"the array {shown('/'.join(path))} is not a list of shape, type and bytes")
        shape = self._read_shape(path)
        dtype = self._read_text()
        header = self.cursor.byte()
        size = self._length(header, (0xC4, 0xC5, 0xC6))
        size = self._text_length(header) if size is None else size
        if size is None or self.cursor.position + size != end:
            _refuse(self.source, f"the bytes of the array {shown('/'.join(path))} do not end where the array does")
        self.leaves.append(self._place(path, shape, dtype, self.cursor.skip(size), size))

    def _read_shape(self, path: Path) -> tuple[int, ...]:
        axes = self._count(self.cursor.byte(), 0x90, (0xDC, 0xDD))
        if axes is None or axes > MOST_AXES:
            _refuse(self.source, f"the shape of the array {shown('/'.join(path))} is not a list of sizes")
        shape = tuple(self._read_number(self.cursor.byte()) for _ in range(axes))
        sizes = tuple(size for size in shape if isinstance(size, int) and size >= 0)
        if len(sizes) != len(shape) or prod(size for size in sizes if size) > LARGEST_SIZE:
            _refuse(self.source, f"the shape of the array {shown('/'.join(path))} is not a list of sizes")
        return sizes

    def _place(self, path: Path, shape: tuple[int, ...], dtype: str, start: int, size: int) -> Leaf:
        self.source.budget.spend(TENSORS, 1)
        if dtype not in NUMBERS:
            return Leaf(path, shape, dtype, None, f"elements of type {shown(dtype)} are not numbers that are read")
        expected = prod(shape) * size_of(dtype)
        if expected != size:
            _refuse(
                self.source,
                f"the array {shown('/'.join(path))} of type {dtype} and shape {list(shape)} takes {expected:,} bytes, "
                f"but has {size:,}",
            )
        return Leaf(path, shape, dtype, stored_values(self.source, start, dtype, shape))


def _join_chunks(leaves: list[Leaf], source: Source) -> Iterator[Leaf]:
    """Yield the leaves, with the chunks of a large array put together."""
    chunks: dict[Path, list[Leaf]] = {}
    shapes: dict[Path, list[int]] = {}
    for leaf in leaves:
        if leaf.path[-2:-1] == ("chunks",):
            chunks.setdefault(leaf.path[:-2], []).append(leaf)
        elif leaf.path[-2:-1] == ("shape",) and isinstance(leaf.number, int):
            shapes.setdefault(leaf.path[:-2], []).append(leaf.number)
    large = chunks.keys() & shapes.keys()
    for leaf in leaves:
        owner = leaf.path[:-2]
        if owner not in large or leaf.path[-2] not in ("chunks", "shape"):
            yield leaf
        elif leaf is chunks[owner][0]:
            yield _join(owner, chunks[owner], tuple(shapes[owner]), source)


def _join(path: Path, chunks: list[Leaf], shape: tuple[int, ...], source: Source) -> Leaf:
    pieces = [chunk.values for chunk in chunks if chunk.values is not None]
    if len(pieces) < len(chunks) or len({chunk.dtype for chunk in chunks}) > 1:
        return Leaf(path, shape, "", None, "its chunks are not all of one type that is read")
    found = sum(chunk.size for chunk in chunks)
    if any(size < 0 for size in shape) or prod(shape) != found:
        _refuse(source, f"the chunks of {shown('/'.join(path))} have {found:,} values, not those of {list(shape)}")
    return Leaf(path, shape, chunks[0].dtype, _Chunks(tuple(pieces), numpy_type(chunks[0].dtype), shape))


class _Chunks(Struct, frozen=True):
    """The values of an array that is stored in chunks of its flat form."""

    pieces: tuple[Values, ...]
    dtype: np.dtype
    shape: tuple[int, ...]

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        buffer, filled = np.empty(min(elements, max(prod(self.shape), 1)), self.dtype), 0
        for piece in self.pieces:
            for block in piece.blocks(elements):
                while block.size:
                    count = min(block.size, buffer.size - filled)
                    buffer[filled : filled + count] = block[:count]
                    block, filled = block[count:], filled + count
                    if filled == buffer.size:
                        yield buffer
                        filled = 0
        if filled:
            yield buffer[:filled]

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return np.concatenate([piece.read().reshape(-1) for piece in self.pieces]).reshape(self.shape)


def _refuse(source: Source, what: str) -> NoReturn:
    raise UnreadableCheckpoint(f"{source.name} is damaged: {what}", "copy or download it again, or save it anew")
