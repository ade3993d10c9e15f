"""Single reads of a remote file, which fetch what they ask for and a little more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

from checkpoint_doctor.sources.remote.pieces import Pieces
from checkpoint_doctor.sources.remote.stores import Entry, Store, read_range

WINDOW = 64 << 10
"""Fewest bytes that a single read fetches: a header, a directory, small tensors beside one another."""
LARGEST = 4 << 20
"""Bytes that are read by requests of their own before a stream brings what follows. A request of an object store takes
10 to 100 ms before its first byte, in which a connection of 1 Gbit/s carries 1 to 12 MB."""
LARGEST_HEADER = 128 << 20
"""Bytes of a read that goes on from the first bytes of a file and is a single request: a header."""
MOST_RUNS = 32
MOST_KEPT, LONGEST_KEPT = 4 << 20, 256 << 10
"""Bytes that are kept of one file, and of one range."""
MOST_REQUESTS = 16
"""Requests in flight for bytes in many places."""


class Windows:
    """The parts of a file that were fetched last, and where the last reads ended."""

    def __init__(self, store: Store, entry: Entry, name: str) -> None:
        self._store, self._entry, self._name = store, entry, name
        self._contents = Pieces(MOST_KEPT, keeps_read=True)
        self._runs: OrderedDict[int, int] = OrderedDict()
        """Where the last reads ended, and how many bytes were read up to there without a gap."""
        self._lock = Lock()

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill a buffer, or return False for a read that belongs to a stream: a large one, or one that goes on.

        Raises:
            UnreadableCheckpoint: the store does not answer.
        """
        end = offset + len(buffer)
        with self._lock:
            run = self._note_run(offset, end)
            if self._contents.find_gap(offset, len(buffer)) is None:
                while offset < end:
                    count = self._contents.read_into(offset, buffer)
                    offset, buffer = offset + count, buffer[count:]
                return True
        is_header = offset < WINDOW and len(buffer) <= LARGEST_HEADER
        if max(run, len(buffer)) > LARGEST and not is_header:
            return False
        start, length = self._widen(offset, len(buffer))
        content = self._fetch(start, length)
        buffer[:] = content[offset - start : end - start]
        return True

    def fetch(self, places: Iterable[tuple[int, int]]) -> None:
        """Fetch bytes in many places with several requests at a time.

        Args:
            places: offset and length of each.

        Raises:
            UnreadableCheckpoint: the store does not answer.
        """
        from concurrent.futures import ThreadPoolExecutor

        missing = [(at, at + length) for at, length in places if self._contents.find_gap(at, length) is not None]
        ranges: list[tuple[int, int]] = []
        for start, end in sorted(missing):
            if ranges and start - ranges[-1][1] <= WINDOW and end - ranges[-1][0] <= LONGEST_KEPT:
                ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
            else:
                ranges.append((start, end))
        if sum(end - start for start, end in ranges) > MOST_KEPT // 2:
            return  # they lie so close together that a stream brings them
        with ThreadPoolExecutor(MOST_REQUESTS) as pool:
            list(pool.map(lambda each: self._fetch(each[0], each[1] - each[0]), ranges))

    def _fetch(self, start: int, length: int) -> memoryview:
        content = read_range(self._store, self._entry, self._name, start, length)
        if length <= LONGEST_KEPT:
            with self._lock:
                self._contents.add(start, content)
        return content

    def _widen(self, offset: int, length: int) -> tuple[int, int]:
        """Return the range to fetch for a read; the end of a file is fetched at once, which holds a zip's directory."""
        rest = self._entry.size - offset
        if rest <= WINDOW:
            rest = min(2 * WINDOW, self._entry.size)
            return self._entry.size - rest, rest
        return offset, min(max(length, WINDOW), rest)

    def _note_run(self, offset: int, end: int) -> int:
        """Return how many bytes were read up to the end of a read without a gap of more than a window."""
        before = next((each for each in reversed(self._runs) if 0 <= offset - each <= WINDOW), None)
        run = end - offset + (self._runs.pop(before) if before is not None else 0)
        self._runs[end] = run
        self._runs.move_to_end(end)
        if len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return run
