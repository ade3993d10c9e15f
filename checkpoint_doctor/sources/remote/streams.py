"""Requests that run through a remote file, each a little ahead of those who read it."""

from __future__ import annotations

from collections import OrderedDict
from threading import Condition, Thread

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.remote.stores import ATTEMPTS, Entry, Store, is_final, pause_before, unreadable

CHUNK = 2 << 20
"""Bytes that are handed over at once."""
AHEAD = 4
"""Chunks that a stream may be ahead of its readers."""
MOST_STREAMS = 8
"""Requests in flight for one file. One connection of S3 carries about 90 MB/s (AWS's performance guidelines)."""
MOST_CHUNKS = MOST_STREAMS * (AHEAD + 2)
"""Chunks that are kept of one file: 96 MiB."""


class _Stream:
    def __init__(self, first: int) -> None:
        self.position = first
        """The chunk that arrives next."""
        self.wanted = first
        """The last chunk that somebody waits for."""
        self.is_stopped = False
        self.error: UnreadableCheckpoint | None = None


class Streams:
    """The chunks of a file that arrived last, and the requests that bring more."""

    def __init__(self, store: Store, entry: Entry, name: str) -> None:
        self._store, self._entry, self._name = store, entry, name
        self._chunks: OrderedDict[int, memoryview] = OrderedDict()
        self._running: list[_Stream] = []
        """The one that was read last is the last."""
        self._changed = Condition()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer.

        Raises:
            UnreadableCheckpoint: the store does not answer.
        """
        done = 0
        while done < len(buffer):
            number, within = divmod(offset + done, CHUNK)
            content = self._wait_for(number)
            count = min(len(content) - within, len(buffer) - done)
            buffer[done : done + count] = content[within : within + count]
            done += count

    def stop(self) -> None:
        """End all requests."""
        with self._changed:
            for stream in self._running:
                stream.is_stopped = True
            self._changed.notify_all()

    def _wait_for(self, number: int) -> memoryview:
        with self._changed:
            while number not in self._chunks:
                stream = self._stream_to(number)
                if stream.error is not None:
                    self._running.remove(stream)
                    raise stream.error
                if stream.wanted < number:
                    stream.wanted = number
                    self._changed.notify_all()
                self._changed.wait()
            self._chunks.move_to_end(number)
            for stream in self._running:  # it stays ahead of its reader
                if stream.wanted < number < stream.position:
                    stream.wanted = number
                    self._changed.notify_all()
            return self._chunks[number]

    def _stream_to(self, number: int) -> _Stream:
        """Return the stream that brings a chunk soon, a new one where there is none."""
        stream = next((each for each in self._running if each.position <= number <= each.position + AHEAD), None)
        if stream is None:
            stream = _Stream(number)
            if len(self._running) >= MOST_STREAMS:
                self._running.pop(0).is_stopped = True
                self._changed.notify_all()
            Thread(target=self._run, args=(stream,), daemon=True, name="remote").start()
        else:
            self._running.remove(stream)
        self._running.append(stream)
        return stream

    def _run(self, stream: _Stream) -> None:
        attempt = 0
        while not stream.is_stopped and stream.position * CHUNK < self._entry.size:
            before = stream.position
            try:
                self._receive(stream)
            except Exception as error:
                # A request that brought something has not failed: it was slow, or its connection broke.
                attempt = 0 if stream.position > before else attempt + 1
                if is_final(error) or attempt == ATTEMPTS:
                    with self._changed:
                        stream.error = unreadable(self._name, error)
                        self._changed.notify_all()
                    return
                pause_before(attempt)
        with self._changed:
            if stream in self._running:
                self._running.remove(stream)

    def _receive(self, stream: _Stream) -> None:
        """Receive chunks until the end of the file, or until nobody wants them any more."""
        missing = self._entry.size - stream.position * CHUNK
        chunk, filled = bytearray(min(CHUNK, missing)), 0
        for piece in self._store.stream(self._entry, stream.position * CHUNK):
            view = memoryview(piece).cast("B")
            while len(view):
                count = min(len(view), len(chunk) - filled)
                chunk[filled : filled + count] = view[:count]
                filled, view = filled + count, view[count:]
                if filled < len(chunk):
                    continue
                missing -= filled
                if not self._hand_over(stream, memoryview(chunk)) or not missing:
                    return
                chunk, filled = bytearray(min(CHUNK, missing)), 0
        raise ConnectionError("connection closed before the end of the file")

    def _hand_over(self, stream: _Stream, chunk: memoryview) -> bool:
        """Keep a chunk as soon as it is not too early, and return whether more is wanted."""
        with self._changed:
            self._chunks[stream.position] = chunk
            stream.position += 1
            while len(self._chunks) > MOST_CHUNKS:
                self._chunks.popitem(last=False)
            self._changed.notify_all()
            while not stream.is_stopped and stream.position > stream.wanted + AHEAD:
                self._changed.wait()
            return not stream.is_stopped
