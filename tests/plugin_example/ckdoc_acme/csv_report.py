"""One line for each finding, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from checkpoint_doctor import Page, Report, Rule


class CsvReporter:
    """Prints every finding that counts, and the checkpoints that could not be read."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """See ``Reporter.render``."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("checkpoint", "severity", "code", "tensor", "message"))
        for examination in report.checkpoints:
            if examination.error:
                table.writerow((examination.path, "unreadable", "", "", examination.error))
            for finding in examination.counted:
                row = (examination.path, finding.severity.label, finding.code, finding.tensor or "", finding.message)
                table.writerow(map(_printable, row))
        for finding in report.remarks:
            table.writerow(map(_printable, ("", finding.severity.label, finding.code, "", finding.message)))
        return text.getvalue()


def _printable(text: str) -> str:
    """Names in a checkpoint are chosen by whoever wrote it: escape what would act on a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


reporter = CsvReporter()
