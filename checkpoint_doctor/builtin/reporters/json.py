"""The report as JSON, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.json import to_json, write_json
from checkpoint_doctor.results.report import Page, Report

if TYPE_CHECKING:
    from checkpoint_doctor.results.series_report import SeriesReport

if TYPE_CHECKING:
    from checkpoint_doctor.results.log_report import LogReport


class JsonReporter:
    """Renders everything in a report; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the report as a JSON document of schema version 1."""
        return write_json(to_json(report))

    def render_logs(self, report: LogReport, rules: Sequence[Rule], page: Page) -> str:
        """Return the report on training logs as a JSON document of schema version 1."""
        from checkpoint_doctor.results.log_report import logs_to_json

        return write_json(logs_to_json(report))

    def render_series(self, report: SeriesReport, rules: Sequence[Rule], page: Page) -> str:
        """Return a comparison as a JSON document of schema version 1."""
        from checkpoint_doctor.results.series_json import series_to_json

        return write_json(series_to_json(report))


reporter = JsonReporter()
