"""From the command line to the exit code: every way in which a run can end is a documented code and a sentence."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType

import typer

from checkpoint_doctor.cli.application import app
from checkpoint_doctor.cli.output import (
    CLOSED_PIPE,
    FAILED,
    NOTHING,
    ReaderGone,
    Stopped,
    complain,
    guard_streams,
    remark,
    settle_streams,
)
from checkpoint_doctor.errors import DoctorError, NothingToExamine
from checkpoint_doctor.text import describe_error

COMPLETION = "_CKDOC_COMPLETE"
"""The variable with which a shell asks for what may follow on the command line."""

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask for an end: Ctrl-C, the end of a job, a closed terminal."""


class _Stop:
    """Turns the first signal that asks for an end into a ``KeyboardInterrupt``, and keeps which one it was."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Listen to the signals that nobody told us to ignore."""
        for name in STOPPING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # What is temporary is removed on the way out, and a second signal must not keep it from that.
        for name in STOPPING:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        self.received = signal.Signals(number)
        raise KeyboardInterrupt


def run() -> int:
    """Run the command that the command line asks for, and return the exit code."""
    guard_streams()
    stop = _Stop()
    stop.listen()
    # What start-up makes stays until the end: to look for garbage among it would cost a twentieth of a small scan.
    gc.disable()
    try:
        code = _run_command()
    except Stopped as stopped:
        return settle_streams(stopped.code)
    except KeyboardInterrupt:
        code = 130
    if stop.received is not None or code == 130:
        number = stop.received or signal.SIGINT
        code = complain(f"stopped by {number.name}, so the work was not finished", "", 128 + number)
    return settle_streams(code)


def _run_command() -> int:
    if COMPLETION in os.environ:
        # A shell takes each line for an offer, and typer would break descriptions at the width of the terminal.
        os.environ["TERMINAL_WIDTH"] = "1000"
    if _is_about_completion():
        from checkpoint_doctor.cli.completion import leave_values_open

        leave_values_open()
    try:
        return app(standalone_mode=False) or 0
    except typer.Exit as exit_:
        return exit_.exit_code
    except ReaderGone:  # as with every other program before `head`: nobody wants to hear of it
        return CLOSED_PIPE
    except NothingToExamine as error:
        return complain(error.message, error.hint, NOTHING)
    except DoctorError as error:
        return complain(error.message, error.hint)
    except OSError as error:
        return complain(_explain_system_error(error), "")
    except SystemExit as exit_:
        if _is_about_completion():  # ends so, and so do the options that show and install it
            raise
        return complain(f"something ended the program with sys.exit({exit_.code!r})", "look at `ckdoc plugins`")
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        return _explain_unforeseen(error)


def _is_about_completion() -> bool:
    return COMPLETION in os.environ or sys.argv[1:2] in (["--show-completion"], ["--install-completion"])


def _explain_system_error(error: OSError) -> str:
    try:
        os.getcwd()
    except OSError:
        return "the working directory does not exist any more: change to another one"
    return f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}"


def _explain_unforeseen(error: BaseException) -> int:
    show = getattr(error, "format_message", None)
    if callable(show):  # the command line itself was wrong: click says how
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ckdoc"
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: the help is the whole answer
            remark(str(show()))
            return FAILED
        return complain(str(show()).rstrip(".").replace("\n", " "), f"see `{command} --help`")
    if "--traceback" in sys.argv:
        import traceback

        remark("".join(traceback.format_exception(error)))
    return complain(
        f"this is a bug in ckdoc: {describe_error(error)}", "run again with --traceback, and please report it"
    )
