"""The report as a page for a browser: one file that can be mailed, archived and printed."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.report import Page, Report


class HtmlReporter:
    """Writes diagnoses first, then findings, the network as a map, and histograms; the page makes no difference."""

    draws_histograms = True

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the whole page, of less than a megabyte however much there is to say."""
        from checkpoint_doctor.reporters.html.document import write_document

        return write_document(report, rules)


reporter = HtmlReporter()
