"""The record of a repair as JSON: what was changed in which file, by which rule, and what was left and why.

Other programs depend on these names: fields are added freely, never changed or dropped without a new version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoint_doctor import __version__
from checkpoint_doctor.repair.changes import Change, Plan, Purpose, Unfixed, Upstream
from checkpoint_doctor.results.json import plain
from checkpoint_doctor.statistics.tensors import TensorStatistics

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Figures:
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


@dataclass(frozen=True)
class ChangeRecord:
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
    def of_treatment(cls, init_rule: Change) -> ChangeRecord:
        """Describe a init_rule."""
        return cls(
            tensor=init_rule.tensor.name,
            purpose=init_rule.purpose,
            of=init_rule.of,
            rules=init_rule.rules,
            init_rule=init_rule.init_rule,
            illness=init_rule.illness,
            entries=init_rule.entries,
            size=init_rule.tensor.size,
            ranges=tuple(init_rule.ranges),
            tied=init_rule.tied,
            before=Figures.of(init_rule.before),
            after=Figures.of(init_rule.after),
        )


@dataclass(frozen=True)
class Summary:
    """A plan without its numbers: what reports and records keep."""

    changes: tuple[ChangeRecord, ...] = ()
    unfixed: tuple[Unfixed, ...] = ()
    upstream: tuple[Upstream, ...] = ()

    @classmethod
    def of_plan(cls, plan: Plan) -> Summary:
        """Describe a plan."""
        return cls(tuple(ChangeRecord.of_treatment(each) for each in plan.changes), plan.unfixed, plan.upstream)

    def counted(self, purpose: Purpose) -> list[ChangeRecord]:
        """Return the changes made for one purpose."""
        return [each for each in self.changes if each.purpose is purpose]


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the parts of a record that say what a plan does."""
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
    values: Mapping[str, Any] = vars(figures)
    return {name: number if not isinstance(number := plain(value), str) else None for name, value in values.items()}


def head() -> dict[str, Any]:
    """Return how every record begins."""
    return {"schema_version": SCHEMA_VERSION, "tool": {"name": "checkpoint-doctor", "version": __version__}}
