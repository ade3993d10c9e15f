"""Standard output and standard error: what is printed where, and what happens where nobody can read it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from checkpoint_doctor.errors import DoctorError, UsageError
from checkpoint_doctor.text import printable

HEALTHY, ILL, FAILED, NOTHING = 0, 1, 2, 3
"""Exit codes: nothing at or above ``--fail-on``; findings; usage or unreadable; nothing to examine."""

CLOSED_PIPE = 141
"""Exit code where the reader of standard output has gone, as shells report it."""


class ReaderGone(DoctorError):
    """The reader of standard output has closed it."""


class Stopped(Exception):
    """A command that runs until it is stopped was stopped, so it has done what it was asked for."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def guard_streams() -> None:
    r"""Prepare the standard streams for whatever the caller made of them.

    What an encoding cannot say is spelt (``\xb7``). A closed stream keeps its number, so that no other file takes it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def settle_streams(code: int) -> int:
    """Write what the streams still hold, and return the exit code: another one where that is not possible."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _silence(stream)
            code = code or FAILED
    return code


def say(text: str) -> None:
    """Print to standard output.

    Raises:
        ReaderGone: its reader has closed it.
        UsageError: it is closed, or cannot be written to.
    """
    _print(text, None)


def say_document(text: str) -> None:
    """Print what programs read, in UTF-8 whatever the encoding of standard output is. Raises as ``say``."""
    _print(text, "utf-8")


class DocumentStream:
    """Standard output as a stream of bytes that are seen at once. ``write`` raises as ``say``."""

    def write(self, content: bytes) -> int:
        """Print bytes."""
        with _explaining() as stream:
            stream.flush()
            stream.buffer.write(content)
            stream.flush()
        return len(content)

    def flush(self) -> None:
        """Do nothing: everything is printed already."""


def _print(text: str, encoding: str | None) -> None:
    text += "\n" if text and not text.endswith("\n") else ""
    with _explaining() as stream:
        if encoding:
            stream.flush()
            stream.buffer.write(text.encode(encoding))
        else:
            stream.write(text)
        stream.flush()


@contextmanager
def _explaining() -> Iterator[TextIO]:
    stream: TextIO | None = sys.stdout
    if stream is None:
        raise UsageError("the result cannot be printed: standard output is closed", "redirect it to a file")
    try:
        yield stream
    except BrokenPipeError:
        _silence(stream)
        raise ReaderGone("the reader of standard output has closed it") from None
    except OSError as error:
        _silence(stream)
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"the result cannot be printed: {reason}", "redirect standard output elsewhere") from None


def _silence(stream: TextIO) -> None:
    """Lead a stream that cannot be written to nowhere: Python would complain about what is left in it at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def remark(text: str) -> None:
    """Print to standard error, each line as plain text: progress and closing lines, which are not the result."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write("".join(f"{printable(line)}\n" for line in text.splitlines()))
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)


def conclude(text: str, *, on_page: bool) -> None:
    """Print the closing line to standard error, or below a page for people that goes to a file or a pipe."""
    if on_page and not is_terminal(sys.stdout):
        say(text)
    else:
        remark(text)


def complain(message: str, hint: str, code: int = FAILED) -> int:
    """Print an error in one sentence, with a hint, to standard error; return the exit code."""
    remark(f"ckdoc: {printable(message)}" + (f"\n  hint: {printable(hint)}" if hint else ""))
    return code


def wants_color(stream: object) -> bool:
    """True where colour helps: on a terminal, and unless ``NO_COLOR`` asks for none (https://no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def is_terminal(stream: object) -> bool:
    """True where a person looks; False where a stream is closed."""
    return bool(getattr(stream, "isatty", lambda: False)())


def page_width() -> int:
    """Columns of the terminal, 80 where there is none; ``COLUMNS`` overrides."""
    import shutil

    if not (is_terminal(sys.stdout) or "COLUMNS" in os.environ):
        return 80
    return max(20, shutil.get_terminal_size((80, 24)).columns)
