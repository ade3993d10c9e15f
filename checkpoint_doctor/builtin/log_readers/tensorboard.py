"""Reads the scalars of TensorBoard's event files: TFRecords of Protocol Buffers' messages.

A record is its length, a checksum of the length, the event, and a checksum of the event. Both are compared. A record
that is cut off by the end of the file is still being written, and passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from checkpoint_doctor.builtin.log_readers._blocks import BLOCK, OnRead
from checkpoint_doctor.builtin.log_readers._checksums import compute_crc32c, mask_crc
from checkpoint_doctor.builtin.log_readers._events import WALL_TIME, EventDecoder, Points
from checkpoint_doctor.builtin.log_readers._messages import FIXED64
from checkpoint_doctor.checkpoint.contents import Skipped
from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import quantity

HEADER, FOOTER = 12, 4
"""Bytes before an event (its length and the length's checksum), and behind it (its checksum)."""
LARGEST = 64 << 20
"""Bytes of an event that is read; larger ones hold pictures or sound, and are passed over by name."""
POINTS = 1 << 19
"""Numbers that are collected before they go into curves."""
PART = 64
"""Numbers that take as much memory as the arrays around them do."""
MOST_NAMES = 5000


class TensorboardReader:
    """Reads ``events.out.tfevents.…`` block by block, so that memory does not grow with the file."""

    name = "tensorboard"
    patterns = ("events.out.tfevents.*",)

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``: a TFRecord whose first field is a double, the time of the event.

        That its length has the right checksum does not come by chance. Some writers leave out the event that says which
        version of the format it is.
        """
        try:
            head = source.read(0, min(source.size, HEADER + 1))
        except UnreadableCheckpoint:
            return False
        if len(head) <= HEADER or head[HEADER] != WALL_TIME << 3 | FIXED64:
            return False
        return bool(_is_whole(np.frombuffer(head[:HEADER], np.uint8)[None])[0])

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``."""
        builder.kind, builder.step_name = "tensorboard", "step"
        decoder, collected = EventDecoder(), _Collected(builder, source.name)
        damaged = events = 0
        for block in _read_blocks(source, builder, on_read):
            content = np.frombuffer(block.content, np.uint8)
            orders = np.arange(events, events + len(block.starts))
            events += len(block.starts)
            for size in np.unique(block.sizes):
                chosen = block.sizes == size
                records = sliding_window_view(content, size + FOOTER)[block.starts[chosen]]
                is_whole = _is_whole(records)
                damaged += len(records) - int(is_whole.sum())
                for points in decoder.decode(records[is_whole, :size], orders[chosen][is_whole]):
                    collected.add(points)
        collected.flush()
        if damaged:
            builder.skipped.append(Skipped(quantity(damaged, "event"), "the checksum is not that of the bytes"))
        if decoder.malformed:
            builder.skipped.append(Skipped(quantity(decoder.malformed, "event"), "the bytes are no event"))


class _Block(Struct, frozen=True):
    """Whole records that were read at once."""

    content: bytes
    starts: NDArray
    """Offset of each event in the content."""
    sizes: NDArray
    """Bytes of each event."""


def _read_blocks(source: Source, builder: LogBuilder, on_read: OnRead | None) -> Iterator[_Block]:
    """Yield the records of a file. A damaged length ends it, since nothing says where the next record begins."""
    known: dict[bytes, int] = {}
    at, wanted, passed_over = 0, BLOCK, 0
    while source.size - at > HEADER:
        content = source.read(at, min(wanted, source.size - at))
        spans, following = _find_records(content, known)
        ends = np.cumsum(spans)
        if len(spans):
            yield _Block(content, ends - spans + HEADER, spans - HEADER - FOOTER)
        used = int(ends[-1]) if len(spans) else 0
        at, wanted = at + used, BLOCK
        if on_read:
            on_read(at)
        if following is None:
            if len(content) - used >= HEADER:
                left = f"the last {source.size - at:,} bytes"
                builder.skipped.append(Skipped(left, f"the record at byte {at:,} is damaged"))
                break
        elif following > source.size - at:
            break  # it is still being written
        elif following > LARGEST:
            passed_over += 1
            at += following
        else:
            wanted = max(BLOCK, following)
    if passed_over:
        why = f"more than {LARGEST >> 20} MiB hold pictures or sound"
        builder.skipped.append(Skipped(quantity(passed_over, "event"), why))


def _find_records(content: bytes, known: dict[bytes, int]) -> tuple[NDArray, int | None]:
    """Return the bytes of each whole record of a block, and those of the record that follows them.

    The second is ``None`` where no whole header follows, or a damaged one.

    Args:
        content: bytes that begin with a record.
        known: bytes of records by their headers whose checksums were compared; lengths repeat, so few are new.
    """
    spans: list[int] = []
    at, end = 0, len(content)
    while True:
        header = content[at : at + HEADER]
        span = known.get(header)
        if span is None:
            if len(header) < HEADER or not _is_whole(np.frombuffer(header, np.uint8)[None])[0]:
                break
            span = known[header] = struct.unpack_from("<Q", header)[0] + HEADER + FOOTER
        at += span
        if at > end:
            break
        spans.append(span)
    return np.array(spans, np.int64), span


def _is_whole(records: NDArray[np.uint8]) -> NDArray:
    """Return whether the last four bytes of each record are the checksum of all others."""
    stored = np.ascontiguousarray(records[:, -FOOTER:]).view("<u4")[:, 0]
    found: NDArray = mask_crc(compute_crc32c(records[:, :-FOOTER])) == stored
    return found


class _Collected:
    """Collects the numbers of all metrics, and hands them on in the order of the file."""

    def __init__(self, builder: LogBuilder, path: str) -> None:
        self._builder = builder
        self._path = path
        self._waiting: dict[str, list[Points]] = {}
        self._count = 0

    def add(self, points: Points) -> None:
        """Take numbers of one metric.

        Raises:
            UnreadableCheckpoint: the file has more metrics than are kept.
        """
        if points.name not in self._waiting and len(self._waiting) == MOST_NAMES:
            raise UnreadableCheckpoint(f"{self._path} has more than {MOST_NAMES:,} metrics", "log fewer")
        self._waiting.setdefault(points.name, []).append(points)
        self._count += len(points.values) + PART
        if self._count >= POINTS:
            self.flush()

    def flush(self) -> None:
        """Hand on what was collected."""
        for name, parts in self._waiting.items():
            if not parts:
                continue
            order = np.argsort(np.concatenate([each.orders for each in parts]), kind="stable")
            steps, values = (np.concatenate([getattr(each, of) for each in parts])[order] for of in ("steps", "values"))
            self._builder.add_points(name, steps, values)
            self._builder.records += len(values)
            parts.clear()
        self._count = 0


reader = TensorboardReader()
