"""Draws the chart of a training log: its verdict, its findings, and a line for each metric."""

from __future__ import annotations

from rich.text import Text

from checkpoint_doctor.builtin.reporters._order import rank, worst_last
from checkpoint_doctor.builtin.reporters._sparklines import sparkline
from checkpoint_doctor.builtin.reporters._terminal.layout import Column, Layout
from checkpoint_doctor.builtin.reporters._terminal.styles import (
    SEVERITY_SIGNS,
    SEVERITY_STYLES,
    VERDICT_STYLES,
    VERDICT_WORDS,
)
from checkpoint_doctor.builtin.reporters._wording import figure, one_line, particulars, tally, unsearched_in_words
from checkpoint_doctor.checkpoint import Metric, TrainingLog
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.log_report import LogReport, findings_of_metric
from checkpoint_doctor.results.report import Examination, Page, Verdict, hidden_in_words
from checkpoint_doctor.text import printable, quantity

METRICS_SHOWN = 24
"""Metrics that are listed, those with findings first; a verbose page lists all."""

SPARKLINE = 24
"""Characters of a metric's course."""


def draw_logs(report: LogReport, page: Page) -> str:
    """Draw the charts of all logs, the worst last, where a terminal stops scrolling."""
    layout = Layout(page.width, page.color)
    for number, examination in enumerate(worst_last(report.report.checkpoints)):
        if number:
            layout.line()
        _draw_chart(layout, examination, report.logs.get(examination.path), page)
    for words, on_purpose in unsearched_in_words(report.report, all_names=page.verbose):
        style = "dim" if on_purpose else VERDICT_STYLES[Verdict.UNREADABLE]
        layout.paragraph(Text(f"not searched: {words}", style), hanging=2)
    remarks = [each for each in report.report.remarks if each.ignored is None]
    for finding in remarks:
        layout.paragraph(Text(f"{finding.title}: {one_line(finding.message)}"), hanging=2)
    return layout.render()


def _draw_chart(layout: Layout, examination: Examination, log: TrainingLog | None, page: Page) -> None:
    verdict = (VERDICT_WORDS[examination.verdict], VERDICT_STYLES[examination.verdict])
    if log is None:
        layout.paragraph(Text.assemble(verdict, " · ", printable(examination.path)), hanging=2)
        layout.paragraph(Text(one_line(examination.error or "it could not be read")), indent=2)
        if examination.hint:
            layout.paragraph(Text(f"hint: {one_line(examination.hint)}"), indent=2, hanging=2)
        return
    if examination.verdict is Verdict.HEALTHY and examination.worst is Severity.WARNING:
        verdict = (f"{verdict[0]}, with warnings", "bold yellow")
    words = f" — {printable(log.kind)}, {quantity(log.records, 'record')}, {quantity(len(log.judged), 'metric')}"
    layout.paragraph(Text.assemble(verdict, " · ", printable(examination.path), (words, "dim")), hanging=2)
    counts = tally(examination.alerts) or "no findings"
    hidden = ", ".join(hidden_in_words(examination.hidden - examination.known, examination.known))
    layout.paragraph(Text(f"{counts}; {hidden}" if hidden else counts), indent=2)
    for finding in rank(each for each in examination.findings if each.counts):
        style = SEVERITY_STYLES[finding.severity]
        layout.line()
        layout.paragraph(
            Text.assemble(
                (f"{SEVERITY_SIGNS[finding.severity]} {finding.severity.label}", f"bold {style}"),
                (f" {finding.title}", style),
            ),
            indent=2,
        )
        layout.paragraph(Text(one_line(finding.message)), indent=6)
        for label, text in particulars(finding, brief=not page.verbose):
            layout.paragraph(Text.assemble((f"{label}: ", "dim"), text), indent=6, hanging=2)
    for skipped in log.skipped:
        layout.line()
        layout.paragraph(Text(f"not read: {printable(skipped.what)}, because {one_line(skipped.why)}"), indent=2)
    _draw_metrics(layout, examination, log, page)


def _draw_metrics(layout: Layout, examination: Examination, log: TrainingLog, page: Page) -> None:
    found = {each.name: findings_of_metric(examination.findings, each.name) for each in log.judged}
    metrics = list(log.judged)
    if not page.verbose and len(metrics) > METRICS_SHOWN:
        chosen = sorted(metrics, key=lambda each: -len(found[each.name]))[:METRICS_SHOWN]
        metrics = [each for each in metrics if each in chosen]
    rows = [
        _metric_cells(each, max((finding.severity for finding in found[each.name]), default=None)) for each in metrics
    ]
    if not rows:
        return
    layout.line()
    columns = (
        Column("metric", 9), Column("", 8), Column("means", 3), Column("records", 2, right=True),
        Column("first", 5, right=True), Column("last", 6, right=True), Column("course", 7),
    )  # fmt: skip
    layout.table(columns, rows, indent=2)
    if len(metrics) < len(log.judged):
        rest = quantity(len(log.judged) - len(metrics), "more metric")
        layout.paragraph(Text(f"… {rest} (--verbose shows all)", style="dim"), indent=2)


def _metric_cells(metric: Metric, worst: Severity | None) -> list[Text]:
    curve = metric.recorded
    sign = Text(SEVERITY_SIGNS[worst], style=SEVERITY_STYLES[worst]) if worst else Text("")
    return [
        Text(printable(metric.name)),
        sign,
        Text(metric.meaning.value, style="dim"),
        Text(f"{curve.count:,}"),
        Text(figure(curve.first)),
        Text(figure(curve.last)),
        Text(sparkline(curve.means.tolist(), width=SPARKLINE)),
    ]
