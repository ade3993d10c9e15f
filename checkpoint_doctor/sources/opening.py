"""From a URI to a file or folder, wherever it is."""

from __future__ import annotations

import os

from checkpoint_doctor.sources.address import is_address
from checkpoint_doctor.sources.local_file import FileSource
from checkpoint_doctor.sources.source import Source


def open_source(uri: str | os.PathLike[str], *, is_read_whole: bool = False) -> Source:
    """Open a file, by its path or its address.

    Args:
        uri: the path or the address.
        is_read_whole: True where all of it will be read, so that a remote file is fetched with one request.

    Raises:
        UnreadableCheckpoint: it cannot be opened.
        UsageError: the library that reads such addresses is not installed.
    """
    uri = os.fspath(uri)
    if is_address(uri):
        from checkpoint_doctor.sources.remote.remote_file import RemoteFile

        return RemoteFile(uri, is_read_whole=is_read_whole)
    return FileSource(uri)


def let_go_of_files(uri: str | os.PathLike[str]) -> None:
    """Let go of what is kept of remote files that are open, where another one is opened now."""
    if is_address(os.fspath(uri)):
        from checkpoint_doctor.sources.remote import remote_file

        remote_file.let_go_of_files()


def is_folder(uri: str | os.PathLike[str]) -> bool:
    """Tell whether a path or an address is that of a folder. Raises as ``open_source``."""
    uri = os.fspath(uri)
    if is_address(uri):
        from checkpoint_doctor.sources.remote.listing import is_remote_folder

        return is_remote_folder(uri)
    return os.path.isdir(uri)
