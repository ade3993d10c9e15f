"""Recognizes streams of zlib and LZMA, which have no signature of their own."""

from __future__ import annotations

import lzma
import zlib

DECOMPRESSED = 4096
"""Bytes of a stream that are decompressed to see what is in it."""
LZMA_MEMORY = 64 << 20
"""Bytes that an LZMA stream may ask for; joblib's highest level needs 65 MB to write and 9 MB to read."""


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
