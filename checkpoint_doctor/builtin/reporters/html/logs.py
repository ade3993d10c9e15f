"""Training logs on the page: the findings of each, and the curves of its metrics with the onset."""

from __future__ import annotations

from collections.abc import Container, Sequence
from math import ceil, isfinite

from markupsafe import Markup
from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor import __version__
from checkpoint_doctor.builtin.reporters._order import rank, worst_first
from checkpoint_doctor.builtin.reporters._wording import figure, subject_of, tally
from checkpoint_doctor.builtin.reporters.html.document import MOST_BYTES
from checkpoint_doctor.builtin.reporters.html.examination import Card, name_particulars, word_of
from checkpoint_doctor.builtin.reporters.html.line_chart import Chart, draw_curve
from checkpoint_doctor.builtin.reporters.html.templates import render
from checkpoint_doctor.checkpoint.training_log import Metric, TrainingLog
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.log_report import LogReport
from checkpoint_doctor.results.report import Examination
from checkpoint_doctor.text import quantity

MOST_CARDS = 40
"""Findings that are shown of a log."""

MOST_METRICS = 40
"""Metrics whose curves are drawn, in the order of the log."""

MOST_POINTS = 200
"""Points of a curve; of more, neighbours share one, which shows their mean."""


class LogCard(Struct, frozen=True):
    """A finding about a log, with the curve of its metric."""

    card: Card
    onset: str
    metric: str
    charts: tuple[Chart, ...]


def write_logs(report: LogReport, rules: Sequence[Rule]) -> str:
    """Write the page of a report on training logs."""
    inner = report.report
    examinations = worst_first(inner.checkpoints)
    spoke = {finding.code for each in examinations for finding in each.findings}
    explained = [rule for rule in rules if rule.code in spoke]
    single = len(examinations) == 1
    known = {rule.code for rule in explained}
    sections: list[Markup] = []
    room = MOST_BYTES
    for number, each in enumerate(examinations, 1):
        section = _show_log(each, report.logs.get(each.path), number, single=single, explained=known)
        room -= len(section.encode())
        if sections and room < 0:
            break
        sections.append(section)
    left = len(examinations) - len(sections)
    return str(
        render(
            "page.html",
            summary=report.summary_line,
            configuration=inner.configuration,
            title=f"{word_of(examinations[0])} · {examinations[0].path}"
            if single
            else quantity(len(examinations), "log"),
            version=__version__,
            overview=None if single or not examinations else Markup(),
            sections=sections,
            single=single,
            remarks=rank(remark for remark in inner.remarks if remark.ignored is None),
            left_out=[f"{left:,} more logs are not shown here; the JSON format has all"] if left else [],
            explained=render("rules.html", rules=explained),
        )
    )


def _name_page(examinations: Sequence[Examination]) -> str:
    if len(examinations) == 1:
        return f"{word_of(examinations[0])} · {examinations[0].path}"
    return quantity(len(examinations), "training log")


def _show_log(
    examination: Examination, log: TrainingLog | None, number: int, *, single: bool, explained: Container[str]
) -> Markup:
    findings = rank(each for each in examination.findings if each.counts)
    drawn = [each for each in log.judged if each.recorded.count][:MOST_METRICS] if log else []
    return render(
        "logs.html",
        examination=examination,
        log=log,
        number=number,
        level=2 if single else 3,
        word=word_of(examination),
        tally=tally(findings),
        explained=explained,
        cards=[_show(each, log) for each in findings[:MOST_CARDS]],
        more=len(findings) - MOST_CARDS,
        charts=[(each.name, chart) for each in drawn if (chart := _draw(each, None)) is not None],
        axis=(f"step {figure(int(log.first_step))}", f"step {figure(int(log.last_step))}") if log else ("", ""),
    )


def _show(finding: Finding, log: TrainingLog | None) -> LogCard:
    name = finding.evidence.get("metric")
    metric = next((each for each in log.metrics if each.name == name), None) if log else None
    onset = finding.evidence.get("onset_step")
    step = float(onset) if isinstance(onset, (int, float)) and isfinite(onset) else None
    chart = _draw(metric, step) if metric is not None and metric.recorded.count else None
    card = Card(finding, finding.title, "", subject_of(finding), name_particulars(finding, None), code=finding.code)
    began = "" if step is None else f"step {figure(int(step))}"
    return LogCard(card, began, str(name or ""), () if chart is None else (chart,))


def _draw(metric: Metric, onset: float | None) -> Chart | None:
    curve = metric.curve
    size = ceil(curve.steps.size / MOST_POINTS) or 1
    steps = [float(each) for each in curve.steps[::size]]
    means: list[float | None] = []
    for start in range(0, curve.steps.size, size):
        known = [float(each) for each in curve.means[start : start + size] if isfinite(each)]
        means.append(sum(each / len(known) for each in known) if known else None)
    chart = draw_curve(metric.name, steps, means, onset)
    return None if chart is None else replace(chart, first=figure(curve.first), last=figure(curve.last))
