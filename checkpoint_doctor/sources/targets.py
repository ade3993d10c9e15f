"""Where a result goes: names that it may take, and hidden temporary files in which it is made until it takes one.

A temporary file is removed at the end of its ``with`` block, whatever ended it. Its name is chosen before anything is
made, so that an interruption at any moment finds it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint_doctor.errors import UsageError

KEPT = 100
"""Bytes of the result's name in that of its temporary file."""

LONGEST_NAME = 255
"""Bytes of a name that every common file system allows, where the system does not say."""


def is_same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths lead to the same file, through whatever link; False where one leads to none."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def refuse_long_name(target: Path) -> None:
    """Make sure that the file system can hold a file of this name.

    Raises:
        UsageError: the name is too long.
    """
    try:
        longest = os.pathconf(target.parent, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        longest = LONGEST_NAME
    length = len(os.fsencode(target.name))
    if length > longest:
        raise UsageError(
            f"the name {target.name} would have {length} bytes, and the file system allows {longest}",
            "name a shorter --output",
        )


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """Yield the path of an empty hidden file in a folder; afterwards it is gone, whatever happened.

    Raises:
        UsageError: the folder cannot be written to.
    """
    path = _choose_name(folder, name)
    try:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise _refuse(folder, error) from None
        yield path
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


@contextmanager
def temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yield the path of an empty hidden folder in a folder; afterwards it is gone with all that is in it.

    Raises:
        UsageError: the folder cannot be written to.
    """
    import shutil

    path = _choose_name(folder, name)
    try:
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            raise _refuse(folder, error) from None
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _choose_name(folder: Path, name: str) -> Path:
    beginning = os.fsencode(name)[:KEPT].decode(errors="ignore")
    return Path(folder, f".{beginning}.{os.urandom(8).hex()}.tmp")


def _refuse(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write in {folder}: {(error.strerror or str(error)).lower()}",
        "name a file in a folder that you may write with --output",
    )
