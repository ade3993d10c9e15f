"""The report as a page for a browser: one file that can be mailed, archived and printed."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.log_report import LogReport
from checkpoint_doctor.results.report import Page, Report
from checkpoint_doctor.results.series_report import SeriesReport


class HtmlReporter:
    """Writes diagnoses first, then findings, the network as a map, and histograms; the page makes no difference."""

    draws_histograms = True

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the whole page, of less than a megabyte however much there is to say."""
        from checkpoint_doctor.builtin.reporters.html.document import write_document

        return write_document(report, rules)

    def render_series(self, report: SeriesReport, rules: Sequence[Rule], page: Page) -> str:
        """Return the page of a comparison, of less than a megabyte however long the series is."""
        from checkpoint_doctor.builtin.reporters.html.comparison import write_comparison

        return write_comparison(report, rules)

    def render_logs(self, report: LogReport, rules: Sequence[Rule], page: Page) -> str:
        """Return the page of training logs: their findings, and the curves of their metrics with the onset."""
        from checkpoint_doctor.builtin.reporters.html.logs import write_logs

        return write_logs(report, rules)


reporter = HtmlReporter()
