"""A remote file as a source. What runs through the file is streamed ahead of the reads; little else is fetched."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.address import conceal_secrets, parent_of
from checkpoint_doctor.sources.budget import Budget
from checkpoint_doctor.sources.remote.listing import take_file
from checkpoint_doctor.sources.remote.stores import open_store_of
from checkpoint_doctor.sources.remote.streams import Streams
from checkpoint_doctor.sources.remote.windows import WINDOW, Windows
from checkpoint_doctor.sources.source import Source, read_exactly, require_file_name, too_short
from checkpoint_doctor.sources.traces import note_absent, note_remote

MOST_WHOLE = 2
"""Files that are streamed from their first byte and kept, of those that are open at a time. The headers of the others
are read first, and each is streamed when its turn has come."""

_whole: weakref.WeakSet[RemoteFile] = weakref.WeakSet()


def _reserve(file: RemoteFile) -> bool:
    """Take one of the places for files that are read whole, and return whether there was one."""
    if len(_whole) >= MOST_WHOLE:
        return False
    _whole.add(file)
    return True


def let_go_of_files() -> None:
    """Let go of what is kept of the files that are open: another checkpoint is opened now."""
    for file in list(_whole):
        file.let_go()
    _whole.clear()


class RemoteFile:
    """A file in a store or on a server. Any thread may read it.

    Args:
        uri: its address.
        is_read_whole: True where all of it will be read. Then the first read begins a stream of all of it, or in one
            of many files that are open at a time, the first block of a tensor does.
    """

    def __init__(self, uri: str, *, is_read_whole: bool = False) -> None:
        self._uri, self._is_read_whole = uri, is_read_whole
        self.name = conceal_secrets(uri)
        entry = take_file(uri)
        if entry is None:
            note_absent(self.name)
            raise UnreadableCheckpoint(f"cannot open {self.name}: there is no such file (404)", "check the address")
        store, _ = open_store_of(uri)
        self.size = entry.size
        note_remote(self.name, entry.size, entry.version)
        self.budget = Budget(self.name, self.size)
        self._is_kept = is_read_whole and _reserve(self)
        """Only for some of the files that are open at a time: a checkpoint may have hundreds of shards."""
        self._windows = Windows(store, entry, self.name)
        self._streams = Streams(store, entry, self.name, is_kept=self._is_kept)
        self._is_begun = False
        self._failure: UnreadableCheckpoint | None = None
        weakref.finalize(self, self._streams.stop)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise too_short(self, offset, len(buffer))
        if self._failure is not None:
            raise self._failure
        try:
            if self._is_streamed(offset, len(buffer)) or not self._windows.read_into(offset, buffer):
                self._streams.read_into(offset, buffer)
        except UnreadableCheckpoint as error:
            # One loader after the other would ask a server again that does not answer.
            self._failure = error
            raise

    def _is_streamed(self, offset: int, length: int) -> bool:
        """Tell whether a stream brings some bytes, or is to bring all of the file from here on."""
        begins = self._is_kept and not self._is_begun and offset == 0
        self._is_begun |= begins
        # The block of a tensor behind all that was read so far: what follows it will be read too.
        goes_on = self._is_read_whole and length > WINDOW <= offset and offset >= self._streams.furthest
        return begins or goes_on or (self._is_kept and self._streams.is_small) or self._streams.expects(offset, length)

    def let_go(self) -> None:
        """Let go of what is kept; whoever reads on fetches it again."""
        self._is_kept = False
        self._streams.let_go()

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return read_exactly(self, offset, length)

    def fetch_ahead(self, places: Iterable[tuple[int, int]]) -> None:
        """See ``fetch_ahead`` of ``sources``."""
        inside = ((at, length) for at, length in places if 0 <= at <= self.size - length)
        self._windows.fetch(each for each in inside if not self._is_streamed(*each))

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        require_file_name(name, self)
        return RemoteFile(f"{parent_of(self._uri)}/{name}", is_read_whole=self._is_read_whole)
