"""Noticing that files were written: what a folder's files look like from outside, and waiting until that changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

Fingerprint = tuple[int, int, int]
"""Number, size in bytes and time of the last change in nanoseconds of a file."""

BUSY = 0.02
"""Largest share of a core that looking at a folder again and again may take."""


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


class Waiter(Protocol):
    """Waits for the next change."""

    def wait(self, seconds: float) -> None:
        """Return when a file may have changed, at the latest after so many seconds."""


class Polling:
    """Waits for some time, and longer where looking at the folder takes long."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._returned = time.perf_counter()
        self._busy = time.process_time()

    def wait(self, seconds: float) -> None:
        """See ``Waiter.wait``."""
        spent = time.process_time() - self._busy
        time.sleep(min(seconds, max(self._interval, spent / BUSY)))
        self._busy = time.process_time()


class Events:
    """Waits for an event of the file system, with the library ``watchfiles``."""

    def __init__(self, path: str, interval: float) -> None:
        import watchfiles

        self._interval = interval
        self._events: Iterator[Any] = watchfiles.watch(
            path,
            watch_filter=None,
            debounce=200,
            rust_timeout=1000,
            yield_on_timeout=True,
            raise_interrupt=True,
            ignore_permission_denied=True,
        )
        next(self._events)  # from here on, nothing is missed

    def wait(self, seconds: float) -> None:
        """See ``Waiter.wait``. Events in quick succession are one: a run may write its log all the time."""
        end = time.monotonic() + seconds
        time.sleep(min(seconds, self._interval))
        for changes in self._events:
            if changes or time.monotonic() >= end:
                return


def make_waiter(path: str, interval: float, *, polls: bool = False) -> Waiter:
    """Return what waits for changes at a path: events where there are any, polling otherwise."""
    if not polls and os.path.isdir(path):  # a file that is replaced is another one for the file system
        # The library is an extra, the system may have no more events to give, and the path may not be there yet.
        with suppress(ImportError, OSError, RuntimeError, StopIteration):
            return Events(path, interval)
    return Polling(interval)
