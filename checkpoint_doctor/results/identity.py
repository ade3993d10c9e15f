"""What makes a finding the same one in the next run, what makes it worse, and what may be shown as one.

A rule declares this once (``Identity``). Baselines, SARIF fingerprints, the verification of a fix and the grouping in
reports go by the declaration. A finding is recognised by its rule, the checkpoint, the tensor or layer, and the
declared part of it (a gate, a moment), never by its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity

_LARGEST = 1e308


class FindingKey(Struct, frozen=True, order=True):
    """What makes a finding the same one within a checkpoint."""

    code: str
    subject: str
    """The tensor's name, else the layer's, else empty."""
    part: str

    def __str__(self) -> str:
        return " ".join(word for word in (self.code, self.subject, self.part) if word)


def identify(finding: Finding) -> FindingKey:
    """Return the key of a finding."""
    values = (finding.evidence.get(name) for name in finding.identity.part)
    part = " ".join(str(value) for value in values if value is not None and value != "")
    return FindingKey(finding.code, finding.subject or "", part)


def identify_diagnosis(diagnosis: Diagnosis) -> FindingKey:
    """Return the key of a diagnosis: its cause in the place of a code, and what it is about."""
    return FindingKey(diagnosis.cause, diagnosis.subject or "", "")


def group_key(finding: Finding) -> tuple[object, ...] | None:
    """Return what findings that are shown as one have in common; ``None`` where this one is shown by itself."""
    names = finding.identity.group_by
    if names is None or finding.subject is None:
        return None
    shared = tuple(str(finding.evidence.get(name)) for name in names)
    return finding.code, finding.severity, shared, finding.advice, finding.fix


class Extent(Struct, frozen=True):
    """How bad a finding is, or several with the same key together."""

    count: int
    severity: Severity
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers, and the lengths of lists, that are worse when larger."""
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The names in lists of names."""

    def covers(self, other: Extent) -> bool:
        """Return whether the other is worse in no respect; the counts are not compared."""
        return (
            other.severity <= self.severity
            and all(other.figures[key] <= self.figures[key] for key in other.figures.keys() & self.figures.keys())
            and all(other.names[key] <= self.names[key] for key in other.names.keys() & self.names.keys())
        )

    def merge(self, other: Extent) -> Extent:
        """Return the extent of both together: counts added, the worse of everything else."""
        return Extent(
            count=self.count + other.count,
            severity=max(self.severity, other.severity),
            figures={
                key: max(each.figures[key] for each in (self, other) if key in each.figures)
                for key in self.figures.keys() | other.figures.keys()
            },
            names={
                key: self.names.get(key, frozenset()) | other.names.get(key, frozenset())
                for key in self.names.keys() | other.names.keys()
            },
        )


def extent_of(finding: Finding | Diagnosis) -> Extent:
    """Return the extent of one finding: its severity and the evidence that its rule declared as worse when more.

    That of a diagnosis is its severity alone.
    """
    if isinstance(finding, Diagnosis):
        return Extent(count=1, severity=finding.severity)
    figures: dict[str, float] = {}
    names: dict[str, frozenset[str]] = {}
    for key in finding.identity.worse:
        value: Any = finding.evidence.get(key)
        if isinstance(value, (list, tuple)):
            figures[key] = float(len(value))
            if value and all(isinstance(each, str) for each in value):
                names[key] = frozenset(value)
        elif isinstance(value, (int, float)) and not isnan(value):
            figures[key] = _round(value)
    return Extent(count=1, severity=finding.severity, figures=figures, names=names)


def _round(number: float) -> float:
    """Three significant digits, since finer ones differ from machine to machine; never infinite, for JSON's sake."""
    return float(f"{max(-_LARGEST, min(number, _LARGEST)):.3g}")
