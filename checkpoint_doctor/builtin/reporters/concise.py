"""The report as one line for each diagnosis and finding, for ``grep``, editors and logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint_doctor.builtin.reporters._order import rank, worst_last
from checkpoint_doctor.builtin.reporters._wording import before_colon, one_line, skipped_in_words, subject_of
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.report import Alert, Examination, Page, Report
from checkpoint_doctor.results.totals import title_of
from checkpoint_doctor.sources import Unsearched


class ConciseReporter:
    """Writes ``path: severity CODE name tensor: message``; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the lines, those of the worst checkpoint last; nothing where nothing was found."""
        lines = [line for examination in worst_last(report.checkpoints) for line in _write(examination)]
        lines += [_write_unsearched(each) for each in report.unsearched]
        remarks = rank(remark for remark in report.remarks if remark.ignored is None)
        lines += [f"ckdoc: {_write_alert(each, each.title)}" for each in remarks]
        lines += [f"ckdoc: {one_line(report.configuration)}"] if report.configuration else []
        return "".join(f"{line}\n" for line in lines)


def _write_unsearched(left_out: Unsearched) -> str:
    if left_out.on_purpose:
        return f"{before_colon(left_out.path)}: skipped {one_line(left_out.why)}"
    return f"{before_colon(left_out.path)}: error not searched: {one_line(left_out.why)}"


def _write(examination: Examination) -> Iterator[str]:
    path = before_colon(examination.path)
    if examination.is_unreadable:
        yield f"{path}: error unreadable: {one_line(examination.error or 'it could not be read')}"
        return
    alerts: list[Alert] = [each for each in examination.diagnoses if each.counts]
    for alert in [*alerts, *rank(examination.unexplained), *examination.in_preview]:
        yield f"{path}: {_write_alert(alert, title_of(alert))}"
    for skipped in examination.skipped:
        yield f"{path}: skipped {skipped_in_words(skipped)}"


def _write_alert(alert: Alert, title: str) -> str:
    subject = subject_of(alert)
    return f"{alert.severity.label} {title}{' ' if subject else ''}{subject}: {one_line(alert.message)}"


reporter = ConciseReporter()
