"""Protocol Buffers' wire format, of messages that are in memory: fields with their number, wire type and place."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The wire types (protobuf.dev, Encoding)."""
_WIDTHS = {FIXED64: 8, FIXED32: 4}


class Malformed(Exception):
    """A message is not one: a field reaches beyond it, or has a wire type that is not used."""


def read_fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and the first and the last byte's offset (exclusive) of each field's value.

    Raises:
        Malformed: the bytes are no message.
    """
    while start < end:
        key, start = read_varint(content, start, end)
        wire = key & 7
        if wire == VARINT:
            stop = read_varint(content, start, end)[1]
        elif wire == LENGTH:
            size, start = read_varint(content, start, end)
            stop = start + size
        elif wire in _WIDTHS:
            stop = start + _WIDTHS[wire]
        else:
            raise Malformed
        if stop > end:
            raise Malformed
        yield key >> 3, wire, start, stop
        start = stop


def read_varint(content: bytes, start: int, end: int) -> tuple[int, int]:
    """Return a number of up to 64 bits and the offset behind it. Raises as ``read_fields``."""
    number = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise Malformed
        byte = content[start]
        start += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, start
    raise Malformed
