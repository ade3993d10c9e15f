"""Zip archives, read by their directory with the exact place of every byte.

The standard library's reader hides where a member's bytes lie and reads past contradictions; a doctor needs both.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import cached_property

from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.loaders._zip.directory import CentralEntry, find_directory, has_directory, read_entries
from checkpoint_doctor.loaders._zip.format import DEFERRED, ENCRYPTED, HAS_DESCRIPTOR, LOCAL_HEADER, LOCAL_SIGNATURE
from checkpoint_doctor.loaders._zip.running_crc import SummedSection
from checkpoint_doctor.loaders._zip.saved_as_text import describe_saved_as_text, was_saved_as_text
from checkpoint_doctor.sources import MemorySource, Section, Source

STORED, DEFLATED = 0, 8
METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 99: "AES"}
"""Names for messages of the compression methods that are not read (APPNOTE 4.4.5)."""

MOST_FLAWS = 50
"""Contradictions that are told one by one."""
LARGEST_INFLATED = 2 << 30
"""Bytes that one compressed member may become in memory."""
HIGH_RATIO = 100
"""Trained weights shrink by a tenth, all-zero ones a thousandfold; above this ratio growth is rationed."""
RATION = 128 << 20
"""Bytes that the members of one archive with a high ratio may become together."""


@dataclass
class _Ration:
    left: int = RATION


@dataclass(frozen=True, eq=False)
class Member:
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
    """Where the local header begins."""
    data_offset: int
    """Where the (compressed) bytes begin."""
    central_offset: int
    """Where the entry in the central directory begins."""
    archive: Source = field(repr=False)
    _ration: _Ration = field(repr=False)

    @property
    def is_stored(self) -> bool:
        """True where the bytes lie in the archive as they are."""
        return self.method == STORED

    @cached_property
    def source(self) -> Source:
        """The member's bytes: a section of the archive where stored, else inflated into memory at the first question.

        Raises:
            UnreadableCheckpoint: encrypted, compressed by a method we do not read, damaged, or a decompression bomb.
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
        return InflatedMember(title, self._inflate(title))

    @cached_property
    def damage(self) -> Flaw | None:
        """What the CRC-32 says, taken at the first question: see ``check_crc``."""
        return check_crc(self)

    def _inflate(self, title: str) -> bytes:
        ration = LARGEST_INFLATED
        if self.size > HIGH_RATIO * self.compressed_size:
            ration = self._ration.left
            self._ration.left -= min(self.size, ration)
        if self.size > ration:
            raise UnreadableCheckpoint(
                f"{title} would grow from {self.compressed_size:,} to {self.size:,} bytes, which is refused as a bomb",
                "if you trust the file, unpack it and zip it again without compression (zip -0)",
            )
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = bytearray()
        position, end = self.data_offset, self.data_offset + self.compressed_size
        try:
            while position < end and not inflater.eof and len(content) <= self.size:
                pending = self.archive.read(position, min(1 << 18, end - position))
                position += len(pending)
                while pending and len(content) <= self.size:
                    # One byte more than declared is enough to see the lie.
                    content += inflater.decompress(pending, self.size + 1 - len(content))
                    pending = inflater.unconsumed_tail
        except zlib.error:
            raise UnreadableCheckpoint(
                f"{title} is damaged: its compressed bytes make no sense after {len(content):,} of {self.size:,} bytes",
                "copy or download the file again",
            ) from None
        if len(content) != self.size or not inflater.eof:
            found = f"{len(content):,}" if len(content) < self.size else f"more than {self.size:,}"
            raise UnreadableCheckpoint(
                f"{title} inflates to {found} bytes, but {self.size:,} are expected", "copy or download the file again"
            )
        return bytes(content)


class StoredMember(SummedSection):
    """The bytes of a member that lie in its archive as they are."""

    def __init__(self, title: str, archive: Source, member: Member) -> None:
        super().__init__(title, archive, member.data_offset, min(member.size, member.compressed_size))
        self.member = member


class InflatedMember(MemorySource):
    """The bytes of a member that is compressed in its archive."""


@dataclass(frozen=True, eq=False)
class ZipArchive:
    """An archive's members in the order of their bytes, and what is wrong with it as a container."""

    source: Source
    members: dict[str, Member]
    """Name to member, directories left out. Of two members of one name the later directory entry wins, as in Python."""
    flaws: list[Flaw]


def is_zip(source: Source) -> bool:
    """Return whether the bytes begin like a zip archive or end with the directory of one. Never raises."""
    try:
        return source.size >= 22 and (source.read(0, 4) == LOCAL_SIGNATURE or has_directory(source))
    except UnreadableCheckpoint:
        return False


def open_archive(source: Source) -> ZipArchive:
    """Read the directory of a zip archive and check it against every local header; no member's bytes are read.

    Raises:
        UnreadableCheckpoint: truncated (said with the size and the last whole member), split, or with a directory that
            contradicts the file so that members cannot be found.
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
    ration = _Ration()
    members: dict[str, Member] = {}
    everything = [
        _locate(source, entry, directory.start, ration, flaws) for entry in read_entries(source, directory, flaws)
    ]
    everything.sort(key=lambda member: member.header_offset)
    for member in sorted(everything, key=lambda member: member.central_offset):
        if member.name in members:
            flaws.append(Flaw("two members have the same name; readers disagree which one counts", member.name))
        members[member.name] = member
    _check_overlaps(everything, flaws)
    if len(flaws) > MOST_FLAWS:
        flaws[MOST_FLAWS:] = [Flaw(f"{len(flaws) - MOST_FLAWS:,} more contradictions like these")]
    in_order = {
        member.name: member
        for member in everything
        if members[member.name] is member and not (member.name.endswith("/") and member.size == 0)
    }
    return ZipArchive(source, in_order, flaws)


def check_crc(member: Member, block: int = 1 << 20) -> Flaw | None:
    """Compare a member's bytes with its declared CRC-32, ``block`` bytes in memory at a time.

    A member that was read from front to back already is not read again. Returns ``None`` where they agree or no CRC
    was recorded.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    source = member.source
    if member.crc == 0 and source.size:
        return None
    found = source.crc.value if isinstance(source, StoredMember) else None
    if found is None:
        found = 0
        # Read past the running sum, which would otherwise be taken twice.
        source = (
            Section(source.name, source.parent, source.start, source.size) if isinstance(source, Section) else source
        )
        buffer = memoryview(bytearray(min(block, source.size)))
        for start in range(0, source.size, block):
            window = buffer[: min(block, source.size - start)]
            source.read_into(start, window)
            found = zlib.crc32(window, found)
    if found == member.crc:
        return None
    return Flaw(
        f"the bytes of {member.name} have CRC {found:08x}, but {member.crc:08x} was recorded when they were written",
        member.name,
    )


def list_names(source: Source) -> list[str]:
    """Return the names in the directory of an archive, without looking at the members.

    Raises:
        UnreadableCheckpoint: there is no directory, or it contradicts the file.
    """
    flaws: list[Flaw] = []
    return [entry.name for entry in read_entries(source, find_directory(source, flaws), flaws)]


def first_name(source: Source) -> str:
    """Return the name in the local header at the beginning, which even truncated archives have; else ``""``.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    size = LOCAL_HEADER.size
    head = source.read(0, min(size + 256, source.size))
    if len(head) < size or not head.startswith(LOCAL_SIGNATURE):
        return ""
    length = LOCAL_HEADER.unpack_from(head)[9]
    return head[size : size + length].decode("utf-8", "replace")


def _locate(source: Source, entry: CentralEntry, limit: int, ration: _Ration, flaws: list[Flaw]) -> Member:
    """Find a member's bytes through its local header and note where that contradicts the directory."""
    size = LOCAL_HEADER.size
    if entry.header_offset + size + len(entry.raw_name) > limit:
        raise UnreadableCheckpoint(
            f"{source.name} is damaged: member {entry.name} should begin at byte {entry.header_offset:,}, "
            f"but the members end at byte {limit:,}",
            "copy or download the file again",
        )
    header = source.read(entry.header_offset, size + len(entry.raw_name))
    signature, _, flags, method, _, _, crc, compressed, uncompressed, name_length, extra_length = (
        LOCAL_HEADER.unpack_from(header)
    )
    if signature != LOCAL_SIGNATURE:
        raise UnreadableCheckpoint(
            f"{source.name} is damaged: no member begins at byte {entry.header_offset:,}, "
            f"where the directory says {entry.name} does",
            "copy or download the file again",
        )
    data_offset = entry.header_offset + size + name_length + extra_length
    end = data_offset + entry.compressed_size
    if end > limit:
        raise UnreadableCheckpoint(
            f"{source.name} is damaged: member {entry.name} should end at byte {end:,}, "
            f"but the members end at byte {limit:,}",
            "copy or download the file again",
        )
    if name_length != len(entry.raw_name) or header[size:] != entry.raw_name:
        flaws.append(Flaw("its own header gives another name than the directory", entry.name))
    pairs = [("method", method, entry.method), ("encryption", flags & ENCRYPTED, entry.flags & ENCRYPTED)]
    if not flags & HAS_DESCRIPTOR:
        pairs.append(("CRC", crc, entry.crc))
        pairs.append(("compressed size", compressed, entry.compressed_size))
        pairs.append(("size", uncompressed, entry.size))
    for what, local, central in pairs:
        if local not in (central, DEFERRED):
            flaws.append(Flaw(f"the {what} in its own header contradicts the directory", entry.name, central, local))
    if entry.method == STORED and not entry.flags & ENCRYPTED and entry.size != entry.compressed_size:
        flaws.append(
            Flaw("it is stored as it is, but two sizes are declared", entry.name, entry.size, entry.compressed_size)
        )
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
        _ration=ration,
    )


def _check_overlaps(members: list[Member], flaws: list[Flaw]) -> None:
    reached = 0
    for member in members:
        if member.header_offset < reached:
            flaws.append(Flaw("it overlaps the member before it", member.name, reached, member.header_offset))
        reached = max(reached, member.data_offset + member.compressed_size)
