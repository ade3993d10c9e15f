"""What there is to count in the checkpoints of a run, added up one by one, and which of them are the worst."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable

from msgspec import Struct, field

from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.examination import Alert, Examination, Verdict
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.text import printable

MOST_CASES = 10
"""Checkpoints that a run remembers as its worst: as many as fit on a screen below a table."""

MOST_REASONS = 3
"""Reasons that are named of each."""

FLEET = 20
"""Checkpoints beyond which a page names the worst at its end: no screen shows them all."""

_VERDICTS = (Verdict.UNREADABLE, Verdict.ILL, Verdict.INCOMPLETE, Verdict.HEALTHY)
_WORDS = ("unreadable", "ill", "incomplete", "with warnings", "healthy")


class Case(Struct, frozen=True):
    """One of the worst checkpoints of a run, and why it is."""

    path: str
    """The checkpoint."""
    verdict: Verdict
    """Its verdict."""
    reasons: tuple[str, ...]
    """The titles of its worst diagnoses and unexplained findings, or why it cannot be read."""
    others: int = 0
    """How many more there are."""

    def __str__(self) -> str:
        words = [*self.reasons, *([f"{self.others:,} more"] if self.others else [])]
        return printable(f"{self.verdict.value} {self.path}: {', '.join(words)}")


class Totals(Struct):
    """The sums over checkpoints. Their memory does not grow with the number of checkpoints."""

    checkpoints: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    """How many of each verdict; those that are healthy with warnings count as ``with warnings``."""
    tensors: int = 0
    findings: int = 0
    """Findings that count."""
    diagnoses: int = 0
    """Diagnoses that count."""
    in_preview: int = 0
    """Diagnoses and findings in preview that nothing hides."""
    hidden: int = 0
    """Findings that the configuration or a baseline hides."""
    known: int = 0
    """Those that a baseline hides."""
    unseen: int = 0
    """Parts that could not be looked at."""
    crashes: int = 0
    """Times that a rule crashed."""
    unmeasured: int = 0
    """Checkpoints whose values were not read, since no rule asked for them."""
    alerts: Counter[Severity] = field(default_factory=Counter)
    """How many diagnoses, and findings that none explains, of each severity."""
    spoken: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    """How often each cause and rule spoke, by severity and title; those in preview, too."""
    holders: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    """In how many checkpoints."""
    worst: list[tuple[tuple[int, ...], Case]] = field(default_factory=list)
    """The worst checkpoints that are not healthy, the worst first, with what they are ordered by."""

    def add(self, examination: Examination) -> None:
        """Count one more checkpoint."""
        alerts, in_preview = examination.alerts, examination.in_preview
        warned = examination.verdict is Verdict.HEALTHY and examination.worst is Severity.WARNING
        self.checkpoints += 1
        self.verdicts["with warnings" if warned else examination.verdict.value] += 1
        self.tensors += len(examination.tensors)
        self.findings += sum(finding.counts for finding in examination.findings)
        self.diagnoses += sum(diagnosis.counts for diagnosis in examination.diagnoses)
        self.in_preview += len(in_preview)
        self.hidden += examination.hidden
        self.known += examination.known
        self.unseen += len(examination.skipped)
        self.crashes += len(examination.crashes)
        self.unmeasured += not examination.is_measured
        self.alerts.update(alert.severity for alert in alerts)
        spoken = [(alert.severity, title_of(alert)) for alert in (*alerts, *in_preview)]
        if not spoken and examination.is_unreadable:
            spoken = [(Severity.ERROR, "unreadable")]
        self.spoken.update(spoken)
        self.holders.update(dict.fromkeys(spoken, 1))
        self._rank(examination, alerts)

    def _rank(self, examination: Examination, alerts: Iterable[Alert]) -> None:
        if examination.verdict is Verdict.HEALTHY:
            return
        badness = measure_badness(examination)
        if len(self.worst) == MOST_CASES and badness >= self.worst[-1][0]:
            return
        titles = list(dict.fromkeys(title_of(each) for each in sorted(alerts, key=lambda each: -each.severity)))
        if examination.is_unreadable:
            titles = [(examination.error or "it could not be read").removeprefix(f"{examination.path} ")]
        elif not titles:
            titles = [each.title for each in examination.crashes]
        case = Case(examination.path, examination.verdict, tuple(titles[:MOST_REASONS]), len(titles[MOST_REASONS:]))
        insort(self.worst, (badness, case), key=lambda ranked: ranked[0])
        del self.worst[MOST_CASES:]

    @property
    def worst_of_many(self) -> list[Case]:
        """The worst checkpoints of a fleet, the worst last, where a terminal stops scrolling; none of a few."""
        return [case for _, case in reversed(self.worst)] if self.checkpoints > FLEET else []

    @property
    def verdicts_in_words(self) -> str:
        """How many of each verdict, as in `` (2 ill, 30 healthy)``; empty where there is no checkpoint."""
        words = ", ".join(f"{self.verdicts[word]:,} {word}" for word in _WORDS if self.verdicts[word])
        return f" ({words})" if words else ""


def add_up(examinations: Iterable[Examination]) -> Totals:
    """Return the totals of some checkpoints."""
    totals = Totals()
    for examination in examinations:
        totals.add(examination)
    return totals


def measure_badness(examination: Examination) -> tuple[int, ...]:
    """Return a sort key of checkpoints: unreadable first, then by verdict and numbers of errors, warnings and notes."""
    counts = Counter(alert.severity for alert in examination.alerts)
    return (
        _VERDICTS.index(examination.verdict),
        *(-counts[severity] for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE)),
    )


def title_of(alert: Alert) -> str:
    """Return ``ZER003 zero-bias`` of a finding, ``unscaled-inputs (proven)`` of a diagnosis; and what is in preview."""
    title = f"{alert.title} ({alert.certainty.label})" if isinstance(alert, Diagnosis) else alert.title
    return f"{title}, in preview" if alert.preview else title
