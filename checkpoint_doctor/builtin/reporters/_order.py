"""Sorts checkpoints and findings, the worst first."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_doctor.results.findings import Finding, by_severity
from checkpoint_doctor.results.report import Alert, Examination, Report
from checkpoint_doctor.results.totals import measure_badness
from checkpoint_doctor.text import natural_key


def worst_first(examinations: Iterable[Examination]) -> list[Examination]:
    """Sort checkpoints by verdict, unreadable first, then by their numbers of errors, warnings and notes."""
    return sorted(examinations, key=measure_badness)


def worst_last(examinations: Iterable[Examination]) -> list[Examination]:
    """Sort checkpoints so that the worst end a page that scrolls, otherwise by path, numbers in it as numbers."""
    by_path = sorted(examinations, key=lambda examination: natural_key(examination.path), reverse=True)
    return worst_first(by_path)[::-1]


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Sort a checkpoint's findings by severity, worst first, then by code."""
    return sorted(findings, key=by_severity)


def rank_all(report: Report) -> list[tuple[Examination, Alert]]:
    """Return every diagnosis and every finding without one, with its checkpoint.

    The worst of all come first, then those in preview, and the hidden ones last.
    """
    pairs: list[tuple[Examination, Alert]] = []
    for examination in report.checkpoints:
        explained = examination.diagnosis_of
        pairs += [(examination, diagnosis) for diagnosis in examination.diagnoses]
        pairs += [(examination, each) for place, each in enumerate(examination.findings) if place not in explained]
    return sorted(pairs, key=lambda pair: (pair[1].ignored is not None, pair[1].preview, -pair[1].severity))
