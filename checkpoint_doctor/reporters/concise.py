"""The report as one line for each diagnosis and finding, for ``grep``, editors and logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.reporters._order import rank, worst_last
from checkpoint_doctor.reporters._wording import headline, one_line, skipped_in_words, title_of
from checkpoint_doctor.results.report import Alert, Examination, Page, Report
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.text import printable


class ConciseReporter:
    """Writes ``path: severity CODE name tensor: message``; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the lines, those of the worst checkpoint last; nothing where nothing was found."""
        lines = [line for examination in worst_last(report.checkpoints) for line in _write(examination)]
        lines += [_write_unsearched(each) for each in report.unsearched]
        remarks = rank(remark for remark in report.remarks if remark.ignored is None)
        lines += [f"ckdoc: {each.severity.label} {each.title} {headline(each)}" for each in remarks]
        return "".join(f"{line}\n" for line in lines)


def _begin(path: str) -> str:
    # A log of GitHub or Azure would take the line for a command.
    return f"./{printable(path)}" if path.startswith(("::", "##")) else printable(path)


def _write_unsearched(left_out: Unsearched) -> str:
    if left_out.on_purpose:
        return f"{_begin(left_out.path)}: skipped {one_line(left_out.why)}"
    return f"{_begin(left_out.path)}: error unreadable {one_line(left_out.why)}"


def _write(examination: Examination) -> Iterator[str]:
    path = _begin(examination.path)
    if examination.is_unreadable:
        yield f"{path}: error unreadable {one_line(examination.error or 'it could not be read')}"
        return
    alerts: list[Alert] = [each for each in examination.diagnoses if each.ignored is None]
    for alert in alerts + rank(examination.unexplained):
        yield f"{path}: {alert.severity.label} {title_of(alert)} {headline(alert)}"
    for skipped in examination.skipped:
        yield f"{path}: skipped {skipped_in_words(skipped)}"


reporter = ConciseReporter()
