"""Updates the recorded CRC-32 of a zip member when its bytes are patched: it is stored in up to three places."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from checkpoint_doctor.builtin.loaders._zip.format import DESCRIPTOR_SIGNATURE, HAS_DESCRIPTOR
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders._zip.patched_crc import checksum_after
from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.sources import Source

LOCAL_CRC, CENTRAL_CRC = 14, 16
"""Offset of the CRC-32 in a local header and in an entry of the central directory (APPNOTE 4.3.7, 4.3.12)."""
CRC = Struct("<I")


def update_checksum(file: Source, base: int, member: Member, patches: list[Patch]) -> Iterator[Patch]:
    """Yield the patches that set a member's recorded CRC-32 to that of its patched bytes.

    Args:
        file: the file that contains the archive.
        base: offset in the file at which the member's archive begins.
        member: a stored member.
        patches: the patches within the member's bytes, sorted, with offsets in the file.

    Raises:
        RepairFailed: the member's present bytes do not match its CRC-32, or its headers contradict each other.
        UnreadableCheckpoint: the file can no longer be read.
    """
    if member.size != member.compressed_size:
        raise _damaged(file, f"its directory declares two sizes for {member.name}, which is stored without compression")
    if member.damage is not None:
        raise _damaged(file, member.damage.message)
    if member.crc == 0:
        return  # none was recorded: a PyTorch option
    start = base + member.data_offset
    checksum = checksum_after(member.crc, start, member.size, patches)
    if checksum == member.crc:
        return
    for offset in _find_records(file, base, member):
        yield Patch(offset, CRC.pack(member.crc), CRC.pack(checksum), f"CRC-32 of {member.name}")


def _find_records(file: Source, base: int, member: Member) -> Iterator[int]:
    yield base + member.central_offset + CENTRAL_CRC
    crc = CRC.pack(member.crc)
    local = base + member.header_offset + LOCAL_CRC
    behind = base + member.data_offset + member.compressed_size
    found = file.read(local, CRC.size)
    if found == crc:
        yield local
    elif not member.flags & HAS_DESCRIPTOR:
        raise _damaged(file, f"the local header and the directory entry of {member.name} have different CRC-32 values")
    if not member.flags & HAS_DESCRIPTOR:
        return
    descriptor = file.read(behind, 8)
    if descriptor == DESCRIPTOR_SIGNATURE + crc:
        yield behind + 4
    elif descriptor.startswith(crc):  # the signature is optional (APPNOTE 4.3.9.3)
        yield behind
    else:
        raise _damaged(file, f"no data descriptor follows the bytes of {member.name}")


def _damaged(file: Source, what: str) -> RepairFailed:
    return RepairFailed(
        f"{file.name} cannot be changed in place, because it is damaged: {what}",
        "copy or download it again, or take an earlier checkpoint",
    )
