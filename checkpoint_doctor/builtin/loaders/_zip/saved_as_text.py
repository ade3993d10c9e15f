"""Detects binary files that an editor, a script or a version-control filter opened as text and saved again."""

from __future__ import annotations

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source


def was_saved_as_text(beginning: bytes) -> bool:
    """Return whether binary content was opened as text and saved again, so that bytes from 0x80 on became ``?``.

    It is recognized by a known format's signature in which a byte became ``?``, else by the share of ``?``: in weights
    less than 1 % of the bytes are ``?`` and at least a third are from 0x80 on. Numbers around 1 have more ``?`` (their
    exponent byte is 0x3f), but also have bytes from 0x80 on.
    """
    if beginning.count(b"\xef\xbf\xbd") * 20 > len(beginning):
        return True
    if b"\0" not in beginning:
        return False
    if beginning.startswith((b"?\x02", b"?\x03", b"?\x04", b"?\x05", b"?HDF\r\n", b"?NUMPY")):
        return True
    high = sum(byte >= 0x80 for byte in beginning)
    marks = beginning.count(b"?")
    return marks > 64 and marks * 10 > len(beginning) and high * 10 < marks


def describe_saved_as_text(source: Source) -> UnreadableCheckpoint:
    """Return the error for a file that was saved as text."""
    return UnreadableCheckpoint(
        f"{source.name} was opened as text and saved again: its bytes from 0x80 on were replaced by question marks",
        "the lost bytes cannot be restored: fetch the original again, as a binary file",
    )
