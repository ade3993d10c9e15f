"""The whole page: an overview where there are several checkpoints, then each of them, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from markupsafe import Markup
from msgspec import Struct

from checkpoint_doctor import __version__
from checkpoint_doctor.builtin.reporters._order import rank, worst_first
from checkpoint_doctor.builtin.reporters._wording import unrecognized_in_words, unsearched_in_words
from checkpoint_doctor.builtin.reporters.html.examination import Detail, show_examination, word_of
from checkpoint_doctor.builtin.reporters.html.templates import render
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Examination, Report, Verdict
from checkpoint_doctor.results.totals import title_of
from checkpoint_doctor.text import quantity

MOST_BYTES = 900_000
"""Bytes that the checkpoints may fill on a page: it can be mailed, and opens at once on a telephone."""

BRIEF_BYTES = 1_200
"""Bytes that are kept free for each checkpoint that is still to come, so that all are shown at least in brief."""

MOST_LISTED = 1_000
"""Checkpoints that have a row in the overview, the worst first; the others are counted."""

MOST_HEALTHY = 12
"""Up to so many healthy checkpoints are shown beside ill ones; more have a row in the overview only."""

MOST_SAID = 3
"""Diagnoses and findings that a row of the overview names."""

_ORDER = ("unreadable", "ill", "incomplete", "with warnings", "healthy")


class Entry(Struct, frozen=True):
    """A row of the overview."""

    number: int
    """Its position among the worst first, which is the anchor of its section."""
    examination: Examination
    word: str
    """Its verdict in a word."""
    counts: tuple[int, ...]
    """Errors, warnings and notes."""
    said: str
    """The worst diagnoses and findings, by name."""
    has_section: bool


def write_document(report: Report, rules: Sequence[Rule]) -> str:
    """Write the page of a report."""
    examinations = worst_first(report.checkpoints)
    single = len(examinations) == 1
    explained_rules = _find_rules(report, rules)
    explained = render("rules.html", rules=explained_rules)
    listed = [] if single else examinations[:MOST_LISTED]
    wanted = _choose_shown(examinations, single=single)
    entries = [_enter(number, each, number - 1 in wanted) for number, each in enumerate(listed, 1)]
    overview = render(
        "overview.html",
        entries=entries,
        unlisted=len(examinations) - len(entries),
        tiles=_tally(examinations),
    )
    room = MOST_BYTES - len(explained.encode()) - len(overview.encode())
    return str(
        render(
            "page.html",
            summary=report.summary_line,
            configuration=report.configuration,
            title=_name_page(examinations),
            version=__version__,
            overview=None if single or not examinations else overview,
            sections=_write_sections(examinations, wanted, room, {rule.code for rule in explained_rules}),
            single=single,
            remarks=rank(remark for remark in report.remarks if remark.ignored is None),
            left_out=list(_say_left_out(report)),
            explained=explained,
        )
    )


def _name_page(examinations: Sequence[Examination]) -> str:
    if not examinations:
        return "nothing was examined"
    if len(examinations) == 1:
        return f"{word_of(examinations[0])} · {examinations[0].path}"
    counts = _tally(examinations)
    return f"{quantity(len(examinations), 'checkpoint')}: " + ", ".join(f"{count:,} {word}" for word, count in counts)


def _tally(examinations: Sequence[Examination]) -> list[tuple[str, int]]:
    """Count checkpoints by verdict, the worst first."""
    counts = Counter(map(word_of, examinations))
    return [(word, counts[word]) for word in _ORDER if counts[word]]


def _needs_attention(examination: Examination) -> bool:
    return (
        examination.verdict is not Verdict.HEALTHY
        or bool(examination.in_preview or examination.skipped)
        or (examination.worst or Severity.NOTE) > Severity.NOTE
    )


def _choose_shown(examinations: Sequence[Examination], *, single: bool) -> list[int]:
    """Return the positions of the checkpoints that have a section: those that need attention, and a few others."""
    healthy = sum(not _needs_attention(each) for each in examinations)
    all_shown = single or healthy <= MOST_HEALTHY
    shown = [place for place, each in enumerate(examinations) if all_shown or _needs_attention(each)]
    return shown[: MOST_BYTES // (2 * BRIEF_BYTES)]


def _enter(number: int, examination: Examination, has_section: bool) -> Entry:
    counts = Counter(alert.severity for alert in examination.alerts)
    titles = list(dict.fromkeys(map(title_of, sorted(examination.alerts, key=lambda alert: -alert.severity))))
    rest = len(titles) - MOST_SAID
    said = ", ".join(titles[:MOST_SAID]) + (f" and {rest:,} more" if rest > 0 else "")
    if examination.is_unreadable:
        said = (examination.error or "it could not be read").removeprefix(f"{examination.path} ")
    by_severity = tuple(counts[severity] for severity in sorted(Severity, reverse=True))
    return Entry(number, examination, word_of(examination), by_severity, said, has_section)


def _write_sections(
    examinations: Sequence[Examination], wanted: Sequence[int], room: int, explained: set[str]
) -> list[Markup]:
    """Write the sections of the checkpoints that are wanted, with as much detail as the page has room for."""
    sections: list[Markup] = []
    single = len(examinations) == 1
    for written, place in enumerate(wanted, 1):
        reserved = BRIEF_BYTES * (len(wanted) - written)
        for detail in Detail:
            section = show_examination(examinations[place], place + 1, detail, single=single, explained=explained)
            if len(section.encode()) + reserved <= room or detail is Detail.BRIEF:
                break
        sections.append(section)
        room -= len(section.encode())
    return sections


def _find_rules(report: Report, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules that the page mentions."""
    findings = [finding for examination in report.checkpoints for finding in examination.findings]
    spoke = {each.code for each in (*findings, *report.remarks)}
    return [rule for rule in rules if rule.code in spoke]


def _say_left_out(report: Report) -> Iterator[str]:
    for words, on_purpose in unsearched_in_words(report):
        yield f"{'' if on_purpose else 'unreadable, '}not searched: {words}"
    if report.passed_over:
        names = Counter(each.why for each in report.passed_over)
        yield "passed over: " + ", ".join(f"{count:,} × {why}" for why, count in names.most_common(8))
    if report.unrecognized:
        yield f"passed over: {unrecognized_in_words(report)}"
