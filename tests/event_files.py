"""Writes event files of TensorBoard and offline runs of Weights & Biases byte by byte, also damaged ones."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping


def crc32c(content: bytes) -> int:
    """The checksum bit by bit, as its definition has it."""
    state = 0xFFFFFFFF
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    checksum = crc32c(content)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(event: bytes) -> bytes:
    """A TFRecord."""
    length = struct.pack("<Q", len(event))
    return length + masked(length) + event + masked(event)


def varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    content = b""
    while number > 0x7F:
        content += bytes([number & 0x7F | 0x80])
        number >>= 7
    return content + bytes([number])


def field(number: int, content: bytes) -> bytes:
    """A field with a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(name: str, number: float) -> bytes:
    """A value of a summary."""
    return field(1, field(1, name.encode()) + b"\x15" + struct.pack("<f", number))


def event(step: int, *values: bytes, time: float = 1.7e9) -> bytes:
    head = b"\x09" + struct.pack("<d", time) + (b"\x10" + varint(step) if step else b"")
    return head + (field(5, b"".join(values)) if values else b"")


VERSION = record(b"\x09" + struct.pack("<d", 1.7e9) + field(3, b"brain.Event:2"))
"""The first event of a file."""


def history(number: int, metrics: Mapping[str, object], *, nested: bool = True) -> bytes:
    """A record of Weights & Biases with what was logged at a step."""
    items = b""
    for name, each in metrics.items():
        keys = b"".join(field(2, key.encode()) for key in name.split("/", 1)) if nested else field(1, name.encode())
        items += field(1, keys + field(16, json.dumps(each).encode()))
    return b"\x08" + varint(number) + field(2, items)


def wandb_file(records: Iterable[bytes]) -> bytes:
    """Records in the pages of a log of LevelDB."""
    content = b":W&B\xe1\xbe\x00"
    for each in records:
        is_first = True
        while True:
            room = 32768 - len(content) % 32768
            if room < 7:
                content += bytes(room)
                continue
            piece, each = each[: room - 7], each[room - 7 :]
            kind = (1 if is_first else 4) if not each else (2 if is_first else 3)
            checksum = zlib.crc32(bytes([kind]) + piece)
            content += struct.pack("<IHB", checksum, len(piece), kind) + piece
            is_first = False
            if not each:
                break
    return content
