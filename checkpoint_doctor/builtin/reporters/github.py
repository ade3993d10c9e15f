"""The report as annotations of a GitHub Actions job.

Syntax: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands; escaping: ``command.ts``
in https://github.com/actions/toolkit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint_doctor.builtin.reporters._artifacts import artifact_path
from checkpoint_doctor.builtin.reporters._order import rank_all
from checkpoint_doctor.builtin.reporters._wording import (
    explained_in_words,
    headline,
    join_sentences,
    one_line,
    particulars,
    skipped_in_words,
    unsearched_in_words,
    verdict_of,
)
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Alert, Examination, Page, Report
from checkpoint_doctor.results.totals import title_of
from checkpoint_doctor.text import printable, quantity

MOST_PER_LEVEL = 10
"""GitHub shows so many annotations of each level for a step and silently drops the others."""

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


class GithubReporter:
    """Renders one workflow command per line, the worst first; the page makes no difference.

    The last one is a notice with the verdict, the summary and the number of annotations that GitHub would not show.
    """

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the workflow commands."""
        # The last line is a notice, too.
        left = {"error": MOST_PER_LEVEL, "warning": MOST_PER_LEVEL, "notice": MOST_PER_LEVEL - 1}
        lines = []
        left_out = 0
        for level, line in sorted(_annotate(report), key=lambda annotation: list(left).index(annotation[0])):
            if left[level]:
                left[level] -= 1
                lines.append(line)
            else:
                left_out += 1
        message = f"{verdict_of(report)}: {report.summary_line}"
        if left_out:
            message += f"; {quantity(left_out, 'more annotation')} not shown here"
        lines.append(_command("notice", message, title="checkpoint-doctor"))
        return "\n".join(lines) + "\n"


def _annotate(report: Report) -> Iterator[tuple[str, str]]:
    for examination in report.checkpoints:
        if examination.is_unreadable:
            message = " · ".join(one_line(part) for part in (examination.error, examination.hint) if part)
            yield "error", _command("error", message, file=_file(examination), title="unreadable checkpoint")
    for examination, alert in rank_all(report):
        if alert.ignored is None:
            level = "error" if alert in examination.crashes else _LEVELS[alert.severity]
            level = "notice" if alert.preview else level
            message = _message(alert, examination)
            yield level, _command(level, message, file=_file(examination), title=title_of(alert))
    for remark in report.remarks:
        if remark.ignored is None:
            level = "error" if remark in report.left_out else _LEVELS[remark.severity]
            yield level, _command(level, _message(remark, None), title=title_of(remark))
    for examination in report.checkpoints:
        for skipped in examination.skipped:
            message = skipped_in_words(skipped)
            yield "warning", _command("warning", message, file=_file(examination), title="not looked at")
    for words, on_purpose in unsearched_in_words(report):
        level = "notice" if on_purpose else "error"
        yield level, _command(level, words, title="not searched")


def _file(examination: Examination) -> str:
    return printable(artifact_path(examination.path))


def _message(alert: Alert, examination: Examination | None) -> str:
    words = dict(particulars(alert, examination))
    explains = (
        f"Explains {explained_in_words(alert, examination)}" if isinstance(alert, Diagnosis) and examination else ""
    )
    write = f"Write: {words['write']}" if "write" in words else ""
    fix = f"Fix: {words['fix']}" if "fix" in words else ""
    return join_sentences(headline(alert), one_line(alert.advice), write, explains, fix)


def _command(level: str, message: str, **properties: str) -> str:
    attributes = ",".join(f"{name}={_escape(value, in_property=True)}" for name, value in properties.items())
    return f"::{level} {attributes}::{_escape(message)}"


def _escape(text: str, *, in_property: bool = False) -> str:
    for character in "%\r\n" + (":," if in_property else ""):
        text = text.replace(character, f"%{ord(character):02X}")
    return text


reporter = GithubReporter()
