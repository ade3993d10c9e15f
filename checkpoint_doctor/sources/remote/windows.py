"""Single reads of a remote file, which fetch what they ask for and a little more."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from checkpoint_doctor.sources.remote.stores import Entry, Store, read_range

WINDOW = 64 << 10
"""Fewest bytes that a single read fetches: a header, a directory, small tensors beside one another."""
LARGEST = 4 << 20
"""Bytes of the largest read that is a request of its own. A request of an object store takes 10 to 100 ms before its
first byte, in which a connection of 1 Gbit/s carries 1 to 12 MB."""
MOST_WINDOWS = 32


class Windows:
    """The parts of a file that were fetched last, and where the last reads ended."""

    def __init__(self, store: Store, entry: Entry, name: str) -> None:
        self._store, self._entry, self._name = store, entry, name
        self._contents: OrderedDict[int, memoryview] = OrderedDict()
        """Offset to bytes."""
        self._ends: OrderedDict[int, None] = OrderedDict()
        self._lock = Lock()

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill a buffer, or return False for a read that belongs to a stream: a large one, or one that goes on.

        Raises:
            UnreadableCheckpoint: the store does not answer.
        """
        end = offset + len(buffer)
        with self._lock:
            goes_on = self._goes_on(offset, end)
            known = next(
                (start for start, each in self._contents.items() if start <= offset and end <= start + len(each)), None
            )
            if known is not None:
                buffer[:] = self._contents[known][offset - known : end - known]
                return True
        if goes_on or len(buffer) > LARGEST:
            return False
        start, length = self._widen(offset, len(buffer))
        content = read_range(self._store, self._entry, self._name, start, length)
        buffer[:] = content[offset - start : end - start]
        if len(content) <= 2 * WINDOW:
            with self._lock:
                self._contents[start] = content
                if len(self._contents) > MOST_WINDOWS:
                    self._contents.popitem(last=False)
        return True

    def _widen(self, offset: int, length: int) -> tuple[int, int]:
        """Return the range to fetch for a read; the end of a file is fetched at once, which holds a zip's directory."""
        rest = self._entry.size - offset
        if rest <= WINDOW:
            rest = min(2 * WINDOW, self._entry.size)
            return self._entry.size - rest, rest
        return offset, min(max(length, WINDOW), rest)

    def _goes_on(self, offset: int, end: int) -> bool:
        """Tell whether a read begins where one of the last ones ended, or a few bytes behind it."""
        before = next((each for each in reversed(self._ends) if 0 <= offset - each <= WINDOW), None)
        if before is not None:
            del self._ends[before]
        self._ends[end] = None
        self._ends.move_to_end(end)
        if len(self._ends) > MOST_WINDOWS:
            self._ends.popitem(last=False)
        return before is not None
