"""Groups findings of one rule about several tensors, so that they are shown once with a list of the tensors."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.identity import group_key

SMALLEST_GROUP = 3
"""Fewer findings are shown one by one."""


class FindingGroup(Struct, frozen=True):
    """Findings of one rule that are shown as one; often a single finding."""

    members: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The finding that is shown in full."""
        return self.members[0]

    @property
    def others(self) -> tuple[Finding, ...]:
        """The findings of which only the tensors are listed."""
        return self.members[1:]

    @property
    def layer(self) -> str | None:
        """The layer that they are about; ``None`` for several layers."""
        layers = {finding.layer or finding.tensor or "" for finding in self.members}
        return layers.pop() if len(layers) == 1 else None


def group_findings(findings: Iterable[Finding]) -> list[FindingGroup]:
    """Group findings as their rules declare (``Identity.group_by``); a group is where its first finding was."""
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        key = group_key(finding)
        groups.setdefault(id(finding) if key is None else key, []).append(finding)
    return [
        FindingGroup(members)
        for group in groups.values()
        for members in ([tuple(group)] if len(group) >= SMALLEST_GROUP else [(each,) for each in group])
    ]
