"""Files that reports and baselines are written to: what may not be replaced, and how the others are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.sources.targets import is_same_file, refuse_long_name, temporary_file

_HINT = "name a file in a folder that you may write"
_ANOTHER = "name another file for the report"

_TOOL = b"checkpoint-doctor"
"""What every report in JSON says near its beginning."""
_BEGINNING = 1 << 10
"""Bytes in which it does."""


def refuse_outputs(outputs: Iterable[str], inputs: Iterable[str], suffixes: tuple[str, ...] = ()) -> None:
    """Make sure, before anything is written, that every output may be written; empty ones are standard output.

    Args:
        outputs: paths of files, devices or pipes.
        inputs: files and folders that the run reads.
        suffixes: the file name endings of checkpoints; no file that is there and has one of them is replaced.

    Raises:
        UsageError: an output is an input or a checkpoint, through whatever link, or another output, or a folder; its
            name is too long, or its folder does not exist.
    """
    inputs = list(inputs)
    taken: set[Path] = set()
    for output in filter(None, outputs):
        target = Path(os.path.realpath(output))
        if any(is_same_file(output, each) for each in inputs):
            raise UsageError(f"{output} is an input of this run, which is never written to", _ANOTHER)
        if os.path.isdir(output):
            raise UsageError(f"cannot write {output}: it is a folder", "name a file in it")
        if os.path.isfile(output) and target.name.lower().endswith(suffixes):
            raise UsageError(f"{output} has the name of a checkpoint, which is never replaced", _ANOTHER)
        if _is_special(output):
            continue
        if target in taken:
            raise UsageError(f"{output} would be written twice", "name a file for each report")
        taken.add(target)
        if not target.parent.is_dir():
            raise UsageError(f"cannot write {output}: there is no folder {target.parent}", _HINT)
        refuse_long_name(target)


def write(text: str, path: str) -> None:
    """Write text to a file that gets its name only when it is complete; into a device or a pipe as it is.

    A link stays, and what it leads to is written.

    Raises:
        UsageError: it cannot be written.
    """
    output = OutputFile(path)
    try:
        output.stream.write((text if text.endswith("\n") else text + "\n").encode())
        output.commit()
    finally:
        output.discard()


class OutputFile:
    """A file that gets its name only when it is complete; a device or a pipe is written to as it is."""

    def __init__(self, path: str) -> None:
        """Open the temporary file. ``discard`` is to be called in any case.

        Raises:
            UsageError: it cannot be written.
        """
        self.path = path
        self._target = None if _is_special(path) else Path(os.path.realpath(path))
        self.replaces = self._target is not None and self._target.exists()
        """True where a file of the name is there already."""
        self._resources = ExitStack()
        with self._explaining():
            try:
                self._temporary = (
                    self._resources.enter_context(temporary_file(self._target.parent, self._target.name))
                    if self._target
                    else Path(path)
                )
                opened = open(self._temporary, "wb")  # noqa: SIM115
            except BaseException:
                self._resources.close()
                raise
        self.stream: BinaryIO = cast(BinaryIO, _Explained(opened, self._explaining))
        self._opened = opened

    def commit(self) -> None:
        """Close it, and give it its name.

        Raises:
            UsageError: it cannot be written.
        """
        with self._explaining():
            self._opened.close()
            if self._target:
                os.chmod(self._temporary, _permissions(self._target))
                os.replace(self._temporary, self._target)

    def discard(self) -> None:
        """Remove what has not got its name."""
        with suppress(OSError):
            self._opened.close()
        self._resources.close()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot write {self.path}: {reason}", _HINT) from None


class _Explained:
    """A stream whose errors say which output it is."""

    closed = False

    def __init__(self, stream: BinaryIO, explaining: Callable[[], AbstractContextManager[None]]) -> None:
        self._stream = stream
        self._explaining = explaining

    def write(self, content: bytes) -> int:
        with self._explaining():
            return self._stream.write(content)

    def flush(self) -> None:
        with self._explaining():
            self._stream.flush()


class ExistingOutputs:
    """The outputs that are there before a run writes them; none of them may turn out to be one of its inputs."""

    def __init__(self, outputs: Iterable[str]) -> None:
        found = ((_identify(output), output) for output in filter(None, outputs))
        self._outputs = {identity: output for identity, output in found if identity}

    def refuse(self, inputs: Iterable[str]) -> None:
        """Make sure that none of some files, which a run has read, is an output.

        Raises:
            UsageError: one is.
        """
        for path in inputs if self._outputs else ():
            identity = _identify(path)
            if identity and (output := self._outputs.get(identity)):
                raise UsageError(f"{output} is an input of this run, which is never written to", _ANOTHER)

    def refuse_read(self, files: Iterable[str]) -> None:
        """Make sure that none of some files, which were looked at beside checkpoints, is an output.

        A report of an earlier run may be: the settings of ``model.pt`` are looked for in ``model.json`` too.

        Raises:
            UsageError: one is.
        """
        self.refuse(path for path in (files if self._outputs else ()) if not _is_report(path))


def _is_report(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _TOOL in file.read(_BEGINNING)
    except (OSError, ValueError):
        return False


def _identify(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_special(path: str) -> bool:
    """True for a device or a pipe."""
    return os.path.exists(path) and not os.path.isfile(path)


def _permissions(target: Path) -> int:
    """Those of the file that is replaced, else those that every new file gets."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
