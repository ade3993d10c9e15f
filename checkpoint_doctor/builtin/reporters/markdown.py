"""The report as Markdown, for job summaries and comments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from checkpoint_doctor.builtin.reporters._order import rank, worst_first
from checkpoint_doctor.builtin.reporters._sparklines import sparkline
from checkpoint_doctor.builtin.reporters._wording import (
    describe,
    explained_in_words,
    figure,
    one_line,
    particulars,
    subject_of,
    tally,
    unsearched_in_words,
    verdict_of,
)
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Alert, Examination, Page, Report, Verdict
from checkpoint_doctor.text import printable, quantity

if TYPE_CHECKING:
    from checkpoint_doctor.results.log_report import LogReport
    from checkpoint_doctor.results.series_report import SeriesRecord, SeriesReport

MOST_BYTES = 1_000_000
"""A job summary on GitHub may have 1 MiB, and other parts of the step may add to it."""

_SIGNS = {Severity.ERROR: "❌", Severity.WARNING: "⚠️", Severity.NOTE: "ℹ️"}
_VERDICTS = {
    Verdict.HEALTHY: "✅ healthy",
    Verdict.ILL: "❌ ill",
    Verdict.INCOMPLETE: "⚠️ incomplete",
    Verdict.UNREADABLE: "💥 unreadable",
}


class MarkdownReporter:
    """Renders a table of the checkpoints, the worst first, then the findings of each; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the document; beyond ``MOST_BYTES`` it ends with the number of entries left out."""
        return _join(list(_write(report)))

    def render_series(self, report: SeriesReport, rules: Sequence[Rule], page: Page) -> str:
        """Return a table of the findings of each series, its diagnoses over time, and a table of its tensors."""
        return _join(list(_write_all_series(report)))

    def render_logs(self, report: LogReport, rules: Sequence[Rule], page: Page) -> str:
        """Return a table of the metrics of each training log, and its findings; the page makes no difference."""
        return _join(list(_write_logs(report)))


def _join(blocks: Sequence[str]) -> str:
    taken: list[str] = []
    left = MOST_BYTES
    for block in blocks:
        left -= len(block.encode()) + 1
        if left < 0:
            rest = sum(each.startswith(("- ", "| ")) for each in blocks[len(taken) :])
            taken.append(f"\n**Cut here**: {quantity(rest, 'more entry', 'more entries')}; the JSON format has all.")
            break
        taken.append(block)
    return "\n".join(taken) + "\n"


def _write_all_series(report: SeriesReport) -> Iterator[str]:
    from checkpoint_doctor.builtin.reporters._series_wording import common_path, describe_series, left_out_in_words

    yield f"## Checkpoint doctor: {'failed' if report.failed else 'passed'}\n"
    yield f"{_escape(report.summary_line)}\n"
    for record in report.series:
        yield f"\n### {_escape(common_path(record))}\n"
        yield f"{_escape(describe_series(record))}\n"
        yield from _write_series(record)
    for examination in report.unreadable:
        yield f"- {_VERDICTS[Verdict.UNREADABLE]}: {_escape(one_line(f'{examination.path}: {examination.error}'))}"
    for words in left_out_in_words(report.left_out):
        yield f"- left out: {_escape(words)}"


def _write_series(record: SeriesRecord) -> Iterator[str]:
    from checkpoint_doctor.builtin.reporters._series_wording import (
        choose_tensors,
        name_point,
        span_in_words,
        value_in_words,
    )
    from checkpoint_doctor.builtin.reporters._sparklines import sparkline

    for finding in rank(record.counted):
        onset = record.onset_of(finding)
        since = "" if onset is None else f", since {name_point(record, onset)}"
        yield f"- {_SIGNS[finding.severity]} {_head(finding)}{_escape(since)}: {_escape(finding.message)}"
    for illness in record.illnesses:
        words = f"{illness.name}: {span_in_words(illness, record)}"
        yield f"- {_SIGNS[illness.severity]} {_escape(words)}"
    yield "\n| tensor | zeros | no gradient | change | norm |"
    yield "|---|---|---|---|---|"
    for row in choose_tensors(record, ()):
        cells = [
            f"{sparkline(values, width=12)} {value_in_words(name, values[-1])}"
            for name in ("zero_fraction", "vanished_fraction", "change", "norm")
            for values in [getattr(row, name)]
        ]
        yield f"| {_escape(row.name)} | {' | '.join(cells)} |"


def _write_logs(report: LogReport) -> Iterator[str]:
    yield f"## Training logs: {verdict_of(report.report)}\n"
    yield f"{_escape(report.summary_line)}"
    for examination in worst_first(report.report.checkpoints):
        yield f"\n### {_code(examination.path)}\n"
        if examination.is_unreadable:
            yield f"- {_VERDICTS[Verdict.UNREADABLE]}: {_escape(examination.error or 'it could not be read')}"
            continue
        log = report.logs[examination.path]
        yield f"{_VERDICTS[examination.verdict]}, {_escape(log.kind)}, {quantity(log.records, 'record')}\n"
        for finding in rank(each for each in examination.findings if each.counts):
            yield _write_alert(finding)
        yield "\n| metric | means | records | course | first | last |"
        yield "|---|---|--:|---|--:|--:|"
        for metric in log.judged:
            curve = metric.recorded
            if not curve.count:
                continue
            course = sparkline(curve.means.tolist(), width=24)
            name = _code(metric.name).replace("|", "\\|")
            cells = [name, metric.meaning.value, f"{curve.count:,}", course, figure(curve.first), figure(curve.last)]
            yield f"| {' | '.join(cells)} |"


def _write(report: Report) -> Iterator[str]:
    yield f"## Checkpoint doctor: {verdict_of(report)}\n"
    yield f"{_escape(report.summary_line)}\n"
    examinations = worst_first(report.checkpoints)
    if examinations:
        yield "| verdict | checkpoint | errors | warnings | notes | hidden | |"
        yield "|---|---|--:|--:|--:|--:|---|"
        yield from map(_write_row, examinations)
    for examination in examinations:
        if examination.findings or examination.skipped or examination.is_unreadable:
            yield from _write_examination(examination)

    remarks = [remark for remark in report.remarks if remark.ignored is None]
    if remarks or report.unsearched:
        yield "\n### This run\n"
        yield from map(_write_alert, rank(remarks))
        for words, on_purpose in unsearched_in_words(report):
            yield f"- {'' if on_purpose else _VERDICTS[Verdict.UNREADABLE] + ', '}not searched: {_escape(words)}"


def _write_row(examination: Examination) -> str:
    counts = Counter(alert.severity for alert in examination.alerts)
    cells = [
        _VERDICTS[examination.verdict],
        # Markdown splits a row into cells first, so a bar would end even a code span.
        _code(examination.path).replace("|", "\\|"),
        *(f"{counts[severity]:,}" for severity in sorted(Severity, reverse=True)),
        f"{examination.hidden:,}",
        _escape(describe(examination)),
    ]
    return f"| {' | '.join(cells)} |"


def _write_examination(examination: Examination) -> Iterator[str]:
    yield f"\n### {_code(examination.path)}\n"
    if examination.is_unreadable:
        yield f"- {_VERDICTS[Verdict.UNREADABLE]}: {_escape(examination.error or 'it could not be read')}"
        if examination.hint:
            yield f"  - hint: {_escape(examination.hint)}"
        return
    yield f"{_escape(describe(examination))}: {tally(examination.alerts) or 'no findings'}\n"
    for diagnosis in examination.diagnoses:
        if diagnosis.counts:
            yield _write_alert(diagnosis, examination)
            yield f"  - explains {_escape(explained_in_words(diagnosis, examination))}"
            for position in diagnosis.explains:
                finding = examination.findings[position]
                yield f"    - {_head(finding)}: {_escape(finding.message)}"
    for finding in rank(examination.unexplained):
        yield _write_alert(finding)
    for alert in examination.in_preview:
        yield f"- in preview, not counted: {_head(alert)}: {_escape(alert.message)}"
    for finding in rank(each for each in examination.findings if each.ignored is not None):
        yield f"- hidden: {_head(finding)}: {_escape(finding.ignored or '')}"
    for skipped in examination.skipped:
        yield f"- not looked at: {_code(skipped.what)}, because {_escape(skipped.why)}"


def _write_alert(alert: Alert, examination: Examination | None = None) -> str:
    lines = [f"- {_SIGNS[alert.severity]} {_head(alert)}: {_escape(alert.message)}"]
    lines += [f"  - {label}: {_escape(words)}" for label, words in particulars(alert, examination)]
    return "\n".join(lines)


def _head(alert: Alert) -> str:
    title = (
        f"**{_escape(alert.title)}** ({alert.certainty.label})"
        if isinstance(alert, Diagnosis)
        else "**{}** {}".format(*map(_escape, alert.title.split(" ", 1)))
    )
    subject = subject_of(alert)
    return f"{alert.severity.label} {title}" + (f" · {_code(subject)}" if subject else "")


def _escape(text: str) -> str:
    """Escape a text so that it shows literally on one line: no markup, no HTML, no table cells."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", text)


def _code(text: str) -> str:
    """Return a name as a code span."""
    text = printable(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest or text != text.strip() else f"{fence}{text}{fence}"


reporter = MarkdownReporter()
