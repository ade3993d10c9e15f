"""The proof that a repaired copy is right, before it gets its name.

Each check compares two things that were made independently: the copy's bytes with the input's and the announced
patches, what the loader reads with what was planned, the new findings with the old ones, and what the format's own
library reads with what the loader reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.entries import differs
from checkpoint_doctor.repair.hashing import BLOCK, read_patched
from checkpoint_doctor.repair.planning import kept_by_optimizers
from checkpoint_doctor.repair.safe_copy import REPORT_IT, reason
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination


def compare_bytes(original: Path, copy: Path, patches: Sequence[Patch]) -> None:
    """Make sure that two files differ in the announced patches and in nothing else.

    Raises:
        RepairFailed: they differ elsewhere, a patch is not what was announced, or a file cannot be read.
    """
    try:
        with open(copy, "rb", buffering=0) as after:
            found = bytearray(BLOCK)
            for expected in read_patched(original, patches):
                if len(found) != len(expected):
                    found = bytearray(len(expected))
                # A bytearray compares as memory; a memoryview on the left would go number by number.
                if after.readinto(found) != len(found) or not found == expected:
                    raise _fault(f"the copy of {original} differs from it beyond what was announced")
            if after.read(1):
                raise _fault(f"the copy of {original} is longer than it")
    except OSError as error:
        raise RepairFailed(f"cannot read {copy}: {reason(error)}", "check the disk") from None


def carry_over(before: Checkpoint, after: Checkpoint, plan: Plan, patches: Sequence[Patch]) -> None:
    """Give what no patch of a copy touches the figures of the original, once the bytes were compared.

    What a init_rule changes, ties to, or overlaps with is measured anew, and so are checksums of bytes with a patch.
    """
    treated = [each.tensor for each in plan.changes]
    changed = {each.storage for each in treated if each.storage} | {each.name for each in treated}
    original = {**kept_by_optimizers(before), **before.by_name}

    def is_untouched(tensor: Tensor) -> bool:
        found = original.get(tensor.name)
        return found is not None and not changed & {found.name, found.storage} and _describe(found) == _describe(tensor)

    for tensor in after.tensors:
        if is_untouched(tensor):
            vars(tensor)["statistics"] = original[tensor.name].statistics
    known = {moments.tensor: moments for optimizer in before.optimizers for moments in optimizer.parameters}
    for optimizer in after.optimizers:
        for moments in optimizer.parameters:
            twin = known.get(moments.tensor) if moments.tensor is not None else None
            if twin is not None and moments.state and all(map(is_untouched, moments.state.values())):
                vars(moments)["statistics"] = twin.statistics
    is_patched = _locate(patches)
    for old, new in zip(before.checksums, after.checksums, strict=False):
        is_same = (old.place, old.recorded) == (new.place, new.recorded)
        if is_same and new.place is not None and not is_patched(new.place):
            vars(new)["flaw"] = old.flaw


def _locate(patches: Sequence[Patch]) -> Callable[[range], bool]:
    """Return what tells whether a patch reaches into a stretch of the file."""
    ordered = sorted(patches, key=lambda patch: patch.offset)
    ends = [patch.offset + len(patch.new) for patch in ordered]

    def is_patched(place: range) -> bool:
        following = bisect_right(ends, place.start)
        return following < len(ordered) and ordered[following].offset < place.stop

    return is_patched


def compare_tensors(before: Checkpoint, after: Checkpoint, plan: Plan) -> None:
    """Make sure that the copy holds the same tensors, with the planned values where planned, and no new damage.

    Raises:
        RepairFailed: it does not.
    """
    if [_describe(each) for each in before.tensors] != [_describe(each) for each in after.tensors]:
        raise _fault("the copy does not hold the same tensors")
    names = {**kept_by_optimizers(after), **after.by_name}
    for init_rule in plan.changes:
        found = names.get(init_rule.tensor.name)
        if found is None or differs(found.array, init_rule.new).any():
            raise _fault(f"{init_rule.tensor.name} does not have the planned values in the copy")
    known = {flaw.message for flaw in before.damage}
    for flaw in after.damage:
        message = flaw.message.replace(after.path, before.path)
        if message not in known:
            raise _fault(f"the copy is damaged: {message}")


def _describe(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    return tensor.name, tensor.shape, tensor.dtype


def compare_findings(
    before: Examination, after: Examination, plan: Plan, again: Plan, hidden: Collection[str] = ()
) -> None:
    """Make sure that every repaired illness is gone and that no other came.

    ``again`` is what planning the copy's repairs with the same options gives: there must be nothing left to do. Of the
    layers in ``hidden`` nothing could be told before, so what is said about them now is no new illness; nor is another
    word about a tensor that stays ill, such as "rows that are copies" of one that no longer is constant throughout.

    Raises:
        RepairFailed: an illness is still there, or there is a new one of warning level or above.
    """
    for finding in again.cured:
        raise _fault(f"{finding.code} is still found in {finding.subject or 'the copy'}")
    cured = {_identity(each) for each in plan.cured}
    known: dict[object, Severity] = {}
    for finding in before.findings:
        stays = () if finding.subject is None or _identity(finding) in cured else (finding.subject,)
        for key in (_identity(finding), *_causes(finding), *stays):
            known[key] = max(finding.severity, known.get(key, Severity.NOTE))
    # Recycled units are cut off until the next update, which the rule that asked for it may say of their readers, in
    # the target network, too.
    asked = {each.tensor.name: each.rules for each in plan.changes}
    announced = {(code, each.tensor.name) for each in plan.changes for code in each.rules + asked.get(each.of, ())}
    for finding in after.findings:
        if finding.severity <= max(known.get(key, Severity.NOTE) for key in (_identity(finding), finding.subject)):
            continue
        if (finding.code, finding.tensor) in announced or finding.layer in hidden:
            continue
        # That a tensor was never trained remains true of repaired values; another rule may say it now.
        causes = list(_causes(finding))
        if not causes or any(finding.severity > known.get(cause, Severity.NOTE) for cause in causes):
            place = finding.subject or "the copy"
            raise _fault(f"the repair would bring a new illness, {finding.code} in {place}: {finding.message}")


def hidden_layers(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the names of layers that non-finite values keep from being judged, and of their neighbours."""
    hidden: set[str] = set()
    for layer in checkpoint.layers:
        moments = (checkpoint.moments.get(tensor.name) for tensor in layer.tensors.values())
        statistics = (each.statistics for each in moments if each is not None)
        if any(tensor.statistics.nonfinite for tensor in layer.tensors.values()) or any(
            each is not None and (each.nonfinite_first or each.nonfinite_second) for each in statistics
        ):
            hidden |= {layer.name, layer.previous or "", layer.following or "", *layer.followers}
    return frozenset(hidden)


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
