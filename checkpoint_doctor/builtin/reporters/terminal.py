"""The report as a doctor's chart, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.report import Examination, Page, Report
from checkpoint_doctor.text import printable

if TYPE_CHECKING:
    from checkpoint_doctor.results.log_report import LogReport
    from checkpoint_doctor.results.series_report import SeriesReport


class TerminalReporter:
    """Draws a chart for each checkpoint that is not clean, and a table of all where there are several."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the charts with the width of the page, or one line for each checkpoint where that is asked for."""
        if page.resume:
            return "".join(f"{printable(each.path)}: {_answer(each)}\n" for each in report.checkpoints)
        if page.settings:
            from checkpoint_doctor.builtin.reporters._terminal.settings_table import draw_settings

            return draw_settings(report, page)
        # Importing rich takes longer than a small scan, and the other formats do not need it.
        from checkpoint_doctor.builtin.reporters._terminal.chart import draw

        return draw(report, page)

    def render_series(self, report: SeriesReport, rules: Sequence[Rule], page: Page) -> str:
        """Return a chart of each series with the width of the page."""
        from checkpoint_doctor.builtin.reporters._terminal.series_chart import draw_series

        return draw_series(report, page)

    def render_logs(self, report: LogReport, rules: Sequence[Rule], page: Page) -> str:
        """Return a chart for each training log, with a line for each metric."""
        from checkpoint_doctor.builtin.reporters._terminal.log_chart import draw_logs

        return draw_logs(report, page)


def _answer(examination: Examination) -> str:
    """Return whether a run resumes from a checkpoint, in one line."""
    from checkpoint_doctor.builtin.reporters._wording import one_line

    if examination.is_unreadable:
        error = (examination.error or "it could not be read").removeprefix(f"{examination.path} ")
        return f"does not resume, because it is unreadable: {one_line(error)}"
    return one_line(examination.resume_answer)


reporter = TerminalReporter()
