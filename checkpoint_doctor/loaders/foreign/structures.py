"""Recognizes formats without a signature by their structure: Flax's msgpack, and zlib or LZMA streams."""

from __future__ import annotations

import lzma
import re
import zlib

FLAX_ARRAY = re.compile(rb"(?:\xc7.|\xc8..|\xc9....)\x01\x93", re.S)
"""A msgpack extension of type 1 that begins with a list of three (``flax.serialization``): shape, dtype and bytes."""
DECOMPRESSED = 4096
"""Bytes of a stream that are decompressed to see what is in it."""
LZMA_MEMORY = 64 << 20
"""Bytes that an LZMA stream may ask for; joblib's highest level needs 65 MB to write and 9 MB to read."""


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
