"""The report as JSON, for other programs."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor import wire
from checkpoint_doctor.report import Page, Report
from checkpoint_doctor.rule import Rule


class JsonReporter:
    """Prints everything that a report holds; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the report as a JSON document of schema version 1."""
        return wire.write(wire.to_json(report))


reporter = JsonReporter()
