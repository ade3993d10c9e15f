"""Reads tables with a header line: CSV and TSV files, and columns of text that a program printed.

So are SB3's ``progress.csv`` and ``monitor.csv``, Lightning's ``metrics.csv`` and Keras' ``CSVLogger``. A cell that is
empty, or text, is no record: SB3 and Lightning write metrics at different times into one table. A header line that
stands in the log again, as after a resumed run, is passed over.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.log_readers._blocks import BLOCK, OnRead, read_blocks
from checkpoint_doctor.checkpoint.contents import Skipped
from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import quantity, shown

HEAD = 1 << 16
"""Bytes in which the header line must stand."""
MOST_COLUMNS = 5000

EMPTY = b"-7777777777777777"
"""Stands for an empty cell while a block is parsed at once: a number that is exact, quickly parsed, and in no log."""

_DECORATION = re.compile(r"[\s|+:=─━│┃┼·.\-]*")
_NUMBER = re.compile(
    r"[-+]?(\d{1,3}(,\d{3})+|\d+|\d*(?=\.\d))(\.\d*)?(e[-+]?\d+)?\s*(?P<unit>[%kKMB]?)|[-+]?(nan|inf(inity)?)",
    re.IGNORECASE,
)
_UNITS = {"": 1.0, "%": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "m": 1e6, "B": 1e9, "b": 1e9}


class Layout(Struct, frozen=True, eq=False, dict=True):
    """How the lines of a table are divided."""

    names: tuple[str, ...]
    delimiter: str
    """A character; a blank for any amount of white space, two for at least two blanks."""
    start: int
    """Offset of the first byte after the header line."""

    def split(self, line: str) -> list[str]:
        """Return the cells of a line."""
        if self.delimiter == " ":
            return line.split()
        if self.delimiter == "  ":
            return re.split(r"\s{2,}|\t", line.strip())
        if self.delimiter == "|":
            return [cell.strip() for cell in line.strip().strip("|").split("|")]
        return next(csv.reader([line], delimiter=self.delimiter), [])


class DelimitedReader:
    """Reads every table that has a line of names above lines of numbers."""

    name = "table"
    patterns = ("progress.csv", "*monitor.csv", "metrics.csv", "training_log.csv", "training.log")

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``."""
        try:
            return find_layout(source) is not None
        except UnreadableCheckpoint:
            return False

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``."""
        layout = find_layout(source)
        if layout is None:
            raise UnreadableCheckpoint(f"{source.name} has no line of names above lines of numbers", "")
        is_monitor = set(layout.names) >= {"r", "l", "t"}
        builder.kind = _name_kind(source, layout)
        if not is_monitor:
            builder.choose_step(layout.names)
        odd = 0
        played = 0.0
        for block in read_blocks(source, layout.start, on_read, BLOCK):
            values, recorded, left_out = _parse(block, layout)
            odd += left_out
            if not len(values):
                continue
            steps = None
            if is_monitor:  # each line is an episode; its length is the steps that it took
                lengths = values[:, layout.names.index("l")]
                steps = played + np.cumsum(np.where(np.isfinite(lengths), lengths, 0.0))
                played = float(steps[-1])
            builder.add_rows(layout.names, values, recorded, steps)
        if odd:
            builder.skipped.append(Skipped(quantity(odd, "line"), "the number of cells is not that of the header"))


def _name_kind(source: Source, layout: Layout) -> str:
    names = set(layout.names)
    if names >= {"r", "l", "t"}:
        return "sb3 monitor"
    if any(name.startswith(("rollout/", "train/", "time/")) for name in names) and any(
        name.startswith("time/") for name in names
    ):
        return "sb3 progress"
    if layout.names[0] == "epoch" and "loss" in names:
        return "keras"
    if source.name.endswith("metrics.csv") and names >= {"epoch", "step"}:
        return "lightning"
    return {",": "csv", ";": "csv", "\t": "tsv"}.get(layout.delimiter, "table")


def find_layout(source: Source) -> Layout | None:
    """Return how a table is divided, ``None`` where no line of names stands above lines of numbers.

    Raises:
        UnreadableCheckpoint: the source cannot be read.
    """
    head = source.read(0, min(source.size, HEAD))
    if b"\0" in head.rstrip(b"\0"):  # a file system that lost its power leaves zeros at the end
        return None
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    lines = head[bom:].rstrip(b"\0").decode("utf-8", "replace").splitlines(keepends=True)
    if source.size > HEAD and len(lines) > 1:
        lines.pop()
    offset = bom
    for number, line in enumerate(lines):
        offset += len(line.encode("utf-8", "replace")) if "�" not in line else len(line)
        if _is_passed_over(line):
            continue
        following = [each for each in lines[number + 1 : number + 60] if not _is_passed_over(each)][:20]
        for delimiter in (",", "\t", ";", "|", "  ", " "):
            if layout := _try(line, delimiter, offset, following):
                return layout
        if number > 200:
            break
    return None


def _is_passed_over(line: str) -> bool:
    """True for an empty line, a comment and a ruling."""
    return line.startswith("#") or _DECORATION.fullmatch(line.rstrip("\r\n")) is not None


def _try(line: str, delimiter: str, start: int, following: Sequence[str]) -> Layout | None:
    if delimiter not in line and delimiter.strip():
        return None
    draft = Layout((), delimiter, start)
    names = [name.strip() for name in draft.split(line.rstrip("\r\n"))]
    if not 2 <= len(names) <= MOST_COLUMNS or any(_parse_cell(name)[1] for name in names):
        return None
    rows = [draft.split(each.rstrip("\r\n")) for each in following]
    fitting = [row for row in rows if len(row) == len(names) and row != names]
    if not fitting or len(fitting) * 2 < len(rows):
        return None
    if not any(_parse_cell(cell)[1] for row in fitting for cell in row):
        return None
    return Layout(_distinct(names), delimiter, start)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names as reports show them, each once: of equal ones all but the first get their position."""
    made: dict[str, None] = {}
    for position, name in enumerate(names):
        name = shown(name) or f"column {position + 1}"
        made[name if name not in made else f"{name} ({position + 1})"] = None
    return tuple(made)


def _parse(block: bytes, layout: Layout) -> tuple[NDArray, NDArray, int]:
    """Return the numbers of a block of lines, which of its cells hold one, and how many lines were left out."""
    at_once = _parse_at_once(block, layout)
    if at_once is not None:
        return (*at_once, 0)
    return _parse_lines(block, layout)


def _parse_at_once(block: bytes, layout: Layout) -> tuple[NDArray, NDArray] | None:
    """Return the numbers of a block that holds nothing but numbers and empty cells, ``None`` for any other.

    That is eight times as fast as line by line.
    """
    width = len(layout.names)
    if layout.delimiter not in (",", "\t", ";", " ") or not block.endswith(b"\n"):
        return None
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    rows = block.count(b"\n")
    if layout.delimiter == " ":
        text, separator = block, " "
    else:
        sign = layout.delimiter.encode()
        if not _is_even(block, sign[0], width - 1):
            return None
        text, separator = block[:-1].replace(b"\n", b","), ","
        if sign != b",":
            text = text.replace(sign, b",")
        if b",," in text or text.startswith(b",") or text.endswith(b","):
            text = text.replace(b",,", b"," + EMPTY + b",").replace(b",,", b"," + EMPTY + b",")
            text = (EMPTY if text.startswith(b",") else b"") + text + (EMPTY if text.endswith(b",") else b"")
    numbers = _parse_json(text) if separator == "," else None
    if numbers is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                numbers = np.fromstring(text, dtype=np.float64, sep=separator)
        except (ValueError, DeprecationWarning):
            return None
    if numbers.size != rows * width:
        return None
    values = numbers.reshape(rows, width)
    return values, values != float(EMPTY)


def _parse_json(text: bytes) -> NDArray | None:
    """Return numbers that are spelt as JSON spells them, three times as fast as NumPy; ``None`` for any others."""
    try:
        return np.array(_NUMBERS.decode(b"[" + text + b"]"))
    except msgspec.DecodeError:
        return None


_NUMBERS = msgspec.json.Decoder(list[float])


def _is_even(block: bytes, sign: int, expected: int) -> bool:
    """Return whether every line of a block has so many separators."""
    characters = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(characters == 0x0A)
    before = np.searchsorted(np.flatnonzero(characters == sign), ends)
    return bool((np.diff(before, prepend=0) == expected).all())


def _parse_lines(block: bytes, layout: Layout) -> tuple[NDArray, NDArray, int]:
    width = len(layout.names)
    rows = []
    odd = 0
    for row in _split_lines(block, layout):
        if len(row) == width:
            rows.append(row)
        elif row:
            odd += 1
    if odd and not block.endswith(b"\n"):
        odd -= 1  # the last line is still being written
    values = np.full((len(rows), width), np.nan)
    recorded = np.zeros((len(rows), width), dtype=bool)
    for column, cells in enumerate(zip(*rows, strict=True)):
        try:
            values[:, column] = list(map(float, cells))
            recorded[:, column] = True
        except ValueError:
            for position, cell in enumerate(cells):
                values[position, column], recorded[position, column] = _parse_cell(cell)
    is_record = recorded.any(axis=1) if len(rows) else recorded
    return (values[is_record], recorded[is_record], odd) if len(rows) else (values, recorded, odd)


def _split_lines(block: bytes, layout: Layout) -> Iterator[list[str]]:
    lines = block.decode("utf-8", "replace").splitlines()
    if layout.delimiter in (",", "\t", ";"):
        try:
            yield from csv.reader((line for line in lines if not line.startswith("#")), delimiter=layout.delimiter)
        except csv.Error:
            return
        return
    for line in lines:
        if not _is_passed_over(line):
            yield layout.split(line)


def _parse_cell(cell: str) -> tuple[float, bool]:
    """Return the number in a cell and whether there is one; ``38.7%``, ``36k`` and ``1,023,000`` are numbers."""
    cell = cell.strip()
    found = _NUMBER.fullmatch(cell) if cell else None
    if found is None:
        return np.nan, False
    unit = found["unit"] or ""
    digits = cell[: len(cell) - len(unit)].strip().replace(",", "")
    try:
        return float(digits) * _UNITS[unit], True
    except ValueError:
        return np.nan, False


reader = DelimitedReader()
