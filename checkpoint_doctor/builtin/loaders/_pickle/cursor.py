"""Reads the bytes of a pickle in order, from any offset of a file."""

from __future__ import annotations

from checkpoint_doctor.builtin.loaders._storage import cursor as storage
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.budget import PICKLED

LONGEST_LINE = 16 << 20
"""Bytes of the longest line in a pickle of protocol 0."""
DAMAGED = "copy or download the file again; if it is not a pickle, check which format it was saved in"


class EndOfPickle(UnreadableCheckpoint):
    """The source ends before the pickle does, or a string in it before an escape does."""


class Cursor(storage.Cursor):
    """Reads a pickle in order, one window of bytes at a time; they are spent from the file's budget."""

    inside = "its pickle"

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
            raise EndOfPickle(self.describe_end(count), "copy or download it again, or take an earlier checkpoint")

    def _fill(self, size: int) -> bytes:
        self.source.budget.spend(PICKLED, size)
        return super()._fill(size)
