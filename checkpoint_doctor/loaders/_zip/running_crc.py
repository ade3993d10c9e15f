"""The CRC-32 of bytes that somebody else is reading anyway."""

from __future__ import annotations

import threading
import zlib

from checkpoint_doctor.sources import Section, Source


class RunningCrc:
    """A CRC-32 that grows while its bytes are read from front to back; reads elsewhere are passed over.

    Threads may read the same bytes at once: a read that does not continue the sum leaves it alone, and one from the
    front begins it anew, so that it never sees a byte twice.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._next = 0
        self._crc = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int | None:
        """The CRC-32 of all the bytes, ``None`` until the last one was read."""
        return self._crc if self._next == self._size > 0 else None

    def see(self, offset: int, content: memoryview) -> None:
        """Take note of bytes that were read from an offset on."""
        if self.value is not None or not self._lock.acquire(blocking=False):
            return
        try:
            if offset == 0:
                self._next = self._crc = 0
            if offset == self._next:
                self._crc = zlib.crc32(content, self._crc)
                self._next += len(content)
        finally:
            self._lock.release()


class SummedSection(Section):
    """A section whose CRC-32 is known once it was read from front to back."""

    def __init__(self, name: str, parent: Source, start: int, size: int) -> None:
        super().__init__(name, parent, start, size)
        self.crc = RunningCrc(size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        super().read_into(offset, buffer)
        self.crc.see(offset, buffer)
