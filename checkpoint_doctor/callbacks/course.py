"""What begins, worsens and heals from check to check, so that each is told once."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.identity import Extent, FindingKey, extent_of, identify, identify_diagnosis
from checkpoint_doctor.results.report import Alert, Examination
from checkpoint_doctor.text import printable, quantity

GROWTH = 2.0
"""A figure that has doubled since it was told is told again. A convention of this project: figures that move a little
at every check would be told at every check."""

EVENTS = frozenset({"GRD001", "GRD003", "GRD004", "nonfinite-gradient", "inputs-switched-on"})
"""What happens at one step: that it is not there at the next check does not mean that it is healed."""


class News(Struct, frozen=True):
    """One thing to tell."""

    step: int
    what: str
    """``began``, ``worsened`` or ``healed``."""
    alert: Alert
    """As it is now; of what healed as it was."""

    def __str__(self) -> str:
        """Return the line for the console."""
        alert = self.alert
        subject = alert.subject
        about = f" {printable(subject)}:" if subject and subject not in alert.message else ""
        if self.what == "healed":
            return f"step {self.step:,}: healed: {alert.title}{about.rstrip(':')}"
        explained = len(alert.explains) if isinstance(alert, Diagnosis) else 0
        folded = f" (explains {quantity(explained, 'finding')})" if explained > 1 else ""
        worse = " has become worse" if self.what == "worsened" else ""
        certainty = f", {alert.certainty.label}" if isinstance(alert, Diagnosis) else ""
        told = f"step {self.step:,}: {alert.severity.label}: {alert.title}{worse}{certainty}:{about} "
        advice = f"\n    {printable(alert.advice)}" if alert.advice else ""
        return f"{told}{printable(alert.message)}{folded}{advice}"


class Course:
    """Follows the alerts of a run: its diagnoses, and the findings that none of them explains."""

    def __init__(self, least: Severity = Severity.WARNING) -> None:
        self.least = least
        self.news: list[News] = []
        """All that was told so far."""
        self._present: dict[FindingKey, tuple[Alert, Extent]] = {}

    def follow(self, examination: Examination, step: int) -> list[News]:
        """Return what is new in an examination, the worst first, and what is gone."""
        found: dict[FindingKey, tuple[Alert, Extent]] = {}
        for alert in examination.alerts:
            if alert.severity >= self.least:
                key = identify_diagnosis(alert) if isinstance(alert, Diagnosis) else identify(alert)
                extent = extent_of(alert)
                found[key] = (found[key][0], found[key][1].merge(extent)) if key in found else (alert, extent)
        news = list(self._compare(found, step))
        self.news += news
        return news

    def _compare(self, found: dict[FindingKey, tuple[Alert, Extent]], step: int) -> Iterator[News]:
        for key, (alert, extent) in found.items():
            told = self._present.get(key)
            if told is None:
                self._present[key] = alert, extent
                yield News(step, "began", alert)
            elif _is_worse(told[1], extent):
                self._present[key] = alert, extent
                yield News(step, "worsened", alert)
        for key in [key for key in self._present if key not in found]:
            alert, _ = self._present.pop(key)
            if key.code not in EVENTS:
                yield News(step, "healed", alert)


def _is_worse(told: Extent, now: Extent) -> bool:
    return now.severity > told.severity or any(
        now.figures[key] >= GROWTH * told.figures[key] > 0 for key in now.figures.keys() & told.figures.keys()
    )
