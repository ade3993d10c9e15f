"""Writes names of tensors and layers short: many as one pattern, and long ones by the parts that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

_WORD = re.compile(r"(?<=[._])[^._]")
"""The beginning of a word in a name."""

NUMBERS_LISTED = 6
"""Up to so many numbers of a pattern are all listed; more are listed by their distances, as far as they are equal."""


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
    """Write rising numbers short: ``0–11``, ``0–3,8``, ``0,2,…,298``, ``0,2,…,18,40–49``, ``1,5,6,9,17 … and 20 more``.

    Dots stand for numbers at the distance of the two before them, and for no others.
    """
    runs = _find_runs(numbers, farthest=1)
    if len(runs) > NUMBERS_LISTED:
        runs = _find_runs(numbers, farthest=numbers[-1])
    listed = runs if len(runs) <= NUMBERS_LISTED else runs[: NUMBERS_LISTED - 1]
    rest = len(numbers) - sum(map(len, listed))
    return ",".join(map(_write_run, listed)) + (f" … and {rest:,} more" if rest else "")


def _find_runs(numbers: Sequence[int], farthest: int) -> list[Sequence[int]]:
    """Divide rising numbers into single ones and runs at one distance up to the farthest: four, or three neighbours."""
    runs: list[Sequence[int]] = []
    start = 0
    while start < len(numbers):
        end = start + 1
        distance = numbers[end] - numbers[start] if end < len(numbers) else 0
        while distance <= farthest and end < len(numbers) and numbers[end] - numbers[end - 1] == distance:
            end += 1
        runs.append(numbers[start : end if end - start >= (3 if distance == 1 else 4) else start + 1])
        start += len(runs[-1])
    return runs


def _write_run(run: Sequence[int]) -> str:
    if len(run) == 1:
        return str(run[0])
    return f"{run[0]}–{run[-1]}" if run[1] == run[0] + 1 else f"{run[0]},{run[1]},…,{run[-1]}"


def shorten_name(name: str, width: int) -> str:
    """Shorten a name to a width in terminal columns: leading words go first, a layer's number never does.

    Where even the number and the last part are too long for the width, the beginning of their text is cut.
    """
    if cell_len(name) <= width:
        return name
    parts = name.split(".")
    number = next(iter(_find_numbers(parts)), None)
    needed = len(name) if number is None else sum(len(part) + 1 for part in parts[:number])
    for word in _WORD.finditer(name, 1, needed + 1):
        if cell_len(kept := "…" + name[word.start() :]) <= width:
            return kept
    if number is not None:
        # The parts between the number and the end go next, the first of them first.
        for first in range(number + 2, len(parts)):
            kept = f"…{parts[number]}.…{'.'.join(parts[first:])}"
            if cell_len(kept) <= width:
                return kept
    return "…" + set_cell_size(name[::-1], max(width - 1, 0))[::-1].strip()
