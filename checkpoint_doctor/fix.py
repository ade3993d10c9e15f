"""The use case: examine checkpoints, plan their repairs, write proven copies of them. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.settings import Config, Settings
from checkpoint_doctor.errors import DoctorError, NotACheckpoint, NothingToExamine, RepairFailed, UsageError
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.repair import record
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.cross_check import CrossCheck
from checkpoint_doctor.repair.hashing import RunningDigest
from checkpoint_doctor.repair.planning import plan_repairs
from checkpoint_doctor.repair.record import Summary
from checkpoint_doctor.repair.safe_copy import Snapshot
from checkpoint_doctor.repair.simulation import combine, simulate
from checkpoint_doctor.repair.writing import Writer
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.report import Examination
from checkpoint_doctor.scan import ProgressCallback, diagnose, find_checkpoints, open_checkpoint, tell, warm_up

MOST_ROUNDS = 4
"""Of planning what the repairs planned so far bring to light; one is enough nearly always."""
ENDING = "_FIXED"
"""Goes between the stem and the suffix of the input's name."""


@dataclass(frozen=True)
class FixOptions:
    """What a run of ``ckdoc fix`` was told."""

    recycle: bool = False
    """Repair what only matters to those who train on, too."""
    unsafe: bool = False
    """Repair what nobody knows the right values of, too."""
    seed: int = 0
    notes: bool = False
    """Treat findings of note level too."""
    force: bool = False
    """Replace an existing result."""
    dry_run: bool = False
    output: str = ""
    """The result's name, or the folder it goes to; empty for beside the input."""

    @property
    def allowed(self) -> frozenset[Safety]:
        """The repairs that may be made."""
        wanted = {Safety.SAFE: True, Safety.ON_REQUEST: self.recycle, Safety.UNSAFE: self.unsafe}
        return frozenset(safety for safety, is_wanted in wanted.items() if is_wanted)

    def plan(self, checkpoint: Checkpoint, examination: Examination) -> Plan:
        """Plan the repairs of an examined checkpoint."""
        least = Severity.NOTE if self.notes else Severity.WARNING
        return plan_repairs(checkpoint, examination.findings, allowed=self.allowed, least=least, seed=self.seed)


class Outcome(Enum):
    """What came of one checkpoint."""

    FIXED = "fixed"
    PLANNED = "planned"
    """A dry run: there is something to do, and nothing was done."""
    NOTHING = "nothing to fix"
    """It is healthy, or nothing that it has can be repaired as ordered."""
    FAILED = "failed"
    """It could not be read, or the result could not be written or proven."""


@dataclass(frozen=True)
class FixResult:
    """All that a run says about one checkpoint."""

    path: str
    outcome: Outcome
    examination: Examination | None = None
    """What was found before."""
    summary: Summary = field(default_factory=Summary)
    output: str | None = None
    remaining: tuple[Finding, ...] = ()
    """What is still found afterwards (in a dry run: what would be)."""
    record: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    hint: str = ""

    def leaves_illness(self, fail_on: Severity | None) -> bool:
        """True where something remains that fails a run."""
        return fail_on is not None and any(
            finding.severity >= fail_on for finding in self.remaining if finding.ignored is None
        )


def fix(
    uris: Sequence[str | os.PathLike[str]],
    options: FixOptions | None = None,
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    jobs: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> list[FixResult]:
    """Repair every checkpoint that the URIs name or hold; each result is proven before it gets its name.

    Inputs are never written to. What goes wrong with one checkpoint is its result's ``error``, and the others go on.

    Raises:
        NothingToExamine: there is no checkpoint to look at.
        UsageError: ``output`` names a file, and there are several checkpoints.
    """
    options, catalogue, config = options or FixOptions(), catalogue or discover(), config or Config()
    candidates = find_checkpoints([os.fspath(uri) for uri in uris], catalogue)
    if len(candidates) > 1 and options.output and not os.path.isdir(options.output):
        raise UsageError(
            f"{len(candidates)} checkpoints cannot all become {options.output}", "name an existing folder as --output"
        )
    results: list[FixResult] = []
    taken: dict[str, str] = {}
    with CrossCheck() as cross_check:
        for number, candidate in enumerate(candidates, 1):
            run = FixRun(
                candidate.path, options, catalogue, config.for_path(candidate.path), jobs or os.cpu_count() or 1,
                tell(on_progress, candidate.path, number, len(candidates)), taken, cross_check,
            )  # fmt: skip
            try:
                results.append(run.operate())
            except NotACheckpoint as error:
                if candidate.named:
                    results.append(_failure(candidate.path, error))
            except DoctorError as error:
                results.append(_failure(candidate.path, error))
    if not results:
        raise NothingToExamine(f"none of {len(candidates)} files is a checkpoint", "name a file to hear what it is")
    return results


def _failure(path: str, error: DoctorError) -> FixResult:
    return FixResult(
        path,
        Outcome.FAILED,
        record=_record(path, Outcome.FAILED, {"error": error.message, "hint": error.hint}),
        error=error.message,
        hint=error.hint,
    )


@dataclass(frozen=True)
class FixRun:
    """The work on one checkpoint."""

    path: str
    options: FixOptions
    catalogue: Catalogue
    settings: Settings
    jobs: int
    measured: Callable[[int, int], None] | None
    taken: dict[str, str]
    """Results of this run, and which input each is of."""
    cross_check: CrossCheck

    def operate(self) -> FixResult:
        """Do all of it; raises ``DoctorError`` where it cannot be done."""
        snapshot = Snapshot.take(self.path)
        # The sum takes longer than the examination, which leaves a core idle; where nothing is written it is abandoned.
        with RunningDigest(snapshot.path) as digest:
            return self._operate(snapshot, digest)

    def _operate(self, snapshot: Snapshot, digest: RunningDigest) -> FixResult:
        checkpoint, examination = self.examine(self.path)
        plan, forecast = self._plan(checkpoint, examination)
        summary = Summary.of_plan(plan)
        result = FixResult(self.path, Outcome.NOTHING, examination, summary, remaining=examination.findings)
        if not plan.changes:
            return self._conclude(result, {})
        target = self._name_result(checkpoint)
        if self.options.dry_run:
            result = replace(result, outcome=Outcome.PLANNED, output=str(target), remaining=forecast.findings)
            return self._conclude(result, {})
        loader = self._loader_of(checkpoint)
        written = Writer(
            checkpoint, examination, plan, loader, snapshot, digest, target, self.options.force,
            rename=lambda name: result_name(name, loader.suffixes), examine=self.examine, plan_again=self.options.plan,
            describe=lambda facts: self._describe(summary, Outcome.FIXED, facts), cross_check=self.cross_check,
        ).write()  # fmt: skip
        result = replace(result, outcome=Outcome.FIXED, output=str(target), remaining=written.examination.findings)
        return self._conclude(result, written.facts)

    def _plan(self, checkpoint: Checkpoint, examination: Examination) -> tuple[Plan, Examination]:
        """Return the plan, what it brings to light included, and what will be found when it is carried out."""
        plan = further = self.options.plan(checkpoint, examination)
        forecast = examination
        for _ in range(MOST_ROUNDS):
            if not further.changes:
                break
            simulated = simulate(checkpoint, plan)
            forecast = diagnose(simulated, self.catalogue, self.settings)
            further = self.options.plan(simulated, forecast)
            plan = combine(checkpoint, plan, further)
        return plan, forecast

    def examine(
        self, path: str | Path, prepare: Callable[[Checkpoint], None] | None = None
    ) -> tuple[Checkpoint, Examination]:
        """Open and examine a checkpoint with this run's settings; ``prepare`` sees it before it is measured.

        Raises:
            UnreadableCheckpoint: it cannot be opened or read to its end.
        """
        checkpoint = open_checkpoint(path, self.catalogue)
        if prepare is not None:
            prepare(checkpoint)
        warm_up(checkpoint, self.jobs, self.measured)
        examination = diagnose(checkpoint, self.catalogue, self.settings)
        if examination.is_unreadable:
            raise DoctorError(examination.error or f"{path} cannot be read", examination.hint)
        return checkpoint, examination

    def _loader_of(self, checkpoint: Checkpoint) -> Loader:
        for loader in self.catalogue.loaders:
            if loader.name == checkpoint.format:
                return loader
        raise RepairFailed(f"no loader of that name can patch files of the format {checkpoint.format}")

    def _name_result(self, checkpoint: Checkpoint) -> Path:
        suffixes = self._loader_of(checkpoint).suffixes
        path = Path(self.path)
        name = result_name(path.name, suffixes)
        output = self.options.output
        target = Path(output or path.parent)
        if not output or target.is_dir():
            target = target / name
        rival = self.taken.setdefault(os.path.abspath(target), self.path)
        if rival != self.path:
            raise UsageError(f"the results of {rival} and {self.path} would both be {target}", "fix them one by one")
        return target

    def _describe(self, summary: Summary, outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
        options = {
            "seed": self.options.seed,
            "recycle": self.options.recycle,
            "unsafe": self.options.unsafe,
            "notes": self.options.notes,
        }
        return _record(self.path, outcome, {**facts, "options": options, **record.to_json(summary)})

    def _conclude(self, result: FixResult, facts: Mapping[str, Any]) -> FixResult:
        return replace(result, record=self._describe(result.summary, result.outcome, facts))


def result_name(name: str, suffixes: Sequence[str]) -> str:
    """Return the name of the repaired copy: ``model.zip`` becomes ``model_FIXED.zip``.

    A loader's own suffix is kept whole (``model.safetensors.index.json``), else the last one is.
    """
    known = [suffix for suffix in suffixes if name.endswith(suffix) and len(name) > len(suffix)]
    suffix = max(known, key=len, default=Path(name).suffix)
    return f"{name.removesuffix(suffix) if suffix else name}{ENDING}{suffix}"


def _record(path: str, outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**record.head(), "path": path, "outcome": outcome.value, **facts}
