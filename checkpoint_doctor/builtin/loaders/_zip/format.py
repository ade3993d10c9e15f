"""The zip format: signatures, record layouts, member names and zip64 sizes.

Layout and names follow PKWARE's APPNOTE 6.3.10: local headers (4.3.7), the central directory (4.3.12), zip64 (4.3.14,
4.5.3).
"""

from __future__ import annotations

from struct import Struct

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import printable

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

ENCRYPTED, HAS_DESCRIPTOR, UTF8_NAME = 1, 8, 0x800
"""Flag bits (APPNOTE 4.4.4)."""
DEFERRED = 0xFFFFFFFF
"""The value of a 32-bit field whose real value is in the zip64 extra field."""
DEFERRED_DISK = 0xFFFF


def read_zip64_sizes(
    source: Source, name: str, extra: bytes, size: int, compressed: int, header_offset: int, disk: int
) -> tuple[int, int, int, int]:
    """Fill in the numbers that did not fit into 32 bits from the extra field 0x0001 (APPNOTE 4.5.3).

    Raises:
        UnreadableCheckpoint: the field is missing or too short.
    """
    position = 0
    while position + 4 <= len(extra):
        kind = int.from_bytes(extra[position : position + 2], "little")
        length = int.from_bytes(extra[position + 2 : position + 4], "little")
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            numbers = [int.from_bytes(body[at : at + 8], "little") for at in range(0, len(body) - 7, 8)]
            wanted = [value == DEFERRED for value in (size, compressed, header_offset)]
            if len(numbers) < sum(wanted):
                break
            size, compressed, header_offset = (
                numbers.pop(0) if deferred else value
                for deferred, value in zip(wanted, (size, compressed, header_offset), strict=True)
            )
            if disk == DEFERRED_DISK:
                disk = int.from_bytes(body[8 * sum(wanted) :][:4], "little")
            return size, compressed, header_offset, disk
        position += 4 + length
    raise damaged(source, f"the zip64 field with the sizes of member {name} is missing")


def decode_name(raw_name: bytes, flags: int) -> str:
    """Return a member's name as printable text; never raises."""
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        name = raw_name.decode("utf-8", "backslashreplace") if flags & UTF8_NAME else raw_name.decode("cp437")
    return printable(name)


def damaged(source: Source, what: str) -> UnreadableCheckpoint:
    """Return the error for an archive that contradicts itself."""
    return UnreadableCheckpoint(f"{source.name} is damaged: {what}", "copy or download the file again")


def is_tar(head: bytes) -> bool:
    """Return whether a file begins like a tar archive (POSIX.1-1988 and later, GNU)."""
    return head.startswith(b"ustar", 257)


def begins_otherwise(head: bytes) -> bool:
    """Return whether a file begins like one of another format, so that its end need not be looked at.

    A tar whose last member is a zip also ends with a directory. A safetensors file begins with the length of its header
    in eight bytes and with the header; on a server its end would be a request of its own.
    """
    return is_tar(head) or head[4:9] == b"\0\0\0\0{"
