"""The local header in front of each member's bytes, compared with the member's entry in the central directory."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.loaders._zip.directory import CentralEntry
from checkpoint_doctor.builtin.loaders._zip.format import (
    DEFERRED,
    ENCRYPTED,
    HAS_DESCRIPTOR,
    LOCAL_HEADER,
    LOCAL_SIGNATURE,
    damaged,
)
from checkpoint_doctor.builtin.loaders._zip.member import STORED, Member
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source


def header_length(entry: CentralEntry) -> int:
    """Return how many bytes of a member's local header are compared: all up to the end of its name."""
    return LOCAL_HEADER.size + len(entry.raw_name)


def locate(source: Source, entry: CentralEntry, limit: int, flaws: list[Flaw]) -> Member:
    """Find a member's bytes through its local header, and note where that contradicts the central directory.

    Args:
        source: the archive.
        entry: the member's entry in the central directory.
        limit: offset at which the members end.
        flaws: contradictions are appended here.

    Raises:
        UnreadableCheckpoint: there is no local header at the recorded offset, or the member ends beyond the limit.
    """
    size = LOCAL_HEADER.size
    if entry.header_offset + header_length(entry) > limit:
        raise _out_of_range(source, entry, "begin", entry.header_offset, limit)
    header = source.read(entry.header_offset, header_length(entry))
    fields = LOCAL_HEADER.unpack_from(header)
    if fields[0] != LOCAL_SIGNATURE:
        raise damaged(
            source,
            f"member {entry.name} has no local header at byte {entry.header_offset:,}, "
            "the offset in the central directory",
        )
    name_length, extra_length = fields[-2:]
    data_offset = entry.header_offset + size + name_length + extra_length
    end = data_offset + entry.compressed_size
    if end > limit:
        raise _out_of_range(source, entry, "end", end, limit)
    flaws += _compare(entry, fields, header[size:])
    return Member(
        name=entry.name,
        size=entry.size,
        compressed_size=entry.compressed_size,
        crc=entry.crc,
        method=entry.method,
        flags=entry.flags,
        header_offset=entry.header_offset,
        data_offset=data_offset,
        central_offset=entry.central_offset,
        archive=source,
    )


def _out_of_range(source: Source, entry: CentralEntry, verb: str, offset: int, limit: int) -> UnreadableCheckpoint:
    return damaged(
        source,
        f"member {entry.name} should {verb} at byte {offset:,}, but the members end at byte {limit:,}",
    )


def _compare(entry: CentralEntry, fields: tuple[int, ...], raw_name: bytes) -> Iterator[Flaw]:
    """Yield the contradictions between a local header and its entry in the central directory."""
    _, _, flags, method, _, _, crc, compressed_size, size, name_length, _ = fields
    if name_length != len(entry.raw_name) or raw_name != entry.raw_name:
        yield Flaw("the name in its local header differs from the central directory", entry.name)
    pairs = [("method", method, entry.method), ("encryption", flags & ENCRYPTED, entry.flags & ENCRYPTED)]
    if not flags & HAS_DESCRIPTOR:
        pairs.append(("CRC-32", crc, entry.crc))
        pairs.append(("compressed size", compressed_size, entry.compressed_size))
        pairs.append(("size", size, entry.size))
    for what, local, central in pairs:
        if local not in (central, DEFERRED):
            yield Flaw(f"the {what} in its local header differs from the central directory", entry.name, central, local)
    if entry.method == STORED and not entry.flags & ENCRYPTED and entry.size != entry.compressed_size:
        yield Flaw(
            "it is stored without compression, but two different sizes are declared",
            entry.name,
            entry.size,
            entry.compressed_size,
        )
