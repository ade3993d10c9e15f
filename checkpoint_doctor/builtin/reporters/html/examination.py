"""One checkpoint on the page: its diagnoses, the findings that none explains, and pictures of its network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from enum import Enum

from markupsafe import Markup
from msgspec import Struct

from checkpoint_doctor.builtin.reporters._grouping import FindingGroup, group_findings
from checkpoint_doctor.builtin.reporters._layers import Row, choose_remarkable, layer_rows
from checkpoint_doctor.builtin.reporters._order import rank
from checkpoint_doctor.builtin.reporters._wording import (
    describe,
    explained_in_words,
    figure,
    hidden_by,
    names_in_words,
    one_line,
    particulars,
    parts_in_words,
    resumption_in_words,
    skipped_in_words,
    subject_of,
    tally,
)
from checkpoint_doctor.builtin.reporters.html.histogram import Picture, draw_histogram
from checkpoint_doctor.builtin.reporters.html.network_map import NetworkMap, draw_map, find_dormant
from checkpoint_doctor.builtin.reporters.html.templates import render
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Alert, Examination, Verdict

MOST_ROWS = 120
"""Layers in a table: those with findings, and the extremes of the others."""

SAME_LISTED = 12
"""Names and patterns listed of what a finding holds for as well."""

SETTINGS_LISTED = 24
"""Settings that are shown of a checkpoint."""

RULES_LISTED = 12
"""Rules and causes that are named of what is only counted."""

LABELS = {"evidence": "Evidence", "advice": "What to do", "write": "Code to write", "fix": "Repair"}


class Detail(Enum):
    """How much of a checkpoint the page shows. The members are in order, the most first."""

    FULL = 40
    """With its pictures and its layers. The value is the number of findings and groups that are shown in full."""
    TEXT = 12
    """What is wrong, without pictures."""
    BRIEF = 3
    """The worst of what is wrong, in a sentence each."""


class Card(Struct, frozen=True):
    """A diagnosis, or a finding with the others of its kind."""

    alert: Alert
    title: str
    certainty: str
    subject: str
    particulars: tuple[tuple[str, str], ...]
    same: str = ""
    """What else the finding holds for."""
    explains: str = ""
    """How many findings a diagnosis explains, and of which rules."""
    explained: tuple[FindingGroup, ...] = ()
    code: str = ""
    """The rule's code."""


def show_examination(
    examination: Examination, number: int, detail: Detail, *, single: bool, explained: Container[str]
) -> Markup:
    """Return the section about a checkpoint.

    Args:
        examination: the checkpoint.
        number: makes its anchors unique on the page.
        detail: how much is shown.
        single: true where the page is about this checkpoint alone.
        explained: codes of the rules that the page explains, to which findings link.
    """
    rows = layer_rows(examination) if detail is Detail.FULL else []
    diagnoses = [each for each in examination.diagnoses if each.counts]
    groups = group_findings(rank(examination.unexplained))
    most = detail.value
    left = [finding for group in groups[most:] for finding in group.members]
    left_diagnoses = diagnoses[most:]
    return render(
        "checkpoint.html",
        examination=examination,
        number=number,
        level=2 if single else 3,
        single=single,
        word=word_of(examination),
        about=describe(examination),
        tally=tally(examination.alerts),
        facts=list(_list_facts(examination)) if detail is not Detail.BRIEF else [],
        diagnoses=[_show_diagnosis(each, examination, detail) for each in diagnoses[:most]],
        findings=[_show_group(each, detail) for each in groups[:most]],
        more=_count_rest(left_diagnoses, left),
        preview=[_show_alert(each, detail) for each in examination.in_preview][:most],
        hidden=[(each, hidden_by(each)) for each in examination.findings if each.ignored is not None][: most * 2]
        if detail is Detail.FULL
        else [],
        skipped=[skipped_in_words(each) for each in examination.skipped[:most]],
        map=_draw_map(rows, examination),
        pictures=_draw_histograms(examination) if detail is Detail.FULL else [],
        table=_choose_rows(rows),
        rows=len(rows),
        explained=explained,
    )


def word_of(examination: Examination) -> str:
    """Return the verdict in words: ``ill``, ``healthy``, ``with warnings``."""
    if examination.verdict is Verdict.HEALTHY and examination.worst is Severity.WARNING:
        return "with warnings"
    return examination.verdict.value


def _list_facts(examination: Examination) -> Iterator[tuple[str, str]]:
    if examination.parts:
        yield "Parts", parts_in_words(examination)
    if examination.resumption:
        yield "Resumes", resumption_in_words(examination)
    settings = {
        name: value
        for name, value in examination.hyperparameters.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not name.startswith("_")
    }
    if settings:
        words = [f"{name} {figure(value)}" for name, value in list(settings.items())[:SETTINGS_LISTED]]
        rest = len(settings) - len(words)
        yield "Settings", one_line(", ".join(words)) + (f" and {rest:,} more" if rest else "")
    if examination.versions:
        yield "Saved with", one_line(", ".join(f"{name} {each}" for name, each in examination.versions.items()))


def _show_diagnosis(diagnosis: Diagnosis, examination: Examination, detail: Detail) -> Card:
    explained = group_findings(examination.findings[position] for position in diagnosis.explains)
    return Card(
        diagnosis,
        diagnosis.title,
        diagnosis.certainty.label,
        subject_of(diagnosis),
        () if detail is Detail.BRIEF else name_particulars(diagnosis, examination),
        explains=explained_in_words(diagnosis, examination),
        explained=() if detail is Detail.BRIEF else tuple(explained[: detail.value]),
    )


def _show_group(group: FindingGroup, detail: Detail) -> Card:
    card = _show_alert(group.first, detail)
    same = names_in_words((subject_of(each) for each in group.others), SAME_LISTED)
    return Card(card.alert, card.title, "", card.subject, card.particulars, same=same, code=card.code)


def _show_alert(alert: Alert, detail: Detail) -> Card:
    given = () if detail is Detail.BRIEF else name_particulars(alert, None)
    code = alert.code if isinstance(alert, Finding) else ""
    return Card(alert, alert.title, "", subject_of(alert), given, code=code)


def name_particulars(alert: Alert, examination: Examination | None) -> tuple[tuple[str, str], ...]:
    """Return the evidence, the advice and the outlook for a repair, each with its label."""
    return tuple((LABELS[label], words) for label, words in particulars(alert, examination))


def _count_rest(diagnoses: Sequence[Diagnosis], findings: Iterable[Finding]) -> str:
    alerts: list[Alert] = [*diagnoses, *findings]
    counts = Counter(each.title for each in alerts)
    named = ", ".join(f"{count:,} × {title}" for title, count in counts.most_common(RULES_LISTED))
    return f"{counts.total():,} more: {named}" if counts else ""


def _draw_map(rows: Sequence[Row], examination: Examination) -> NetworkMap | None:
    if not rows:
        return None
    drawn = draw_map(rows, find_dormant((each.layer, each.evidence) for each in examination.findings))
    return drawn if drawn.lanes else None


def _draw_histograms(examination: Examination) -> list[Picture]:
    return [draw_histogram(each, each.histogram) for each in examination.tensors if each.histogram and each.size]


def _choose_rows(rows: Sequence[Row]) -> list[Row]:
    return list(rows) if len(rows) <= MOST_ROWS else choose_remarkable(rows, MOST_ROWS)
