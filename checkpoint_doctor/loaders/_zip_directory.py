"""The end of a zip archive: its end records, the entries of its directory, and what is left when these are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.model import Flaw
from checkpoint_doctor.source import Source

END_SIGNATURE = b"PK\x05\x06"
END_RECORD = Struct("<4s4H2IH")
ZIP64_LOCATOR = Struct("<4sIQI")
ZIP64_LOCATOR_SIGNATURE = b"PK\x06\x07"
ZIP64_RECORD = Struct("<4sQ2H2I4Q")
ZIP64_SIGNATURE = b"PK\x06\x06"
CENTRAL_SIGNATURE = b"PK\x01\x02"
CENTRAL_HEADER = Struct("<4s6H3I5H2I")
LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = Struct("<4s5H3I2H")
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"

LONGEST_COMMENT = 0xFFFF
MOST_CANDIDATES = 64
"""Places at the end of a file that are tried as the end of an archive."""
UTF8_NAME = 0x800
HAS_DESCRIPTOR = 8

MOST_MEMBERS = 200_000
"""The largest published checkpoints hold some ten thousand storages."""
LARGEST_DIRECTORY = 64 << 20
LONGEST_SEARCH = 256 << 20
"""Bytes searched for the members of a truncated archive before giving up on naming the last whole one."""
COST_OF_A_STEP = 2048
"""What a header or a signature costs of that search, in bytes that could be searched in the same time."""


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
        raise _truncated(source)
    if trailing:
        flaws.append(Flaw(f"{trailing:,} bytes follow the end of the archive", "", source.size - trailing, source.size))
    _, disk, start_disk, _, count, size, offset, _ = END_RECORD.unpack(source.read(end, END_RECORD.size))
    limit = end
    locator = _zip64_locator(source, end)
    if locator is not None:
        limit, disk, start_disk, count, size, offset = _zip64_end(source, end, locator)
    elif 0xFFFFFFFF in (size, offset):
        raise _damaged(source, "its end record refers to a zip64 record that is not there")
    if disk or start_disk:
        raise UnreadableCheckpoint(f"{source.name} is one part of a split zip archive", "join the parts first")
    start = limit - size
    if start < 0:
        raise _damaged(source, f"its directory should take {size:,} bytes, but only {limit:,} stand before its end")
    shift = start - offset
    if size and source.read(start, 4) != CENTRAL_SIGNATURE[: min(4, source.size - start)]:
        if offset + size > limit or source.read(offset, 4) != CENTRAL_SIGNATURE:
            raise _damaged(source, f"no directory begins at byte {offset:,}, where its end record says it does")
        flaws.append(Flaw("bytes stand between the directory and its end record", "", offset + size, limit))
        start, shift = offset, 0
    if shift < 0:
        raise _damaged(source, f"its directory begins at byte {start:,}, but byte {offset:,} was recorded")
    if shift:
        flaws.append(Flaw(f"{shift:,} bytes stand before the beginning of the archive", "", offset, start))
    if size > LARGEST_DIRECTORY:
        raise _damaged(source, f"its directory of {size:,} bytes is larger than any checkpoint needs")
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
                raise _damaged(
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
            raise _damaged(source, f"entry {count + 1:,} of its directory reaches beyond the directory's end")
        raw_name = content[name_start:extra_start]
        name = _decode(raw_name, flags)
        if 0xFFFFFFFF in (size, compressed, header_offset) or disk == 0xFFFF:
            size, compressed, header_offset, disk = _zip64_sizes(
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
            raise _damaged(source, f"it has more than {MOST_MEMBERS:,} members")
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
    raise _damaged(source, f"no zip64 record begins at byte {recorded:,}, where its locator says it does")


def _zip64_sizes(
    source: Source, name: str, extra: bytes, size: int, compressed: int, header_offset: int, disk: int
) -> tuple[int, int, int, int]:
    """Fill in the numbers that did not fit into 32 bits from the extra field 0x0001 (APPNOTE 4.5.3)."""
    position = 0
    while position + 4 <= len(extra):
        kind = int.from_bytes(extra[position : position + 2], "little")
        length = int.from_bytes(extra[position + 2 : position + 4], "little")
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            numbers = [int.from_bytes(body[at : at + 8], "little") for at in range(0, len(body) - 7, 8)]
            wanted = [value == 0xFFFFFFFF for value in (size, compressed, header_offset)]
            if len(numbers) < sum(wanted):
                break
            size, compressed, header_offset = (
                numbers.pop(0) if deferred else value
                for deferred, value in zip(wanted, (size, compressed, header_offset), strict=True)
            )
            if disk == 0xFFFF:
                disk = int.from_bytes(body[8 * sum(wanted) :][:4], "little")
            return size, compressed, header_offset, disk
        position += 4 + length
    raise _damaged(source, f"the sizes of member {name} should stand in a zip64 field that is not there")


def _decode(raw_name: bytes, flags: int) -> str:
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        name = raw_name.decode("utf-8", "backslashreplace") if flags & UTF8_NAME else raw_name.decode("cp437")
    # A name is printed; what would move a terminal's cursor is shown instead.
    return name if name.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def _leaves_the_archive(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\\x00" in name


def _damaged(source: Source, what: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(f"{source.name} is damaged: {what}", "copy or download the file again")


def _truncated(source: Source) -> UnreadableCheckpoint:
    whole, broken = _walk(source)
    message = f"{source.name} is truncated at byte {source.size:,}: the zip directory at its end is missing"
    if broken:
        message += f"; it breaks off in member {broken}"
    if whole:
        message += f"; the last whole member is {whole}"
    return UnreadableCheckpoint(message, "copy or download it again, or take an earlier checkpoint")


def _walk(source: Source) -> tuple[str, str]:
    """Return the names of the last whole member and of the one that breaks off, as far as local headers tell."""
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
        name = _decode(source.read(name_end - name_length, name_length), flags)
        start = name_end + extra_length
        if start > source.size:
            return whole, name
        if flags & HAS_DESCRIPTOR and compressed in (0, 0xFFFFFFFF):
            end, budget = _find_descriptor(source, start, budget)
        elif compressed == 0xFFFFFFFF:
            extra = source.read(name_end, extra_length)
            end = start + _zip64_sizes(source, name, extra, 0xFFFFFFFF, compressed, 0, 0)[1]
        else:
            end = start + compressed
        if end is None:
            return whole, name if budget > 0 else ""
        if end > source.size:
            return whole, name
        position, whole = end, name
    return whole, ""


def _find_descriptor(source: Source, start: int, budget: int) -> tuple[int | None, int]:
    """Return where the next header begins after a member whose size stands only behind its bytes."""
    block = 1 << 20
    position = start
    while position < source.size and budget > 0:
        content = source.read(position, min(block, source.size - position))
        budget -= len(content)
        at = content.find(DESCRIPTOR_SIGNATURE)
        while at >= 0 and budget > 0:
            budget -= COST_OF_A_STEP
            # 16 bytes of descriptor, 24 where sizes take 64 bits.
            for length in (16, 24):
                following = position + at + length
                if following + 4 <= source.size and source.read(following, 4) in (LOCAL_SIGNATURE, CENTRAL_SIGNATURE):
                    return following, budget
            at = content.find(DESCRIPTOR_SIGNATURE, at + 1)
        if position + len(content) == source.size:
            break
        position += len(content) - 3
    return None, budget
