"""Which checkpoints belong to one run, and their order of training."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct, field

from checkpoint_doctor.text import natural_key

Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors to their shapes."""

LISTED_ON_COMMAND_LINE = "command line"

_NUMBERS = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


class Heading(Struct, frozen=True, eq=False):
    """What the order and the grouping need of a checkpoint, before any number in it is read."""

    path: str
    shapes: Shapes
    named: bool = True
    """True where the command line names it, False where a search found it."""
    algorithm: str | None = None
    step: int | None = None
    updates: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


def group_runs(headings: Sequence[Heading]) -> list[list[Heading]]:
    """Group checkpoints that may be of one run, the largest group first.

    Those of one run have the same tensors in the same shapes, and the same algorithm. Where a search found them in
    several folders that hold several each, every folder is a run. A folder with one checkpoint beside one folder with
    several belongs to its run; folders with one each are a run where their paths differ in numbers alone.
    """
    alike: dict[tuple[object, ...], list[Heading]] = {}
    for heading in headings:
        alike.setdefault((heading.algorithm, frozenset(heading.shapes.items())), []).append(heading)
    runs = [run for group in alike.values() for run in _split_by_folder(group)]
    return sorted(runs, key=len, reverse=True)


def _split_by_folder(group: Sequence[Heading]) -> list[list[Heading]]:
    folders: dict[str, list[Heading]] = {}
    for heading in group:
        # What the command line names is one run, wherever it is.
        folders.setdefault("" if heading.named else os.path.dirname(heading.path), []).append(heading)
    runs = [members for members in folders.values() if len(members) > 1]
    single = [members[0] for members in folders.values() if len(members) == 1]
    if not runs:
        outlines: dict[str, list[Heading]] = {}
        for heading in single:
            outlines.setdefault(_NUMBERS.sub("#", heading.path), []).append(heading)
        return list(outlines.values())
    if len(runs) == 1:
        return [runs[0] + single]
    return runs + [[heading] for heading in single]


def order_run(run: Sequence[Heading]) -> tuple[list[Heading], str, list[str]]:
    """Return the checkpoints of a run in the order of training, what that was taken from, and remarks about it.

    The step in the files decides, then the count of updates, then other counters that they share (``epoch``), then the
    numbers in their names. A step that runs backwards where updates go on was counted anew after a resume, so the
    updates decide. Two checkpoints that the command line names stay as they are named: the first is what the second is
    compared with.
    """
    if len(run) == 2 and all(heading.named for heading in run):
        return list(run), LISTED_ON_COMMAND_LINE, _remark_backwards(run, "the order they are named in")
    by_name = sorted(run, key=lambda heading: natural_key(heading.path))
    counters = dict.fromkeys(name for heading in run for name in heading.counters)
    keys: dict[str, Callable[[Heading], int | None]] = {
        "step": lambda heading: heading.step,
        "updates": lambda heading: heading.updates,
        **{name: lambda heading, name=name: heading.counters.get(name) for name in counters},  # type: ignore[misc]
    }
    complete = {name: read for name, read in keys.items() if all(read(heading) is not None for heading in run)}
    distinct = [name for name, read in complete.items() if len({read(heading) for heading in run}) == len(run)]
    chosen = next(iter(distinct), next(iter(complete), "name"))
    if chosen == "step" and "updates" in distinct and _is_counted_anew(by_name):
        chosen = "updates"
    if chosen == "name":
        missing = sum(heading.step is None for heading in run)
        some = f"{missing} of {len(run)} checkpoints have no step: " if 0 < missing < len(run) else ""
        return by_name, "name", [f"{some}the order is that of the numbers in their names"]
    read = complete[chosen]
    ordered = sorted(by_name, key=lambda heading: read(heading) or 0)
    return ordered, chosen, _remark_backwards(ordered if chosen != "step" else _numbered(by_name), "this order")


def _is_counted_anew(by_name: Sequence[Heading]) -> bool:
    """Return whether the steps run backwards in the order of the updates."""
    by_updates = sorted(by_name, key=lambda heading: heading.updates or 0)
    return any((one.step or 0) > (other.step or 0) for one, other in pairwise(by_updates))


def _numbered(by_name: Sequence[Heading]) -> list[Heading]:
    """Return the checkpoints whose names differ in their numbers alone from most of the others."""
    outlines = [_NUMBERS.sub("#", heading.path) for heading in by_name]
    outline, count = Counter(outlines).most_common(1)[0]
    if count < 2 or "#" not in outline:
        return []
    return [heading for heading, each in zip(by_name, outlines, strict=True) if each == outline]


def _remark_backwards(ordered: Sequence[Heading], order: str) -> list[str]:
    for one, other in pairwise(ordered):
        if one.step is not None and other.step is not None and other.step < one.step:
            return [
                f"the steps run backwards in {'the order of the names' if order == 'this order' else order}: "
                f"{other.path} is at step {other.step:,}, and {one.path} before it at step {one.step:,}; the run was "
                "resumed from an earlier checkpoint, or its steps were counted anew"
            ]
    return []


def describe_difference(shapes: Shapes, others: Shapes) -> str:
    """Say how the tensors of a checkpoint differ from those of a series, as in ``its head.weight has the shape …``."""
    for name, shape in shapes.items():
        if name in others and others[name] != shape:
            return f"its {name} has the shape {_spell(shape)}, and theirs {_spell(others[name])}"
    shared = len(shapes.keys() & others.keys())
    if not shared:
        return "none of its tensors has the name of one of theirs"
    extra = [name for name in shapes if name not in others]
    missing = [name for name in others if name not in shapes]
    return f"it has a tensor {extra[0]}, and they have none" if extra else f"it has no tensor {missing[0]}"


def _spell(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "of a single number"
