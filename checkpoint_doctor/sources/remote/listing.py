"""The folders of a store: what is in them, and what a pattern matches."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.sources.address import conceal_secrets, split_address
from checkpoint_doctor.sources.remote.stores import Listing, ask, open_store_of, walk

UNLISTED = frozenset({"http", "https"})
"""Schemes of servers that list nothing."""


def is_remote_folder(uri: str) -> bool:
    """Tell whether an address is that of a folder: no file has it, and files are below it.

    Raises:
        UnreadableCheckpoint: the store does not answer.
        UsageError: the library that reads such addresses is not installed.
    """
    if split_address(uri)[0] in UNLISTED:
        return False
    store, path = open_store_of(uri)
    if ask(conceal_secrets(uri), lambda: store.find(path)) is not None:
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
