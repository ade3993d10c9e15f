"""The pieces of a remote file that arrived and may still be read."""

from __future__ import annotations

from bisect import bisect_right, insort

GAP = 64 << 10
"""Bytes between what is read in order that nobody reads: padding, headers that were read before."""


class Pieces:
    """Pieces of a file by their offset. The memory is that into which they were received: only what is read is copied.

    Args:
        most: bytes that are kept; what was not read for the longest time goes first.
        keeps_read: False where a piece goes as soon as it was read from front to back.
    """

    def __init__(self, most: int, *, keeps_read: bool) -> None:
        self._most, self._keeps_read = most, keeps_read
        self._starts: list[int] = []
        """In rising order."""
        self._pieces: dict[int, memoryview] = {}
        """By start, the one that was received or read last is the last."""
        self._read: dict[int, int] = {}
        """How much of each was read from its front on."""
        self._kept = 0

    def add(self, start: int, piece: memoryview) -> None:
        """Keep a piece."""
        if start in self._pieces:
            self._drop(start)
        insort(self._starts, start)
        self._pieces[start], self._read[start] = piece, 0
        self._kept += len(piece)
        while self._kept > self._most and len(self._pieces) > 1:
            self._drop(next(iter(self._pieces)))

    def find_gap(self, offset: int, length: int) -> int | None:
        """Return the first byte of a range that is not there, ``None`` where all of it is."""
        end = offset + length
        while offset < end:
            start = self._find(offset)
            if start is None:
                return offset
            offset = start + len(self._pieces[start])
        return None

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Copy bytes from an offset on, as far as the piece goes that it is in, and return how many these are."""
        start = self._find(offset)
        if start is None:
            return 0
        piece = self._pieces.pop(start)
        self._pieces[start] = piece
        within = offset - start
        count = min(len(piece) - within, len(buffer))
        buffer[:count] = piece[within : within + count]
        if within <= self._read[start] + GAP:
            self._read[start] = max(self._read[start], within + count)
            if not self._keeps_read:
                self._let_go(start)
        return count

    def _let_go(self, start: int) -> None:
        """Drop a piece that was read to its end, and the one before it when the reader has come from there."""
        at = bisect_right(self._starts, start) - 1
        before = self._starts[at - 1] if at else start
        if before < start and self._read[before] >= len(self._pieces[before]) - GAP:
            self._drop(before)
        if self._read[start] == len(self._pieces[start]):
            self._drop(start)

    def _find(self, offset: int) -> int | None:
        at = bisect_right(self._starts, offset) - 1
        if at < 0 or offset >= self._starts[at] + len(self._pieces[self._starts[at]]):
            return None
        return self._starts[at]

    def _drop(self, start: int) -> None:
        self._kept -= len(self._pieces.pop(start))
        del self._read[start]
        self._starts.remove(start)
