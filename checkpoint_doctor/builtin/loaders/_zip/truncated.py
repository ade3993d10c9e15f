"""Finds the last whole member of a truncated zip archive by following its local headers from the beginning."""

from __future__ import annotations

from checkpoint_doctor.builtin.loaders._zip.format import (
    CENTRAL_SIGNATURE,
    DEFERRED,
    DESCRIPTOR_SIGNATURE,
    HAS_DESCRIPTOR,
    LOCAL_HEADER,
    LOCAL_SIGNATURE,
    decode_name,
    read_zip64_sizes,
)
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import shown

LONGEST_SEARCH = 256 << 20
"""Bytes that are searched for members; beyond them the last whole member may be an earlier one."""
COST_OF_A_STEP = 2048
"""What reading a header counts as, in bytes that could be searched in the same time."""


def describe_truncation(source: Source) -> UnreadableCheckpoint:
    """Return the error for an archive without a directory, with the offset of its end and the last whole member."""
    whole, broken = _walk(source)
    message = f"{source.name} is truncated at byte {source.size:,}: the zip directory at its end is missing"
    if broken:
        message += f"; it breaks off in member {shown(broken)}"
    if whole:
        message += f"; the last whole member is {shown(whole)}"
    return UnreadableCheckpoint(message, "copy or download it again, or take an earlier checkpoint")


def _walk(source: Source) -> tuple[str, str]:
    """Return the names of the last whole member and of the one that breaks off, as far as the local headers show."""
    position, whole = 0, ""
    budget = LONGEST_SEARCH
    while position + 4 <= source.size and source.read(position, 4) == LOCAL_SIGNATURE:
        if position + LOCAL_HEADER.size > source.size:
            return whole, "(header)"
        budget -= COST_OF_A_STEP
        if budget < 0:
            break
        fields = LOCAL_HEADER.unpack(source.read(position, LOCAL_HEADER.size))
        flags, compressed, name_length, extra_length = fields[2], fields[7], fields[9], fields[10]
        name_end = position + LOCAL_HEADER.size + name_length
        if name_end > source.size:
            return whole, "(header)"
        name = decode_name(source.read(name_end - name_length, name_length), flags)
        start = name_end + extra_length
        if start > source.size:
            return whole, name
        if flags & HAS_DESCRIPTOR and compressed in (0, DEFERRED):
            end, budget = _find_descriptor(source, start, budget)
        elif compressed == DEFERRED:
            extra = source.read(name_end, extra_length)
            end = start + read_zip64_sizes(source, name, extra, DEFERRED, compressed, 0, 0)[1]
        else:
            end = start + compressed
        if end is None:
            return whole, name if budget > 0 else ""
        if end > source.size:
            return whole, name
        position, whole = end, name
    return whole, ""


def _find_descriptor(source: Source, start: int, budget: int) -> tuple[int | None, int]:
    """Return the offset of the next header after a member whose size is recorded only behind its bytes."""
    block = 1 << 20
    position = start
    while position < source.size and budget > 0:
        content = source.read(position, min(block, source.size - position))
        budget -= len(content)
        at = content.find(DESCRIPTOR_SIGNATURE)
        while at >= 0 and budget > 0:
            budget -= COST_OF_A_STEP
            # A descriptor has 16 bytes, or 24 where sizes have 64 bits.
            for length in (16, 24):
                following = position + at + length
                if following + 4 <= source.size and source.read(following, 4) in (LOCAL_SIGNATURE, CENTRAL_SIGNATURE):
                    return following, budget
            at = content.find(DESCRIPTOR_SIGNATURE, at + 1)
        if position + len(content) == source.size:
            break
        position += len(content) - 3
    return None, budget
