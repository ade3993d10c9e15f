"""A progress bar on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from checkpoint_doctor.cli.output import is_terminal
from checkpoint_doctor.text import shown

if TYPE_CHECKING:
    from checkpoint_doctor.acts.scan import Progress, ProgressCallback

PATIENCE = 0.5
"""Seconds before the bar appears."""


@contextmanager
def show_progress(*, quiet: bool, unit: str = "values") -> Iterator[ProgressCallback | None]:
    """Yield an on_progress that draws a bar with file and throughput, ``None`` where nobody would see it.

    ``unit`` is what the progress counts.
    """
    if quiet or not is_terminal(sys.stderr):
        yield None
        return
    bar = _Bar(unit)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._start = time.monotonic()
        self._progress: Any = None
        self._task: Any = None
        self._finished = 0
        self._current = 0
        self._path = ""

    def advance(self, progress: Progress) -> None:
        """Update the bar, which appears after ``PATIENCE``."""
        if progress.path != self._path:
            self._path, self._finished, self._current = progress.path, self._finished + self._current, 0
        self._current = progress.measured
        if self._progress is None:
            if time.monotonic() - self._start < PATIENCE:
                return
            self._open()
        share = progress.measured / progress.total if progress.total else 0.0
        seconds = time.monotonic() - self._start
        self._progress.update(
            self._task,
            total=progress.of,
            completed=progress.number - 1 + share,
            file=shown(os.path.basename(progress.path)),
            speed=f"{(self._finished + self._current) / seconds / 1e6:,.0f} M {self._unit}/s",
        )

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[file]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", file="", speed="", total=1)
        self._progress.start()

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self._progress is not None:
            self._progress.stop()
