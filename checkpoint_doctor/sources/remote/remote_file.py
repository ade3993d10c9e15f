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
from checkpoint_doctor.sources.remote.windows import Windows
from checkpoint_doctor.sources.source import Source, read_exactly, require_file_name, too_short
from checkpoint_doctor.sources.traces import note_absent, note_remote


class RemoteFile:
    """A file in a store or on a server. Any thread may read it.

    Args:
        uri: its address.
        is_read_whole: True where all of it will be read: then the first read begins a stream of all of it.
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
        self._windows = Windows(store, entry, self.name)
        self._streams = Streams(store, entry, self.name)
        self._is_begun = False
        weakref.finalize(self, self._streams.stop)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise too_short(self, offset, len(buffer))
        if self._is_streamed(offset, len(buffer)) or not self._windows.read_into(offset, buffer):
            self._streams.read_into(offset, buffer)

    def _is_streamed(self, offset: int, length: int) -> bool:
        """Tell whether a stream brings some bytes, or is to bring all of the file from here on."""
        begins = self._is_read_whole and not self._is_begun and offset == 0
        self._is_begun |= begins
        return begins or (self._is_read_whole and self._streams.is_small) or self._streams.expects(offset, length)

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
