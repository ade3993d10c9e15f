"""The proof that a repaired copy is right, before it gets its name.

Each check compares two things that were made independently: the copy's bytes with the input's and the announced
patches, what the loader reads with what was planned, the new findings with the old ones, and what the format's own
library reads with what the loader reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.findings import Finding, Severity
from checkpoint_doctor.model import Checkpoint, Patch, Tensor
from checkpoint_doctor.repair_plan import Plan, differs, kept_by_optimizers
from checkpoint_doctor.report import Examination
from checkpoint_doctor.safe_copy import REPORT_IT

BLOCK = 1 << 22
"""Bytes of each file that are compared at a time."""


@dataclass(frozen=True)
class Digest:
    """A file's size and SHA-256."""

    size: int
    sha256: str


def compare_bytes(original: Path, copy: Path, patches: Sequence[Patch]) -> tuple[Digest, Digest]:
    """Make sure that two files differ in the announced patches and in nothing else, and return their digests.

    Raises:
        RepairFailed: they differ elsewhere, or a patch is not what was announced.
    """
    from concurrent.futures import ThreadPoolExecutor

    ordered = sorted(patches, key=lambda patch: patch.offset)
    of_original, offset = hashlib.sha256(), 0
    of_copy = None  # as long as nothing differs, one digest serves both
    try:
        with open(original, "rb") as before, open(copy, "rb") as after, ThreadPoolExecutor(2) as pool:
            while True:
                old, new = before.read(BLOCK), after.read(BLOCK)
                if not old and not new:
                    break
                expected = _overlay(old, offset, ordered)
                if of_copy is None and expected is not old:
                    of_copy = of_original.copy()
                updates = [pool.submit(of_original.update, old)]
                if of_copy is not None:
                    updates.append(pool.submit(of_copy.update, new))
                if expected != new:
                    raise _fault(f"the copy of {original} differs from it beyond what was announced")
                for update in updates:
                    update.result()
                offset += len(old)
    except OSError as error:
        raise RepairFailed(f"cannot read {original} or its copy: {(error.strerror or str(error)).lower()}") from None
    return Digest(offset, of_original.hexdigest()), Digest(offset, (of_copy or of_original).hexdigest())


def digest(path: Path) -> Digest:
    """Return a file's size and SHA-256."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return Digest(file.tell(), found.hexdigest())


def _overlay(block: bytes, start: int, patches: Sequence[Patch]) -> bytes:
    end, changed = start + len(block), None
    for patch in patches:
        if patch.offset >= end:
            break
        if patch.offset + len(patch.new) <= start:
            continue
        changed = changed or bytearray(block)
        first, last = max(start, patch.offset), min(end, patch.offset + len(patch.new))
        if block[first - start : last - start] != patch.old[first - patch.offset : last - patch.offset]:
            raise _fault("a patch does not fit the bytes that it replaces")
        changed[first - start : last - start] = patch.new[first - patch.offset : last - patch.offset]
    return block if changed is None else bytes(changed)


def carry_over(before: Checkpoint, after: Checkpoint, plan: Plan) -> None:
    """Give the tensors of a copy that no patch touches the figures of the originals, once the bytes were compared.

    What a treatment changes, ties to, or overlaps with is measured anew.
    """
    treated = [each.tensor for each in plan.treatments]
    changed = {each.storage for each in treated if each.storage} | {each.name for each in treated}
    original = {**kept_by_optimizers(before), **before.by_name}

    def is_untouched(tensor: Tensor) -> bool:
        found = original.get(tensor.name)
        return found is not None and not changed & {found.name, found.storage} and _describe(found) == _describe(tensor)

    for tensor in after.tensors:
        if is_untouched(tensor):
            vars(tensor)["vitals"] = original[tensor.name].vitals
    known = {moments.tensor: moments for optimizer in before.optimizers for moments in optimizer.parameters}
    for optimizer in after.optimizers:
        for moments in optimizer.parameters:
            twin = known.get(moments.tensor) if moments.tensor is not None else None
            if twin is not None and moments.state and all(map(is_untouched, moments.state.values())):
                vars(moments)["traces"] = twin.traces


def compare_tensors(before: Checkpoint, after: Checkpoint, plan: Plan) -> None:
    """Make sure that the copy holds the same tensors, with the planned values where planned, and no new damage.

    Raises:
        RepairFailed: it does not.
    """
    if [_describe(each) for each in before.tensors] != [_describe(each) for each in after.tensors]:
        raise _fault("the copy does not hold the same tensors")
    names = {**kept_by_optimizers(after), **after.by_name}
    for treatment in plan.treatments:
        found = names.get(treatment.tensor.name)
        if found is None or differs(found.array, treatment.new).any():
            raise _fault(f"{treatment.tensor.name} does not have the planned values in the copy")
    known = {flaw.message for flaw in before.damage}
    for flaw in after.damage:
        if flaw.message not in known:
            raise _fault(f"the copy is damaged: {flaw.message}")


def _describe(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    return tensor.name, tensor.shape, tensor.dtype


def compare_findings(before: Examination, after: Examination, plan: Plan, again: Plan) -> None:
    """Make sure that every repaired illness is gone and that no other came.

    ``again`` is what planning the copy's repairs with the same options gives: there must be nothing left to do.

    Raises:
        RepairFailed: an illness is still there, or there is a new one of warning level or above.
    """
    for finding in again.cured:
        raise _fault(f"{finding.code} is still found in {finding.tensor or finding.layer or 'the copy'}")
    known: dict[object, Severity] = {}
    for finding in before.findings:
        for key in (_identity(finding), *_causes(finding)):
            known[key] = max(finding.severity, known.get(key, Severity.NOTE))
    # Recycled units are cut off until the next update, which the rule that asked for it may say of their readers.
    announced = {(code, each.tensor.name) for each in plan.treatments for code in each.rules}
    for finding in after.findings:
        if finding.severity < Severity.WARNING or finding.severity <= known.get(_identity(finding), Severity.NOTE):
            continue
        if (finding.code, finding.tensor) in announced:
            continue
        # That a tensor was never trained remains true of repaired values; another rule may say it now.
        causes = list(_causes(finding))
        if not causes or any(finding.severity > known.get(cause, Severity.NOTE) for cause in causes):
            place = finding.tensor or finding.layer or "the copy"
            raise _fault(f"the repair would bring a new illness, {finding.code} in {place}: {finding.message}")


def _identity(finding: Finding) -> tuple[str, str | None, str | None]:
    return finding.code, finding.tensor, finding.layer


def _causes(finding: Finding) -> Iterator[tuple[str, str]]:
    """Yield each tensor that a finding is about with the cause that its evidence names."""
    cause = finding.evidence.get("cause")
    tensors = [finding.tensor] if finding.tensor else finding.evidence.get("tensors") or []
    if isinstance(cause, str):
        yield from ((tensor, cause) for tensor in tensors)


def _fault(message: str) -> RepairFailed:
    return RepairFailed(f"this is a fault in ckdoc: {message}; nothing was written", REPORT_IT)
