"""A comparison on the page: what changed in the checkpoints of a run, and when it began."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Any

from markupsafe import Markup
from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.builtin.reporters._grouping import FindingGroup, group_findings
from checkpoint_doctor.builtin.reporters._order import rank
from checkpoint_doctor.builtin.reporters._wording import figure, names_in_words, one_line, percentage, subject_of, tally
from checkpoint_doctor.builtin.reporters.html.examination import RULES_LISTED, SAME_LISTED, Card, name_particulars
from checkpoint_doctor.builtin.reporters.html.heat_map import FIGURES, HeatMap, draw_heat_map, fold_columns
from checkpoint_doctor.builtin.reporters.html.line_chart import Chart, draw_charts
from checkpoint_doctor.builtin.reporters.html.templates import render
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.results.series_report import Illness, SeriesRecord, TensorRow, Values
from checkpoint_doctor.text import quantity

MOST_CARDS = 40
"""Findings that are shown in full; the others are counted."""

MOST_CHARTED = 12
"""Tensors with line charts: those of the worst findings."""

MOST_TENSORS = 100
"""Tensors in the table: those with findings, then those that changed most."""

MOST_POINTS = 400
"""Checkpoints in the table of all of them."""

MOST_SETTINGS = 40
"""Settings in the table of those that changed."""

PLACED = frozenset(("onset_step", "onset_path"))
"""Evidence that is shown in a place of its own."""


class TrendCard(Struct, frozen=True):
    """A finding about a series, with its onset and the charts of its tensor."""

    card: Card
    onset: str
    tensor: str
    charts: tuple[Chart, ...]


class Course(Struct, frozen=True):
    """An illness through the series."""

    illness: Illness
    path: str
    """SVG path of the checkpoints that have it, one unit each."""
    words: str


class Line(Struct, frozen=True):
    """A tensor's row in the table: each figure in the first and in the last checkpoint."""

    row: TensorRow
    severity: Severity | None
    codes: tuple[str, ...]
    cells: tuple[str, ...]


def show_series(record: SeriesRecord, number: int, *, single: bool, explained: Container[str]) -> Markup:
    """Return the section about the checkpoints of one run; ``number`` makes its anchors unique on the page."""
    findings = rank(record.counted)
    groups = group_findings(findings)
    maps = [drawn for each in FIGURES if (drawn := draw_heat_map(each, record.tensors)) is not None]
    lines = _choose_lines(record, findings)
    left = [finding for group in groups[MOST_CARDS:] for finding in group.members]
    return render(
        "series.html",
        record=record,
        number=number,
        level=2 if single else 3,
        single=single,
        explained=explained,
        word=_word(record, findings),
        title=_name(record),
        tally=tally(findings),
        cards=list(_show(groups[:MOST_CARDS], record)),
        more=f"{len(left):,} more findings: {_count(left)}" if left else "",
        courses=[_trace(each, record) for each in record.illnesses[:MOST_CARDS]],
        maps=maps,
        onsets=_mark_onsets(record, findings, maps),
        axis=(_say_point(record, 0), _say_point(record, -1)),
        headings=_headings(record),
        lines=lines,
        settings=[(each.name, _say_runs(each.values, record)) for each in record.settings[:MOST_SETTINGS]],
        points=record.points[:MOST_POINTS],
        unlisted=len(record.points) - MOST_POINTS,
        notes=list(_note(record)),
    )


def _word(record: SeriesRecord, findings: Sequence[Finding]) -> str:
    """Return the verdict on a run in words."""
    lasting = [illness.severity for illness in record.illnesses if illness.gone is None]
    worst = max([*(finding.severity for finding in findings), *lasting], default=None)
    if worst is Severity.ERROR:
        return Verdict.ILL.value
    return "with warnings" if worst is Severity.WARNING else Verdict.HEALTHY.value


def _name(record: SeriesRecord) -> str:
    first, last = record.points[0].path, record.points[-1].path
    if os.path.dirname(first) == os.path.dirname(last):
        last = os.path.basename(last)
    return f"{first} {'→' if record.is_pair else '…'} {last}"


def _show(groups: Sequence[FindingGroup], record: SeriesRecord) -> Iterator[TrendCard]:
    """Yield the findings, with charts of the tensor where an earlier one has not shown them."""
    charted: set[str] = set()
    for group in groups:
        finding = group.first
        row, onset = _find_row(finding, record), record.onset_of(finding)
        card = Card(
            finding,
            finding.title,
            "",
            subject_of(finding),
            name_particulars(_without_place(finding), None),
            same=names_in_words((subject_of(each) for each in group.others), SAME_LISTED),
            code=finding.code,
        )
        charts: list[Chart] = []
        if row is not None and row.name not in charted and len(charted) < MOST_CHARTED:
            charted.add(row.name)
            charts = draw_charts(row, onset)
        began = "" if onset is None else _say_point(record, onset)
        yield TrendCard(card, began, row.name if row else "", tuple(charts))


def _find_row(finding: Finding, record: SeriesRecord) -> TensorRow | None:
    """Return the tensor that a finding is about, or the largest one of the layer that it is about."""
    if finding.tensor is not None:
        return next((each for each in record.tensors if each.name == finding.tensor), None)
    members = [each for each in record.tensors if finding.layer is not None and each.layer == finding.layer]
    return max(members, key=lambda each: prod(each.shape), default=None)


def _without_place(finding: Finding) -> Finding:
    return replace(finding, evidence={key: each for key, each in finding.evidence.items() if key not in PLACED})


def _count(findings: Sequence[Finding]) -> str:
    counts = Counter(each.title for each in findings).most_common(RULES_LISTED)
    return ", ".join(f"{count:,} × {title}" for title, count in counts)


def _say_point(record: SeriesRecord, place: int) -> str:
    point = record.points[place]
    return point.path if point.step is None else f"step {point.step:,}"


def _trace(illness: Illness, record: SeriesRecord) -> Course:
    ended = "" if illness.gone is None else f", gone from {_say_point(record, illness.gone)} on"
    words = f"from {_say_point(record, illness.began)} on{ended}"
    if len(illness.seen) == 1 and illness.gone is not None:
        words = f"at {_say_point(record, illness.began)} only"
    return Course(illness, "".join(f"M{place} 0h1v1h-1z" for place in illness.seen), words)


def _mark_onsets(record: SeriesRecord, findings: Sequence[Finding], maps: Sequence[HeatMap]) -> str:
    """Return the SVG path of the lines at the onsets of warnings and errors, as high as any heat map."""
    places = {record.onset_of(finding) for finding in findings if finding.severity > Severity.NOTE}
    height = max((len(each.names) for each in maps), default=0)
    size = fold_columns(len(record.points))
    return "".join(f"M{place // size} 0v{height}" for place in sorted(each for each in places if each))


_COLUMNS = (("zeros", 0), ("dormant", 1), ("vanished", 2), ("norm", 4), ("input rms", 5), ("gradient rms", 6))
"""Headings of the table, and the positions of their figures among ``FIGURES``."""


def _headings(record: SeriesRecord) -> list[str]:
    return [heading for heading, place in _COLUMNS if _is_known(record, place)] + ["largest change"]


def _is_known(record: SeriesRecord, place: int) -> bool:
    read = FIGURES[place].read
    values = [value for row in record.tensors for value in read(row) if value is not None]
    return any(values)


def _choose_lines(record: SeriesRecord, findings: Sequence[Finding]) -> list[Line]:
    by_tensor: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.tensor is not None:
            by_tensor.setdefault(finding.tensor, []).append(finding)

    def order(row: TensorRow) -> tuple[int, float]:
        worst = max((each.severity for each in by_tensor.get(row.name, ())), default=0)
        return -worst, -_largest(row.change)

    known = [place for _, place in _COLUMNS if _is_known(record, place)]
    lines = []
    for row in sorted(record.tensors, key=order)[:MOST_TENSORS]:
        found = by_tensor.get(row.name, ())
        cells = [_say_course(FIGURES[place].read(row), is_share=FIGURES[place].is_share) for place in known]
        largest = _largest(row.change)
        lines.append(
            Line(
                row,
                max((each.severity for each in found), default=None),
                tuple(sorted({each.code for each in found})),
                (*cells, percentage(largest) if 0 <= largest <= 1 else figure(largest) if largest >= 0 else "–"),
            )
        )
    return lines


def _largest(values: Values) -> float:
    return max((value for value in values if value is not None), default=-1.0)


def _say_course(values: Values, *, is_share: bool) -> str:
    """Return the first and the last value: ``4.4% → 65.4%``, or one where both are the same."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    first, last = (percentage(each) if is_share else figure(each) for each in (known[0], known[-1]))
    return first if first == last else f"{first} → {last}"


def _say_runs(values: Sequence[Any], record: SeriesRecord) -> str:
    """Say how a setting changed: ``0.0003, from step 6,000 on 0.0001``."""
    words = []
    place = 0
    for value, run in groupby(values):
        told = (
            "not set" if value is None else figure(value) if isinstance(value, (int, float)) else one_line(str(value))
        )
        words.append(told if not place else f"from {_say_point(record, place)} on {told}")
        place += len(list(run))
    if len(words) > 6:
        return f"{words[0]}, {words[1]} … {words[-1]} ({quantity(len(words) - 1, 'change')})"
    return ", ".join(words)


def _say_setting(value: Any) -> str:
    if value is None:
        return "not set"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return figure(value) if is_number else one_line(str(value))


def _note(record: SeriesRecord) -> Iterator[str]:
    yield from record.remarks
    for label, names in (("only in the last checkpoint", record.appeared), ("no longer there", record.vanished)):
        if names:
            yield f"{label}: {names_in_words(names, SAME_LISTED)}"
    for skipped in record.left_out[:SAME_LISTED]:
        yield f"left out: {skipped.what}, because {skipped.why}"
    for examination in record.unreadable[:SAME_LISTED]:
        yield f"unreadable: {examination.error or examination.path}"
