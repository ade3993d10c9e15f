"""The header of a GGUF file: its settings, and where each tensor is.

The format: ``GGUF``; the version; the numbers of tensors and of settings; the settings, each with its key, type and
value; the tensors, each with its name, sizes (the fastest axis first), type and offset. Offsets count from the end of
the header, which is filled up to the alignment.
"""

from __future__ import annotations

import struct
from math import prod
from typing import NoReturn

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._storage.cursor import Cursor
from checkpoint_doctor.builtin.loaders._storage.dtypes import size_of
from checkpoint_doctor.builtin.loaders.gguf.types import ARRAY, NUMBERS, QUANTIZED, SCALARS, STRING
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import OBJECTS, TENSORS
from checkpoint_doctor.text import shown

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
LONGEST_HEADER = 1 << 28
"""Bytes. A vocabulary of 250,000 tokens with its merges takes about 16 MB."""
LONGEST_NAME = 1 << 16
"""Bytes of a name or key; llama.cpp allows 64 and 65,535."""
LONGEST_KEPT = 1000
"""Bytes of a text among the settings that is kept: templates and licences are not."""
MOST_AXES = 8
"""llama.cpp allows 4."""
DEEPEST = 4
"""Arrays inside one another."""
MOST_ITEMS = 1_500_000
"""Texts and arrays in the arrays of a header. The largest vocabularies have 262,144 tokens and twice as many merges."""
LARGEST_SIZE = 1 << 62
ALIGNMENT = "general.alignment"


class Entry(Struct, frozen=True):
    """A tensor's entry in the header."""

    name: str
    type_name: str
    """GGUF's name for its type."""
    dtype: str | None
    """PyTorch's name; ``None`` for types that are not read."""
    shape: tuple[int, ...]
    """The slowest axis first, as in NumPy and PyTorch."""
    start: int
    """Offset of its first byte in the file."""
    size: int | None
    """Bytes; ``None`` for a type that is not known."""


def read_header(source: Source) -> tuple[list[Entry], dict[str, str]]:
    """Return the tensors in the order of their bytes, and the settings that are single values.

    Raises:
        UnreadableCheckpoint: the header is truncated, too long, or contradicts itself or the bytes that follow it.
    """
    header = _Header(source)
    tensors, settings = header.read_counts()
    source.budget.spend(TENSORS, tensors)
    source.budget.spend(OBJECTS, settings)
    values = dict(header.read_setting() for _ in range(settings))
    entries = [header.read_entry() for _ in range(tensors)]
    alignment = values.get(ALIGNMENT, "32")
    if not alignment.isdigit() or not 0 < int(alignment) <= 1 << 30:
        _refuse(source, f"its alignment is {alignment}")
    end = header.cursor.position
    start = end + -end % int(alignment)
    placed = [_place(each, start) for each in entries]
    _check(source, placed)
    return sorted(placed, key=lambda entry: entry.start), values


class _Header:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.cursor = Cursor(source, len(MAGIC))
        self._width = 8
        self._items = 0
        """Texts and arrays in its arrays so far."""

    def read_counts(self) -> tuple[int, int]:
        version = self.cursor.number(4)
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            if swapped in VERSIONS:
                raise UnreadableCheckpoint(
                    f"{self.source.name} is a GGUF file for big-endian machines, which is not read",
                    "convert it with gguf_convert_endian.py of llama.cpp",
                )
            raise UnreadableCheckpoint(
                f"{self.source.name} has version {version} of GGUF; versions 1 to 3 are read",
                "the file is damaged, or newer than this version of ckdoc",
            )
        self._width = 4 if version == 1 else 8
        return self.cursor.number(self._width), self.cursor.number(self._width)

    def read_setting(self) -> tuple[str, str]:
        """Return a key and its value as text; ``""`` for arrays and long texts."""
        key = self._read_name()
        kind = self.cursor.number(4)
        if kind == STRING:
            length = self._read_length()
            value = self.cursor.take(length) if length <= LONGEST_KEPT else b""
            if not value:
                self.cursor.skip(length)
            return key, value.decode("utf-8", "replace")
        if kind == ARRAY:
            self._skip_array(1)
            return key, ""
        if kind not in SCALARS:
            _refuse(self.source, f"its setting {shown(key)} has the unknown type {kind}")
        code, width = SCALARS[kind]
        return key, str(struct.unpack("<" + code, self.cursor.take(width))[0])

    def read_entry(self) -> Entry:
        name = self._read_name()
        axes = self.cursor.number(4)
        if axes > MOST_AXES:
            _refuse(self.source, f"tensor {shown(name)} has {axes:,} axes")
        shape = tuple(reversed([self.cursor.number(self._width) for _ in range(axes)]))
        if prod(size for size in shape if size) > LARGEST_SIZE:
            _refuse(self.source, f"the shape of tensor {shown(name)} is too large")
        kind, offset = self.cursor.number(4), self.cursor.number(8)
        if kind in NUMBERS:
            type_name, dtype = NUMBERS[kind]
            return Entry(name, type_name, dtype, shape, offset, prod(shape) * size_of(dtype))
        if kind not in QUANTIZED:
            return Entry(name, f"type {kind}", None, shape, offset, None)
        type_name, elements, width = QUANTIZED[kind]
        if shape[-1:] and shape[-1] % elements:
            _refuse(
                self.source,
                f"tensor {shown(name)} has rows of {shape[-1]:,} values, but {type_name} packs {elements} together",
            )
        return Entry(name, type_name, None, shape, offset, prod(shape) // elements * width)

    def _read_name(self) -> str:
        length = self._read_length()
        if length > LONGEST_NAME:
            _refuse(self.source, f"a name in its header has {length:,} bytes")
        return self.cursor.take(length).decode("utf-8", "replace")

    def _read_length(self) -> int:
        if self.cursor.position > LONGEST_HEADER:
            _refuse(self.source, f"its header is longer than the {LONGEST_HEADER:,} bytes that are read")
        return self.cursor.number(self._width)

    def _skip_array(self, depth: int) -> None:
        kind, count = self.cursor.number(4), self.cursor.number(self._width)
        if kind in SCALARS:
            self.cursor.skip(count * SCALARS[kind][1])
            return
        self._items += count
        if self._items > MOST_ITEMS:
            _refuse(
                self.source, f"its header has {self._items:,} texts and arrays in arrays, and {MOST_ITEMS:,} are read"
            )
        if kind == STRING:
            for _ in range(count):
                self.cursor.skip(self._read_length())
        elif kind == ARRAY and depth < DEEPEST:
            for _ in range(count):
                self._skip_array(depth + 1)
        else:
            _refuse(self.source, f"an array in its header has the unknown type {kind}, or is nested too deeply")


def _place(entry: Entry, start: int) -> Entry:
    return Entry(entry.name, entry.type_name, entry.dtype, entry.shape, start + entry.start, entry.size)


def _check(source: Source, entries: list[Entry]) -> None:
    """Check that names are unique and that every tensor lies inside the file, where no other one does."""
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            _refuse(source, f"tensor {shown(entry.name)} appears twice in its header")
        names.add(entry.name)
    expected = max((entry.start + (entry.size or 0) for entry in entries), default=0)
    if expected > source.size:
        whole = sum(entry.start + (entry.size or 0) <= source.size for entry in entries)
        raise UnreadableCheckpoint(
            f"{source.name} is truncated: {expected:,} bytes expected, {source.size:,} found "
            f"({whole:,} of {len(entries):,} tensors are whole)",
            "copy or download the file again",
        )
    reached, before = 0, ""
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.size or 0)):
        if entry.size and entry.start < reached:
            _refuse(source, f"tensor {shown(entry.name)} begins at byte {entry.start:,}, inside {shown(before)}")
        reached, before = max(reached, entry.start + (entry.size or 0)), entry.name


def _refuse(source: Source, what: str) -> NoReturn:
    raise UnreadableCheckpoint(
        f"{source.name} is damaged: {what}", "copy or download the file again, or convert it anew"
    )
