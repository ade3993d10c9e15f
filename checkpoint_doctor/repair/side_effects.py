"""What a repair may bring to light, declared by the plan before anything is written.

A repair must not make anything ill. But rules may say something new of a repaired checkpoint for four reasons, and the
plan names the tensors and layers that they apply to. Whatever else is new is a bug, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.identity import FindingKey, identify


class SideEffects(Struct, frozen=True):
    """The findings that may be there after a repair."""

    known: Mapping[FindingKey, Severity] = field(default_factory=dict)
    """Findings that were there before, and how severe they were."""
    still_ill: Mapping[str, Severity] = field(default_factory=dict)
    """Tensors and layers with a finding that is not fixed: another rule may describe them now, no more severely."""
    still_true: Mapping[tuple[str, str], Severity] = field(default_factory=dict)
    """Tensors with a cause that new values do not change: that a tensor was never trained remains true of it."""
    same_rule: frozenset[tuple[str, str]] = frozenset()
    """Rule codes with tensors changed for them: recycled units are cut off until the next update, which the rule that
    asked for it says of the layers that read them, in the target network too."""
    newly_judged: frozenset[str] = frozenset()
    """Layers that could not be judged before, since they or their neighbours had values that are not finite."""
    was_not_finite: bool = False
    """True where some values or moments were not finite, so that nothing could be said of the whole file either."""

    def allows(self, finding: Finding) -> bool:
        """Return whether a finding may be there after the repair. Notes always may."""
        severity = finding.severity
        if severity <= self.known.get(identify(finding), Severity.NOTE):
            return True
        if severity <= self.still_ill.get(finding.subject or "", Severity.NOTE):
            return True
        if (finding.code, finding.tensor) in self.same_rule or finding.layer in self.newly_judged:
            return True
        if finding.subject is None and self.was_not_finite:
            return True
        causes = list(_causes(finding))
        return bool(causes) and all(severity <= self.still_true.get(cause, Severity.NOTE) for cause in causes)


def declare_side_effects(checkpoint: Checkpoint, before: Iterable[Finding], plan: Plan) -> SideEffects:
    """Return what may be found after a plan is carried out, given what was found before."""
    fixed = {identify(finding) for finding in plan.fixed}
    known: dict[FindingKey, Severity] = {}
    still_ill: dict[str, Severity] = {}
    still_true: dict[tuple[str, str], Severity] = {}
    for finding in before:
        key = identify(finding)
        known[key] = max(finding.severity, known.get(key, Severity.NOTE))
        if finding.subject is not None and key not in fixed:
            still_ill[finding.subject] = max(finding.severity, still_ill.get(finding.subject, Severity.NOTE))
        for name in _listed(finding, checkpoint) if key not in fixed else ():
            still_ill[name] = max(finding.severity, still_ill.get(name, Severity.NOTE))
        for cause in _causes(finding):
            still_true[cause] = max(finding.severity, still_true.get(cause, Severity.NOTE))
    rules = {change.tensor.name: change.rules for change in plan.changes}
    return SideEffects(
        known=known,
        still_ill=still_ill,
        still_true=still_true,
        same_rule=frozenset(
            (code, change.tensor.name) for change in plan.changes for code in change.rules + rules.get(change.of, ())
        ),
        newly_judged=find_unjudged_layers(checkpoint),
        was_not_finite=_has_nonfinite(checkpoint),
    )


def _listed(finding: Finding, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the tensors that a finding lists, and their layers."""
    listed = finding.evidence.get("tensors")
    for name in listed if isinstance(listed, list) else ():
        if name in checkpoint.layer_of:
            yield from (name, checkpoint.layer_of[name].name)


def _has_nonfinite(checkpoint: Checkpoint) -> bool:
    moments = (each.statistics for optimizer in checkpoint.optimizers for each in optimizer.parameters)
    return any(tensor.statistics.nonfinite for tensor in checkpoint.tensors) or any(
        each is not None and (each.nonfinite_first or each.nonfinite_second) for each in moments
    )


def find_unjudged_layers(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the names of layers with values or moments that are not finite, and of their neighbours."""
    unjudged: set[str] = set()
    for layer in checkpoint.layers:
        moments = (checkpoint.moments.get(tensor.name) for tensor in layer.tensors.values())
        statistics = (each.statistics for each in moments if each is not None)
        if any(tensor.statistics.nonfinite for tensor in layer.tensors.values()) or any(
            each is not None and (each.nonfinite_first or each.nonfinite_second) for each in statistics
        ):
            unjudged |= {layer.name, layer.previous or "", layer.following or "", *layer.followers}
    return frozenset(unjudged - {""})


def _causes(finding: Finding) -> Iterator[tuple[str, str]]:
    """Yield each tensor that a finding is about with the cause that its evidence names."""
    cause = finding.evidence.get("cause")
    tensors = [finding.tensor] if finding.tensor else finding.evidence.get("tensors") or []
    if isinstance(cause, str):
        yield from ((tensor, cause) for tensor in tensors)
