"""Reads the history in an offline run of Weights & Biases, ``run-….wandb``.

The file is a log of LevelDB: pages of 32 KiB, at whose ends records are split into pieces, each with its checksum. A
record is a message of Protocol Buffers, and the numbers of the history are JSON in it. Nothing else is looked at, such
as what the console showed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from checkpoint_doctor.builtin.log_readers._blocks import BLOCK, OnRead
from checkpoint_doctor.builtin.log_readers._messages import LENGTH, Malformed, read_fields
from checkpoint_doctor.builtin.log_readers._records import RecordTable
from checkpoint_doctor.checkpoint.contents import Skipped
from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import quantity

SIGNATURE = b":W&B\xe1\xbe\x00"
"""The name, a magic number and the version of the format."""
PAGE = 1 << 15
"""Bytes of a page (LevelDB calls it a block); a header never crosses its end."""
HEADER = 7
"""Bytes of a piece's checksum, length and kind."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Kinds of pieces."""
MOST_PIECES = 2048
"""Pieces of a record that is read; they are 64 MiB. A step's metrics take a few hundred bytes."""

HISTORY = 2
"""Field of ``Record`` (wandb/proto/wandb_internal.proto)."""
ITEM = 1
"""Field of ``HistoryRecord``."""
KEY, NESTED_KEY, VALUE = 1, 2, 16
"""Fields of ``HistoryItem``; a value is JSON."""


class WandbReader:
    """Reads ``run-….wandb`` record by record, so that memory does not grow with the file."""

    name = "wandb"
    patterns = ("*.wandb",)

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``."""
        try:
            return source.read(0, min(4, source.size)) == SIGNATURE[:4]
        except UnreadableCheckpoint:
            return False

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``.

        Raises:
            UnreadableCheckpoint: the version is unknown.
        """
        if source.read(0, min(HEADER, source.size)) != SIGNATURE:
            raise UnreadableCheckpoint(
                f"{source.name} is a run of Weights & Biases in a version that is not known",
                "upload it with `wandb sync` and save its history as CSV",
            )
        builder.kind = "wandb"
        RecordTable(builder).take(_read_history(source, builder, on_read))


def _read_history(source: Source, builder: LogBuilder, on_read: OnRead | None) -> Iterator[dict[str, Any]]:
    """Yield the metrics that were logged at each step."""
    malformed = 0
    for record in _read_records(source, builder, on_read):
        try:
            for number, wire, start, end in read_fields(record, 0, len(record)):
                if number == HISTORY and wire == LENGTH:
                    items = read_fields(record, start, end)
                    yield dict(_read_item(record, *item[2:]) for item in items if item[:2] == (ITEM, LENGTH))
        except Malformed:
            malformed += 1
    if malformed:
        builder.skipped.append(Skipped(quantity(malformed, "record"), "the bytes are no message"))


def _read_item(record: bytes, start: int, end: int) -> tuple[str, Any]:
    """Return the name of a metric, the keys of nested ones joined by ``/``, and its value; ``None`` for no JSON."""
    keys: list[str] = []
    value = None
    for number, wire, first, last in read_fields(record, start, end):
        if wire != LENGTH:
            continue
        if number in (KEY, NESTED_KEY):
            keys.append(record[first:last].decode("utf-8", "replace"))
        elif number == VALUE:
            try:
                value = json.loads(record[first:last])
            except (ValueError, RecursionError):
                value = None
    return "/".join(keys), value


def _read_records(source: Source, builder: LogBuilder, on_read: OnRead | None) -> Iterator[bytes]:
    """Yield whole records. Behind a damaged piece, reading goes on with what begins in the next page.

    A piece that reaches beyond the end of the file is still being written, and passed over. Its length is damaged where
    it reaches beyond its page, or a whole piece begins behind its header.
    """
    pieces: list[bytes] = []
    damaged = 0
    for start in range(0, source.size, BLOCK):
        block = source.read(start, min(BLOCK, source.size - start))
        for page in range(0, len(block), PAGE):
            at, end = page + (HEADER if start + page == 0 else 0), min(page + PAGE, len(block))
            while at + HEADER <= end:
                checksum, size, kind = struct.unpack_from("<IHB", block, at)
                piece = block[at + HEADER : at + HEADER + size]
                at += HEADER + size
                if start + at > source.size:
                    begun = at - size
                    damaged += at > page + PAGE or _holds_piece(block[begun:end])
                    break
                if at > end or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
                    damaged += 1
                    pieces = []
                    break
                if kind in (FULL, FIRST):
                    pieces = []
                elif not pieces:
                    continue  # its beginning was damaged
                pieces.append(piece)
                if len(pieces) > MOST_PIECES:
                    pieces = []
                elif kind in (FULL, LAST):
                    yield b"".join(pieces)
                    pieces = []
        if on_read:
            on_read(start + len(block))
    if damaged:
        builder.skipped.append(Skipped(quantity(damaged, "page"), "a checksum or a length is not that of the bytes"))


def _holds_piece(content: bytes) -> bool:
    """Tell whether a piece whose checksum is right begins anywhere in a part of a page."""
    for at in range(len(content) - HEADER):
        checksum, size, kind = struct.unpack_from("<IHB", content, at)
        piece = content[at + HEADER : at + HEADER + size]
        if FULL <= kind <= LAST and len(piece) == size and zlib.crc32(piece, zlib.crc32(bytes([kind]))) == checksum:
            return True
    return False


reader = WandbReader()
