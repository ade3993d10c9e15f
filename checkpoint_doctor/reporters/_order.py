"""Sorts checkpoints and findings, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from checkpoint_doctor.results.findings import Finding, Severity, by_severity
from checkpoint_doctor.results.report import Examination, Report, Verdict


def worst_first(examinations: Iterable[Examination]) -> list[Examination]:
    """Sort checkpoints by verdict, unreadable first, then by their numbers of errors, warnings and notes."""

    def badness(examination: Examination) -> tuple[int, ...]:
        counts = Counter(finding.severity for finding in examination.counted)
        position = (Verdict.UNREADABLE, Verdict.ILL, Verdict.INCOMPLETE, Verdict.HEALTHY).index(examination.verdict)
        return (position, *(-counts[severity] for severity in sorted(Severity, reverse=True)))

    return sorted(examinations, key=badness)


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Sort a checkpoint's findings by severity, worst first, then by code."""
    return sorted(findings, key=by_severity)


def rank_all(report: Report) -> list[tuple[Examination, Finding]]:
    """Return every finding with its checkpoint, the worst of all first and the hidden ones last."""
    pairs = [(examination, finding) for examination in report.checkpoints for finding in examination.findings]
    return sorted(pairs, key=lambda pair: (pair[1].ignored is not None, -pair[1].severity))
