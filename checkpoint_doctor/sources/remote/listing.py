"""The folders of a store: what is in them, and what a pattern matches."""

from __future__ import annotations

import time
from collections.abc import Iterator

from checkpoint_doctor.sources.address import conceal_secrets, split_address
from checkpoint_doctor.sources.remote.stores import Entry, Listing, ask, open_store_of, walk

UNLISTED = frozenset({"http", "https"})
"""Schemes of servers that list nothing."""

RECENT = 10.0
"""Seconds for which what a store said of an address is not asked again."""
MOST_RECENT = 1000

_recent: dict[str, tuple[float, Entry | None]] = {}
"""What the stores said of addresses, and when."""


def find_file(uri: str) -> Entry | None:
    """Return the file that an address names, ``None`` where there is none. It is asked for once in a few seconds.

    Raises as ``is_remote_folder``.
    """
    asked, found = _recent.get(uri, (0.0, None))
    if not asked or time.monotonic() - asked > RECENT:
        store, path = open_store_of(uri)
        found = ask(conceal_secrets(uri), lambda: store.find(path))
        while len(_recent) >= MOST_RECENT:
            _recent.pop(next(iter(_recent)), None)
        _recent[uri] = time.monotonic(), found
    return found


def take_file(uri: str) -> Entry | None:
    """Return what ``find_file`` does, for a file that is opened now: who opens it again sees what it is then."""
    found = find_file(uri)
    _recent.pop(uri, None)
    return found


def is_remote_folder(uri: str) -> bool:
    """Tell whether an address is that of a folder: no file has it, and files are below it.

    Raises:
        UnreadableCheckpoint: the store does not answer.
        UsageError: the library that reads such addresses is not installed.
    """
    if split_address(uri)[0] in UNLISTED:
        return False
    if find_file(uri) is not None:
        return False
    listing = list_folder(uri)
    return bool(listing.files or listing.folders)


def list_folder(uri: str) -> Listing:
    """Return what is directly in a folder. Raises as ``is_remote_folder``."""
    store, path = open_store_of(uri)
    return ask(conceal_secrets(uri), lambda: store.list(path))


def walk_files(uri: str) -> Iterator[str]:
    """Yield the address of every file in a folder and the folders in it. Raises as ``is_remote_folder``."""
    store, path = open_store_of(uri)
    scheme, place, _ = split_address(uri)
    for _, listing in ask(conceal_secrets(uri), lambda: list(walk(store, path))):
        for entry in listing.files:
            yield f"{scheme}://{place}/{entry.path}"
