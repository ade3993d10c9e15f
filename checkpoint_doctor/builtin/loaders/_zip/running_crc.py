"""Computes the CRC-32 of a section while its bytes are read for another purpose."""

from __future__ import annotations

import threading

from checkpoint_doctor.builtin.loaders._zip.crc import crc32
from checkpoint_doctor.sources import Section, Source


class RunningCrc:
    """A CRC-32 that is updated while bytes are read in order; other reads do not change it.

    Several threads may read the same bytes: a read that does not continue at the next offset is ignored, and one at
    offset 0 starts again, so no byte is counted twice.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._next = 0
        self._crc = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int | None:
        """The CRC-32 of all bytes, ``None`` until the last one was read."""
        return self._crc if self._next == self._size > 0 else None

    def update(self, offset: int, content: memoryview) -> None:
        """Continue the CRC-32 with bytes that were read at an offset."""
        if self.value is not None or not self._lock.acquire(blocking=False):
            return
        try:
            if offset == 0:
                self._next = self._crc = 0
            if offset == self._next:
                self._crc = crc32(content, self._crc)
                self._next += len(content)
        finally:
            self._lock.release()


class SummedSection(Section):
    """A section whose CRC-32 is known once all its bytes were read in order."""

    def __init__(self, name: str, parent: Source, start: int, size: int) -> None:
        super().__init__(name, parent, start, size)
        self.crc = RunningCrc(size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        super().read_into(offset, buffer)
        self.crc.update(offset, buffer)
