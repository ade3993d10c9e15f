"""Reads the bytes of a source in order, from any offset."""

from __future__ import annotations

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source


class Cursor:
    """Reads a source in order, one window of bytes at a time."""

    inside = "its header"
    """What is read, for the message where the bytes end inside it."""

    def __init__(self, source: Source, position: int = 0, window: int = 1 << 16) -> None:
        self.source = source
        self._window_size = window
        self._window = b""
        self._start = position
        self._at = 0

    @property
    def position(self) -> int:
        """Offset of the next byte in the source."""
        return self._start + self._at

    def byte(self) -> int:
        """Return the next byte. Raises as ``take``."""
        at = self._at
        if at >= len(self._window):
            self._refill(1)
            at = 0
        self._at = at + 1
        return self._window[at]

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            UnreadableCheckpoint: the source ends before.
        """
        end = self._at + count
        if end > len(self._window):
            self._refill(count)
            end = count
        taken = self._window[self._at : end]
        self._at = end
        return taken

    def number(self, width: int) -> int:
        """Return the next little-endian number without a sign. Raises as ``take``."""
        at = self._at
        end = at + width
        if end > len(self._window):
            return int.from_bytes(self.take(width), "little")
        self._at = end
        return int.from_bytes(self._window[at:end], "little")

    def skip(self, count: int) -> int:
        """Skip bytes without reading them and return the offset of the first. Raises as ``take``."""
        self._require(count)
        start = self.position
        if self._at + count <= len(self._window):
            self._at += count
        else:
            self._start, self._window, self._at = start + count, b"", 0
        return start

    def describe_end(self, count: int) -> str:
        """Return the sentence for a source that ends inside what is read."""
        return (
            f"{self.source.name} is truncated: it ends at byte {self.source.size:,} inside {self.inside}, "
            f"where {count:,} bytes are expected from byte {self.position:,} on"
        )

    def _require(self, count: int) -> None:
        if self.position + count > self.source.size:
            raise UnreadableCheckpoint(
                self.describe_end(count), "copy or download it again, or take an earlier checkpoint"
            )

    def _refill(self, count: int) -> None:
        self._require(count)
        start = self.position
        self._window = self._fill(min(max(count, self._window_size), self.source.size - start))
        self._start, self._at = start, 0

    def _fill(self, size: int) -> bytes:
        return self.source.read(self.position, size)
