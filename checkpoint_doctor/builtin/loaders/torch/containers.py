"""Recognizes which of PyTorch's containers a file is.

Four are read: the zip (since PyTorch 1.4; ``torch/serialization.py``, ``_load``), the legacy file (since 0.1.10;
``_legacy_load``), plain pickles of tensors, and exported programs. The tar archive of the first releases is recognized
but not read.
"""

from __future__ import annotations

from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor, EndOfPickle
from checkpoint_doctor.builtin.loaders._pickle.machine import Machine
from checkpoint_doctor.builtin.loaders._pickle.objects import Global, Inert
from checkpoint_doctor.builtin.loaders._pickle.opcodes import ACTIONS, HIGHEST_PROTOCOL
from checkpoint_doctor.builtin.loaders._zip.archive import ZipArchive, is_zip, open_archive
from checkpoint_doctor.builtin.loaders._zip.format import is_tar
from checkpoint_doctor.builtin.loaders.torch import legacy
from checkpoint_doctor.builtin.loaders.torch.exported import is_exported
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource, Source

TAR_MEMBERS = (b"storages", b"tensors", b"pickle", b"sys_info")
"""Members of the tar archive that PyTorch wrote before 0.1.10."""
PROTO = 0x80
"""The opcode that a pickle begins with since protocol 2."""
FEWEST_OPCODES = 20
"""A text file may begin with a few valid opcodes; a longer run of them is a truncated pickle."""


def recognize(source: Source) -> str | None:
    """Return which container a file is, ``None`` where it is none of PyTorch's. Never raises.

    Besides ``zip``, ``legacy``, ``pickle`` and ``exported`` these are ``tar`` and ``garbled``, which
    ``read_archive`` refuses with a message of their own.
    """
    try:
        return recognize_readable(source)
    except UnreadableCheckpoint:
        return None


def recognize_readable(source: Source) -> str | None:
    """Return what ``recognize`` does.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    head = source.read(0, min(512, source.size))
    if not head.startswith(b"\x80") and is_zip(source):
        return _recognize_zip(source, head)
    if legacy.is_legacy(source):
        return "legacy"
    if legacy.is_garbled(head):
        return "garbled"
    if is_tar(head):
        return "tar" if head[:100].rstrip(b"\0") in TAR_MEMBERS else None
    return "pickle" if _is_pickle(source, head) else None


def find_pickle_member(archive: ZipArchive) -> str | None:
    """Return the name of a zip's ``data.pkl``, the outermost one, ``None`` where there is none."""
    names = [name for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
    return min(names, key=lambda name: name.count("/"), default=None)


def _recognize_zip(source: Source, head: bytes) -> str | None:
    # A truncated archive has lost its directory, but not its first member.
    name_length = int.from_bytes(head[26:28], "little")
    if head[30 : 30 + name_length].endswith(b"/data.pkl"):
        return "zip"
    try:
        archive = open_archive(source)
    except UnreadableCheckpoint:
        return None
    if is_exported(archive.members):
        return "exported"
    return "zip" if find_pickle_member(archive) is not None else None


def starts_pickle(head: bytes) -> bool:
    """Return whether bytes are the first ones of a pickle of protocol 2 or later; protocols 0 and 1 begin like text."""
    return len(head) > 2 and head[0] == PROTO and 2 <= head[1] <= HIGHEST_PROTOCOL and head[2] in ACTIONS


def _is_pickle(source: Source, head: bytes) -> bool:
    if starts_pickle(head):
        return True
    if not head or head[0] not in b"(]}c)lid":
        return False
    # Protocols 0 and 1 have no signature and may begin like text, so the pickle itself is tried.
    beginning = MemorySource(source.name, source.read(0, min(1 << 16, source.size)))
    machine = Machine({}, lambda identity: None, beginning.budget)
    try:
        return isinstance(machine.load(Cursor(beginning)), dict | list | tuple | Inert | Global)
    except EndOfPickle:
        return machine.opcodes > FEWEST_OPCODES
    except UnreadableCheckpoint:
        return False
