"""The central directory of a zip archive: the end records that give its offset, and its entries."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._zip.format import (
    CENTRAL_HEADER,
    CENTRAL_SIGNATURE,
    DEFERRED,
    DEFERRED_DISK,
    END_RECORD,
    END_SIGNATURE,
    LOCAL_SIGNATURE,
    ZIP64_LOCATOR,
    ZIP64_LOCATOR_SIGNATURE,
    ZIP64_RECORD,
    ZIP64_SIGNATURE,
    damaged,
    decode_name,
    read_zip64_sizes,
)
from checkpoint_doctor.builtin.loaders._zip.truncated import describe_truncation
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import OBJECTS

LONGEST_COMMENT = 0xFFFF
MOST_CANDIDATES = 64
"""How many signatures at the end of a file are tried as its end record."""

MEMBER_COST = 4
"""Objects of the budget that a member counts as, each time that the directory is read."""
LARGEST_DIRECTORY = 64 << 20


class Directory(Struct, frozen=True):
    """Where the central directory lies, and the number of its entries, as the end record has them."""

    start: int
    size: int
    count: int
    shift: int
    """Bytes before the archive; all recorded offsets count from their end."""


class CentralEntry(Struct, frozen=True):
    """A member's entry in the central directory."""

    name: str
    raw_name: bytes
    size: int
    compressed_size: int
    crc: int
    method: int
    flags: int
    header_offset: int
    central_offset: int


def has_directory(source: Source) -> bool:
    """Return whether the file ends with an end-of-central-directory record."""
    return _find_end(source)[0] is not None


def find_directory(source: Source, flaws: list[Flaw]) -> Directory:
    """Find the central directory through the records at the end of the file.

    Raises:
        UnreadableCheckpoint: there is none (the file is truncated), the archive is split, or the records contradict
            the file.
    """
    end, trailing = _find_end(source)
    if end is None:
        raise describe_truncation(source)
    if trailing:
        flaws.append(Flaw(f"{trailing:,} bytes follow the end of the archive", "", source.size - trailing, source.size))
    _, disk, start_disk, _, count, size, offset, _ = END_RECORD.unpack(source.read(end, END_RECORD.size))
    limit = end
    locator = _zip64_locator(source, end)
    if locator is not None:
        limit, disk, start_disk, count, size, offset = _zip64_end(source, end, locator)
    elif DEFERRED in (size, offset):
        raise damaged(source, "its end record refers to a zip64 record that is missing")
    if disk or start_disk:
        raise UnreadableCheckpoint(f"{source.name} is one part of a split zip archive", "join the parts first")
    start = limit - size
    if start < 0:
        raise damaged(source, f"its directory should take {size:,} bytes, but only {limit:,} come before its end")
    shift = start - offset
    if size and source.read(start, 4) != CENTRAL_SIGNATURE[: min(4, source.size - start)]:
        if offset + size > limit or source.read(offset, 4) != CENTRAL_SIGNATURE:
            raise damaged(source, f"there is no directory at byte {offset:,}, the offset in its end record")
        flaws.append(Flaw("there are bytes between the directory and its end record", "", offset + size, limit))
        start, shift = offset, 0
    if shift < 0:
        raise damaged(source, f"its directory begins at byte {start:,}, but byte {offset:,} is recorded")
    if shift:
        flaws.append(Flaw(f"{shift:,} bytes come before the beginning of the archive", "", offset, start))
    if size > LARGEST_DIRECTORY:
        raise damaged(source, f"its directory of {size:,} bytes is larger than any checkpoint needs")
    return Directory(start, size, count, shift)


def read_entries(source: Source, directory: Directory, flaws: list[Flaw]) -> Iterator[CentralEntry]:
    """Yield the entries of the central directory in its order.

    Raises:
        UnreadableCheckpoint: an entry is cut off or contradicts itself, or there are too many.
    """
    content = source.read(directory.start, directory.size)
    position, count = 0, 0
    while position < len(content):
        if content[position : position + 4] != CENTRAL_SIGNATURE or len(content) - position < CENTRAL_HEADER.size:
            if count < directory.count:
                raise damaged(
                    source,
                    f"its directory breaks off after {count:,} of {directory.count:,} members, at byte "
                    f"{directory.start + position:,}",
                )
            # A digital signature, or padding.
            flaws.append(Flaw("unknown bytes follow the last entry of the directory", "", position, directory.size))
            return
        entry, position = _read_entry(source, directory, content, position, count + 1)
        if _leaves_folder(entry.name):
            flaws.append(Flaw("its name would leave the folder it is unpacked into", entry.name))
        source.budget.spend(OBJECTS, MEMBER_COST)
        yield entry
        count += 1
    if count != directory.count and count & 0xFFFF != directory.count:
        flaws.append(
            Flaw("the number of members in the directory differs from the recorded one", "", directory.count, count)
        )


def _read_entry(
    source: Source, directory: Directory, content: bytes, position: int, number: int
) -> tuple[CentralEntry, int]:
    """Return the entry at a position in the directory's bytes, and the position after it."""
    (
        _,
        _,
        _,
        flags,
        method,
        _,
        _,
        crc,
        compressed,
        size,
        name_length,
        extra_length,
        comment_length,
        disk,
        _,
        _,
        offset,
    ) = CENTRAL_HEADER.unpack_from(content, position)
    name_start = position + CENTRAL_HEADER.size
    extra_start = name_start + name_length
    end = extra_start + extra_length + comment_length
    if end > len(content):
        raise damaged(source, f"entry {number:,} of its directory reaches beyond the directory's end")
    raw_name = content[name_start:extra_start]
    name = decode_name(raw_name, flags)
    if DEFERRED in (size, compressed, offset) or disk == DEFERRED_DISK:
        extra = content[extra_start : extra_start + extra_length]
        size, compressed, offset, disk = read_zip64_sizes(source, name, extra, size, compressed, offset, disk)
    if disk:
        raise UnreadableCheckpoint(f"{source.name} is one part of a split zip archive", "join the parts first")
    entry = CentralEntry(
        name=name,
        raw_name=raw_name,
        size=size,
        compressed_size=compressed,
        crc=crc,
        method=method,
        flags=flags,
        header_offset=offset + directory.shift,
        central_offset=directory.start + position,
    )
    return entry, end


def _find_end(source: Source) -> tuple[int | None, int]:
    """Return the offset of the end-of-directory record and the number of bytes after the archive."""
    size = END_RECORD.size
    if source.size < size:
        return None, 0
    tail = source.read(source.size - size, size)
    if tail.startswith(END_SIGNATURE) and tail.endswith(b"\0\0") and not _is_nested(source, source.size - size):
        return source.size - size, 0
    tail = source.read(max(0, source.size - size - LONGEST_COMMENT), min(source.size, size + LONGEST_COMMENT))
    base = source.size - len(tail)
    at = len(tail)
    fallback: tuple[int | None, int] = (None, 0)
    for _ in range(MOST_CANDIDATES):
        at = tail.rfind(END_SIGNATURE, 0, at)
        if at < 0:
            break
        if len(tail) - at < size:
            continue
        *_, directory_size, _, comment_length = END_RECORD.unpack_from(tail, at)
        trailing = len(tail) - at - size - comment_length
        if trailing < 0 or _is_nested(source, base + at):
            continue
        if trailing == 0:
            return base + at, 0
        # With bytes after the archive, only a record that follows a directory of the recorded size is accepted.
        if fallback[0] is None and _is_preceded_by_directory(source, base + at, directory_size):
            fallback = base + at, trailing
    return fallback


def _is_nested(source: Source, end: int) -> bool:
    """Return whether an end record belongs to an archive inside this one.

    Stable-Baselines3 stores zips in a zip. Where the outer one is truncated, the end record of an inner one may be
    found instead. Its offsets do not count from the beginning of the file, although the file does begin like a zip.
    """
    if source.read(0, 4) != LOCAL_SIGNATURE:
        return False
    *_, size, offset, _ = END_RECORD.unpack(source.read(end, END_RECORD.size))
    limit, locator = end, _zip64_locator(source, end)
    if locator is not None:
        limit, *_, size, offset = _zip64_end(source, end, locator)
    if limit - size <= offset:
        return False
    return source.read(offset, min(4, source.size - offset)) != CENTRAL_SIGNATURE


def _is_preceded_by_directory(source: Source, end: int, directory_size: int) -> bool:
    if _zip64_locator(source, end) is not None:
        return True
    start = end - directory_size
    return start >= 0 and directory_size >= CENTRAL_HEADER.size and source.read(start, 4) == CENTRAL_SIGNATURE


def _zip64_locator(source: Source, end: int) -> int | None:
    """Return the recorded offset of the zip64 end record, ``None`` where no locator precedes the end record."""
    at = end - ZIP64_LOCATOR.size
    if at < 0:
        return None
    signature, _, offset, _ = ZIP64_LOCATOR.unpack(source.read(at, ZIP64_LOCATOR.size))
    return offset if signature == ZIP64_LOCATOR_SIGNATURE else None


def _zip64_end(source: Source, end: int, recorded: int) -> tuple[int, int, int, int, int, int]:
    # Bytes before the archive shift all offsets, so the record is first searched directly before its locator.
    adjacent = end - ZIP64_LOCATOR.size - ZIP64_RECORD.size
    for at in (adjacent, recorded):
        if 0 <= at <= end - ZIP64_LOCATOR.size - ZIP64_RECORD.size and source.read(at, 4) == ZIP64_SIGNATURE:
            fields = ZIP64_RECORD.unpack(source.read(at, ZIP64_RECORD.size))
            _, _, _, _, disk, start_disk, _, count, size, offset = fields
            return at, disk, start_disk, count, size, offset
    raise damaged(source, f"there is no zip64 record at byte {recorded:,}, the offset in its locator")


def _leaves_folder(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\\x00" in name
