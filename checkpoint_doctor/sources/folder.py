"""A folder whose files may be one checkpoint."""

from __future__ import annotations

import os
from functools import cached_property

from msgspec import Struct

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.address import is_address
from checkpoint_doctor.sources.opening import open_source
from checkpoint_doctor.sources.source import Source


class Folder(Struct, frozen=True, dict=True):
    """The names of the files and folders in a folder. Nothing is opened before it is asked for."""

    path: str
    """Its path, as it was given."""
    files: frozenset[str] = frozenset()
    """Names of the files directly in it, links among them."""
    folders: frozenset[str] = frozenset()
    """Names of the folders directly in it."""
    is_read_whole: bool = False
    """True where all of its files that are opened will be read to their end; see ``open_source``."""

    @cached_property
    def _entered(self) -> dict[str, Folder]:
        return {}

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, is_read_whole: bool = False) -> Folder:
        """List a folder.

        Raises:
            UnreadableCheckpoint: it cannot be listed.
        """
        path = os.fspath(path)
        if is_address(path):
            from checkpoint_doctor.sources.remote.listing import list_folder

            listing = list_folder(path)
            names = (entry.path.rpartition("/")[2] for entry in listing.files)
            return cls(path.rstrip("/"), frozenset(names), frozenset(listing.folders), is_read_whole)
        try:
            with os.scandir(path) as entries:
                kinds = {entry.name: entry.is_dir() for entry in entries}
        except OSError as error:
            raise UnreadableCheckpoint(
                f"cannot list {path}: {(error.strerror or str(error)).lower()}",
                "check the path and its permissions",
            ) from None
        folders = frozenset(name for name, is_folder in kinds.items() if is_folder)
        return cls(path, frozenset(kinds) - folders, folders, is_read_whole)

    def locate(self, name: str) -> str:
        """Return the path of a file or folder in it."""
        return os.path.join(self.path, name)

    def open(self, name: str) -> Source:
        """Open a file in it, by its name or, where it is in a folder in it, by its path with ``/``; links are followed.

        Raises:
            UnreadableCheckpoint: there is no such file in this folder, or it cannot be opened.
        """
        inside, slash, rest = name.partition("/")
        if slash:
            return self.enter(inside).open(rest)
        if name not in self.files:
            raise UnreadableCheckpoint(
                f"{self.path} has no file {name!r}", "all files of a checkpoint must be in the same folder"
            )
        return open_source(self.locate(name), is_read_whole=self.is_read_whole)

    def enter(self, name: str) -> Folder:
        """List a folder directly in it, once. Raises as ``read``."""
        if name not in self.folders:
            raise UnreadableCheckpoint(f"{self.path} has no folder {name!r}", "copy the whole folder of the checkpoint")
        if name not in self._entered:
            self._entered[name] = Folder.read(self.locate(name), is_read_whole=self.is_read_whole)
        return self._entered[name]
