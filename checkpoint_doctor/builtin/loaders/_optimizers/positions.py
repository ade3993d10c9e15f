"""Which tensors can be at each position of an optimizer's groups, where every group follows the model's order.

A position is certain where only one tensor can be at it. Tensors are ruled out by three facts: a state has its
parameter's shape, positions of a group are in the model's order, and no tensor is at two positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from checkpoint_doctor.checkpoint import Tensor

Shape = tuple[int, ...]
Groups = Sequence[Sequence[Shape | None]]

_MOST_CANDIDATES = 1_000_000
"""Pairs of positions and tensors beyond which nothing is inferred, to bound the time."""


def certain_names(groups: Groups, parameters: Sequence[Tensor]) -> list[str | None] | None:
    """Return the name at each position, ``None`` where several tensors can be there.

    ``None`` in ``groups`` is a position without state. The result is ``None`` where no assignment is possible.
    """
    slots = sum(map(len, groups))
    if slots > len(parameters) or slots * len(parameters) > _MOST_CANDIDATES:
        return None
    candidates = _candidates(groups, parameters)
    numbers = _number(groups)
    while True:
        before = sum(map(len, candidates))
        for positions in numbers:
            _keep_order(candidates, positions)
        if not all(candidates):
            return None
        _keep_apart(candidates, len(parameters))
        if not all(candidates):
            return None
        if sum(map(len, candidates)) == before:
            break
    return [parameters[next(iter(each))].name if len(each) == 1 else None for each in candidates]


def _number(groups: Groups) -> list[range]:
    starts, numbers = 0, []
    for group in groups:
        numbers.append(range(starts, starts + len(group)))
        starts += len(group)
    return numbers


def _candidates(groups: Groups, parameters: Sequence[Tensor]) -> list[set[int]]:
    """Return the tensors that fit each position by their shape."""
    axes = _axes_of_groups(groups, parameters)
    return [
        {
            index
            for index, tensor in enumerate(parameters)
            if (shape is None or shape == tensor.shape) and (axes is None or axes[number] == (len(tensor.shape) > 1))
        }
        for number, group in enumerate(groups)
        for shape in group
    ]


def _axes_of_groups(groups: Groups, parameters: Sequence[Tensor]) -> list[bool] | None:
    """Return which groups hold matrices and which hold vectors, where they are divided in this way.

    Weight decay is usually given to matrices and not to biases and gains. The division is taken as proven where the
    states show it in all groups, and the groups hold as many parameters of either kind as the model has.
    """
    kinds = [{len(shape) > 1 for shape in group if shape is not None} for group in groups]
    if any(len(kind) != 1 for kind in kinds) or len({*map(frozenset, kinds)}) != 2:
        return None
    axes = [True in kind for kind in kinds]
    held = Counter({True: 0, False: 0})
    for is_matrix, group in zip(axes, groups, strict=True):
        held[is_matrix] += len(group)
    existing = Counter(len(tensor.shape) > 1 for tensor in parameters)
    return axes if all(held[each] == existing[each] for each in (True, False)) else None


def _keep_order(candidates: list[set[int]], positions: range) -> None:
    """Remove what lies before the earliest place of the position before, or after the latest of the one behind."""
    earliest = -1
    for position in positions:
        candidates[position] = {index for index in candidates[position] if index > earliest}
        if not candidates[position]:
            return
        earliest = min(candidates[position])
    latest: int | None = None
    for position in reversed(positions):
        if latest is not None:
            candidates[position] = {index for index in candidates[position] if index < latest}
        if not candidates[position]:
            return
        latest = max(candidates[position])


def _keep_apart(candidates: list[set[int]], tensors: int) -> None:
    """Remove tensors that are certain at another position; where all are held, place those that fit only one."""
    certain = {next(iter(each)): position for position, each in enumerate(candidates) if len(each) == 1}
    for position, each in enumerate(candidates):
        if len(each) > 1:
            each.difference_update(certain)
        elif certain[next(iter(each))] != position:
            each.clear()  # one tensor at two positions
    if len(candidates) == tensors:
        homes = Counter(index for each in candidates for index in each)
        for position, each in enumerate(candidates):
            alone = [index for index in each if homes[index] == 1]
            if len(each) > 1 and alone:
                candidates[position] = set(alone[:1]) if len(alone) == 1 else set()
