"""A copy of a file with some bytes replaced: it takes its name only when it is whole, and never another file's.

The copy is made as a temporary file in the folder of the result, so that it can take its name in one step. An input is
watched: where it changes while the work goes on, what was made of it is worth nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.errors import RepairFailed, UsageError
from checkpoint_doctor.sources.targets import is_same_file, refuse_long_name

CHUNK = 1 << 26
"""Bytes that the system copies at a time; short enough to be interrupted."""

REPORT_IT = "your file is unchanged; please report this with the output of `ckdoc scan`"
"""The hint beside a bug of our own."""

_NO_COPY_IN_SYSTEM = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})
"""What systems answer that cannot copy between these two files by themselves."""


class Snapshot(Struct, frozen=True):
    """What a file's status says about its content."""

    path: Path
    status: tuple[int, int, int, int]
    """Device, inode, size and time of the last change in nanoseconds."""

    @classmethod
    def take(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Note the status of a file.

        Raises:
            RepairFailed: there is no such file any more.
        """
        try:
            found = os.stat(path)
        except OSError as error:
            raise RepairFailed(
                f"cannot look at {path}: {reason(error)}", "check the path and its permissions"
            ) from None
        return cls(Path(path), (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))

    def verify(self) -> None:
        """Make sure that the file is still what it was.

        Raises:
            RepairFailed: it was written to, replaced or removed.
        """
        if Snapshot.take(self.path) != self:
            raise RepairFailed(
                f"{self.path} changed while it was being repaired, so nothing was written",
                "wait until nothing writes to it any more, and run again",
            )


def check_target(target: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Make sure that a result may take a name.

    Raises:
        UsageError: the name is too long, it is taken and ``force`` is not given, or what it stands for is never
            replaced: an input, through whatever link, a file in one that is a folder, any folder, a device, a pipe.
    """
    refuse_long_name(target)
    if not os.path.lexists(target):
        return
    for each in inputs:
        if is_same_file(target, each):
            raise UsageError(f"{target} is an input itself, which is never written to", "name another --output")
        if each.is_dir() and target.resolve().is_relative_to(each.resolve()):
            raise UsageError(
                f"{target} is a file of the input {each}, which is never written to", "name another --output"
            )
    if target.is_dir():
        raise UsageError(f"{target} is a folder, which is never replaced", "remove it, or name another --output")
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is a device or a pipe, which is never replaced", "name another --output")
    if not force:
        raise UsageError(f"{target} exists already", "remove it, name another --output, or replace it with --force")


def copy_patched(original: Path, copy: Path, patches: Sequence[Patch]) -> None:
    """Write a copy of a file in which bytes are replaced, with the original's permissions.

    Raises:
        RepairFailed: the system refuses, or the bytes to be replaced are not the announced ones.
    """
    try:
        with open(original, "rb") as source, open(copy, "r+b" if copy.exists() else "x+b") as target:
            size = os.fstat(source.fileno()).st_size
            _copy(source.fileno(), target.fileno(), size)
            for patch in patches:
                _replace(target.fileno(), patch, original)
            os.fchmod(target.fileno(), stat.S_IMODE(os.fstat(source.fileno()).st_mode) & 0o777)
    except OSError as error:
        raise RepairFailed(
            f"cannot write the repaired copy of {original}: {reason(error)}",
            "make room on the disk, or name a place elsewhere with --output",
        ) from None


@contextmanager
def synced_in_background(paths: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Sync files to the disk while other work goes on; the function that is yielded waits for it.

    Raises:
        RepairFailed: the disk is full or broken; from the waiting.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        written = [pool.submit(_sync, path) for path in paths]

        def wait() -> None:
            for each in written:
                each.result()

        yield wait


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RepairFailed(f"cannot write {path} to the disk: {reason(error)}", "make room on the disk") from None


def _copy(source: int, target: int, size: int) -> None:
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(source, target, min(CHUNK, size - done), done, done)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_COPY_IN_SYSTEM:
                raise
            _copy_by_hand(source, target, done, size)
            return
        if count == 0:  # some file systems say so instead of refusing
            _copy_by_hand(source, target, done, size)
            return
        done += count


def _copy_by_hand(source: int, target: int, start: int, size: int) -> None:
    while start < size:
        block = os.pread(source, min(1 << 22, size - start), start)
        if not block:
            return  # it shrank: the comparison that follows says so
        _write(target, block, start)
        start += len(block)


def _write(target: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count


def _replace(target: int, patch: Patch, original: Path) -> None:
    if len(patch.old) != len(patch.new):
        raise bug(f"a patch of {original} changes the file's length")
    if os.pread(target, len(patch.old), patch.offset) != patch.old:
        raise RepairFailed(
            f"the bytes of {original} at {patch.offset:,} are not those that were examined, so nothing was written",
            "wait until nothing writes to it any more, and run again",
        )
    _write(target, patch.new, patch.offset)


def take_name(temporary: Path, target: Path, *, force: bool) -> None:
    """Give a finished file its name in one step, so that the name never stands for a part of it.

    Raises:
        UsageError: the name was taken in the meantime and ``force`` is not given.
        RepairFailed: the system refuses.
    """
    try:
        if force:
            os.replace(temporary, target)
        else:
            _link_or_rename(temporary, target)
        _sync_folder(target.parent)
    except FileExistsError:
        raise UsageError(f"{target} exists already", "remove it, or replace it with --force") from None
    except OSError as error:
        raise RepairFailed(f"cannot write {target}: {reason(error)}", "name another place with --output") from None


def take_folder_name(temporary: Path, target: Path) -> None:
    """Give a finished folder its name in one step. A folder is never replaced.

    Raises:
        UsageError: the name was taken in the meantime.
        RepairFailed: the system refuses.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already", "remove it, or name another --output")
    try:
        os.rename(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise RepairFailed(f"cannot write {target}: {reason(error)}", "name another place with --output") from None


def _link_or_rename(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError from None
        os.rename(temporary, target)
        return
    os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def bug(message: str) -> RepairFailed:
    """Return the error that says that ckdoc, and not the file, is at fault."""
    return RepairFailed(f"this is a bug in ckdoc: {message}; nothing was written", REPORT_IT)


def reason(error: OSError) -> str:
    """Return what the system says, as the end of a sentence."""
    return (error.strerror or str(error)).lower()
