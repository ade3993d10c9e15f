"""Reads the bytes of a pickle in order, from any offset of a file."""

from __future__ import annotations

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import PICKLED

LONGEST_LINE = 16 << 20
"""Bytes of the longest line in a pickle of protocol 0."""
DAMAGED = "copy or download the file again; if it is not a pickle, check which format it was saved in"


class EndOfPickle(UnreadableCheckpoint):
    """The source ends before the pickle does, or a string in it before an escape does."""


class Cursor:
    """Reads a source in order, one window of bytes at a time."""

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
            EndOfPickle: the source ends before.
        """
        end = self._at + count
        if end > len(self._window):
            self._refill(count)
            end = count
        taken = self._window[self._at : end]
        self._at = end
        return taken

    def number(self, count: int) -> int:
        """Return the next bytes as an unsigned integer. Raises as ``take``."""
        at = self._at
        end = at + count
        if end > len(self._window):
            return int.from_bytes(self.take(count), "little")
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

    def line(self) -> bytes:
        """Return the bytes up to the next newline, without it.

        Raises:
            EndOfPickle: the source ends before.
            UnreadableCheckpoint: the line is longer than ``LONGEST_LINE``.
        """
        pieces: list[bytes] = []
        length = 0
        while True:
            end = self._window.find(b"\n", self._at)
            if end >= 0:
                pieces.append(self._window[self._at : end])
                self._at = end + 1
                return b"".join(pieces)
            pieces.append(self._window[self._at :])
            length += len(pieces[-1])
            if length > LONGEST_LINE:
                raise UnreadableCheckpoint(
                    f"{self.source.name} has a line of more than {LONGEST_LINE:,} bytes in its pickle", DAMAGED
                )
            self._at = len(self._window)
            self._refill(1)

    def _require(self, count: int) -> None:
        if self.position + count > self.source.size:
            raise EndOfPickle(
                f"{self.source.name} is truncated: it ends at byte {self.source.size:,} inside its pickle, "
                f"where {count:,} bytes are expected from byte {self.position:,} on",
                "copy or download it again, or take an earlier checkpoint",
            )

    def _refill(self, count: int) -> None:
        self._require(count)
        start = self.position
        size = min(max(count, self._window_size), self.source.size - start)
        self.source.budget.spend(PICKLED, size)
        self._window = self.source.read(start, size)
        self._start, self._at = start, 0
