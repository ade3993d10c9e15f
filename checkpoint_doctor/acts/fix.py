"""``fix``: examine checkpoints, plan their repairs, write verified copies of them. Prints nothing.

For each checkpoint: plan → simulate → write → verify → name. Nothing is written before the simulation shows that the
plan fixes what it is for, and nothing gets its name before the copy shows the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.acts.scan import ProgressCallback, find_checkpoints, within_file
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.asked import find_asked
from checkpoint_doctor.config.settings import Config, Settings
from checkpoint_doctor.errors import (
    DoctorError,
    NotACheckpoint,
    NothingToExamine,
    RepairFailed,
    UnknownFormat,
    UnreadableCheckpoint,
    UsageError,
)
from checkpoint_doctor.examination.measuring import MeasuredCallback, measure_checkpoint
from checkpoint_doctor.examination.rules import run_rules, with_ranges
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import discover_working, open_checkpoint
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.cross_check import CrossCheck
from checkpoint_doctor.repair.hashing import RunningDigest
from checkpoint_doctor.repair.planning import plan_repairs
from checkpoint_doctor.repair.record import Summary, describe_cause, describe_repair, write_record
from checkpoint_doctor.repair.safe_copy import Snapshot, bug
from checkpoint_doctor.repair.side_effects import declare_side_effects
from checkpoint_doctor.repair.simulation import combine, simulate
from checkpoint_doctor.repair.verification import (
    check_simulation,
    compare_findings,
    compare_tensors,
    reuse_statistics,
)
from checkpoint_doctor.repair.writing import Copy, Job, write_copy
from checkpoint_doctor.results.diagnosis import Diagnosis, Prognosis
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.report import Alert, Examination
from checkpoint_doctor.sources.address import require_local
from checkpoint_doctor.sources.search import Uris, list_uris
from checkpoint_doctor.text import quantity

MOST_ROUNDS = 4
"""Rounds of planning what the changes planned so far reveal; one is enough nearly always."""

ENDING = "_FIXED"
"""Goes between the stem and the suffix of the input's name."""


class FixOptions(Struct, frozen=True):
    """What ``ckdoc fix`` may do, and where the results go."""

    recycle: bool = False
    """Also make dormant units able to learn again, which only matters where training goes on."""
    unsafe: bool = False
    """Also reinitialise unrecoverable values."""
    seed: int = 0
    """Seed of the random numbers; the same seed gives the same bytes."""
    notes: bool = False
    """Also fix findings of note level."""
    force: bool = False
    """Replace an existing result."""
    dry_run: bool = False
    """Plan and simulate only; nothing is written."""
    output: str = ""
    """The result's name, or an existing folder for it; empty for beside the input."""

    @property
    def allowed(self) -> frozenset[Safety]:
        """The repairs that may be made."""
        wanted = {Safety.SAFE: True, Safety.ON_REQUEST: self.recycle, Safety.UNSAFE: self.unsafe}
        return frozenset(safety for safety, is_wanted in wanted.items() if is_wanted)

    def plan(self, checkpoint: Checkpoint, examination: Examination) -> Plan:
        """Plan the repairs of an examined checkpoint."""
        least = Severity.NOTE if self.notes else Severity.WARNING
        return plan_repairs(checkpoint, examination.findings, allowed=self.allowed, least=least, seed=self.seed)

    def describe(self) -> dict[str, Any]:
        """Return the options that decide about the result's bytes, for the record."""
        return {"seed": self.seed, "recycle": self.recycle, "unsafe": self.unsafe, "notes": self.notes}


class Outcome(Enum):
    """What came of one checkpoint."""

    FIXED = "fixed"
    """The result was written and verified."""
    RELIEVED = "relieved"
    """The result was written and verified, but a cause of what was repaired lies in code or data, and remains."""
    PLANNED = "planned"
    """A dry run: there is something to do, and nothing was done."""
    NOTHING = "nothing to fix"
    """It is healthy, or nothing that it has can be repaired with these options."""
    FAILED = "failed"
    """It could not be read, or the result could not be written or verified."""


class FixResult(Struct, frozen=True):
    """What a run found, planned and wrote for one checkpoint."""

    path: str
    """The input."""
    outcome: Outcome
    """What came of it."""
    examination: Examination | None = None
    """What was found before."""
    summary: Summary = field(default_factory=Summary)
    """Numbers of what is repaired."""
    output: str | None = None
    """Where the result was written; ``None`` where nothing was."""
    remaining: tuple[Finding, ...] = ()
    """What is still found afterwards (in a dry run: what would be)."""
    treated: tuple[Diagnosis, ...] = ()
    """The diagnoses of what is repaired."""
    after: Examination | None = None
    """What is found afterwards (in a dry run: what would be); ``None`` where the checkpoint could not be examined."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The record of the repairs, as it is written beside the result."""
    error: str | None = None
    """Why it failed; ``None`` where it did not."""
    hint: str = ""
    """What to do about the error; empty where nothing is known."""

    @property
    def lasting(self) -> tuple[Diagnosis, ...]:
        """The diagnoses of what is repaired whose cause a repair does not remove, or that are still made afterwards."""
        still = (
            {each.cause for each in self.after.diagnoses if each.severity > Severity.NOTE and not each.preview}
            if self.after
            else set()
        )
        return tuple(each for each in self.treated if each.prognosis is not Prognosis.CURED or each.cause in still)

    def leaves_illness(self, fail_on: Severity | None) -> bool:
        """Return whether something remains that fails a run: an alert, or the cause of what was repaired."""
        shown = [finding for finding in self.remaining if finding.counts]
        alerts: Sequence[Alert] = self.after.alerts if self.after else shown
        return fail_on is not None and (bool(self.lasting) or any(alert.severity >= fail_on for alert in alerts))


def fix(
    uris: Uris,
    options: FixOptions | None = None,
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    jobs: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> list[FixResult]:
    """Repair every checkpoint that the URIs name or contain. Each result is verified before it gets its name.

    Inputs are never written to. What goes wrong with one checkpoint is its result's ``error``, and the others go on.

    Raises:
        NothingToExamine: there is no checkpoint to look at.
        UsageError: a checkpoint is not on this machine; ``output`` names a file, and there are several checkpoints; or
            no rule is left to run.
    """
    options, catalogue, config = options or FixOptions(), catalogue or discover_working(), config or Config()
    uris = list_uris(uris)
    for uri in uris:
        require_local(
            uri,
            "where repaired copies are written and verified",
            "download it first; `ckdoc scan` reads it where it is",
        )
    found = find_checkpoints(uris, catalogue, config)
    candidates = found.candidates
    if len(candidates) > 1 and options.output and not os.path.isdir(options.output):
        raise UsageError(
            f"{len(candidates)} checkpoints cannot all become {options.output}", "name an existing folder as --output"
        )
    find_asked([candidate.path for candidate in candidates], config, catalogue.rules)
    inputs = tuple(Path(candidate.path) for candidate in candidates)
    results: list[FixResult] = []
    taken: dict[str, str] = {}
    with CrossCheck() as cross_check:
        for number, candidate in enumerate(candidates, 1):
            settings = config.for_path(candidate.path)
            on_measured = within_file(on_progress, candidate.path, number, len(candidates))
            run = FixRun(candidate.path, options, catalogue, settings, jobs, on_measured, inputs, taken, cross_check)
            try:
                results.append(run.run())
            except NotACheckpoint as error:
                if candidate.named:
                    results.append(_failure(candidate.path, error))
            except UnknownFormat as error:
                if candidate.is_expected:
                    results.append(_failure(candidate.path, error))
            except DoctorError as error:
                results.append(_failure(candidate.path, error))
    for each in found.unsearched:
        if not each.on_purpose:
            refusal = UnreadableCheckpoint(
                f"{each.path} cannot be searched: {each.why}", "check the path and its permissions"
            )
            results.append(_failure(each.path, refusal))
    if not results:
        raise NothingToExamine(
            f"there is no checkpoint among {quantity(found.seen, 'file')}", "name one file to learn what it is"
        )
    return results


def _failure(path: str, error: DoctorError) -> FixResult:
    facts = {"error": error.message, "hint": error.hint}
    record = describe_repair(path, Outcome.FAILED.value, facts)
    return FixResult(path, Outcome.FAILED, record=record, error=error.message, hint=error.hint)


class FixRun(Struct, frozen=True):
    """The repair of one checkpoint."""

    path: str
    options: FixOptions
    catalogue: Catalogue
    settings: Settings
    jobs: int | None
    on_measured: MeasuredCallback | None
    inputs: Sequence[Path]
    """All checkpoints of the run."""
    taken: dict[str, str]
    """Results of this run, each with its input."""
    cross_check: CrossCheck

    def run(self) -> FixResult:
        """Examine, plan, simulate, write, verify and name.

        Raises:
            DoctorError: it cannot be done; nothing was written.
        """
        snapshot = Snapshot.take(self.path)
        # The digest takes longer than the examination, which leaves a core idle. It is dropped if nothing is written.
        with nullcontext() if self._is_folder else RunningDigest(snapshot.path) as digest:
            checkpoint = self._measured(open_checkpoint(self.path, self.catalogue))
            before = run_rules(checkpoint, self.catalogue, self.settings)
            plan, simulated = self._plan(checkpoint, before)
            result = FixResult(
                self.path, Outcome.NOTHING, before, Summary.of_plan(plan), remaining=before.findings, after=before
            )
            if not plan.changes:
                return self._finished(result)
            loader = self._loader_of(checkpoint)
            target = self._name_result(loader)
            treated = tuple(_find_treated(before, plan))
            result = replace(result, output=str(target), remaining=simulated.findings, after=simulated, treated=treated)
            if self.options.dry_run:
                if not checkpoint.is_patchable:
                    loader.patch(checkpoint, plan.new_values)  # refuses, and says why
                return self._finished(replace(result, outcome=Outcome.PLANNED))
            self.cross_check.start(checkpoint.format, plan.changes)
            job = Job(
                checkpoint, plan, loader, snapshot, digest, target,
                shard_names=lambda name: result_name(name, loader.suffixes), inputs=self.inputs,
                force=self.options.force,
            )  # fmt: skip
            with write_copy(job) as copy:
                readers = self._verify(copy, checkpoint, plan, simulated)
                verified = {"patches": copy.count, "read_by": list(readers)}
                outcome = Outcome.RELIEVED if result.lasting else Outcome.FIXED
                result = self._finished(replace(result, outcome=outcome), {**copy.describe(), "proof": verified})
                copy.publish(write_record(result.record))
            return result

    @property
    def _is_folder(self) -> bool:
        return os.path.isdir(self.path)

    def _measured(self, checkpoint: Checkpoint) -> Checkpoint:
        checkpoint = with_ranges(checkpoint, self.settings)
        measure_checkpoint(checkpoint, self.jobs, self.on_measured)
        return checkpoint

    def _plan(self, checkpoint: Checkpoint, before: Examination) -> tuple[Plan, Examination]:
        """Return the plan, with the repairs of what it reveals, and what will be found when it is carried out."""
        plan = further = self.options.plan(checkpoint, before)
        simulated = before
        for _ in range(MOST_ROUNDS):
            if not further.changes:
                break
            after = simulate(checkpoint, plan)
            simulated = run_rules(after, self.catalogue, self.settings)
            further = self.options.plan(after, simulated)
            plan = combine(checkpoint, plan, further)
        if plan.changes:
            check_simulation(simulated.findings, further, declare_side_effects(checkpoint, before.findings, plan))
        return plan, simulated

    def _verify(self, copy: Copy, checkpoint: Checkpoint, plan: Plan, simulated: Examination) -> tuple[str, ...]:
        """Open and examine the copy, compare it with what was planned, and return the libraries that read it too."""
        try:
            opened = open_checkpoint(copy.path, self.catalogue)
            reopened = self._measured(reuse_statistics(checkpoint, opened, plan, copy.patches))
            found = run_rules(reopened, self.catalogue, self.settings)
        except UnreadableCheckpoint as error:
            raise bug(f"the copy cannot be read ({error.message})") from None
        compare_tensors(checkpoint, reopened, plan, copy.copies)
        compare_findings(simulated.findings, found.findings)
        if self._is_folder:
            return self.cross_check.compare_files(copy.copies, plan.changes)
        return self.cross_check.compare(checkpoint.format, copy.copies, plan.changes)

    def _loader_of(self, checkpoint: Checkpoint) -> Loader:
        for loader in self.catalogue.loaders:
            if loader.name == checkpoint.format:
                return loader
        raise RepairFailed(f"no loader of that name can patch files of the format {checkpoint.format}")

    def _name_result(self, loader: Loader) -> Path:
        path = Path(os.path.abspath(self.path)) if self._is_folder else Path(self.path)
        target = Path(self.options.output or path.parent)
        if not self.options.output or target.is_dir():
            name = f"{path.name}{ENDING}" if self._is_folder else result_name(path.name, loader.suffixes)
            target = target / name
        other = self.taken.setdefault(os.path.abspath(target), self.path)
        if other != self.path:
            raise UsageError(f"the results of {other} and {self.path} would both be {target}", "fix them one by one")
        return target

    def _finished(self, result: FixResult, facts: Mapping[str, Any] | None = None) -> FixResult:
        facts = {
            **(facts or {}),
            "options": self.options.describe(),
            "remaining_causes": [describe_cause(each) for each in result.lasting],
        }
        return replace(result, record=describe_repair(self.path, result.outcome.value, facts, result.summary))


def _find_treated(before: Examination, plan: Plan) -> Iterator[Diagnosis]:
    """Yield the diagnoses of findings that a plan repairs, without those in preview."""
    fixed = {id(finding) for finding in plan.fixed}
    for diagnosis in before.diagnoses:
        if diagnosis.preview:
            continue
        explained = (before.findings[position] for position in diagnosis.explains)
        if any(id(finding) in fixed for finding in explained):
            yield diagnosis


def result_name(name: str, suffixes: Sequence[str]) -> str:
    """Return the name of the repaired copy: ``model.zip`` becomes ``model_FIXED.zip``.

    A loader's own suffix is kept whole (``model.safetensors.index.json``, in any case), otherwise the last one is.
    """
    known = [len(suffix) for suffix in suffixes if name.lower().endswith(suffix.lower()) and len(name) > len(suffix)]
    stem = len(name) - max(known, default=len(Path(name).suffix))
    return f"{name[:stem]}{ENDING}{name[stem:]}"
