"""Findings that say the same of several tensors: told once, with the list of whom they are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from checkpoint_doctor.results.findings import Finding

FEWEST = 3
"""So many findings that say the same are told as one: a pair still reads well in full."""


@dataclass(frozen=True)
class FindingGroup:
    """Findings of one rule that share severity, cause and advice; often only one."""

    members: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that is told in full."""
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
    """Bring findings that say the same of different tensors together, each family in the place of its first."""
    families: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        families.setdefault(_describe_family(finding), []).append(finding)
    return [
        kin
        for members in families.values()
        for kin in (
            [FindingGroup(tuple(members))]
            if len(members) >= FEWEST
            else [FindingGroup((member,)) for member in members]
        )
    ]


def _describe_family(finding: Finding) -> tuple[object, ...]:
    if finding.tensor is None and finding.layer is None:
        return (id(finding),)
    # What stands behind the last colon of a message is the cause; what stands before has the tensor's own figures.
    _, _, cause = finding.message.rpartition(": ")
    return finding.code, finding.severity, cause, finding.advice, finding.fix
