"""What a comparison found: the series of each run, what changed in it and when that began, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import PLUGIN_LEFT_OUT, RULE_CRASHED, Examination, Verdict
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.text import printable, quantity

Values = tuple[float | None, ...]
"""One value a checkpoint; ``None`` where it is not known."""


class PointRecord(Struct, frozen=True):
    """One checkpoint of a series."""

    path: str
    step: int | None
    updates: int | None
    verdict: Verdict
    """Of the checkpoint by itself, as a scan judges it."""
    algorithm: str | None = None
    format: str | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    """Those that count; their ``explains`` are empty, since the findings are not kept."""
    findings: tuple[Finding, ...] = ()
    """Warnings and errors that count and that no diagnosis explains."""
    keys: frozenset[tuple[str, str | None]] = frozenset()
    """Code and subject of all its warnings and errors, explained or not."""
    settings: Mapping[str, Any] = field(default_factory=dict)


class TensorRow(Struct, frozen=True):
    """One tensor through a series."""

    name: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    is_statistic: bool
    zero_fraction: Values
    nonfinite: Values
    norm: Values
    change: Values
    """Norm of the difference to the checkpoint before over the norm; ``None`` for the first one."""
    still_fraction: Values
    dormant_fraction: Values
    vanished_fraction: Values
    input_rms: Values
    gradient_rms: Values
    update_ratio: Values
    updates: Values


class Illness(Struct, frozen=True):
    """A diagnosis, or a finding that no diagnosis explains, through a series."""

    name: str
    """The cause, or the rule's code and name."""
    subject: str | None
    severity: Severity
    """The worst that it had."""
    certainty: Certainty | None
    """Of a diagnosis, where it was last seen."""
    message: str
    """What was said of it where it was last seen."""
    began: int
    """Position of the first checkpoint that has it."""
    gone: int | None
    """Position of the checkpoint from which on none has it; ``None`` where the last one still has it."""
    seen: tuple[int, ...] = ()
    """Positions of all checkpoints that have it."""


class SettingRow(Struct, frozen=True):
    """A setting that is not the same in all checkpoints of a series."""

    name: str
    values: tuple[Any, ...]
    """One plain value a checkpoint; ``None`` where it has none."""


class SeriesRecord(Struct, frozen=True):
    """What was found in the checkpoints of one run."""

    ordered_by: str
    points: tuple[PointRecord, ...]
    tensors: tuple[TensorRow, ...]
    findings: tuple[Finding, ...] = ()
    """Those of the trend rules, and those that the last checkpoint has by itself (warnings and errors); each with
    ``onset_step`` and ``onset_path`` in its evidence. The worst first."""
    illnesses: tuple[Illness, ...] = ()
    """Diagnoses over time, the worst first."""
    settings: tuple[SettingRow, ...] = ()
    appeared: tuple[str, ...] = ()
    """Tensors that the last checkpoint has and the first has not, or in another shape."""
    vanished: tuple[str, ...] = ()
    """Tensors that the first checkpoint has and the last has not, or in another shape."""
    left_out: tuple[Skipped, ...] = ()
    """Checkpoints that were looked at for this series and do not belong to it, and why."""
    unreadable: tuple[Examination, ...] = ()
    remarks: tuple[str, ...] = ()
    """Sentences about the series: steps that run backwards, figures that come from reports."""

    @property
    def is_pair(self) -> bool:
        """True for two checkpoints: a difference and no development."""
        return len(self.points) == 2

    @property
    def counted(self) -> Iterator[Finding]:
        """The findings that are neither hidden nor in preview."""
        return (finding for finding in self.findings if finding.counts)

    def onset_of(self, finding: Finding) -> int | None:
        """Return the position of the checkpoint at which a finding began."""
        sought = finding.evidence.get("onset_path"), finding.evidence.get("onset_step")
        return next((place for place, point in enumerate(self.points) if (point.path, point.step) == sought), None)


class SeriesReport(Struct, frozen=True):
    """What a comparison found."""

    series: tuple[SeriesRecord, ...]
    """One for each run: its checkpoints, tensors, findings, and diagnoses over time."""
    rules: int
    """How many rules were asked, those about series and those about each checkpoint."""
    fail_on: Severity | None = Severity.ERROR
    """The lowest severity that fails the comparison; ``None`` where none does."""
    unreadable: tuple[Examination, ...] = ()
    """What could not be read, of all series and of none."""
    left_out: tuple[Skipped, ...] = ()
    """What could be read and belongs to no series, and why."""
    passed_over: tuple[Skipped, ...] = ()
    """Files that a search came across and that are no checkpoints."""
    unsearched: tuple[Unsearched, ...] = ()
    """Files and folders that a search did not look at, and why."""
    parts: tuple[str, ...] = ()
    """The files of the checkpoints that are folders."""
    remarks: tuple[Finding, ...] = ()
    """Findings about the comparison and not about a series, such as a plugin that is broken."""
    configuration: str = ""
    """The configuration file that silences something, and what, in words; empty where none does."""

    @property
    def files(self) -> Iterator[str]:
        """The checkpoints, the files of those that are folders, what could not be read, and what was left out."""
        yield from self.parts
        for record in self.series:
            yield from (point.path for point in record.points)
        yield from (each.path for each in self.unreadable)
        yield from (each.what for each in self.left_out)

    @property
    def findings(self) -> Sequence[Finding]:
        """All findings that count."""
        return [finding for each in self.series for finding in each.counted] + [
            finding for finding in self.remarks if finding.counts
        ]

    @property
    def lasting(self) -> Sequence[Illness]:
        """The illnesses that a last checkpoint still has."""
        return [illness for each in self.series for illness in each.illnesses if illness.gone is None]

    @property
    def failed(self) -> bool:
        """True where a finding, or an illness of a last checkpoint, is at or above ``fail_on``."""
        if self.fail_on is None:
            return False
        worst = [each.severity for each in self.findings] + [each.severity for each in self.lasting]
        return any(severity >= self.fail_on for severity in worst)

    @property
    def is_complete(self) -> bool:
        """True where every checkpoint was read, every folder searched, no rule crashed, and every plugin was there."""
        found = [
            *self.findings,
            *(each for record in self.series for point in record.points for each in point.findings),
        ]
        missed = any(finding.code in (RULE_CRASHED, PLUGIN_LEFT_OUT) for finding in found)
        return not (self.unreadable or missed or any(not each.on_purpose for each in self.unsearched))

    @property
    def summary_line(self) -> str:
        """What was compared and found, as in ``1 series, 12 checkpoints, 32 tensors, 80 rules, 2 findings``."""
        left_out = len(self.left_out)
        return ", ".join(
            [
                f"{len(self.series):,} series",
                quantity(sum(len(each.points) for each in self.series), "checkpoint"),
                quantity(sum(len(each.tensors) for each in self.series), "tensor"),
                quantity(self.rules, "rule"),
                quantity(len(self.findings), "finding"),
                *([f"{len(self.unreadable):,} unreadable"] if self.unreadable else []),
                *([f"{left_out:,} left out"] if left_out else []),
                *([f"{quantity(len(self.passed_over), 'other file')} passed over"] if self.passed_over else []),
                *([printable(self.configuration)] if self.configuration else []),
            ]
        )
