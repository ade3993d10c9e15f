"""Identifies a file that is not a checkpoint by its bytes, never by its name."""

from __future__ import annotations

from checkpoint_doctor.builtin.loaders._zip.archive import is_zip
from checkpoint_doctor.builtin.loaders._zip.format import is_tar
from checkpoint_doctor.builtin.loaders._zip.saved_as_text import describe_saved_as_text, was_saved_as_text
from checkpoint_doctor.builtin.loaders.foreign.structures import name_compressed
from checkpoint_doctor.builtin.loaders.foreign.zip_kinds import name_zip
from checkpoint_doctor.errors import NotACheckpoint, UnknownFormat, UnreadableCheckpoint
from checkpoint_doctor.sources import Source

LONGEST_BEGINNING = 1 << 16
"""Bytes that are read from the beginning of the file."""

CONVERT = "convert it to safetensors or to a PyTorch state dict first"
UNPACK = "unpack it and scan the files in it"

MOST_LETTERS_BEYOND_ASCII = 0.1
"""Share of such bytes in a text of an old encoding, such as Latin-1: 2% in Portuguese (measured), half in noise."""

_ASCII = bytes(range(128))

MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"ggml", "a GGML model (llama.cpp)", CONVERT),
    (0, b"tjgg", "a GGJT model (llama.cpp)", CONVERT),
    (4, b"TFL3", "a TensorFlow Lite model", CONVERT),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel", CONVERT),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file", CONVERT),
    (0, b"\x04\0\0\0\x01\0\0\0", "a Torch7 (Lua) file", CONVERT),
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with LZ4", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"GIF8", "a GIF image", ""),
    (0, b"%PDF-", "a PDF document", ""),
    (0, b"\x7fELF", "a program or library (ELF)", ""),
    (0, b"SQLite format 3\0", "an SQLite database", ""),
    (0, b"PAR1", "a Parquet table", ""),
)
"""Offset and bytes of a signature, the kind of file, and the hint."""


def name_file(source: Source) -> UnreadableCheckpoint:
    """Return the error that says what a file is, with a hint.

    It is a ``NotACheckpoint`` for an intact file of another kind. Never raises; reads at most a few hundred kilobytes.
    """
    try:
        return _name(source)
    except UnreadableCheckpoint as error:
        return error


def _name(source: Source) -> UnreadableCheckpoint:
    if source.size == 0:
        return UnknownFormat(
            f"{source.name} is empty (0 bytes)",
            "saving or copying it did not finish: take an earlier checkpoint",
            "empty",
        )
    beginning = source.read(0, min(LONGEST_BEGINNING, source.size))
    placeholder = _name_placeholder(source, beginning)
    if placeholder is not None:
        return placeholder
    if is_zip(source):
        return name_zip(source)
    if not any(beginning):
        return UnknownFormat(
            f"{source.name} begins with {len(beginning):,} zero bytes: its content was never written",
            "take an earlier checkpoint",
            "zero bytes",
        )
    if was_saved_as_text(beginning):
        return describe_saved_as_text(source)
    for offset, magic, kind, hint in MAGIC:
        if beginning.startswith(magic, offset):
            return NotACheckpoint(f"{source.name} is {kind}", hint)
    if (compressed := name_compressed(beginning)) is not None:
        return NotACheckpoint(f"{source.name} is {compressed}", UNPACK)
    return (
        _name_by_structure(source, beginning)
        or _name_text(source, beginning)
        or UnknownFormat(
            f"{source.name} has an unknown format: it begins with the bytes {beginning[:8].hex(' ')}",
            "if it was a checkpoint, its beginning is damaged: copy or download it again",
        )
    )


def _name_placeholder(source: Source, beginning: bytes) -> UnreadableCheckpoint | None:
    """Identify what was saved in place of a checkpoint: a pointer to it, or an error page."""
    if beginning.startswith((b"version https://git-lfs", b"version https://hawser")):
        fields = dict(
            line.split(" ", 1) for line in beginning.decode("utf-8", "replace").splitlines()[:8] if " " in line
        )
        size = fields.get("size", "")
        amount = f"{int(size):,} bytes" if size.isascii() and size.isdigit() and len(size) < 20 else "unknown size"
        return UnknownFormat(
            f"{source.name} is a git-LFS pointer to the checkpoint ({fields.get('oid', 'no oid')[:71]}, {amount}), "
            "not the checkpoint itself",
            "fetch it with git lfs pull",
            "a git-LFS pointer",
        )
    if source.size < 4096 and b"/annex/objects/" in beginning:
        return UnknownFormat(
            f"{source.name} is a git-annex pointer, not the checkpoint itself",
            "fetch it with git annex get",
            "a git-annex pointer",
        )
    stripped = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if stripped.startswith((b"<!doctype html", b"<html", b"<head")):
        return UnreadableCheckpoint(
            f"{source.name} is an HTML page{_title(beginning)}, not a checkpoint",
            "the download returned a web page (a login, an error, a preview): fetch the raw file",
        )
    if stripped.startswith(b"<?xml"):
        code = _between(beginning, b"<Code>", b"</Code>")
        return UnreadableCheckpoint(
            f"{source.name} is an XML document{f' with the error {code}' if code else ''}, not a checkpoint",
            "if a storage service returned it, the download was refused: check the address and the permissions",
        )
    return None


def _title(beginning: bytes) -> str:
    title = _between(beginning, b"<title>", b"</title>")
    return f" titled {title!r}" if title else ""


def _between(content: bytes, start: bytes, end: bytes) -> str:
    _, found, rest = content.partition(start)
    inside, closed, _ = rest.partition(end)
    return " ".join(inside.decode("utf-8", "replace").split())[:80] if found and closed else ""


def _name_by_structure(source: Source, beginning: bytes) -> UnreadableCheckpoint | None:
    """Identify formats that a signature at one offset does not identify."""
    if is_tar(beginning):
        return NotACheckpoint(f"{source.name} is a tar archive", UNPACK)
    if source.size >= 8 and source.read(source.size - 8, 8) == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb":
        return NotACheckpoint(f"{source.name} is the index of a TensorFlow checkpoint", CONVERT)
    if beginning[:1] == b"\x80" and beginning[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return NotACheckpoint(
            f"{source.name} is a pickle without tensors{_name_pickle(beginning)}", "scan the model's own file"
        )
    return None


def _name_pickle(beginning: bytes) -> str:
    """Return which object a pickle contains, in parentheses, where its first bytes show it."""
    for known, what in (
        (b"vec_normalize", " (VecNormalize, the statistics of an environment)"),
        (b"stable_baselines3.common.buffers", " (a replay buffer)"),
        (b"sklearn", " (scikit-learn)"),
        (b"xgboost", " (XGBoost)"),
    ):
        if known in beginning[:4096]:
            return what
    return ""


def _name_text(source: Source, beginning: bytes) -> UnreadableCheckpoint | None:
    """Identify JSON and other text, with its first words."""
    try:
        text = beginning.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(beginning) - 4 or len(beginning) == source.size:
            if len(beginning.translate(None, _ASCII)) > len(beginning) * MOST_LETTERS_BEYOND_ASCII:
                return None
            text = beginning.decode("latin-1")
        else:
            text = beginning[: error.start].decode("utf-8-sig")
    if any(character < " " and character not in "\t\n\r\f\x1b" for character in text):
        return None
    if text.lstrip()[:1] in ("{", "["):
        return NotACheckpoint(
            f"{source.name} is a JSON file", "name the checkpoint itself; a safetensors index has a weight_map"
        )
    first = " ".join(text.split())[:60]
    return NotACheckpoint(f"{source.name} is a text file that begins with {first!r}", "name a checkpoint file")
