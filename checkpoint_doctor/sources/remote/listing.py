"""The folders of a store: what is in them, and what a pattern matches."""

from __future__ import annotations

import time
from collections.abc import Iterator

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.address import conceal_secrets, split_address
from checkpoint_doctor.sources.remote.stores import Entry, Listing, ask, open_store_of

UNLISTED = frozenset({"http", "https"})
"""Schemes of servers that list nothing."""

RECENT = 10.0
"""Seconds for which what a store said of an address is not asked again."""
MOST_RECENT = 1000

_recent: dict[str, tuple[float, Entry | UnreadableCheckpoint | None]] = {}
"""What the stores said of addresses, and when; an error where they did not answer."""


def find_file(uri: str) -> Entry | None:
    """Return the file that an address names, ``None`` where there is none. It is asked for once in a few seconds.

    Raises as ``is_remote_folder``.
    """
    asked, found = _recent.get(uri, (0.0, None))
    if not asked or time.monotonic() - asked > RECENT:
        store, path = open_store_of(uri)
        try:
            found = ask(conceal_secrets(uri), lambda: store.find(path))
        except UnreadableCheckpoint as error:
            found = error
        while len(_recent) >= MOST_RECENT:
            _recent.pop(next(iter(_recent)), None)
        _recent[uri] = time.monotonic(), found
    if isinstance(found, UnreadableCheckpoint):
        raise found
    return found


def take_file(uri: str) -> Entry | None:
    """Return what ``find_file`` does, for a file that is opened now: who opens it again sees what it is then."""
    try:
        return find_file(uri)
    finally:
        _recent.pop(uri, None)


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


def walk_addresses(uri: str, deepest: int | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of everything in a folder that is not hidden, and its names from the folder on.

    The addresses of folders end with ``/``. Those that are ``deepest`` folders down are not entered, where that is not
    ``None``. Raises as ``is_remote_folder``.
    """
    pending: list[list[str]] = [[]]
    while pending:
        within = pending.pop()
        folder = "/".join([uri.rstrip("/"), *within])
        listing = list_folder(folder)
        for name in sorted(entry.path.rpartition("/")[2] for entry in listing.files):
            if not name.startswith("."):
                yield f"{folder}/{name}", [*within, name]
        for name in sorted(listing.folders):
            if not name.startswith("."):
                yield f"{folder}/{name}/", [*within, name]
                if deepest is None or len(within) + 1 < deepest:
                    pending.append([*within, name])
