"""The page of a comparison: each series of checkpoints, and what belongs to none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from checkpoint_doctor import __version__
from checkpoint_doctor.builtin.reporters._order import rank
from checkpoint_doctor.builtin.reporters.html.series import show_series
from checkpoint_doctor.builtin.reporters.html.templates import render
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.series_report import SeriesReport
from checkpoint_doctor.text import quantity

MOST_BYTES = 900_000
"""Bytes that the series may fill on a page: it can be mailed, and opens at once on a telephone."""

LISTED = 12
"""Files that are named of those that belong to no series."""


def write_comparison(report: SeriesReport, rules: Sequence[Rule]) -> str:
    """Write the page of a comparison."""
    spoke = {finding.code for finding in report.findings}
    explained = [rule for rule in rules if rule.code in spoke]
    about_rules = render("rules.html", rules=explained)
    single = len(report.series) == 1
    known = {rule.code for rule in explained}
    sections: list[Markup] = []
    room = MOST_BYTES - len(about_rules.encode())
    for number, record in enumerate(report.series, 1):
        section = show_series(record, number, single=single, explained=known)
        room -= len(section.encode())
        if sections and room < 0:
            break
        sections.append(section)
    title = quantity(len(report.series), "series", "series")
    return str(
        render(
            "page.html",
            summary=report.summary_line,
            configuration="",
            title=title if report.series else "no series",
            version=__version__,
            overview=None if single or not report.series else Markup(),
            sections=sections,
            single=single,
            remarks=rank(remark for remark in report.remarks if remark.counts),
            left_out=[*_say_left_out(report), *_say_unshown(len(report.series) - len(sections))],
            explained=about_rules,
        )
    )


def _say_unshown(count: int) -> Iterator[str]:
    if count:
        yield f"{count:,} more series are not shown here; the JSON format has all"


def _say_left_out(report: SeriesReport) -> Iterator[str]:
    for examination in report.unreadable[:LISTED]:
        yield f"unreadable: {examination.error or examination.path}"
    for skipped in report.left_out[:LISTED]:
        yield f"left out: {skipped.what}, because {skipped.why}"
    rest = max(0, len(report.unreadable) - LISTED) + max(0, len(report.left_out) - LISTED)
    if rest:
        yield f"{rest:,} more are unreadable or left out"
    for each in report.unsearched[:LISTED]:
        yield f"not searched: {each.path}, {each.why}"
