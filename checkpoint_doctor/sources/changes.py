"""Noticing that files were written: what a folder's files look like from outside, and waiting until that changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

from checkpoint_doctor.sources.search import INDEX, SHARD

TICK = 0.25
"""Seconds for which events are waited for at a time; what is sooner is waited for by itself."""

Fingerprint = tuple[int, int, int]
"""Number, size in bytes and time of the last change in nanoseconds of a file."""


def read_fingerprints(root: str) -> dict[str, Fingerprint]:
    """Return the fingerprints of the visible files in a folder, by path, or that of a single file.

    What cannot be listed, or is deleted meanwhile, is left out. Links to folders are not entered.
    """
    fingerprints: dict[str, Fingerprint] = {}
    if not os.path.isdir(root):
        _add(fingerprints, root)
        return fingerprints
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                _add(fingerprints, os.path.join(folder, name))
    return fingerprints


def _add(fingerprints: dict[str, Fingerprint], path: str) -> None:
    with suppress(OSError):
        status = os.stat(path)
        fingerprints[path] = status.st_ino, status.st_size, status.st_mtime_ns


def age_of(fingerprints: Mapping[str, Fingerprint]) -> float:
    """Return how many seconds ago the last of some files changed, by the clock; 0.0 where that is in the future."""
    newest = max((changed for _, _, changed in fingerprints.values()), default=0)
    return max(0.0, time.time() - newest / 1e9)


def files_of(checkpoint: str, fingerprints: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
    """Return the files that a checkpoint is made of: itself, those in its folder, or an index and its shards."""
    if checkpoint not in fingerprints:
        inside = os.path.join(checkpoint, "")
        return {path: found for path, found in fingerprints.items() if path.startswith(inside)}
    own = {checkpoint: fingerprints[checkpoint]}
    if checkpoint.lower().endswith(INDEX):
        folder = os.path.dirname(checkpoint)
        shards = (path for path in fingerprints if os.path.dirname(path) == folder and path.lower().endswith(SHARD))
        own |= {path: fingerprints[path] for path in shards}
    return own


def read_again(files: Iterable[str]) -> dict[str, Fingerprint]:
    """Return the fingerprints that some files have now; those that are gone are left out."""
    fingerprints: dict[str, Fingerprint] = {}
    for path in files:
        _add(fingerprints, path)
    return fingerprints


class Waiter(Protocol):
    """Waits for the next change."""

    def wait(self, least: float, most: float) -> None:
        """Return when a file may have changed, after so many seconds at the least and at the most."""


class Polling:
    """Waits for as short as it may: nothing tells of a change."""

    def wait(self, least: float, most: float) -> None:
        """See ``Waiter.wait``."""
        time.sleep(min(least, most))


class Events:
    """Waits for an event of the file system, with the library ``watchfiles``."""

    def __init__(self, path: str) -> None:
        import watchfiles

        self._events: Iterator[Any] = watchfiles.watch(
            path,
            watch_filter=None,
            debounce=200,
            rust_timeout=round(TICK * 1000),
            yield_on_timeout=True,
            raise_interrupt=True,
            ignore_permission_denied=True,
        )
        next(self._events)  # from here on, nothing is missed

    def wait(self, least: float, most: float) -> None:
        """See ``Waiter.wait``. Events in quick succession are one: a run may write its log all the time."""
        end = time.monotonic() + most
        time.sleep(min(least, most))
        while (left := end - time.monotonic()) > 0:
            if left < TICK:
                time.sleep(left)
            elif next(self._events):
                return


def make_waiter(path: str, *, polls: bool = False) -> Waiter:
    """Return what waits for changes at a path: events where there are any, polling otherwise."""
    if not polls and os.path.isdir(path):  # a file that is replaced is another one for the file system
        # The library is an extra, the system may have no more events to give, and the path may not be there yet.
        with suppress(ImportError, OSError, RuntimeError, StopIteration):
            return Events(path)
    return Polling()
