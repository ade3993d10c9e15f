"""Where each parameter lies in the flat partitions that ZeRO leaves on each rank.

ZeRO 1 and 2 flatten the parameters of a group one behind the other, pad the whole, and cut it into as many parts as
there are ranks. ZeRO 3 cuts every parameter by itself, pads it, and lays the parts one behind the other on each rank.
Padding is never initialized, so nothing of it may be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.builtin.loaders._pickle.tensors import dimensions

MOST_STRETCHES = 4_000_000
"""Stretches of all parameters: 4,000 parameters on 1,000 ranks."""

Shapes = Sequence[Mapping[str, tuple[int, ...]]]
"""Name of each parameter to its shape, by group."""


class Stretch(Struct, frozen=True):
    """Elements of a parameter that lie in a row."""

    rank: int
    group: int
    """Which of the rank's flat partitions."""
    start: int
    length: int


class Parameter(Struct, frozen=True):
    """A parameter and where its elements are, in their order."""

    name: str
    shape: tuple[int, ...]
    group: int
    """The optimizer's group that holds it."""
    stretches: tuple[Stretch, ...]


class Unfit(Exception):
    """The partitions are not those of these parameters; the message says why."""


def read_shapes(given: Any) -> Shapes:
    """Return ``param_shapes`` of a file of model states, which is a mapping or one for each group.

    Raises:
        Unfit: it has another form.
    """
    groups = given if isinstance(given, list | tuple) else [given]
    try:
        return [{str(name): dimensions(shape) for name, shape in group.items()} for group in groups]
    except (AttributeError, TypeError, ValueError):
        raise Unfit("the shapes of the parameters are not recorded in a known form") from None


def locate(shapes: Shapes, sizes: Sequence[Sequence[int]], stage: int, mappings: Sequence[Any]) -> list[Parameter]:
    """Return where the parameters are.

    Args:
        shapes: the parameters of each group.
        sizes: the lengths of each rank's flat partitions.
        stage: the stage of ZeRO.
        mappings: ``param_slice_mappings`` of each rank, ``None`` where DeepSpeed did not record them (before 0.7).

    Raises:
        Unfit: the sizes or the mappings are not those of the parameters.
    """
    if len({len(each) for each in sizes}) != 1:
        raise Unfit("the ranks have different numbers of groups")
    if sum(map(len, shapes)) * (len(sizes) if stage == 3 else 1) > MOST_STRETCHES:
        raise Unfit("it has too many parameters on too many ranks")
    if stage == 3:
        return list(_locate_parts(shapes, sizes))
    if len(shapes) != len(sizes[0]):
        raise Unfit(f"there are {len(shapes):,} groups of parameters and {len(sizes[0]):,} partitions on each rank")
    if any(each is None for each in mappings):
        return [
            parameter
            for number, group in enumerate(shapes)
            for parameter in _locate_in_a_row(number, group, [each[number] for each in sizes])
        ]
    return list(_locate_as_recorded(shapes, mappings))


def _locate_parts(shapes: Shapes, sizes: Sequence[Sequence[int]]) -> Iterator[Parameter]:
    """Yield where ZeRO 3 put the parameters: at the same place on every rank, across the borders of its groups."""
    ranks = len(sizes)
    if any(each != sizes[0] for each in sizes):
        raise Unfit("the partitions of the ranks differ in size")
    borders = [0, *accumulate(sizes[0])]
    expected = sum(-(-prod(shape) // ranks) for group in shapes for shape in group.values())
    if borders[-1] != expected:
        raise Unfit(f"each rank has {borders[-1]:,} elements where its parameters take {expected:,}")
    start = group_at = 0
    for number, group in enumerate(shapes):
        for name, shape in group.items():
            size = prod(shape)
            part = -(-size // ranks)
            stretches = []
            for rank in range(ranks):
                begin, left = start, max(0, min(part, size - rank * part))
                at = group_at
                while left:
                    while begin >= borders[at + 1]:
                        at += 1
                    length = min(left, borders[at + 1] - begin)
                    stretches.append(Stretch(rank, at, begin - borders[at], length))
                    begin, left = begin + length, left - length
            yield Parameter(name, shape, number, tuple(stretches))
            start += part
            while group_at + 2 < len(borders) and start >= borders[group_at + 1]:
                group_at += 1


def _locate_in_a_row(number: int, shapes: Mapping[str, tuple[int, ...]], sizes: Sequence[int]) -> Iterator[Parameter]:
    """Yield where the parameters of one group are: one behind the other, across the borders of the ranks."""
    needed, held = sum(map(prod, shapes.values())), sum(sizes)
    # The whole is padded to a multiple of twice the number of ranks at most, and each rank's part once more.
    if not needed <= held <= needed + 4 * len(sizes):
        raise Unfit(f"the partitions of group {number} have {held:,} elements where its parameters take {needed:,}")
    rank = start = 0
    for name, shape in shapes.items():
        left, stretches = prod(shape), []
        while left:
            while start >= sizes[rank]:
                rank, start = rank + 1, 0
            length = min(left, sizes[rank] - start)
            stretches.append(Stretch(rank, number, start, length))
            start, left = start + length, left - length
        yield Parameter(name, shape, number, tuple(stretches))


def _locate_as_recorded(shapes: Shapes, mappings: Sequence[Any]) -> Iterator[Parameter]:
    """Yield where the ranks say that the parameters are."""
    found: dict[tuple[int, str], list[Stretch]] = {}
    for rank, mapping in enumerate(mappings):
        for number, group in enumerate(mapping if isinstance(mapping, list | tuple) else ()):
            for name, address in group.items() if isinstance(group, Mapping) else ():
                start, length = _read_address(address)
                found.setdefault((number, str(name)), []).append(Stretch(rank, number, start, length))
    for number, group in enumerate(shapes):
        for name, shape in group.items():
            yield Parameter(name, shape, number, tuple(found.get((number, name), ())))


def _read_address(address: Any) -> tuple[int, int]:
    """Return the start and the length in a ``fragment_address``."""
    given = address.attributes if isinstance(address, Inert) else {}
    start, length = given.get("start"), given.get("numel")
    if isinstance(start, int) and isinstance(length, int) and 0 <= start < 1 << 59 and 0 <= length < 1 << 59:
        return start, length
    raise Unfit("the places of the parameters are not recorded in a known form")
