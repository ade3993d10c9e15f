"""Writes names of tensors and layers short: many as one pattern, and long ones by the parts that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.cells import cell_len, set_cell_size

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

NUMBERS_LISTED = 6
"""Up to so many numbers of a pattern are all listed; of more, the first two and the last."""


def fold_names(names: Iterable[str]) -> list[tuple[str, int]]:
    """Write names that differ in one number as one: ``layers.{0,2,…,298}.norm.weight``, ``layers.{0–11}.bias``.

    The number of the outermost block is tried first. Other names stay as they are. Each pattern stands where its first
    name stood, with the number of names that it stands for.
    """
    left = list(dict.fromkeys(names))
    order = {name: position for position, name in enumerate(left)}
    found: list[tuple[int, str, int]] = []
    depth = 0
    while left:
        groups: dict[tuple[str | None, ...], list[tuple[int, str]]] = {}
        alone: list[str] = []
        for name in left:
            parts = name.split(".")
            places = _find_numbers(parts)
            if depth < len(places):
                place = places[depth]
                outline = (*parts[:place], None, *parts[place + 1 :])
                groups.setdefault(outline, []).append((int(parts[place]), name))
            else:
                found.append((order[name], name, 1))
        for outline, members in groups.items():
            if len(members) == 1:
                alone.append(members[0][1])
            else:
                numbers = _list_numbers(sorted(number for number, _ in members))
                pattern = ".".join(f"{{{numbers}}}" if part is None else part for part in outline)
                found.append((order[members[0][1]], pattern, len(members)))
        left, depth = alone, depth + 1
    return [(pattern, count) for _, pattern, count in sorted(found)]


def _find_numbers(parts: Sequence[str]) -> list[int]:
    """Return the positions of the numbers in a name; the first is that of the outermost block."""
    return [place for place, part in enumerate(parts) if _NUMBER.fullmatch(part)]


def _list_numbers(numbers: Sequence[int]) -> str:
    """Write rising numbers short: ``0–11``, ``0–3,8``, ``0,2,…,298``."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), key=lambda placed: placed[1] - placed[0])
    ]
    words = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    if sum(1 if len(run) > 2 else len(run) for run in runs) <= NUMBERS_LISTED:
        return ",".join(words)
    return f"{numbers[0]},{numbers[1]},…,{numbers[-1]}"


def shorten_name(name: str, width: int) -> str:
    """Shorten a name to a width in terminal columns: leading parts go first, a layer's number never does.

    Where even the number and the last part are too long for the width, the beginning of their text is cut.
    """
    if cell_len(name) <= width:
        return name
    parts = name.split(".")
    number = next(iter(_find_numbers(parts)), None)
    for first in range(1, len(parts)):
        if number is not None and first > number:
            break
        if cell_len(kept := "…" + ".".join(parts[first:])) <= width:
            return kept
    if number is not None:
        # The parts between the number and the end go next, the first of them first.
        for first in range(number + 2, len(parts)):
            kept = f"…{parts[number]}.…{'.'.join(parts[first:])}"
            if cell_len(kept) <= width:
                return kept
    return "…" + set_cell_size(name[::-1], max(width - 1, 0))[::-1].strip()
