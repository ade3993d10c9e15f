"""What a run found in one checkpoint: its verdict, its tensors, its findings and diagnoses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cached_property
from math import prod
from os.path import join
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Part, Skipped
from checkpoint_doctor.checkpoint.reviewed_settings import ReviewedSetting
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.resume import Resumption, answer
from checkpoint_doctor.sources.traces import Trace
from checkpoint_doctor.statistics.tensors import Histogram

RULE_CRASHED = "CKD001"
"""Code of the finding about a rule that crashed."""

PLUGIN_LEFT_OUT = "CKD003"
"""Code of the remark about a loader, a rule or a cause that is installed and broken."""


IN_BASELINE = "in the baseline"
"""The reason that hides a finding which a baseline knows."""


class Verdict(Enum):
    """The outcome for one checkpoint."""

    HEALTHY = "healthy"
    """No error counts."""
    ILL = "ill"
    """A diagnosis or an unexplained finding is an error."""
    INCOMPLETE = "incomplete"
    """A rule crashed on it, and nothing else was found that makes it ill."""
    UNREADABLE = "unreadable"
    """It could not be opened, or not be read to its end."""


def judge(findings: Sequence[Finding], diagnoses: Sequence[Diagnosis] = ()) -> Verdict:
    """Return the verdict on a checkpoint that was read, from its diagnoses and the findings that none explains.

    It is ill where an error counts, whatever fails the run. A rule that crashed has not looked, so without another
    illness the verdict is ``INCOMPLETE``.
    """
    if any(alert.severity is Severity.ERROR for alert in list_alerts(findings, diagnoses)):
        return Verdict.ILL
    return Verdict.INCOMPLETE if any(each.code == RULE_CRASHED for each in findings) else Verdict.HEALTHY


Alert = Diagnosis | Finding
"""What a run is judged by: a diagnosis, or a finding that none explains."""


def list_alerts(findings: Sequence[Finding], diagnoses: Sequence[Diagnosis]) -> list[Alert]:
    """Return the diagnoses that count, and after them the findings that count and that no diagnosis explains."""
    explained = {position for each in diagnoses if not each.preview for position in each.explains}
    alerts: list[Alert] = [*diagnoses, *(each for position, each in enumerate(findings) if position not in explained)]
    return [alert for alert in alerts if alert.counts]


class Unreached(Struct, frozen=True):
    """The entries of a tensor that receive no gradient, as its moments show it; shares are from 0 to 1."""

    entries: float
    """Share of the entries whose first moment has vanished: |m|/√v below 1e-4, or no gradient at all."""
    scattered: float | None = None
    """The same without the entries that dormant units explain; ``None`` where it is no weight."""
    units: float | None = None
    """Of a hidden layer's weight: share of its units that receive no gradient."""
    untouched: float | None = None
    """Share of the columns (inputs) that no gradient ever reached."""
    columns: tuple[int, ...] | None = None
    """Columns in which no first moment is alive; ``None`` where they are too many to list."""
    untouched_columns: tuple[int, ...] | None = None
    """Columns whose moments are exactly zero; ``None`` as above."""


class TensorRecord(Struct, frozen=True):
    """A tensor's line in a report."""

    name: str
    """The tensor's name."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: str
    """Its element type, such as ``float32``."""
    kind: str
    """The kind of its layer, such as ``linear``."""
    layer: str
    """The name of its layer."""
    updates: int | None
    """Updates an optimizer counted for it; ``None`` where no optimizer holds it."""
    zeros: int | None = None
    """Entries that are exactly zero; ``None`` where no value was read, since no rule asked for one."""
    nonfinite: int | None = None
    """Entries that are NaN or infinite; ``None`` where no value was read."""
    minimum: float | int | None = None
    """Smallest finite entry; ``None`` where there is none."""
    maximum: float | int | None = None
    """Largest finite entry; ``None`` where there is none."""
    mean: float | None = None
    """Mean of the finite entries."""
    std: float | None = None
    """Population standard deviation of the finite entries."""
    norm: float | None = None
    """Euclidean norm of the finite entries."""
    input_rms: float | None = None
    """Of a weight: root mean square of its layer's inputs; ``None`` where the moments do not show it."""
    gradient_rms: float | None = None
    """Of a weight: root mean square of the gradient with respect to its layer's output."""
    update_ratio: float | None = None
    """Of a weight: norm of its next update over its own norm."""
    tied_to: str | None = None
    """Name of an earlier tensor of the very same bytes; ``None`` where this is the first, or the only one."""
    unreached: Unreached | None = None
    """Which entries receive no gradient; ``None`` but in the series of a running training."""
    histogram: Histogram | None = None
    """How its values are distributed; ``None`` where no report asked for it."""

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_statistic(self) -> bool:
        """True for what is kept and not learned: a buffer, or one of batch normalization's running statistics."""
        return self.kind == Kind.BUFFER or self.name.endswith(("running_mean", "running_var", "num_batches_tracked"))


class Provenance(Struct, frozen=True):
    """What an examination was made of, by which a later run knows whether it still holds."""

    asked_with: str
    """A digest of the rules, options and versions that it was made with."""
    read: Trace
    """What was read for it."""


class Examination(Struct, frozen=True, dict=True):
    """What a run found in one checkpoint."""

    path: str
    """Where the checkpoint was opened from."""
    format: str | None
    """The name of the loader that opened it; ``None`` where none did."""
    verdict: Verdict
    """The outcome."""
    error: str | None = None
    """Why it could not be examined; ``None`` where it was."""
    hint: str = ""
    """What to do about the error; empty where nothing is known."""
    layout: str = ""
    """The library whose layout a folder has; empty for a single file."""
    algorithm: str | None = None
    """The training algorithm, where it can be inferred."""
    step: int | None = None
    """Environment or training steps at the time of saving, where the file counts them."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to the version with which the file was saved."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """The settings stored beside the tensors, as plain values."""
    layers: int = 0
    """Number of layers."""
    tensors: tuple[TensorRecord, ...] = ()
    """One record for each of the model's tensors."""
    findings: tuple[Finding, ...] = ()
    """What the rules found, hidden findings included, the worst first."""
    diagnoses: tuple[Diagnosis, ...] = ()
    """The worst first; their ``explains`` are positions in ``findings``."""
    skipped: tuple[Skipped, ...] = ()
    """What could not be looked at."""
    parts: tuple[Part, ...] = ()
    """The files of a folder that is one checkpoint; empty for a single file."""
    settings: tuple[ReviewedSetting, ...] = ()
    """The settings of the run and of its optimizers, with the ranges that are known of them."""
    resumption: Resumption | None = None
    """From where a run resumes; ``None`` where there is no run to resume."""
    asked: tuple[str, ...] | None = None
    """Codes of the rules that were run on it; ``None`` where that is not known."""
    content: str = ""
    """What it is where it holds no model, as in ``is the state of an optimizer``; empty where it holds one."""
    provenance: Provenance | None = None
    """What it was made of; ``None`` where nobody wants to carry it over into a later run."""

    @property
    def files(self) -> Iterator[str]:
        """The checkpoint, and the files of one that is a folder."""
        yield self.path
        yield from (join(self.path, part.file) for part in self.parts)

    @property
    def parameters(self) -> int:
        """Number of learned values: the entries of all tensors but buffers and running statistics, tied ones once."""
        return sum(tensor.size for tensor in self.tensors if not tensor.is_statistic and tensor.tied_to is None)

    @property
    def is_measured(self) -> bool:
        """False where the tensors' values were not read, since no rule asked for them."""
        return all(tensor.zeros is not None for tensor in self.tensors)

    @property
    def is_unreadable(self) -> bool:
        """True where it was not examined at all."""
        return self.verdict is Verdict.UNREADABLE

    @property
    def crashes(self) -> tuple[Finding, ...]:
        """The findings about rules that crashed: nobody looked for what these rules find."""
        return tuple(finding for finding in self.findings if finding.code == RULE_CRASHED)

    @property
    def counted(self) -> Iterator[Finding]:
        """The findings that are neither hidden nor in preview."""
        return (finding for finding in self.findings if finding.counts)

    @property
    def in_preview(self) -> Sequence[Alert]:
        """The diagnoses and findings of causes and rules in preview that nothing hides: shown, and not counted."""
        alerts: list[Alert] = [*self.diagnoses, *self.findings]
        return [alert for alert in alerts if alert.preview and alert.ignored is None]

    @property
    def alerts(self) -> Sequence[Alert]:
        """The diagnoses that count, then the findings that count and that no diagnosis explains."""
        return list_alerts(self.findings, self.diagnoses)

    @property
    def unexplained(self) -> Sequence[Finding]:
        """The findings that count and that no diagnosis explains."""
        return [alert for alert in self.alerts if isinstance(alert, Finding)]

    @property
    def resume_answer(self) -> str:
        """Whether a run resumes, in one line: from where, or what would go wrong."""
        return answer(self.resumption, self.findings, self.alerts)

    @cached_property
    def diagnosis_of(self) -> Mapping[int, int]:
        """Position of a finding to the position of the diagnosis that explains it, and counts in its place."""
        return {
            finding: index for index, each in enumerate(self.diagnoses) if not each.preview for finding in each.explains
        }

    @property
    def hidden(self) -> int:
        """How many findings the configuration or a baseline hides."""
        return sum(finding.ignored is not None for finding in self.findings)

    @property
    def known(self) -> int:
        """How many of them a baseline hides."""
        return sum(finding.ignored == IN_BASELINE for finding in self.findings)

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst diagnosis or unexplained finding that counts."""
        return max((alert.severity for alert in self.alerts), default=None)
