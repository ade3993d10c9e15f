"""``ckdoc watch``."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.options import (
    ConfigFile,
    Exclude,
    FailOn,
    Ignore,
    Include,
    Jobs,
    Preview,
    Quiet,
    Select,
    Traceback,
)
from checkpoint_doctor.cli.output import FAILED, HEALTHY, ILL, NOTHING, Stopped, remark, say
from checkpoint_doctor.cli.scanning import prepare
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.text import printable, quantity

if TYPE_CHECKING:
    from checkpoint_doctor.results.events import Arrival, Event
    from checkpoint_doctor.results.report import Alert, Report

NAMED = 3
"""Diagnoses and findings that a line names."""

COMMAND_TIME = 60.0
"""Seconds that a command has: a checkpoint must not wait for it forever."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)


def watch(
    path: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="The folder (or file) to watch; it need not be there yet."),
    ],
    stalled: Annotated[
        str, typer.Option(metavar="TIME", help="Raise an alarm when nothing new came for so long: 90s, 30m, 2h.")
    ] = "",
    exec: Annotated[
        str,
        typer.Option(
            metavar="COMMAND", help="Run this command at every alarm; it finds what happened in $CKDOC_PATH and others."
        ),
    ] = "",
    exit_on_alarm: Annotated[bool, typer.Option("--exit-on-alarm", help="End at the first alarm.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when all that is there was examined.")] = False,
    settle: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="A file is written when it did not change for so long.")
    ] = 2.0,
    patience: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for the rest of one that is not whole.")
    ] = 30.0,
    interval: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="Time between two looks at the folder.")
    ] = 1.0,
    poll: Annotated[
        bool, typer.Option("--poll", help="Do not rely on events of the file system, which network drives lack.")
    ] = False,
    select: Select = None,
    ignore: Ignore = None,
    exclude: Exclude = None,
    include: Include = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(help="Lowest severity that is an alarm; error unless configured.", show_default=False),
    ] = None,
    config: ConfigFile = "",
    preview: Preview = False,
    jobs: Jobs = 0,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Examine checkpoints as they are written, one line for each, until Ctrl-C.

    Exit code: 0 no alarm, 1 an alarm, 2 one could not be read, 3 nothing came.
    """
    from checkpoint_doctor.acts.watch import Options
    from checkpoint_doctor.acts.watch import watch as watch_events

    catalogue, settings = prepare(config, select, ignore, fail_on, exclude, include, preview=preview)
    options = Options(
        interval=interval,
        settled=settle,
        patience=max(patience, settle),
        stalled=read_duration(stalled) if stalled else None,
        once=once,
        polls=poll,
        jobs=jobs or None,
    )
    if not quiet and not once:
        remark(f"ckdoc: watching {path}; Ctrl-C ends it")
    tally = Tally(path, exec, is_complete=not catalogue.left_out)
    try:
        for event in watch_events(path, options, catalogue=catalogue, config=settings):
            if tally.tell(event) and exit_on_alarm:
                break
    except KeyboardInterrupt:
        if once:
            raise
        # To be stopped is how a watch ends.
        raise Stopped(tally.conclude(quiet=quiet)) from None
    raise typer.Exit(tally.conclude(quiet=quiet))


def read_duration(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``30m``, ``2h`` or ``1d``.

    Raises:
        UsageError: it is none of these, or zero.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds:
        raise UsageError(f"{text!r} is no length of time", "write 90s, 30m, 2h or 1d")
    return seconds


class Tally:
    """Tells what happens, one line each, and keeps what the exit code needs."""

    def __init__(self, path: str, command: str, *, is_complete: bool = True) -> None:
        self._path, self._command, self._is_complete = path, command, is_complete
        self._examined = self._alarms = 0

    def tell(self, event: Event) -> bool:
        """Print an event, run the command if it is an alarm, and return whether it is one."""
        from checkpoint_doctor.results.events import Arrival, Loss
        from checkpoint_doctor.sources import Unsearched

        if isinstance(event, Loss):
            what = "is gone" if event.path == self._path else "was deleted before it was whole"
            remark(f"ckdoc: {_clock()} {event.path} {what}")
            return False
        if isinstance(event, Arrival):
            return self._tell_arrival(event)
        if isinstance(event, Unsearched):
            self._is_complete = False
            words = f"cannot be searched: {printable(event.why)}"
            say(f"{_clock()} unreadable {printable(event.path)} · {words}")
            self._alarm(event.path, "unreadable", words)
            return True
        words = f"nothing new for {_say_duration(event.seconds)}"
        say(f"{_clock()} stalled    {printable(self._path)} · {words}")
        self._alarm(self._path, "stalled", words)
        return True

    def _tell_arrival(self, arrival: Arrival) -> bool:
        examination, report = arrival.examination, arrival.report
        self._examined += 1
        self._is_complete &= report.is_complete
        words = describe_arrival(arrival)
        parts = [printable(examination.path), *([] if examination.step is None else [f"step {examination.step:,}"])]
        verdict = verdict_on(arrival)
        say(f"{_clock()} {verdict:<10} {' · '.join([*parts, words])}")
        is_alarm = _is_alarm(report)
        if is_alarm:
            self._alarm(examination.path, verdict, words, examination.step)
        return is_alarm

    def _alarm(self, path: str, verdict: str, words: str, step: int | None = None) -> None:
        self._alarms += 1
        if self._command:
            told = {"PATH": os.path.abspath(path), "VERDICT": verdict, "MESSAGE": words}
            run_command(self._command, told | ({"STEP": str(step)} if step is not None else {}))

    def conclude(self, *, quiet: bool) -> int:
        """Print the closing line, and return the exit code."""
        if not quiet:
            words = [quantity(self._examined, "checkpoint"), quantity(self._alarms, "alarm")]
            remark(f"ckdoc: {', '.join(words)}")
        if not self._is_complete:
            return FAILED
        return ILL if self._alarms else HEALTHY if self._examined else NOTHING


def _is_alarm(report: Report) -> bool:
    return report.failed or not report.is_complete


def verdict_on(arrival: Arrival) -> str:
    """Return the verdict on a checkpoint: it is ill, too, where an error began in its run with it."""
    from checkpoint_doctor.results.findings import Severity
    from checkpoint_doctor.results.report import Verdict

    verdict, report = arrival.examination.verdict, arrival.report
    if verdict is Verdict.HEALTHY and not report.is_complete:
        verdict = Verdict.INCOMPLETE
    is_ill = verdict is not Verdict.UNREADABLE and any(each.severity is Severity.ERROR for each in report.alerts)
    return (Verdict.ILL if is_ill else verdict).value


def describe_arrival(arrival: Arrival) -> str:
    """Say what was found in a checkpoint, and what of it is new since the one before it."""
    from checkpoint_doctor.results.findings import Severity

    examination = arrival.examination
    if examination.is_unreadable:
        error = (examination.error or "it could not be read").removeprefix(f"{examination.path} ")
        return printable(" ".join(error.split()))
    alerts = arrival.report.alerts
    counts = [(severity.label, sum(each.severity is severity for each in alerts)) for severity in Severity]
    words = [", ".join(quantity(count, label) for label, count in reversed(counts) if count) or "no findings"]
    if arrival.new:
        words.append(("new: " if arrival.follows else "") + _name(arrival.new))
    if arrival.gone:
        words.append(f"no longer: {_name(arrival.gone)}")
    return " · ".join(words)


def _name(alerts: tuple[Alert, ...]) -> str:
    ranked = sorted(alerts, key=lambda each: -each.severity)
    titles = list(dict.fromkeys(each.title for each in ranked))
    return ", ".join(titles[:NAMED]) + (f" and {len(titles) - NAMED:,} more" if len(titles) > NAMED else "")


def run_command(command: str, told: dict[str, str]) -> None:
    """Run a command of the user in a shell, and wait until it ends.

    What happened is in the environment variables ``CKDOC_…`` and never a part of the command, so that no name of a file
    is taken for one.
    """
    import subprocess

    environment = os.environ | {f"CKDOC_{name}": value for name, value in told.items()}
    try:
        # What it prints goes to standard error: standard output has a line for each checkpoint.
        code = subprocess.run(
            command, shell=True, env=environment, stdin=subprocess.DEVNULL, stdout=2, timeout=COMMAND_TIME, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        remark(f"ckdoc: the command of --exec was ended after {COMMAND_TIME:.0f} seconds")
    except (OSError, ValueError) as error:
        remark(f"ckdoc: the command of --exec could not be run: {error}")
    else:
        if code:
            remark(f"ckdoc: the command of --exec failed with exit code {code}")


def _say_duration(seconds: float) -> str:
    for unit, noun in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= unit:
            return quantity(int(seconds // unit), noun)
    return quantity(int(seconds), "second")


def _clock() -> str:
    return time.strftime("%H:%M:%S")
