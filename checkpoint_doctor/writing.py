"""From a plan to files: copied, patched, proven, recorded, and named only then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_doctor.errors import DoctorError, RepairFailed
from checkpoint_doctor.model import Checkpoint, Examination, Patch
from checkpoint_doctor.plugins import Loader
from checkpoint_doctor.proof import Digest, compare_bytes, compare_findings, compare_tensors
from checkpoint_doctor.referees import ask_referees
from checkpoint_doctor.repair_plan import Plan
from checkpoint_doctor.safe_copy import (
    REPORT_IT,
    Snapshot,
    check_target,
    copy_patched,
    take_name,
    temporary_file,
)
from checkpoint_doctor.source import Source
from checkpoint_doctor.wire import write

RECORD_ENDING = ".ckdoc.json"
"""Follows the result's name in that of its record."""

Examine = Callable[[str | Path], tuple[Checkpoint, Examination]]
PlanAgain = Callable[[Checkpoint, Examination], Plan]
Describe = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """A result that has its name."""

    examination: Examination
    """What is found in it."""
    facts: Mapping[str, Any]
    """What the record says about the files."""


def write_repaired(
    checkpoint: Checkpoint,
    examination: Examination,
    plan: Plan,
    loader: Loader,
    snapshot: Snapshot,
    target: Path,
    *,
    force: bool,
    examine: Examine,
    plan_again: PlanAgain,
    describe: Describe,
) -> Written:
    """Write a repaired copy with its record, and give both their names when the copy is proven.

    Raises:
        DoctorError: it cannot be written or proven; nothing is left behind.
    """
    record_path = target.with_name(target.name + RECORD_ENDING)
    for each in (target, record_path):
        check_target(each, [snapshot.path], force=force)
    patches = _patch(loader, checkpoint, plan)
    (source,) = patches
    if Path(source.name) != snapshot.path:
        raise RepairFailed(f"{source.name} would have to change along with {snapshot.path}")
    with (
        temporary_file(target.parent, snapshot.path.name) as copy,
        temporary_file(target.parent, snapshot.path.name) as record,
    ):
        copy_patched(snapshot.path, copy, patches[source])
        before, after = compare_bytes(snapshot.path, copy, patches[source])
        found, readers = _prove(checkpoint, examination, plan, copy, examine, plan_again, snapshot.path)
        snapshot.verify()
        facts = {
            "input": _write_digest(snapshot.path, before),
            "output": _write_digest(target, after),
            "proof": {"patches": len(patches[source]), "read_by": list(readers)},
        }
        _write_text(record, write(describe(facts)))
        take_name(copy, target, force=force)
        take_name(record, record_path, force=force)
    return Written(found, facts)


def _patch(loader: Loader, checkpoint: Checkpoint, plan: Plan) -> Mapping[Source, Sequence[Patch]]:
    try:
        patches = loader.patch(checkpoint, plan.changes)
    except DoctorError:
        raise
    except Exception as error:
        raise RepairFailed(
            f"the loader {loader.name} failed with {type(error).__name__}: {error}; nothing was written", REPORT_IT
        ) from error
    if not patches:
        raise RepairFailed(f"the loader {loader.name} has nothing to patch, though something is to be changed")
    return patches


def _prove(
    checkpoint: Checkpoint,
    examination: Examination,
    plan: Plan,
    copy: Path,
    examine: Examine,
    plan_again: PlanAgain,
    original: Path,
) -> tuple[Examination, tuple[str, ...]]:
    """Return what is found in the copy, and which libraries read it.

    Raises:
        RepairFailed: the copy is not what it should be.
    """
    try:
        reopened, found = examine(copy)
    except DoctorError as error:
        raise RepairFailed(
            f"this is a fault in ckdoc: the copy cannot be read ({error.message}); nothing was written", REPORT_IT
        ) from None
    compare_tensors(checkpoint, reopened, plan)
    compare_findings(examination, found, plan, plan_again(reopened, found))
    return found, ask_referees(checkpoint.format, original, copy, plan.treatments)


def _write_digest(path: Path, digest: Digest) -> dict[str, Any]:
    return {"path": str(path), "size": digest.size, "sha256": digest.sha256}


def _write_text(path: Path, text: str) -> None:
    import os

    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(path, 0o644)
    except OSError as error:
        raise RepairFailed(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
