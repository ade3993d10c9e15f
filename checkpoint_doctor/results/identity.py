"""What makes a finding the same one in the next run, and what makes it worse.

A finding is recognised by its rule, the checkpoint's path, the tensor or layer, and the part of it (a gate, a moment),
never by its numbers. Its extent are its severity, the figures that grow with the illness, and the names it lists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from checkpoint_doctor.results.findings import Finding, Severity

PARTS = ("optimizer", "moment", "gate", "side", "member", "component")
"""Evidence that tells two findings of one rule about one tensor apart."""

FIGURES = ("biases", "infinite", "largest", "nan", "negative", "share", "zeros")
"""Numbers in the evidence that are worse when larger, besides every ``…fraction``; kept to three digits."""

COLLECTIONS = ("gates", "groups", "inputs", "layers", "names", "places", "tensors", "units", "without_state")
"""Lists in the evidence that are worse when longer and, where they hold names, when a new one comes in."""

_LARGEST = 1e308


@dataclass(frozen=True, order=True)
class Key:
    """What makes a finding the same one in the next run."""

    path: str
    """Relative to the folder of the file that keeps the key, with ``/`` between the names."""
    code: str
    subject: str
    """The tensor's name, else the layer's, else empty."""
    part: str

    def __str__(self) -> str:
        return f"{' '.join(word for word in (self.code, self.subject, self.part) if word)} in {self.path}"


@dataclass(frozen=True)
class Extent:
    """How bad a finding is, or several with the same key together."""

    count: int
    severity: Severity
    figures: Mapping[str, float]
    """Figures, and the lengths of collections."""
    names: Mapping[str, frozenset[str]]
    """The names in collections."""

    def covers(self, other: Extent) -> bool:
        """True where the other is worse in no respect; the counts are not compared."""
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


def relate(path: str, file: str) -> str:
    """Return a path as seen from the folder of a file, with ``/`` between the names."""
    folder = os.path.dirname(os.path.abspath(file))
    return os.path.relpath(os.path.abspath(path), folder).replace(os.sep, "/")


def recognize(finding: Finding, path: str, file: str) -> Key:
    """Return the key of a finding in the checkpoint at a path, for a record of it in a file."""
    part = " ".join(str(finding.evidence[name]) for name in PARTS if finding.evidence.get(name))
    return Key(relate(path, file), finding.code, finding.subject or "", part)


def measure(finding: Finding) -> Extent:
    """Return the extent of one finding."""
    figures, names = {}, {}
    for key, value in finding.evidence.items():
        if isinstance(value, (list, tuple)) and key in COLLECTIONS:
            figures[key] = float(len(value))
            if value and all(isinstance(each, str) for each in value):
                names[key] = frozenset(value)
        elif isinstance(value, (int, float)) and not isnan(value) and (key in FIGURES or key.endswith("fraction")):
            figures[key] = _round(value)
    return Extent(count=1, severity=finding.severity, figures=figures, names=names)


def _round(number: float) -> float:
    """Three significant digits, since finer ones differ from machine to machine; never infinite, for JSON's sake."""
    return float(f"{max(-_LARGEST, min(number, _LARGEST)):.3g}")
