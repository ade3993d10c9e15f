"""Zip archives: their members with the offsets of all their bytes, and the contradictions in their headers.

Python's ``zipfile`` neither gives these offsets nor reports contradictions that it can read past.
"""

from __future__ import annotations

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._zip.directory import find_directory, has_directory, read_entries
from checkpoint_doctor.builtin.loaders._zip.format import LOCAL_HEADER, LOCAL_SIGNATURE, begins_otherwise
from checkpoint_doctor.builtin.loaders._zip.local_headers import header_length, locate
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders._zip.saved_as_text import describe_saved_as_text, was_saved_as_text
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source, fetch_ahead
from checkpoint_doctor.sources.budget import REPEATED

MOST_FLAWS = 50
"""Contradictions that are reported one by one; the others are counted."""


class ZipArchive(Struct, frozen=True, eq=False):
    """An archive's members in the order of their bytes, and what is wrong with it as a container."""

    source: Source
    members: dict[str, Member]
    """Name to member, without directories. Of two members with one name the later entry wins, as in Python."""
    flaws: list[Flaw]


def is_zip(source: Source) -> bool:
    """Return whether the bytes begin with a local header or end with a zip directory. Never raises."""
    try:
        if source.size < 22:
            return False
        head = source.read(0, min(512, source.size))
        if head.startswith(LOCAL_SIGNATURE) or begins_otherwise(head):
            return head.startswith(LOCAL_SIGNATURE)
        return has_directory(source)
    except UnreadableCheckpoint:
        return False


def open_archive(source: Source) -> ZipArchive:
    """Read the central directory of a zip archive and check it against every local header; members are not read.

    Raises:
        UnreadableCheckpoint: the archive is truncated (the message has its size and the last whole member) or split,
            or its directory contradicts the file so that members cannot be found.
    """
    try:
        return _open(source)
    except UnreadableCheckpoint:
        if was_saved_as_text(source.read(0, min(1 << 16, source.size))):
            raise describe_saved_as_text(source) from None
        raise


def _open(source: Source) -> ZipArchive:
    flaws: list[Flaw] = []
    directory = find_directory(source, flaws)
    members: dict[str, Member] = {}
    entries = list(read_entries(source, directory, flaws))
    fetch_ahead(source, [(each.header_offset, header_length(each)) for each in entries])
    everything = [locate(source, entry, directory.start, flaws) for entry in entries]
    everything.sort(key=lambda member: member.header_offset)
    for member in sorted(everything, key=lambda member: member.central_offset):
        if member.name in members:
            flaws.append(
                Flaw("two members have the same name, and libraries differ in which one they read", member.name)
            )
        members[member.name] = member
    _check_overlaps(source, everything, flaws)
    if len(flaws) > MOST_FLAWS:
        flaws[MOST_FLAWS:] = [Flaw(f"{len(flaws) - MOST_FLAWS:,} more contradictions like these")]
    in_order = {
        member.name: member
        for member in everything
        if members[member.name] is member and not (member.name.endswith("/") and member.size == 0)
    }
    return ZipArchive(source, in_order, flaws)


def _check_overlaps(source: Source, members: list[Member], flaws: list[Flaw]) -> None:
    reached = repeated = 0
    for member in members:
        end = member.data_offset + member.compressed_size
        if member.header_offset < reached:
            flaws.append(Flaw("it overlaps the member before it", member.name, reached, member.header_offset))
            repeated += min(reached, end) - member.header_offset
        reached = max(reached, end)
    source.budget.spend(REPEATED, repeated)


def list_names(source: Source) -> list[str]:
    """Return the names in the central directory of an archive; members and local headers are not read.

    Raises:
        UnreadableCheckpoint: there is no directory, or it contradicts the file.
    """
    flaws: list[Flaw] = []
    return [entry.name for entry in read_entries(source, find_directory(source, flaws), flaws)]


def first_name(source: Source) -> str:
    """Return the name in the first local header, which truncated archives have too; ``""`` where there is none.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    size = LOCAL_HEADER.size
    head = source.read(0, min(size + 256, source.size))
    if len(head) < size or not head.startswith(LOCAL_SIGNATURE):
        return ""
    length = LOCAL_HEADER.unpack_from(head)[9]
    return head[size : size + length].decode("utf-8", "replace")
