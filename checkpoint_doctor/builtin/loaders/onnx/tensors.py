"""The numbers of an ONNX tensor: bytes in the model's file, fields of numbers, or bytes in a file beside it."""

from __future__ import annotations

from math import prod

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.converted_values import stored_values
from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type, size_of
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.builtin.loaders.onnx.model import TensorEntry
from checkpoint_doctor.builtin.loaders.onnx.wire import LENGTH
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.statistics.values import InMemory, Values
from checkpoint_doctor.text import shown

TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    24: "float8_e8m0fnu",
}
"""``TensorProto.DataType`` to PyTorch's names. Texts and types below a byte are not read."""
FLOATS, INTS, LONGS, DOUBLES, UNSIGNED = 4, 5, 7, 10, 11
"""Fields of numbers: ``float_data``, ``int32_data``, ``int64_data``, ``double_data``, ``uint64_data``."""
PLAIN = {1: FLOATS, 14: FLOATS, 11: DOUBLES, 15: DOUBLES}
"""Types whose field of numbers has the same bytes as the elements themselves."""
AS_NUMBERS = {7: LONGS, 12: UNSIGNED, 13: UNSIGNED}
"""Types with a field of their own for whole numbers; all others are in ``int32_data``."""


class Missing(UnreadableCheckpoint):
    """The file with a tensor's bytes is not there."""


class Companions(Struct):
    """The files beside a model that hold bytes of its tensors, each opened once."""

    source: Source
    opened: dict[str, Source | UnreadableCheckpoint] = field(default_factory=dict)

    def open(self, name: str) -> Source:
        """Open a file in the model's own folder.

        Raises:
            UnreadableCheckpoint: it is not there, or the name contains a folder.
        """
        if name not in self.opened:
            try:
                self.opened[name] = self.source.sibling(name.removeprefix("./"))
            except UnreadableCheckpoint as error:
                self.opened[name] = error
        found = self.opened[name]
        if isinstance(found, UnreadableCheckpoint):
            raise Missing(found.message, found.hint)
        return found


def read_values(entry: TensorEntry, dtype: str, companions: Companions) -> Values:
    """Return the values of a tensor.

    Raises:
        Missing: they are in a file that is not there.
        UnreadableCheckpoint: their number is not that of the shape.
    """
    expected = prod(entry.shape) * size_of(dtype)
    if entry.is_external or entry.external:
        return _read_external(entry, dtype, expected, companions)
    if entry.raw is not None:
        _check_size(entry, entry.raw.size, expected)
        return stored_values(entry.message.source, entry.raw.start, dtype, entry.shape)
    number = PLAIN.get(entry.type)
    fields = entry.typed.get(number, []) if number else []
    if number and len(fields) == 1 and fields[0].wire == LENGTH:
        _check_size(entry, fields[0].size, expected)
        return stored_values(entry.message.source, fields[0].value, dtype, entry.shape)
    return InMemory(_decode(entry, dtype, number))


def cut(values: Values, start: int, shape: tuple[int, ...]) -> Values:
    """Return the part of that shape, from an entry on, of values that are in memory or one piece of a file."""
    if isinstance(values, StoredValues):
        return replace(values, offset=values.offset + start * values.dtype.itemsize, shape=shape)
    return InMemory(values.read().reshape(-1)[start : start + prod(shape)].reshape(shape))


def skip(entry: TensorEntry) -> Skipped:
    """Return why a tensor of a type that is not read is left out."""
    what = "text" if entry.type == 8 else f"type {entry.type} of ONNX"
    return Skipped(f"tensor {entry.name}", f"elements of {what} are not read")


def _read_external(entry: TensorEntry, dtype: str, expected: int, companions: Companions) -> Values:
    texts = entry.external
    source = companions.open(texts.get("location", ""))
    start, length = _as_count(entry, texts.get("offset", "0")), _as_count(entry, texts.get("length", str(expected)))
    _check_size(entry, length, expected)
    if start + length > source.size:
        raise UnreadableCheckpoint(
            f"{source.name} is truncated: tensor {shown(entry.name)} should end at byte {start + length:,}, "
            f"but the file ends at byte {source.size:,}",
            "copy or download the file again",
        )
    return stored_values(source, start, dtype, entry.shape)


def _as_count(entry: TensorEntry, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UnreadableCheckpoint(
            f"{entry.message.source.name} is damaged: tensor {shown(entry.name)} lies at {shown(text)!r} of its file",
            "copy or download it again",
        )
    return int(text)


def _decode(entry: TensorEntry, dtype: str, number: int | None) -> NDArray:
    """Return an array from fields of numbers: single ones, or several packed together."""
    pieces: list[NDArray] = []
    if number is not None:
        bits = np.dtype("<u4" if number == FLOATS else "<u8")
        for each in entry.typed.get(number, []):
            if each.wire == LENGTH and each.size % bits.itemsize:
                _check_size(entry, each.size, prod(entry.shape) * size_of(dtype))
            content = (
                entry.message.source.read(each.value, each.size)
                if each.wire == LENGTH
                else each.value.to_bytes(8, "little")[: bits.itemsize]
            )
            pieces.append(np.frombuffer(content, bits))
        flat = np.concatenate([*pieces, np.empty(0, bits)])
        _check_size(entry, flat.nbytes, prod(entry.shape) * size_of(dtype))
        return flat.view(numpy_type(dtype)).reshape(entry.shape)
    for each in entry.typed.get(AS_NUMBERS.get(entry.type, INTS), []):
        numbers = entry.message.varints(each) if each.wire == LENGTH else np.array([each.value], np.uint64)
        pieces.append(numbers)
    flat = np.concatenate([*pieces, np.empty(0, np.uint64)])
    _check_size(entry, flat.size * size_of(dtype), prod(entry.shape) * size_of(dtype))
    # Negative numbers fill 64 bits, and types that are no integers store their bits: the lowest bytes are the element.
    width = size_of(dtype)
    elements = flat.astype(f"<u{width}").view(np.uint8)
    return elements.view(numpy_type(dtype)).reshape(entry.shape)


def _check_size(entry: TensorEntry, found: int, expected: int) -> None:
    if found != expected:
        raise UnreadableCheckpoint(
            f"{entry.message.source.name} is damaged: tensor {shown(entry.name)} of shape {list(entry.shape)} takes "
            f"{expected:,} bytes, but {found:,} are stored",
            "copy or download it again, or export it anew",
        )
