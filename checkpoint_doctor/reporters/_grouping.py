"""Findings that say the same of several tensors: shown once, with the list of what they are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.identity import group_key

FEWEST = 3
"""So many findings that say the same are shown as one: a pair still reads well in full."""


@dataclass(frozen=True)
class FindingGroup:
    """Findings of one rule that are shown as one; often only one."""

    members: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that is shown in full."""
        return self.members[0]

    @property
    def others(self) -> tuple[Finding, ...]:
        """Those that are only named."""
        return self.members[1:]

    @property
    def layer(self) -> str | None:
        """The layer that they are about; ``None`` where it is several."""
        layers = {finding.layer or finding.tensor or "" for finding in self.members}
        return layers.pop() if len(layers) == 1 else None


def group_findings(findings: Iterable[Finding]) -> list[FindingGroup]:
    """Group findings as their rules declare (``Identity.group_by``), each group in the place of its first member."""
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        key = group_key(finding)
        groups.setdefault(id(finding) if key is None else key, []).append(finding)
    return [
        FindingGroup(members)
        for group in groups.values()
        for members in ([tuple(group)] if len(group) >= FEWEST else [(each,) for each in group])
    ]
