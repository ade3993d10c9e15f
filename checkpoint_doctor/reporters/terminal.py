"""The report as a doctor's chart, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.report import Page, Report


class TerminalReporter:
    """Draws a chart for each checkpoint that needs a word, and a table of all where there are several."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the charts, as wide as the page."""
        # rich takes longer to import than a small scan takes; the other formats do without it.
        from checkpoint_doctor.reporters._chart import draw

        return draw(report, page)


reporter = TerminalReporter()
