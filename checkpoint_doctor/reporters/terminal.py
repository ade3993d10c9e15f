"""The report as a doctor's chart, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.report import Page, Report


class TerminalReporter:
    """Draws a chart for each checkpoint that is not clean, and a table of all where there are several."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the charts with the width of the page."""
        # Importing rich takes longer than a small scan, and the other formats do not need it.
        from checkpoint_doctor.reporters._terminal.chart import draw

        return draw(report, page)


reporter = TerminalReporter()
