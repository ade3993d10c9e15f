"""The record of a repair as JSON: what was changed in which file, for which rule, and what was not fixed and why.

Other programs depend on these names: fields are added freely, never changed or dropped without a new version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from checkpoint_doctor import __version__
from checkpoint_doctor.repair.changes import Change, Plan, Purpose, Unfixed, Upstream
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.json import plain, write_json
from checkpoint_doctor.statistics.tensors import TensorStatistics

SCHEMA_VERSION = 1


class Figures(Struct, frozen=True):
    """Statistics of a tensor at one time, over its finite entries."""

    minimum: float | int | None
    maximum: float | int | None
    mean: float | None
    std: float | None
    zeros: int
    nonfinite: int

    @classmethod
    def of(cls, statistics: TensorStatistics) -> Figures:
        """Take what is recorded from a tensor's statistics."""
        return cls(
            statistics.minimum,
            statistics.maximum,
            statistics.mean,
            statistics.std,
            statistics.zeros,
            statistics.nonfinite,
        )


class ChangeRecord(Struct, frozen=True):
    """What was done to one tensor, without its numbers."""

    tensor: str
    purpose: Purpose
    of: str
    """The repaired tensor that this one goes along with; empty for a repair."""
    rules: tuple[str, ...]
    init_rule: str
    illness: str
    entries: int
    size: int
    ranges: tuple[tuple[int, int], ...]
    """The changed entries as half-open ranges of flat, row-major indices; complete."""
    tied: tuple[str, ...]
    before: Figures
    after: Figures

    @classmethod
    def of_change(cls, change: Change) -> ChangeRecord:
        """Describe a change without its numbers."""
        return cls(
            tensor=change.tensor.name,
            purpose=change.purpose,
            of=change.of,
            rules=change.rules,
            init_rule=change.init_rule,
            illness=change.illness,
            entries=change.entries,
            size=change.tensor.size,
            ranges=tuple(change.ranges),
            tied=change.tied,
            before=Figures.of(change.before),
            after=Figures.of(change.after),
        )


class Summary(Struct, frozen=True):
    """A plan without its numbers: what reports and records keep."""

    changes: tuple[ChangeRecord, ...] = ()
    unfixed: tuple[Unfixed, ...] = ()
    upstream: tuple[Upstream, ...] = ()

    @classmethod
    def of_plan(cls, plan: Plan) -> Summary:
        """Describe a plan."""
        return cls(tuple(ChangeRecord.of_change(each) for each in plan.changes), plan.unfixed, plan.upstream)

    def counted(self, purpose: Purpose) -> list[ChangeRecord]:
        """Return the changes made for one purpose."""
        return [each for each in self.changes if each.purpose is purpose]


def describe_repair(
    path: str, outcome: str, facts: Mapping[str, Any], summary: Summary | None = None
) -> dict[str, Any]:
    """Return the whole record of one checkpoint; without a summary for one that could not be examined."""
    return {**head(), "path": path, "outcome": outcome, **facts, **(_describe_plan(summary) if summary else {})}


def describe_cause(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what a record says of a cause that a repair does not remove."""
    return {
        "cause": diagnosis.cause,
        "certainty": diagnosis.certainty.label,
        "subject": diagnosis.subject,
        "message": diagnosis.message,
        "advice": diagnosis.advice,
        "remedy": diagnosis.remedy,
        "prognosis": diagnosis.prognosis.value,
    }


def write_record(record: Mapping[str, Any]) -> str:
    """Return the text of a record."""
    return write_json(record)


def head() -> dict[str, Any]:
    """Return how every record begins."""
    return {"schema_version": SCHEMA_VERSION, "tool": {"name": "checkpoint-doctor", "version": __version__}}


def _describe_plan(summary: Summary) -> dict[str, Any]:
    return {
        "tensors": [_write_change(each) for each in summary.changes if each.purpose is not Purpose.MOMENT],
        "optimizer": [_write_change(each) for each in summary.counted(Purpose.MOMENT)],
        "not_fixed": [
            {
                "code": each.code,
                "name": each.name,
                "severity": each.severity.label,
                "subject": each.subject,
                "message": each.message,
                "why": each.why,
                "advice": each.advice,
            }
            for each in summary.unfixed
        ],
        "will_not_last": [{"subject": each.subject, "advice": each.advice} for each in summary.upstream],
    }


def _write_change(change: ChangeRecord) -> dict[str, Any]:
    return {
        "tensor": change.tensor,
        "purpose": change.purpose.value,
        "of": change.of or None,
        "rules": list(change.rules),
        "illness": change.illness or None,
        "treatment": change.init_rule,
        "entries": {
            "changed": change.entries,
            "of": change.size,
            "ranges": [list(each) for each in change.ranges],
        },
        "tied": list(change.tied),
        "before": _write_figures(change.before),
        "after": _write_figures(change.after),
    }


def _write_figures(figures: Figures) -> dict[str, Any]:
    values: Mapping[str, Any] = asdict(figures)
    return {name: number if not isinstance(number := plain(value), str) else None for name, value in values.items()}
