"""Protocol Buffers' wire format: a message is a sequence of fields, each with its number, wire type and value.

Nothing is built from a message but what is asked for: a field with a length is a range of the source, which is read
when it is needed. So a tensor's bytes stay in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.cursor import Cursor
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import INFLATED

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The wire types (protobuf.dev, Encoding)."""
LONGEST_TEXT = 1 << 16
"""Bytes of a name that is read."""
LONGEST_NUMBER = 10
"""Bytes of a number of 64 bits."""
SHORT = 128
"""Bytes of a field that is read along with its length: to read names one by one would take most of the time."""


class Field(Struct, frozen=True):
    """A field of a message."""

    number: int
    wire: int
    value: int
    """The number of a varint or fixed field; of a field with a length the offset of its first byte."""
    size: int = 0
    """Bytes of a field with a length."""
    content: bytes = b""
    """The bytes of one that is as short as a name; empty for others."""


class Message(Struct, frozen=True):
    """A message in a range of a source."""

    source: Source
    start: int
    size: int

    def fields(self) -> Iterator[Field]:
        """Yield the fields in their order.

        Raises:
            UnreadableCheckpoint: a field reaches beyond the message, or has a wire type that is not used.
        """
        cursor, end = Cursor(self.source, self.start, window=1 << 12), self.start + self.size
        while cursor.position < end:
            at = cursor.position
            key = self._varint(cursor, end)
            number, wire = key >> 3, key & 7
            if wire == LENGTH:
                size = self._varint(cursor, end)
                if size > end - cursor.position:
                    self._refuse(f"the field at byte {at:,} reaches {size - (end - cursor.position):,} bytes too far")
                if size <= SHORT:
                    start = cursor.position
                    yield Field(number, wire, start, size, cursor.take(size))
                else:
                    yield Field(number, wire, cursor.skip(size), size)
            elif wire == VARINT:
                yield Field(number, wire, self._varint(cursor, end))
            elif wire in (FIXED64, FIXED32):
                width = 8 if wire == FIXED64 else 4
                if width > end - cursor.position:
                    self._refuse(f"the field at byte {at:,} is cut off")
                yield Field(number, wire, cursor.number(width))
            else:
                self._refuse(f"the field at byte {at:,} has the wire type {wire}")

    def message(self, field: Field) -> Message:
        """Return the message in a field. Raises as ``fields`` where the field has no length."""
        if field.wire != LENGTH:
            self._refuse(f"field {field.number} is a number and not a message")
        return Message(self.source, field.value, field.size)

    def text(self, field: Field) -> str:
        """Return the text in a field, as far as it is printable UTF-8. Raises as ``message``."""
        inside = self.message(field)
        if field.content:
            return field.content.decode("utf-8", "replace")
        if inside.size > LONGEST_TEXT:
            self._refuse(f"a name of {inside.size:,} bytes is too long")
        return self.source.read(inside.start, inside.size).decode("utf-8", "replace")

    def varints(self, field: Field) -> NDArray[np.uint64]:
        """Return the numbers in a packed field, as 64 bits without a sign. Raises as ``message``."""
        inside = self.message(field)
        self.source.budget.spend(INFLATED, np.dtype(np.uint64).itemsize * inside.size)
        content = np.frombuffer(self.source.read(inside.start, inside.size), np.uint8)
        ends = np.flatnonzero(content < 0x80)
        if content.size and (not ends.size or ends[-1] != content.size - 1):
            self._refuse(f"the numbers at byte {inside.start:,} are cut off")
        starts = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
        lengths = ends - starts + 1
        if lengths.size and lengths.max() > 10:
            self._refuse(f"a number at byte {inside.start:,} is longer than 64 bits")
        numbers = np.zeros(ends.size, np.uint64)
        for place in range(int(lengths.max()) if lengths.size else 0):
            longer = lengths > place
            digits = (content[starts[longer] + place] & 0x7F).astype(np.uint64)
            numbers[longer] |= digits << np.uint64(7 * place)
        return numbers

    def _varint(self, cursor: Cursor, end: int) -> int:
        number, left = 0, end - cursor.position
        for place in range(min(left, LONGEST_NUMBER)):
            byte = cursor.byte()
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return number & 0xFFFF_FFFF_FFFF_FFFF
        if left < LONGEST_NUMBER:
            self._refuse(f"a number at byte {end:,} is cut off")
        return self._refuse(f"a number before byte {cursor.position:,} is longer than 64 bits")

    def _refuse(self, what: str) -> NoReturn:
        raise UnreadableCheckpoint(f"{self.source.name} is damaged: {what}", "copy or download it again")
