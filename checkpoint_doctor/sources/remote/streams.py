"""Requests that run through a remote file, each a little ahead of those who read it."""

from __future__ import annotations

from threading import Condition, Thread

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.remote.pieces import Pieces
from checkpoint_doctor.sources.remote.stores import Entry, Patience, Store, unreadable

AHEAD = 16 << 20
"""Bytes that a stream may be ahead of its readers."""
REACH = 32 << 20
"""Bytes that a stream is let run through for a read further on, instead of a request of its own: an optimizer's two
moments of a parameter are read side by side, and lie behind each other."""
MOST_KEPT = 112 << 20
"""Bytes that are kept of one file. Of a larger file what was read goes at once, and rules that look at small matrices
as a whole fetch these again."""
SMALL = 32 << 20
"""Bytes of a file that is fetched with one request, in whatever order it is read."""
SINGLE = 64 << 10
"""Bytes of a read that does not move a stream: a header in front of a tensor, further on in the file."""
MOST_STREAMS = 8
"""Requests in flight for one file. One connection of S3 carries about 90 MB/s (AWS's performance guidelines)."""


class _Stream:
    def __init__(self, start: int) -> None:
        self.start = start
        self.position = start
        """The byte that arrives next."""
        self.wanted = start
        """The end of the furthest read that goes through it."""
        self.is_stopped = False
        self.error: UnreadableCheckpoint | None = None


class Streams:
    """What arrived of a file and may still be read, and the requests that bring more.

    Args:
        store: where the file is.
        entry: the file.
        name: its name in messages.
        is_kept: True where what was read of it is kept as well, if it is not too large for that.
    """

    def __init__(self, store: Store, entry: Entry, name: str, *, is_kept: bool = False) -> None:
        self._store, self._entry, self._name = store, entry, name
        self.is_small = entry.size <= SMALL
        """True where one request may bring all of it."""
        self._reach = entry.size if self.is_small else REACH
        self._pieces = Pieces(MOST_KEPT, keeps_read=is_kept and entry.size <= MOST_KEPT)
        self._running: list[_Stream] = []
        """The one that was read last is the last."""
        self._changed = Condition()
        self.furthest = 0
        """The last byte that a stream brought."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer.

        Raises:
            UnreadableCheckpoint: the store does not answer.
        """
        end = offset + len(buffer)
        with self._changed:
            while offset < end:
                count = self._pieces.read_into(offset, buffer)
                if count:
                    self._advance(offset, min(offset + count, end))
                    offset, buffer = offset + count, buffer[count:]
                else:
                    self._wait_for(offset, end)

    def expects(self, offset: int, length: int) -> bool:
        """Tell whether a running stream brought some bytes or will bring them soon."""
        with self._changed:
            gap = self._pieces.find_gap(offset, length)
            return gap is None or any(
                each.position <= gap <= (each.wanted + AHEAD if length <= SINGLE else each.position + self._reach)
                for each in self._running
            )

    def let_go(self) -> None:
        """Drop what arrived, and end all requests. Whoever still waits for one gets another."""
        with self._changed:
            self._pieces = Pieces(MOST_KEPT, keeps_read=False)
            for stream in self._running:
                stream.is_stopped = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End all requests."""
        with self._changed:
            for stream in self._running:
                stream.is_stopped = True
            self._changed.notify_all()

    def _advance(self, offset: int, end: int) -> None:
        """Let the stream that brought bytes stay ahead of their reader."""
        for stream in self._running:
            if stream.wanted < end <= stream.position and offset >= stream.position - self._reach:
                stream.wanted = end
                self._changed.notify_all()

    def _wait_for(self, offset: int, end: int) -> None:
        """Wait until a byte arrives, or something else happens."""
        stream = self._stream_to(offset)
        if stream.error is not None:
            self._running.remove(stream)
            raise stream.error
        if stream.wanted < end:
            stream.wanted = end
            self._changed.notify_all()
        self._changed.wait()

    def _stream_to(self, offset: int) -> _Stream:
        """Return the stream that brings a byte soon, a new one where there is none."""
        found = (each for each in self._running if each.position <= offset <= each.position + self._reach)
        stream = min(found, key=lambda each: offset - each.position, default=None)
        if stream is None:
            stream = _Stream(offset)
            if len(self._running) >= MOST_STREAMS:
                self._running.pop(0).is_stopped = True
                self._changed.notify_all()
            Thread(target=self._run, args=(stream,), daemon=True, name="remote").start()
        else:
            self._running.remove(stream)
        self._running.append(stream)
        return stream

    def _run(self, stream: _Stream) -> None:
        patience = Patience()
        while not stream.is_stopped and stream.position < self._entry.size:
            before = stream.position
            try:
                self._receive(stream)
            except BaseException as error:  # whatever it is, nobody may wait for this thread in vain
                # A request that brought something has not failed: it was slow, or its connection broke.
                if stream.position > before:
                    patience.renew()
                if patience.ends_with(error):
                    with self._changed:
                        stream.error = unreadable(self._name, error)
                        self._changed.notify_all()
                    return
        with self._changed:
            if stream in self._running:
                self._running.remove(stream)
            self._changed.notify_all()

    def _receive(self, stream: _Stream) -> None:
        """Receive pieces until the end of the file, or until nobody wants them any more."""
        for piece in self._store.stream(self._entry, stream.position):
            if not self._hand_over(stream, memoryview(piece).cast("B")):
                return
        if stream.position < self._entry.size:
            raise ConnectionError("connection closed before the end of the file")

    def _hand_over(self, stream: _Stream, piece: memoryview) -> bool:
        """Keep a piece, and return whether more is wanted, as soon as it is not too early for that."""
        with self._changed:
            self._pieces.add(stream.position, piece)
            stream.position += len(piece)
            self.furthest = max(self.furthest, stream.position)
            # Where it comes to what another one brought, its readers are done, or go on with the other one.
            stream.is_stopped |= any(each.start <= stream.position < each.position for each in self._running)
            self._changed.notify_all()
            while not stream.is_stopped and stream.position > stream.wanted + AHEAD:
                self._changed.wait()
            return not stream.is_stopped and stream.position < self._entry.size
