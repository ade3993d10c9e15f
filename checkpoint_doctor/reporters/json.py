"""The report as JSON, for other programs."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.json import to_json, write_json
from checkpoint_doctor.results.report import Page, Report


class JsonReporter:
    """Renders everything in a report; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the report as a JSON document of schema version 1."""
        return write_json(to_json(report))


reporter = JsonReporter()
