"""Checks that a repaired copy is right, before it gets its name.

Each check compares two things that were made independently: the copy's bytes with the input's and the announced
patches, the tensors that the loader reads with the planned values, and the findings with those of the simulation. The
libraries that the format comes from are asked in ``cross_check``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, Checksum, Moments, Patch, Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.entries import differs
from checkpoint_doctor.repair.hashing import BLOCK, read_patched
from checkpoint_doctor.repair.planning import name_subject, tensors_of_optimizers
from checkpoint_doctor.repair.safe_copy import bug, reason
from checkpoint_doctor.repair.side_effects import SideEffects
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.identity import identify


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
                    raise bug(f"the copy of {original} differs from it beyond what was announced")
            if after.read(1):
                raise bug(f"the copy of {original} is longer than it")
    except OSError as error:
        raise RepairFailed(f"cannot read {copy}: {reason(error)}", "check the disk") from None


def reuse_statistics(before: Checkpoint, after: Checkpoint, plan: Plan, patches: Sequence[Patch]) -> Checkpoint:
    """Return the opened copy with the original's statistics for every tensor that no change touches.

    Only for bytes that were compared. What a change touches, is tied to, or overlaps with is measured anew, and so are
    the checksums of bytes with a patch.
    """
    changed = {key for each in plan.changes for key in (each.tensor.storage, each.tensor.name) if key}
    originals = {**tensors_of_optimizers(before), **before.by_name}

    def is_untouched(tensor: Tensor) -> bool:
        found = originals.get(tensor.name)
        return found is not None and not changed & {found.name, found.storage} and _header(found) == _header(tensor)

    known = {each.tensor: each for optimizer in before.optimizers for each in optimizer.parameters if each.tensor}

    def reuse_moments(moments: Moments) -> Moments:
        same = known.get(moments.tensor or "")
        reusable = same is not None and moments.state and all(map(is_untouched, moments.state.values()))
        return replace(moments, same_as=same) if reusable else moments

    return replace(
        after,
        tensors=tuple(
            replace(each, same_as=originals[each.name]) if is_untouched(each) else each for each in after.tensors
        ),
        optimizers=tuple(
            replace(optimizer, parameters=tuple(map(reuse_moments, optimizer.parameters)))
            for optimizer in after.optimizers
        ),
        checksums=tuple(_reuse_checksums(before.checksums, after.checksums, patches)),
    )


def _reuse_checksums(
    before: Sequence[Checksum], after: Sequence[Checksum], patches: Sequence[Patch]
) -> Iterable[Checksum]:
    is_patched = _locate(patches)
    for number, new in enumerate(after):
        old = before[number] if number < len(before) else None
        is_same = old is not None and (old.place, old.recorded) == (new.place, new.recorded)
        reusable = is_same and new.place is not None and not is_patched(new.place)
        yield replace(new, same_as=old) if reusable else new


def _locate(patches: Sequence[Patch]) -> Callable[[range], bool]:
    """Return a function that tells whether a patch reaches into a range of the file."""
    ordered = sorted(patches, key=lambda patch: patch.offset)
    ends = [patch.offset + len(patch.new) for patch in ordered]

    def is_patched(place: range) -> bool:
        following = bisect_right(ends, place.start)
        return following < len(ordered) and ordered[following].offset < place.stop

    return is_patched


def compare_tensors(before: Checkpoint, after: Checkpoint, plan: Plan, copies: Mapping[Path, Path]) -> None:
    """Make sure that the copy holds the same tensors, with the planned values where planned, and no new damage.

    ``copies`` maps the original files to their copies, which messages about damage may name.

    Raises:
        RepairFailed: it does not.
    """
    if [_header(each) for each in before.tensors] != [_header(each) for each in after.tensors]:
        raise bug("the copy does not hold the same tensors")
    names = {**tensors_of_optimizers(after), **after.by_name}
    for change in plan.changes:
        found = names.get(change.tensor.name)
        if found is None or differs(found.array, change.new).any():
            raise bug(f"{change.tensor.name} does not have the planned values in the copy")
    known = {flaw.message for flaw in before.damage}
    for flaw in after.damage:
        message = flaw.message.replace(after.path, before.path)
        for original, copy in copies.items():
            message = message.replace(str(copy), str(original)).replace(copy.name, original.name)
        if message not in known:
            raise bug(f"the copy is damaged: {message}")


def check_simulation(simulated: Iterable[Finding], again: Plan, allowed: SideEffects) -> None:
    """Make sure that a plan fixes what it is for and makes nothing ill that it does not declare.

    ``again`` is the plan for the simulated checkpoint, made with the same options: nothing may be left to do.

    Raises:
        RepairFailed: a fixed finding is still there, or there is a new one that the plan does not declare.
    """
    for finding in again.fixed:
        raise RepairFailed(
            f"{finding.code} is still found in {finding.subject or 'the copy'} after the repairs; nothing was written",
            "choose fewer repairs with --select, or take an earlier checkpoint",
        )
    for finding in simulated:
        if not finding.preview and not allowed.allows(finding):
            place = finding.subject or "the copy"
            raise RepairFailed(
                f"the repairs would bring a new illness, {finding.code} in {place}: {finding.message}; nothing was "
                "written",
                "choose fewer repairs with --select, or take an earlier checkpoint",
            )


def compare_findings(simulated: Iterable[Finding], found: Iterable[Finding]) -> None:
    """Make sure that the copy has the findings that the simulation had, with the same severities.

    Raises:
        RepairFailed: one is missing, or there is another one.
    """
    expected = Counter((identify(each), each.severity) for each in simulated)
    for finding in found:
        key = (identify(finding), finding.severity)
        if not expected[key]:
            raise bug(f"the copy has a finding that was not expected, {finding.code} in {name_subject(finding)}")
        expected[key] -= 1
    missing = next((key for (key, _), count in expected.items() if count), None)
    if missing is not None:
        raise bug(f"the copy lacks a finding that was expected, {missing}")


def _header(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    return tensor.name, tensor.shape, tensor.dtype
