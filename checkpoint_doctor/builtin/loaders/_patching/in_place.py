"""Computes the patches for new tensor values, in every container.

The values of a tensor lie in the file itself or in nested sections of it, such as a member of a zip in a zip. Old and
new values are compared entry by entry in the tensor's own dtype, so entries that do not change keep their bytes. The
CRC-32 of every member around the changed bytes is updated, from the innermost outwards.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._patching.targets import Target, find_target
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders._zip.patching import update_checksum
from checkpoint_doctor.checkpoint import Patch, Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.sources import Source

CLOSE = 64
"""Changed ranges of a tensor with fewer unchanged bytes between them become one patch."""
MANY, CLOSE_AMONG_MANY = 1000, 4096
"""From so many patches of one piece of a tensor on, they are joined over longer gaps to limit their number."""

_offset = attrgetter("offset")


def patch_in_place(changes: Mapping[Tensor, NDArray]) -> dict[Source, list[Patch]]:
    """Return the patches of every file that must change; see ``Loader.patch``.

    Raises:
        RepairFailed: a tensor's bytes are compressed or converted in the file, the file is damaged, or the new values
            contradict each other or do not fit the tensor's dtype.
        UnreadableCheckpoint: a file can no longer be read.
    """
    targets: dict[Source, list[Target]] = {}
    for tensor, wanted in changes.items():
        target = find_target(tensor, wanted)
        if tensor.size:
            targets.setdefault(target.place.file, []).append(target)
    patches = {file: _patch_file(file, found) for file, found in targets.items()}
    return {file: found for file, found in patches.items() if found}


def _patch_file(file: Source, targets: list[Target]) -> list[Patch]:
    patches: list[Patch] = []
    for group in _group_overlapping(targets):
        if len(group) == 1:
            pieces = (patch for piece in group[0].pieces() for patch in _rewrite(file, [piece]))
            patches += _join_adjacent(pieces)
        else:
            patches += _rewrite(file, group)
    patches.sort(key=_offset)
    for member, base in _innermost_first(targets):
        start = base + member.data_offset
        inside = _within(start, start + member.size, patches)
        if inside is None:
            raise _contradictory(file, f"{member.name} overlaps another member")
        if inside:
            patches += update_checksum(file, base, member, inside)
            patches.sort(key=_offset)
    for patch, following in pairwise(patches):
        if patch.offset + len(patch.old) > following.offset:
            raise _contradictory(file, f"{patch.reason} and {following.reason} share byte {following.offset:,}")
    return patches


def _within(start: int, end: int, patches: Sequence[Patch]) -> list[Patch] | None:
    """Return the patches between two offsets, ``None`` where a patch crosses one of them."""
    first, last = bisect_left(patches, start, key=_offset), bisect_left(patches, end, key=_offset)
    for place, before in ((start, first), (end, last)):
        if before and patches[before - 1].offset + len(patches[before - 1].old) > place:
            return None
    return list(patches[first:last])


def _contradictory(file: Source, how: str) -> RepairFailed:
    return RepairFailed(
        f"{file.name} cannot be changed in place, because it contradicts itself: {how}",
        "save it again with the library it comes from",
    )


def _group_overlapping(targets: Iterable[Target]) -> Iterator[list[Target]]:
    """Yield groups of tensors whose ranges in the file overlap: tied tensors, and views of one storage."""
    group: list[Target] = []
    reached = 0
    for target in sorted(targets, key=attrgetter("start")):
        if group and target.start >= reached:
            yield group
            group = []
        group.append(target)
        reached = max(reached, target.end)
    if group:
        yield group


def _rewrite(file: Source, targets: Sequence[Target]) -> Iterator[Patch]:
    """Yield the patches of the range that a group of tensors covers.

    Raises:
        RepairFailed: two of the tensors, or two entries of one, share bytes but have different new values.
    """
    start, end = targets[0].start, max(target.end for target in targets)
    old = np.frombuffer(file.read(start, end - start), np.uint8)
    new = old.copy()
    settled, changed = np.zeros(old.size, bool), np.zeros(old.size, bool)
    for target in targets:
        wanted, changes = target.render(target.elements_in(old, start))
        if len(targets) == 1 and not changes.any():
            return
        rows, is_settled = target.elements_in(new, start), target.elements_in(settled, start)
        agrees = not (is_settled & (rows != wanted)).any()
        rows[...] = wanted
        if not agrees or not np.array_equal(rows, wanted):
            raise RepairFailed(
                f"{target.name} shares bytes with {_name_others(target, targets)}, and the new values disagree",
                "give tensors that share their bytes the same new values",
            )
        is_settled[...] = True
        target.elements_in(changed, start)[changes] = True
    names = targets[0].name if len(targets) == 1 else f"{targets[0].name} and the tensors that share its bytes"
    for first, last in _runs(changed):
        yield Patch(start + first, old[first:last].tobytes(), new[first:last].tobytes(), f"values of {names}")


def _name_others(target: Target, targets: Sequence[Target]) -> str:
    others = [each.name for each in targets if each is not target]
    return ", ".join(others[:3]) or "itself"


def _runs(changed: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of changed bytes; close ones are joined."""
    edges = np.flatnonzero(np.diff(changed.view(np.int8), prepend=0, append=0))
    if not edges.size:
        return
    starts, ends = edges[::2], edges[1::2]
    gaps = starts[1:] - ends[:-1]
    is_apart = gaps > (CLOSE if np.count_nonzero(gaps > CLOSE) < MANY else CLOSE_AMONG_MANY)
    yield from zip(starts[np.r_[True, is_apart]].tolist(), ends[np.r_[is_apart, True]].tolist(), strict=True)


def _join_adjacent(patches: Iterable[Patch]) -> Iterator[Patch]:
    """Yield the patches of one tensor; adjacent ones are joined."""
    run: list[Patch] = []
    for patch in patches:
        if run and run[-1].offset + len(run[-1].old) != patch.offset:
            yield _join(run)
            run = []
        run.append(patch)
    if run:
        yield _join(run)


def _join(run: list[Patch]) -> Patch:
    if len(run) == 1:
        return run[0]
    old, new = b"".join(patch.old for patch in run), b"".join(patch.new for patch in run)
    return Patch(run[0].offset, old, new, run[0].reason)


def _innermost_first(targets: Iterable[Target]) -> list[tuple[Member, int]]:
    """Return the archive members around the tensors with the offsets of their archives, each once."""
    depths = {
        enclosing: depth for target in targets for depth, enclosing in enumerate(reversed(target.place.members), 1)
    }
    return sorted(depths, key=lambda enclosing: -depths[enclosing])
