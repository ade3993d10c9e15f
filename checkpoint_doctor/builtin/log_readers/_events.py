"""Decodes TensorBoard's events, many of one layout at once.

A run logs the same few events over and over: their bytes are the same but for the time, the step and the numbers. One
event of each kind is read field by field, and from all others like it the numbers are taken by their offsets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.log_readers._messages import FIXED32, FIXED64, LENGTH, VARINT, Malformed, read_fields
from checkpoint_doctor.text import shown

LONGEST_LAYOUT = 1024
"""Bytes of an event that is compared with others; longer ones hold histograms or pictures, and seldom look alike."""
MOST_KINDS = 8
"""Layouts among events of one length that are taken all at once; further ones are read one by one."""
MOST_LAYOUTS = 20_000
"""Layouts that are remembered."""

WALL_TIME, STEP, SUMMARY = 1, 2, 5
"""Fields of ``Event`` (tensorboard/compat/proto/event.proto)."""
VALUE = 1
"""Field of ``Summary``."""
TAG, SIMPLE_VALUE, TENSOR = 1, 2, 8
"""Fields of ``Summary.Value``."""
TYPE, SHAPE, CONTENT, FLOATS, DOUBLES = 1, 2, 4, 5, 6
"""Fields of ``TensorProto``."""
FLOAT, DOUBLE = "<f4", "<f8"
_TYPES = {1: FLOAT, 2: DOUBLE}


class Layout(Struct, frozen=True):
    """Where the numbers of an event stand; two events of one layout differ nowhere else."""

    step: tuple[int, int] | None
    """First and last byte (exclusive) of the step; ``None`` where it is 0 and left out."""
    scalars: tuple[tuple[str, int, str], ...]
    """Name, offset and type of each number."""
    holes: tuple[tuple[int, int], ...]
    """The ranges of bytes that differ between events of one kind: time, step and numbers."""


class Points(Struct, frozen=True):
    """Numbers of one metric."""

    name: str
    orders: NDArray
    """Position of each in the file."""
    steps: NDArray
    values: NDArray


class EventDecoder:
    """Decodes events and remembers their layouts."""

    def __init__(self) -> None:
        self.malformed = 0
        """Events that are no messages."""
        self._known: dict[tuple[tuple[tuple[int, int], ...], bytes], Layout | None] = {}

    def decode(self, events: NDArray[np.uint8], orders: NDArray) -> Iterator[Points]:
        """Yield the scalars of events of one length, of shape (events, bytes)."""
        size = events.shape[1]
        if size > LONGEST_LAYOUT or size < 12 or len(events) < 3:
            yield from self._decode_each(events, orders)
            return
        widths = _measure_steps(events)
        for width in np.unique(widths):
            chosen = widths == width
            yield from self._decode_alike(events[chosen], orders[chosen])

    def _decode_alike(self, events: NDArray[np.uint8], orders: NDArray) -> Iterator[Points]:
        """Yield the scalars of events of one length whose steps have one width."""
        for _ in range(MOST_KINDS):
            layout = self._read(events[0].tobytes())
            holes = layout.holes if layout else ()
            constant = events.copy()
            for start, end in holes:
                constant[:, start:end] = 0
            kinds, found = self._sort_out(events, constant, holes)
            of_event = np.array([each is not None and each.holes == holes for each in found])[kinds]
            if layout is not None and of_event.any():
                yield from _take(events[of_event], orders[of_event], kinds[of_event], found, layout)
            is_left = ~of_event
            if layout is None:  # events that hold no message are passed over one by one
                break
            events, orders = events[is_left], orders[is_left]
            if not len(events):
                return
        yield from self._decode_each(events, orders)

    def _sort_out(
        self, events: NDArray[np.uint8], constant: NDArray[np.uint8], holes: tuple[tuple[int, int], ...]
    ) -> tuple[NDArray, list[Layout | None]]:
        """Return the kind of each event, and the layout of each kind: events of one kind are equal in all but holes."""
        content, width = constant.tobytes(), constant.shape[1]
        kinds: dict[bytes, int] = {}
        of_event = np.array(
            [kinds.setdefault(content[start : start + width], len(kinds)) for start in range(0, len(content), width)]
        )
        firsts = np.unique(of_event, return_index=True)[1]
        if len(self._known) > MOST_LAYOUTS:
            self._known.clear()
        found = []
        for kind, first in zip(kinds, firsts, strict=True):
            key = (holes, kind)
            if key not in self._known:
                self._known[key] = self._read(events[first].tobytes())
            found.append(self._known[key])
        return of_event, found

    def _decode_each(self, events: NDArray[np.uint8], orders: NDArray) -> Iterator[Points]:
        """Yield the scalars of any events, read one by one."""
        found: dict[str, tuple[list[float], list[float], list[float]]] = {}
        for event, order in zip(events, orders, strict=True):
            layout = self._read(event.tobytes())
            if layout is None:
                self.malformed += 1
            elif layout.scalars:
                for each in _take(event[None], np.array([order]), np.zeros(1, int), [layout], layout):
                    lists = found.setdefault(each.name, ([], [], []))
                    for numbers, more in zip(lists, (each.orders, each.steps, each.values), strict=True):
                        numbers.append(float(more[0]))
        for name, lists in found.items():
            yield Points(name, *map(np.array, lists))

    def _read(self, event: bytes) -> Layout | None:
        try:
            return read_layout(event)
        except Malformed:
            return None


def read_layout(event: bytes) -> Layout:
    """Return where the numbers of an event stand.

    Raises:
        Malformed: it is no message.
    """
    step = None
    holes = []
    scalars: list[tuple[str, int, str]] = []
    for number, wire, start, end in read_fields(event, 0, len(event)):
        if number == WALL_TIME and wire == FIXED64:
            holes.append((start, end))
        elif number == STEP and wire == VARINT:
            step = (start, end)
            holes.append(step)
        elif number == SUMMARY and wire == LENGTH:
            for inner, kind, first, last in read_fields(event, start, end):
                if inner == VALUE and kind == LENGTH:
                    scalars += _read_value(event, first, last)
    holes += [(offset, offset + np.dtype(kind).itemsize) for _, offset, kind in scalars]
    return Layout(step, tuple(scalars), tuple(holes))


def _read_value(event: bytes, start: int, end: int) -> Iterator[tuple[str, int, str]]:
    """Yield name, offset and type of the number in a value of a summary; nothing where it holds no scalar."""
    name = ""
    found: tuple[int, str] | None = None
    for number, wire, first, last in read_fields(event, start, end):
        if number == TAG and wire == LENGTH:
            name = shown(event[first:last].decode("utf-8", "replace"))
        elif number == SIMPLE_VALUE and wire == FIXED32:
            found = (first, FLOAT)
        elif number == TENSOR and wire == LENGTH:
            found = _find_scalar(event, first, last)
    if found is not None:
        yield name, *found


def _find_scalar(event: bytes, start: int, end: int) -> tuple[int, str] | None:
    """Return offset and type of the number in a tensor without dimensions, ``None`` for any other tensor."""
    kind = None
    numbers: dict[int, tuple[int, int]] = {}
    for number, wire, first, last in read_fields(event, start, end):
        if number == TYPE and wire == VARINT:
            kind = _TYPES.get(event[first])
        elif number == SHAPE and last > first:
            return None
        elif number in (CONTENT, FLOATS, DOUBLES):
            numbers[number] = (first, last)
    if kind is None:
        return None
    for number in (CONTENT, FLOATS if kind == FLOAT else DOUBLES):
        if number in numbers and numbers[number][1] - numbers[number][0] == np.dtype(kind).itemsize:
            return numbers[number][0], kind
    return None


def _measure_steps(events: NDArray[np.uint8]) -> NDArray:
    """Return how many bytes the step of each event takes, as events begin with time and step; 0 for any other."""
    has_step = (events[:, 0] == WALL_TIME << 3 | FIXED64) & (events[:, 9] == STEP << 3 | VARINT)
    ends = events[:, 10:20] < 0x80
    return np.where(has_step & ends.any(axis=1), ends.argmax(axis=1) + 1, 0)


def _take(
    events: NDArray[np.uint8], orders: NDArray, kinds: NDArray, found: list[Layout | None], layout: Layout
) -> Iterator[Points]:
    """Yield the numbers of events that share the holes of a layout, by the names that each kind of them has."""
    steps = _read_steps(events, layout)
    columns = [_read_numbers(events, offset, kind) for _, offset, kind in layout.scalars]
    by_kind = np.argsort(kinds, kind="stable")
    borders = np.flatnonzero(np.diff(kinds[by_kind])) + 1
    for members in np.split(by_kind, borders):
        kind = found[kinds[members[0]]]
        assert kind is not None
        for (name, _, _), values in zip(kind.scalars, columns, strict=True):
            yield Points(name, orders[members], steps[members], values[members])


def _read_numbers(events: NDArray[np.uint8], offset: int, kind: str) -> NDArray[np.float64]:
    content = np.ascontiguousarray(events[:, offset : offset + np.dtype(kind).itemsize])
    with np.errstate(invalid="ignore"):  # a NaN may be one that signals
        return content.view(kind)[:, 0].astype(np.float64)


def _read_steps(events: NDArray[np.uint8], layout: Layout) -> NDArray:
    steps = np.zeros(len(events), np.uint64)
    if layout.step is not None:
        for place, position in enumerate(range(*layout.step)):
            steps |= (events[:, position] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return steps.view(np.int64).astype(np.float64)
