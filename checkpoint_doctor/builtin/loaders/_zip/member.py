"""A member of a zip archive: where its bytes lie, how to read them, and its CRC-32."""

from __future__ import annotations

import zlib
from functools import cached_property

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._zip.crc import crc32
from checkpoint_doctor.builtin.loaders._zip.format import ENCRYPTED
from checkpoint_doctor.builtin.loaders._zip.running_crc import SummedSection
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource, Section, Source
from checkpoint_doctor.sources.budget import INFLATED

STORED, DEFLATED = 0, 8
METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 99: "AES"}
"""Names, for messages, of the compression methods that are not read (APPNOTE 4.4.5)."""


class Member(Struct, frozen=True, eq=False, dict=True):
    """One file inside an archive. Offsets are bytes of the archive's own source."""

    name: str
    size: int
    """Bytes after decompression, as declared."""
    compressed_size: int
    crc: int
    """CRC-32 of the uncompressed bytes, as declared; 0 where the writer did not compute one (a PyTorch option)."""
    method: int
    flags: int
    header_offset: int
    """Offset of the local header."""
    data_offset: int
    """Offset of the (compressed) bytes."""
    central_offset: int
    """Offset of the entry in the central directory."""
    archive: Source

    @property
    def is_stored(self) -> bool:
        """True where the bytes are stored without compression."""
        return self.method == STORED

    @cached_property
    def source(self) -> Source:
        """The member's bytes: a section of the archive where stored, else inflated into memory at the first access.

        Raises:
            UnreadableCheckpoint: the member is encrypted, damaged, compressed with a method that is not read, or
                possibly a decompression bomb.
        """
        title = f"{self.archive.name}/{self.name}"
        if self.flags & ENCRYPTED:
            raise UnreadableCheckpoint(f"{title} is encrypted", "decrypt the archive first")
        if self.is_stored:
            return StoredMember(title, self.archive, self)
        if self.method != DEFLATED:
            raise UnreadableCheckpoint(
                f"{title} is compressed with {METHODS.get(self.method, f'method {self.method}')}, which is not read",
                "unpack the archive and zip it again without compression (zip -0)",
            )
        return InflatedMember(title, self._inflate(title), self.archive.budget)

    @cached_property
    def damage(self) -> Flaw | None:
        """The result of ``check_crc``, computed at the first access."""
        return check_crc(self)

    def _inflate(self, title: str) -> bytearray:
        self.archive.budget.spend(INFLATED, self.size)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = bytearray()
        position, end = self.data_offset, self.data_offset + self.compressed_size
        try:
            while position < end and not inflater.eof and len(content) <= self.size:
                pending = self.archive.read(position, min(1 << 18, end - position))
                position += len(pending)
                while pending and len(content) <= self.size:
                    # One byte more than declared is enough to detect a wrong size.
                    content += inflater.decompress(pending, self.size + 1 - len(content))
                    pending = inflater.unconsumed_tail
        except zlib.error:
            raise UnreadableCheckpoint(
                f"{title} is damaged: its compressed data is invalid after {len(content):,} of {self.size:,} bytes",
                "copy or download the file again",
            ) from None
        if len(content) != self.size or not inflater.eof:
            found = f"{len(content):,}" if len(content) < self.size else f"more than {self.size:,}"
            raise UnreadableCheckpoint(
                f"{title} inflates to {found} bytes, but {self.size:,} are expected", "copy or download the file again"
            )
        return content


class StoredMember(SummedSection):
    """The bytes of a member that is stored without compression."""

    def __init__(self, title: str, archive: Source, member: Member) -> None:
        super().__init__(title, archive, member.data_offset, min(member.size, member.compressed_size))
        self.member = member


class InflatedMember(MemorySource):
    """The bytes of a member that is compressed in its archive."""


def check_crc(member: Member, block: int = 1 << 20) -> Flaw | None:
    """Compare a member's bytes with its declared CRC-32, ``block`` bytes in memory at a time.

    A member that was already read in order is not read again. Returns ``None`` where they agree or no CRC-32 was
    recorded.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    source = member.source
    if member.crc == 0 and source.size:
        return None
    found = source.crc.value if isinstance(source, StoredMember) else None
    if found is None:
        found = _compute_crc(source, block)
    if found == member.crc:
        return None
    return Flaw(
        f"the bytes of {member.name} have CRC-32 {found:08x}, but {member.crc:08x} was recorded when they were written",
        member.name,
    )


def _compute_crc(source: Source, block: int) -> int:
    if isinstance(source, SummedSection):
        # A plain section, because the running CRC-32 would be computed a second time.
        source = Section(source.name, source.parent, source.start, source.size)
    checksum = 0
    buffer = memoryview(bytearray(min(block, source.size)))
    for start in range(0, source.size, block):
        window = buffer[: min(block, source.size - start)]
        source.read_into(start, window)
        checksum = crc32(window, checksum)
    return checksum
