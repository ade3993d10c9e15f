"""The header of a safetensors file, checked against the bytes that follow it.

The format: eight bytes with the header's length, little-endian; the header, a JSON object from tensor name to
``dtype``, ``shape`` and ``data_offsets`` (relative to the header's end); then the tensors' bytes without a gap. The
library refuses every deviation, so each is reported with the expected and the found number of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NoReturn, TypeGuard

from msgspec import Struct

from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source, read_json
from checkpoint_doctor.sources.budget import TENSORS

LONGEST_HEADER = 100_000_000
"""Bytes; ``MAX_HEADER_SIZE`` of the safetensors library."""
MOST_DIMENSIONS = 32
"""NumPy 1.26's limit."""
MOST_GAPS = 50
"""Gaps between tensors that are reported one by one; the others are counted."""
LARGEST_SIZE = 1 << 62
"""Product of all axes that are not empty, so that sizes in bytes fit into 64 bits."""

TYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "U16": (16, "uint16"),
    "I16": (16, "int16"),
    "U32": (32, "uint32"),
    "I32": (32, "int32"),
    "U64": (64, "uint64"),
    "I64": (64, "int64"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "F32": (32, "float32"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "F4": (4, None),
}
"""A header's ``dtype`` (safetensors 0.8) to the bits of one element and PyTorch's name.

The name is ``None`` for types whose elements are smaller than a byte, which are not read.
"""


class Entry(Struct, frozen=True):
    """A tensor's entry in the header."""

    name: str
    code: str
    """The header's ``dtype``."""
    dtype: str | None
    """PyTorch's name for it, ``None`` for types that are not read."""
    shape: tuple[int, ...]
    begin: int
    """Offset of the first byte, counted from the header's end."""
    end: int
    """Offset after the last byte, counted likewise."""


def begins_like_header(source: Source) -> bool:
    """Return whether the file begins with a length below 4 GiB and the beginning of a JSON object."""
    if source.size < 9:
        return False
    beginning = source.read(0, min(16, source.size))
    if beginning[4:8] != b"\0\0\0\0" or beginning[8:9] != b"{":
        return False
    following = beginning[9:].lstrip()
    return following[:1] in (b"", b'"', b"}")


def read_header(source: Source) -> tuple[list[Entry], dict[str, str], int]:
    """Return the tensors in the order of their bytes, the metadata, and the offset where the tensors' bytes begin.

    Raises:
        UnreadableCheckpoint: the header is truncated, too long or not JSON, or an entry contradicts itself.
    """
    length = int.from_bytes(source.read(0, 8), "little")
    if length > LONGEST_HEADER:
        raise UnreadableCheckpoint(
            f"{source.name} declares a header of {length:,} bytes; the format allows {LONGEST_HEADER:,}",
            "the first eight bytes are damaged, or this is not a safetensors file",
        )
    if length > source.size - 8:
        raise UnreadableCheckpoint(
            f"{source.name} is truncated inside its header: {8 + length:,} bytes expected, {source.size:,} found",
            "copy or download the file again",
        )
    fields = parse_json(source, read_json(source, 8, length), "the header")
    metadata = fields.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(source, "its __metadata__ does not map strings to strings")
    source.budget.spend(TENSORS, len(fields))
    entries = [_read_entry(source, name, field) for name, field in fields.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    return entries, metadata, 8 + length


def check_layout(source: Source, entries: list[Entry], start: int, flaws: list[Flaw]) -> None:
    """Check that the tensors fill the rest of the file; a gap, or bytes after the last tensor, are flaws.

    Args:
        source: the file.
        entries: the header's entries in the order of their bytes.
        start: offset of the header's end.
        flaws: what is found is appended here.

    Raises:
        UnreadableCheckpoint: the file ends before the last tensor does, or two tensors share bytes.
    """
    expected = start + max((entry.end for entry in entries), default=0)
    if expected > source.size:
        whole = sum(start + entry.end <= source.size for entry in entries)
        raise UnreadableCheckpoint(
            f"{source.name} is truncated: {expected:,} bytes expected, {source.size:,} found "
            f"({expected - source.size:,} are missing; {whole:,} of {len(entries):,} tensors are whole)",
            "copy or download the file again",
        )
    gaps = list(_find_gaps(source, entries, start))
    flaws += gaps[:MOST_GAPS]
    if len(gaps) > MOST_GAPS:
        flaws.append(Flaw(f"there are {len(gaps) - MOST_GAPS:,} more gaps like these"))
    if source.size > expected:
        flaws.append(Flaw(f"{source.size - expected:,} bytes follow the last tensor", "", expected, source.size))


def _find_gaps(source: Source, entries: list[Entry], start: int) -> Iterator[Flaw]:
    """Yield the gaps between tensors. Raises as ``check_layout`` where two of them overlap."""
    reached, before = 0, ""
    for entry in entries:
        if entry.begin < reached and entry.end > entry.begin:
            _refuse(
                source,
                f"tensor {entry.name} begins at byte {start + entry.begin:,}, "
                f"inside {before}, which ends at byte {start + reached:,}",
            )
        if entry.begin > reached:
            message = f"{entry.begin - reached:,} bytes before {entry.name} belong to no tensor"
            yield Flaw(message, entry.name, expected=start + reached, found=start + entry.begin)
        if entry.end > reached:
            reached, before = entry.end, entry.name


def parse_json(source: Source, content: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly: UTF-8, no duplicate names, no NaN.

    Raises:
        UnreadableCheckpoint: it is not one; the message says where and why.
    """
    import json

    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        if re.search(rb"\\u[dD]", content):  # a lone surrogate, which the library refuses and which cannot be printed
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        _refuse(source, f"{what} is nested too deeply")
    except UnicodeEncodeError:
        _refuse(source, f"{what} contains a lone surrogate, which is half a character")
    except UnicodeDecodeError as error:
        _refuse(source, f"{what} is not valid UTF-8 at its byte {error.start:,}")
    except json.JSONDecodeError as error:
        _refuse(source, f"{what} is not valid JSON: {error.msg.lower()} at its character {error.pos:,}")
    except ValueError as error:
        _refuse(source, f"{what} is not valid JSON: {error}")
    if not isinstance(value, dict):
        _refuse(source, f"{what} is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} appears twice")
    return found


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a number")


def _read_entry(source: Source, name: str, field: object) -> Entry:
    if not isinstance(field, Mapping):
        _refuse(source, f"the entry of tensor {name} is not an object")
    code, shape, offsets = field.get("dtype"), field.get("shape"), field.get("data_offsets")
    if not isinstance(code, str):
        _refuse(source, f"tensor {name} has no dtype")
    if not _are_counts(shape):
        _refuse(source, f"the shape of tensor {name} is not a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(source, f"the data_offsets of tensor {name} are not a range of bytes")
    if len(shape) > MOST_DIMENSIONS or prod(size for size in shape if size) > LARGEST_SIZE:
        _refuse(source, f"the shape of tensor {name} has too many or too large axes")
    begin, end = offsets
    bits, dtype = TYPES.get(code, (None, None))
    if bits is not None:
        expected = prod(shape) * bits
        if expected != 8 * (end - begin):
            _refuse(
                source,
                f"tensor {name} of type {code} and shape {list(shape)} takes {-(-expected // 8):,} bytes, "
                f"but its data_offsets span {end - begin:,}",
            )
    return Entry(name, code, dtype, tuple(shape), begin, end)


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in value)


def _refuse(source: Source, what: str) -> NoReturn:
    raise UnreadableCheckpoint(f"{source.name} is damaged: {what}", "copy or download the file again, or save it anew")
