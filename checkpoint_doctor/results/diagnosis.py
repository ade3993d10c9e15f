"""What a cause says of a checkpoint: the diagnosis, how certain it is, and whether a repair lasts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.text import printable


class Certainty(IntEnum):
    """How well a cause is known. Ordered, so that certainties can be compared."""

    POSSIBLE = 1
    """It fits what was found, and so do other causes."""
    LIKELY = 2
    """It fits better than anything else that is known to look like this."""
    PROVEN = 3
    """The numbers in the file leave no other explanation."""

    @property
    def label(self) -> str:
        """The lower-case word that reports use."""
        return self.name.lower()


class Prognosis(Enum):
    """What ``ckdoc fix`` can do about a cause."""

    CURED = "cured"
    """The file is well after the repair of what the cause explains."""
    RELIEVED = "relieved"
    """The repair gives back what was lost, but the cause lies in code or data, and will act again."""
    POINTLESS = "pointless"
    """A repair of the values does not last, or there is nothing to repair."""


class Diagnosis(Struct, frozen=True):
    """One illness: a cause, how it is known, and the findings that it explains."""

    cause: str
    """The cause's name, such as ``unscaled-inputs``."""
    certainty: Certainty
    """How well the cause is known."""
    severity: Severity
    """That of the worst finding that it explains, unless the cause says otherwise."""
    message: str
    """What is wrong, in one sentence."""
    explains: tuple[int, ...]
    """Positions in the examination's findings, those that prove it first."""
    summary: str = ""
    """What the cause is, in one sentence."""
    subject: str | None = None
    """The tensor, layer or optimizer that it is about; ``None`` for the whole checkpoint."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values."""
    advice: str = ""
    """What to change in the training code or the data."""
    remedy: str = ""
    """The line of code to write, where it is known; empty otherwise."""
    prognosis: Prognosis = Prognosis.POINTLESS
    """What ``ckdoc fix`` can do about it."""
    ignored: str | None = None
    """The reason given for hiding it, ``None`` where it counts."""
    preview: bool = False
    """True where its cause is in preview: it is shown, and the findings that it explains count by themselves."""

    @property
    def counts(self) -> bool:
        """True where it is neither hidden nor in preview."""
        return self.ignored is None and not self.preview

    @property
    def title(self) -> str:
        """What reports call it."""
        return printable(self.cause)


def by_severity_and_certainty(diagnosis: Diagnosis) -> tuple[int, int, str]:
    """Return the sort key of diagnoses: the worst first, then the most certain, then by name."""
    return -diagnosis.severity, -diagnosis.certainty, diagnosis.cause
