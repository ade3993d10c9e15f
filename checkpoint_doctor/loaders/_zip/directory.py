"""The end of a zip archive: its end records and the entries of its directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.loaders._zip.format import (
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
from checkpoint_doctor.loaders._zip.truncated import describe_truncation
from checkpoint_doctor.sources import Source

LONGEST_COMMENT = 0xFFFF
MOST_CANDIDATES = 64
"""Places at the end of a file that are tried as the end of an archive."""

MOST_MEMBERS = 200_000
"""The largest published checkpoints hold some ten thousand storages."""
LARGEST_DIRECTORY = 64 << 20


@dataclass(frozen=True)
class Directory:
    """Where the central directory lies and what the end record says of it."""

    start: int
    size: int
    count: int
    shift: int
    """Bytes that stand before the archive: all recorded offsets count from there."""


@dataclass(frozen=True)
class CentralEntry:
    """What the directory says of one member."""

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
    """Return whether an end-of-directory record closes the file."""
    return _find_end(source)[0] is not None


def find_directory(source: Source, flaws: list[Flaw]) -> Directory:
    """Find the central directory through the records at the end of the file.

    Raises:
        UnreadableCheckpoint: there is none (the file is truncated), the archive is split, or the records lie.
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
        raise damaged(source, "its end record refers to a zip64 record that is not there")
    if disk or start_disk:
        raise UnreadableCheckpoint(f"{source.name} is one part of a split zip archive", "join the parts first")
    start = limit - size
    if start < 0:
        raise damaged(source, f"its directory should take {size:,} bytes, but only {limit:,} stand before its end")
    shift = start - offset
    if size and source.read(start, 4) != CENTRAL_SIGNATURE[: min(4, source.size - start)]:
        if offset + size > limit or source.read(offset, 4) != CENTRAL_SIGNATURE:
            raise damaged(source, f"no directory begins at byte {offset:,}, where its end record says it does")
        flaws.append(Flaw("bytes stand between the directory and its end record", "", offset + size, limit))
        start, shift = offset, 0
    if shift < 0:
        raise damaged(source, f"its directory begins at byte {start:,}, but byte {offset:,} was recorded")
    if shift:
        flaws.append(Flaw(f"{shift:,} bytes stand before the beginning of the archive", "", offset, start))
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
            flaws.append(
                Flaw("unknown bytes follow the last entry of the directory", "", position, directory.size)
            )  # a digital signature, or padding
            return
        fields = CENTRAL_HEADER.unpack_from(content, position)
        _, _, _, flags, method, _, _, crc, compressed, size, name_length, extra_length, comment_length, disk, *_ = (
            fields
        )
        header_offset = fields[-1]
        name_start = position + CENTRAL_HEADER.size
        extra_start = name_start + name_length
        end = extra_start + extra_length + comment_length
        if end > len(content):
            raise damaged(source, f"entry {count + 1:,} of its directory reaches beyond the directory's end")
        raw_name = content[name_start:extra_start]
        name = decode_name(raw_name, flags)
        if DEFERRED in (size, compressed, header_offset) or disk == DEFERRED_DISK:
            size, compressed, header_offset, disk = read_zip64_sizes(
                source, name, content[extra_start : extra_start + extra_length], size, compressed, header_offset, disk
            )
        if disk:
            raise UnreadableCheckpoint(f"{source.name} is one part of a split zip archive", "join the parts first")
        if _leaves_the_archive(name):
            flaws.append(Flaw("its name would leave the folder it is unpacked into", name))
        yield CentralEntry(
            name,
            raw_name,
            size,
            compressed,
            crc,
            method,
            flags,
            header_offset + directory.shift,
            directory.start + position,
        )
        position = end
        count += 1
        if count > MOST_MEMBERS:
            raise damaged(source, f"it has more than {MOST_MEMBERS:,} members")
    if count != directory.count and count & 0xFFFF != directory.count:
        flaws.append(Flaw("the directory holds another number of members than recorded", "", directory.count, count))


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
        # Bytes after the archive: believable where a directory of the recorded size stands before the record.
        if fallback[0] is None and _is_preceded_by_directory(source, base + at, directory_size):
            fallback = base + at, trailing
    return fallback


def _is_nested(source: Source, end: int) -> bool:
    """Return whether an end record belongs to an archive inside this one.

    Stable-Baselines3 stores zips in a zip. Where the outer one is cut off, an inner one's end may be found instead;
    it counts from a place that is not the beginning of the file, though the file does begin like a zip.
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
    """Return the recorded offset of the zip64 end record, where a locator stands before the end record."""
    at = end - ZIP64_LOCATOR.size
    if at < 0:
        return None
    signature, _, offset, _ = ZIP64_LOCATOR.unpack(source.read(at, ZIP64_LOCATOR.size))
    return offset if signature == ZIP64_LOCATOR_SIGNATURE else None


def _zip64_end(source: Source, end: int, recorded: int) -> tuple[int, int, int, int, int, int]:
    # Bytes before the archive shift everything, so the record is first looked for where it always stands.
    adjacent = end - ZIP64_LOCATOR.size - ZIP64_RECORD.size
    for at in (adjacent, recorded):
        if 0 <= at <= end - ZIP64_LOCATOR.size - ZIP64_RECORD.size and source.read(at, 4) == ZIP64_SIGNATURE:
            fields = ZIP64_RECORD.unpack(source.read(at, ZIP64_RECORD.size))
            _, _, _, _, disk, start_disk, _, count, size, offset = fields
            return at, disk, start_disk, count, size, offset
    raise damaged(source, f"no zip64 record begins at byte {recorded:,}, where its locator says it does")


def _leaves_the_archive(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\\x00" in name
