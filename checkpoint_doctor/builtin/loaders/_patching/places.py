"""Finds the offset in the file of bytes that lie in nested containers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.objects import RebuiltBytes
from checkpoint_doctor.builtin.loaders._storage.converted_values import ConvertedValues
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.builtin.loaders._zip.member import InflatedMember, Member, StoredMember
from checkpoint_doctor.checkpoint import Checksum, Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.sources import Section, Source


class Place(Struct, frozen=True):
    """The offset of a source in the file that contains it."""

    file: Source
    start: int
    members: tuple[tuple[Member, int], ...] = ()
    """The archive members around it, the innermost first, each with the offset of its archive in the file."""


def locate(source: Source, name: str) -> Place:
    """Return where a source lies in its file.

    Raises:
        RepairFailed: the file contains its bytes in another form only; ``name`` names what cannot be changed.
    """
    if isinstance(source, InflatedMember):
        raise RepairFailed(
            f"{name} cannot be changed in place: {source.name} is compressed",
            "save the model again with the library it comes from, or unpack the archive and zip it without compression "
            "(zip -0)",
        )
    if isinstance(source, RebuiltBytes):
        raise RepairFailed(
            f"{name} cannot be changed in place: its pickle stores its numbers as text or objects",
            "load the file and save its values again as tensors with torch.save",
        )
    if not isinstance(source, Section):
        return Place(source, 0)
    outer = locate(source.parent, name)
    members = outer.members
    if isinstance(source, StoredMember):
        members = ((source.member, outer.start), *members)
    return Place(outer.file, outer.start + source.start, members)


def can_change_any(tensors: Sequence[Tensor]) -> bool:
    """Tell whether the bytes of any tensor are in the file as they are, so that it can be changed in place."""
    return not tensors or any(map(_is_in_file, tensors))


def _is_in_file(tensor: Tensor) -> bool:
    stored = tensor.values.stored if isinstance(tensor.values, ConvertedValues) else tensor.values
    if not isinstance(stored, StoredValues):
        return False
    try:
        locate(stored.source, tensor.name)
    except RepairFailed:
        return False
    return True


def checksum_of(member: Member, storage: str = "") -> Checksum:
    """Return the checksum of a member, which is verified when its ``flaw`` is first read.

    ``storage`` is the name by which tensors refer to the member's bytes, if they do.
    """
    place = None
    with suppress(RepairFailed):
        start = locate(member.archive, member.name).start + member.data_offset
        place = range(start, start + member.compressed_size)
    return Checksum(member.size, lambda: member.damage, place, member.crc, storage)
