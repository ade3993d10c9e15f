"""The bytes that a file has with its patches, as a stream, and SHA-256 sums that threads take of it.

A large file's SHA-256 takes more than twice as long as its copy. So sums are taken beside other work, and up to its
first patch a copy shares the sum of its original.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Condition, Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.repair.safe_copy import bug, reason

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 1 << 20
"""Bytes that are read at a time: few enough to stay in a core's cache."""
MARK = 16 * BLOCK
"""Bytes between the places at which another sum may set out from a running one."""


class Digest(Struct, frozen=True):
    """A file's size and SHA-256."""

    size: int
    sha256: str


class RunningDigest:
    """A file's SHA-256 while a thread takes it; as a context it ends with its block, finished or not."""

    def __init__(self, path: Path, patches: Sequence[Patch] = (), beginning: RunningDigest | None = None) -> None:
        """Begin at once.

        Args:
            path: the file, which is only read.
            patches: what to replace in its bytes before they are summed.
            beginning: a sum of the same file without patches, to go on from before the first of them.
        """
        self._path = path
        self._patches = patches
        self._beginning = beginning
        self._marks = [(0, hashlib.sha256())]
        self._advanced = Condition()
        self._outcome: Digest | Exception | None = None
        self._unwanted = Event()
        self._thread = Thread(target=self._run, name=f"SHA-256 of {path.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unwanted.set()
        self._thread.join()

    def wait(self) -> Digest:
        """Return the sum when it is there.

        Raises:
            RepairFailed: the file cannot be read, or a patch is not of its bytes.
        """
        self._thread.join()
        if isinstance(self._outcome, Digest):
            return self._outcome
        raise self._outcome or RuntimeError("the sum was abandoned")

    def _run(self) -> None:
        try:
            self._outcome = self._sum()
        except Exception as error:
            self._outcome = error
        finally:
            with self._advanced:
                self._advanced.notify_all()

    def _sum(self) -> Digest | None:
        offset, found = 0, hashlib.sha256()
        if self._beginning is not None:
            first = min((patch.offset for patch in self._patches), default=0)
            offset, found = self._beginning._state_before(first, self._unwanted)
        for block in read_patched(self._path, self._patches, offset):
            if self._unwanted.is_set():
                return None
            found.update(block)
            offset += len(block)
            if offset % MARK == 0:
                with self._advanced:
                    self._marks.append((offset, found.copy()))
                    self._advanced.notify_all()
        return Digest(offset, found.hexdigest())

    def _state_before(self, offset: int, unwanted: Event) -> tuple[int, _Hash]:
        """Return the last mark up to an offset, with the sum up to there, as soon as it is reached."""
        mark = offset // MARK
        with self._advanced:
            while len(self._marks) <= mark and self._thread.is_alive() and not unwanted.is_set():
                self._advanced.wait(0.1)
            place, found = self._marks[: mark + 1][-1]
        return place, found.copy()


def sum_of(path: Path) -> Digest:
    """Return a file's size and SHA-256. Raises as ``RunningDigest.wait``."""
    with RunningDigest(path) as digest:
        return digest.wait()


def read_patched(path: Path, patches: Sequence[Patch], start: int = 0) -> Iterator[memoryview]:
    """Yield the bytes that a file has with patches, from ``start`` on, ``BLOCK`` at a time; each is gone with the next.

    Raises:
        RepairFailed: the file cannot be read, or a patch is not of its bytes.
    """
    waiting = sorted(patches, key=lambda patch: -patch.offset)
    buffer = memoryview(bytearray(BLOCK))
    try:
        # O_NONBLOCK: opening a named pipe must not wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            while count := os.preadv(descriptor, [buffer], start):
                block, end = buffer[:count], start + count
                while waiting and waiting[-1].offset < end:
                    patch = waiting.pop()
                    _overlay(block, start, patch, path)
                    if patch.offset + len(patch.new) > end:
                        waiting.append(patch)
                        break
                yield block
                start = end
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RepairFailed(f"cannot read {path}: {reason(error)}", "check the disk") from None


def _overlay(block: memoryview, start: int, patch: Patch, path: Path) -> None:
    first = max(start, patch.offset)
    last = max(first, min(start + len(block), patch.offset + len(patch.new)))
    here, there = slice(first - start, last - start), slice(first - patch.offset, last - patch.offset)
    if bytes(block[here]) != patch.old[there]:  # comparing a memoryview itself goes byte by byte
        raise bug(f"a patch does not fit the bytes of {path} that it replaces")
    block[here] = patch.new[there]
