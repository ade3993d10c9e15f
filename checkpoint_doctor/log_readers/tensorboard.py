"""Reads the scalars of TensorBoard's event files with the reader of the package ``tensorboard``, an extra."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.log_readers._blocks import OnRead
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import shown

POINTS = 8192
"""Events of one metric that are taken together."""
OFTEN = 5000
"""Events between two reports of progress."""
MOST_NAMES = 5000


class TensorboardReader:
    """Reads ``events.out.tfevents.…`` event by event, so that memory does not grow with the file."""

    name = "tensorboard"
    patterns = ("events.out.tfevents.*",)

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``: a record whose first field is a double, the time of the event."""
        try:
            head = source.read(0, min(source.size, 64))
        except UnreadableCheckpoint:
            return False
        if len(head) < 13 or head[12] != 0x09:
            return False
        length = struct.unpack("<Q", head[:8])[0]
        return 9 <= length <= source.size - 16 and b"brain.Event:" in head

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``.

        Raises:
            UnreadableCheckpoint: the package is not installed, or the file is damaged.
        """
        builder.kind, builder.step_name = "tensorboard", "step"
        waiting: dict[str, tuple[list[float], list[float]]] = {}
        read = 0
        for number, event in enumerate(_load(source.name)):
            read += event.ByteSize() + 16
            if on_read and number % OFTEN == 0:
                on_read(min(read, source.size))
            for name, value in _scalars(event):
                steps, values = waiting.setdefault(name, ([], []))
                steps.append(float(event.step))
                values.append(value)
                builder.records += 1
                if len(values) == POINTS:
                    builder.add_points(name, np.array(steps), np.array(values))
                    steps.clear()
                    values.clear()
                if len(waiting) > MOST_NAMES:
                    raise UnreadableCheckpoint(f"{source.name} has more than {MOST_NAMES:,} metrics", "log fewer")
        for name, (steps, values) in waiting.items():
            if values:
                builder.add_points(name, np.array(steps), np.array(values))


def _load(path: str) -> Iterator[Any]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    except ImportError:
        raise UnreadableCheckpoint(
            f"{path} is an event file of TensorBoard, which is read with the package tensorboard",
            "pip install 'checkpoint-doctor[tensorboard]'",
        ) from None
    try:
        yield from LegacyEventFileLoader(path).Load()
    except (OSError, ValueError, RuntimeError) as error:
        raise UnreadableCheckpoint(f"{path} is damaged: {error}", "copy it again") from None


def _scalars(event: Any) -> Iterator[tuple[str, float]]:
    """Yield the names and numbers of an event's scalars, as both versions of the format hold them."""
    for value in event.summary.value:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            yield shown(value.tag), float(value.simple_value)
        elif kind == "tensor" and not value.tensor.tensor_shape.dim:
            tensor = value.tensor
            if tensor.float_val:
                yield shown(value.tag), float(tensor.float_val[0])
            elif tensor.double_val:
                yield shown(value.tag), float(tensor.double_val[0])
            elif tensor.dtype == 1 and len(tensor.tensor_content) == 4:
                yield shown(value.tag), struct.unpack("<f", tensor.tensor_content)[0]


reader = TensorboardReader()
