"""The report as JSON Lines: an object for each checkpoint as soon as it is examined, and one for the run at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.json import close_json, write_examination, write_line
from checkpoint_doctor.results.report import Examination, Page, Report


class _Lines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def add(self, examination: Examination) -> None:
        """Write a checkpoint's line."""
        self._stream.write(write_line(write_examination(examination)).encode())

    def finish(self, report: Report) -> None:
        """Write the last line."""
        self._stream.write(write_line(close_json(report)).encode())


class JsonLinesReporter:
    """Writes the entries of the JSON report one by one; the page makes no difference."""

    is_binary = False

    def open_stream(self, stream: BinaryIO, rules: Sequence[Rule], page: Page) -> _Lines:
        """Return what writes a line for each checkpoint."""
        return _Lines(stream)

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return all lines at once."""
        return "".join(
            [*(write_line(write_examination(each)) for each in report.checkpoints), write_line(close_json(report))]
        )


reporter = JsonLinesReporter()
