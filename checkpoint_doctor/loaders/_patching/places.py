"""Where in a file the numbers of a tensor lie, through all the containers around them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from checkpoint_doctor.checkpoint import Checksum
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.loaders._pickle.objects import SpelledOut
from checkpoint_doctor.loaders._zip.archive import InflatedMember, Member, StoredMember
from checkpoint_doctor.sources import Section, Source


@dataclass(frozen=True)
class Place:
    """Where a source begins in the file that holds it."""

    file: Source
    start: int
    members: tuple[tuple[Member, int], ...] = ()
    """The archive members around it, the innermost first, each with the place where its archive begins in the file."""


def locate(source: Source, name: str) -> Place:
    """Follow a source down to the file whose bytes it shows.

    Raises:
        RepairFailed: it shows bytes that the file holds in another form; ``name`` is what cannot be changed.
    """
    if isinstance(source, InflatedMember):
        raise RepairFailed(
            f"{name} cannot be changed in place: {source.name} is compressed",
            "save the model again with the library it comes from, or unpack the archive and zip it without compression "
            "(zip -0)",
        )
    if isinstance(source, SpelledOut):
        raise RepairFailed(
            f"{name} cannot be changed in place: its pickle spells its numbers out instead of holding their bytes",
            "load the file and save it again with torch.save, the values as tensors",
        )
    if not isinstance(source, Section):
        return Place(source, 0)
    outer = locate(source.parent, name)
    members = outer.members
    if isinstance(source, StoredMember):
        members = ((source.member, outer.start), *members)
    return Place(outer.file, outer.start + source.start, members)


def checksum_of(member: Member) -> Checksum:
    """Return the check of a member's CRC-32, to be made when somebody asks."""
    place = None
    with suppress(RepairFailed):
        start = locate(member.archive, member.name).start + member.data_offset
        place = range(start, start + member.compressed_size)
    return Checksum(member.size, lambda: member.damage, place, member.crc)
