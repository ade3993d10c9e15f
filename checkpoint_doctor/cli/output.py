"""Where text goes: standard output, standard error, files that get their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.text import printable

HEALTHY, ILL, FAILED, NOTHING = 0, 1, 2, 3
"""Exit codes: nothing at or above ``--fail-on``; findings; usage or unreadable; nothing to examine."""


def say(text: str) -> None:
    """Print to standard output."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """Print to standard error: progress and closing lines, which are not the result."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr)  # noqa: T201


def conclude(text: str, *, on_page: bool) -> None:
    """Print the closing line to standard error, or below a page for people that goes to a file or a pipe."""
    if on_page and not sys.stdout.isatty():
        say(text)
    else:
        remark(text)


def complain(message: str, hint: str, code: int = FAILED) -> int:
    """Print an error in one sentence, with a hint, to standard error; return the exit code."""
    remark(f"ckdoc: {printable(message)}" + (f"\n  hint: {printable(hint)}" if hint else ""))
    return code


def write(text: str, path: str) -> None:
    """Write text to standard output, or to a file that gets its name only when it is complete.

    Raises:
        UsageError: the file cannot be written.
    """
    if not path or path == "-":
        say(text)
        return
    target = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}",
            "name a file in a folder that you may write",
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def wants_color(stream: object) -> bool:
    """True where colour helps: on a terminal, and unless ``NO_COLOR`` asks for none (https://no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return bool(is_terminal) and os.environ.get("TERM") != "dumb"


def page_width() -> int:
    """Columns of the terminal, 80 where there is none; ``COLUMNS`` overrides."""
    import shutil

    return max(20, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
