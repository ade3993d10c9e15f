"""Files that reports and baselines are written to: what may not be replaced, and how the others are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.targets import is_same_file, refuse_long_name, temporary_file

_HINT = "name a file in a folder that you may write"
_ANOTHER = "name another file for the report"


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
    text = text if text.endswith("\n") else text + "\n"
    try:
        if _is_special(path):
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
            return
        target = Path(os.path.realpath(path))
        with temporary_file(target.parent, target.name) as temporary:
            temporary.write_text(text, encoding="utf-8")
            os.chmod(temporary, _permissions(target))
            os.replace(temporary, target)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {(error.strerror or str(error)).lower()}", _HINT) from None


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
