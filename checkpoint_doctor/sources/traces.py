"""What was read for a result: the files, and the names at which there was none. It tells later whether that changed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from msgspec import Struct, field

from checkpoint_doctor.errors import DoctorError
from checkpoint_doctor.sources.address import conceal_secrets, is_address

TICK = 50_000_000
"""Nanoseconds for which a file may keep the same time while it is written again: the clock of Linux's file systems goes
in steps of 1 to 10 ms."""

COARSE_TICK = 2_000_000_000
"""The same where times are whole seconds: FAT goes in steps of 2 s."""


class Stamp(Struct, frozen=True):
    """What a file looks like from outside."""

    size: int
    """Bytes."""
    modified: int | None = None
    """Nanoseconds since 1970 of the last change; ``None`` of a remote file, and where another change could follow
    within the same tick of the clock."""
    version: str = ""
    """The ETag of a remote file; empty where the server tells none."""

    @property
    def identifies(self) -> bool:
        """True where a file that looks the same has the same content; a weak ETag does not say that of every byte."""
        return self.modified is not None or bool(self.version and not self.version.startswith("W/"))


class Trace(Struct):
    """What was read, by path or address."""

    files: dict[str, Stamp] = field(default_factory=dict)
    """The files that were opened."""
    absent: list[str] = field(default_factory=list)
    """The files that were looked for and are not there: they would be read too."""
    folders: dict[str, str] = field(default_factory=dict)
    """The folders that are one checkpoint, with a digest of the stamps of all files in them; empty where these do not
    identify their content."""

    def clear(self) -> None:
        """Forget what was read so far."""
        for each in (self.files, self.absent, self.folders):
            each.clear()


_following: list[Trace] = []
"""The traces that are being written."""


@contextmanager
def trace() -> Iterator[Trace]:
    """Yield a trace of what sources open from now on, in all threads, until the block ends."""
    following = Trace()
    _following.append(following)
    try:
        yield following
    finally:
        # Two that are written at the same time hold the same, so they are told apart by what they are.
        _following[:] = [each for each in _following if each is not following]


def note_local(path: str, status: os.stat_result) -> None:
    """Note that a local file was opened."""
    if _following:
        stamp = _stamp(status)
        for each in _following:
            each.files.setdefault(path, stamp)


def note_remote(name: str, size: int, version: str) -> None:
    """Note that a remote file was opened, by its address without secrets."""
    for each in _following:
        each.files.setdefault(name, Stamp(size, version=version))


def note_absent(path: str) -> None:
    """Note that there is no file at a path."""
    for each in _following:
        if path not in each.absent:
            each.absent.append(path)


def note_folder(path: str) -> None:
    """Note that a folder is read as one checkpoint."""
    if _following:
        digest = digest_folder(path)
        for each in _following:
            each.folders[path] = digest


def is_file(path: str) -> bool:
    """Tell whether there is a file at a path, and note it."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        note_absent(path)
        return False
    note_local(path, status)
    return stat.S_ISREG(status.st_mode)


def is_unchanged(found: Trace) -> bool:
    """Return whether all that was read looks as it did. Where that cannot be told, it does not.

    Only what the file system or the server says is asked for: nothing is opened.
    """
    with suppress(OSError, DoctorError):
        return (
            bool(found.files or found.folders)
            and all(stamp.identifies and stamp == _look_at(path) for path, stamp in found.files.items())
            and not any(_look_at(path) for path in found.absent)
            and all(digest and digest == digest_folder(path) for path, digest in found.folders.items())
        )
    return False


def _look_at(path: str) -> Stamp | None:
    if not is_address(path):
        try:
            return _stamp(os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
    from checkpoint_doctor.sources.remote.stores import ask, open_store_of

    store, place = open_store_of(path)
    entry = ask(conceal_secrets(path), lambda: store.find(place))
    return Stamp(entry.size, version=entry.version) if entry else None


def _stamp(status: os.stat_result) -> Stamp:
    modified = status.st_mtime_ns
    tick = TICK if modified % 1_000_000_000 else COARSE_TICK
    return Stamp(status.st_size, modified if modified + tick < time.time_ns() else None)


def digest_folder(path: str) -> str:
    """Return a digest of the names and stamps of all files in a folder; empty where these do not identify them.

    Raises:
        OSError: the folder cannot be listed.
        UnreadableCheckpoint: its store does not answer.
    """
    stamps = dict(_list_remote(path) if is_address(path) else _list_local(path))
    if not all(stamp.identifies for stamp in stamps.values()):
        return ""
    return digest(stamps)


def digest(values: Mapping[str, object]) -> str:
    """Return a short digest of plain values by name, in any order."""
    try:  # hashlib imports OpenSSL first, which takes a tenth of a small scan
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b

    text = repr(sorted(values.items()))
    return str(blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest())


def _list_local(root: str) -> Iterator[tuple[str, Stamp]]:
    for folder, _, files in os.walk(root, onerror=_fail):
        for name in files:
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):  # a link that leads nowhere
                yield os.path.relpath(path, root), _stamp(os.stat(path))


def _fail(error: OSError) -> None:
    raise error


def _list_remote(root: str) -> Iterator[tuple[str, Stamp]]:
    from checkpoint_doctor.sources.remote.stores import ask, open_store_of, walk

    store, path = open_store_of(root)
    for _, listing in ask(conceal_secrets(root), lambda: list(walk(store, path))):
        for entry in listing.files:
            yield entry.path, Stamp(entry.size, version=entry.version)
