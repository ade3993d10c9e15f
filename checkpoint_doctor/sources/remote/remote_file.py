"""A remote file as a source. What runs through the file is streamed ahead of the reads; little else is fetched."""

from __future__ import annotations

import weakref

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.address import conceal_secrets, parent_of
from checkpoint_doctor.sources.budget import Budget
from checkpoint_doctor.sources.remote.stores import ask, open_store_of
from checkpoint_doctor.sources.remote.streams import Streams
from checkpoint_doctor.sources.remote.windows import Windows
from checkpoint_doctor.sources.source import Source, read_exactly, require_file_name, too_short
from checkpoint_doctor.sources.traces import note_absent, note_remote


class RemoteFile:
    """A file in a store or on a server. Any thread may read it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.name = conceal_secrets(uri)
        store, path = open_store_of(uri)
        entry = ask(self.name, lambda: store.find(path))
        if entry is None:
            note_absent(self.name)
            raise UnreadableCheckpoint(f"cannot open {self.name}: there is no such file (404)", "check the address")
        self.size = entry.size
        note_remote(self.name, entry.size, entry.version)
        self.budget = Budget(self.name, self.size)
        self._windows = Windows(store, entry, self.name)
        self._streams = Streams(store, entry, self.name)
        weakref.finalize(self, self._streams.stop)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``Source.read_into``."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise too_short(self, offset, len(buffer))
        if not self._windows.read_into(offset, buffer):
            self._streams.read_into(offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source.read``."""
        return read_exactly(self, offset, length)

    def sibling(self, name: str) -> Source:
        """See ``Source.sibling``."""
        require_file_name(name, self)
        return RemoteFile(f"{parent_of(self._uri)}/{name}")
