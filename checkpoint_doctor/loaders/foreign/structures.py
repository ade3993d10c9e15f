"""Recognizes formats without a signature by their structure: ONNX, Flax's msgpack, and zlib or LZMA streams."""

from __future__ import annotations

import lzma
import re
import zlib

from checkpoint_doctor.sources import Source

ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field numbers of ONNX's ``ModelProto`` and their wire types (``onnx.proto``): 0 is a number, 2 has a length."""
ONNX_GRAPH = 7
MOST_FIELDS = 10_000
FLAX_ARRAY = re.compile(rb"(?:\xc7.|\xc8..|\xc9....)\x01\x93", re.S)
"""A msgpack extension of type 1 that begins with a list of three (``flax.serialization``): shape, dtype and bytes."""
DECOMPRESSED = 4096
"""Bytes of a stream that are decompressed to see what is in it."""
LZMA_MEMORY = 64 << 20
"""Bytes that an LZMA stream may ask for; joblib's highest level needs 65 MB to write and 9 MB to read."""


def is_onnx(source: Source) -> bool:
    """Return whether a file is a sequence of fields of an ONNX model, with a graph among them."""
    if source.read(0, 1) != b"\x08":
        return False
    position, has_graph = 0, False
    for _ in range(MOST_FIELDS):
        if position >= source.size:
            return position == source.size and has_graph
        key, position = _read_number(source, position)
        field, wire = key >> 3, key & 7
        if ONNX_FIELDS.get(field) != wire:
            return False
        number, position = _read_number(source, position)
        if wire == 2:
            position += number
        has_graph |= field == ONNX_GRAPH
    return False


def _read_number(source: Source, position: int) -> tuple[int, int]:
    """Return a number of variable length and the position behind it; -1 where there is none."""
    content = source.read(position, min(10, source.size - position))
    number = 0
    for index, byte in enumerate(content):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    return -1, source.size


def is_flax(beginning: bytes) -> bool:
    """Return whether a file begins as a msgpack map of texts with an array of Flax in it."""
    first = beginning[0]
    key = {0xDE: 3, 0xDF: 5}.get(first, 1 if 0x81 <= first <= 0x8F else 0)
    is_text = key > 0 and len(beginning) > key and (0xA0 <= beginning[key] <= 0xBF or beginning[key] in (0xD9, 0xDA))
    return is_text and FLAX_ARRAY.search(beginning) is not None


def name_compressed(beginning: bytes) -> str | None:
    """Return what a stream of zlib or LZMA is, which have no signature of their own; joblib writes both."""
    for name, starts, decompress in (
        ("zlib", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), _decompress_zlib),
        ("LZMA", (b"\x5d\0\0",), _decompress_lzma),
    ):
        if beginning.startswith(starts) and (content := decompress(beginning)):
            is_pickle = content[0] == 0x80 and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
            return f"a pickle compressed with {name}, as joblib writes it" if is_pickle else f"compressed with {name}"
    return None


def _decompress_zlib(beginning: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(beginning, DECOMPRESSED)
    except zlib.error:
        return b""


def _decompress_lzma(beginning: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE, LZMA_MEMORY).decompress(beginning, DECOMPRESSED)
    except (lzma.LZMAError, MemoryError):
        return b""
