"""One distributed save: everything that a folder, or the folder of a ``.metadata``, contains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders.distributed.assembly import assemble
from checkpoint_doctor.builtin.loaders.distributed.metadata import Metadata, merge_metadata, read_metadata
from checkpoint_doctor.builtin.loaders.distributed.names import METADATA, PIECES, RANK_METADATA, find_shards
from checkpoint_doctor.builtin.loaders.distributed.nesting import drop_incomplete, restore
from checkpoint_doctor.builtin.loaders.distributed.pieces import OpenFile, Pieces
from checkpoint_doctor.builtin.loaders.distributed.sharded_safetensors import read_shards
from checkpoint_doctor.checkpoint import Content, Flaw, Part, PickledName, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder
from checkpoint_doctor.text import quantity


class Save(Struct, frozen=True):
    """What was saved, as one object, and what is wrong with its files."""

    root: Mapping[Any, Any]
    parts: tuple[Part, ...] = ()
    """Its files."""
    flaws: tuple[Flaw, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    pickled_names: tuple[PickledName, ...] = ()
    unchecked: tuple[Member, ...] = ()
    """Members of its pieces whose CRC-32 is not checked yet."""
    opcodes: int = 0

    def within(self, folder: str) -> Save:
        """Return the save with the names of its files as they are seen from around its folder."""
        return replace(
            self,
            parts=tuple(
                replace(part, name=f"{folder}/{part.name}", file=f"{folder}/{part.file}") for part in self.parts
            ),
            flaws=tuple(replace(flaw, member=f"{folder}/{flaw.member}") for flaw in self.flaws),
            pickled_names=tuple(replace(name, member=f"{folder}/{name.member}") for name in self.pickled_names),
        )


def read_folder(folder: Folder) -> Save:
    """Read the save in a folder.

    Raises:
        UnreadableCheckpoint: it is incomplete, or its metadata cannot be read.
    """
    save = read_save(_read_all_metadata(folder), lambda name: folder.open(name) if name in folder.files else None)
    files = {part.file for part in save.parts}
    strays = sorted(name for name in folder.files if name.endswith(PIECES) and name not in files)
    skipped = (Skipped(name, "the metadata does not refer to it: another save left it there") for name in strays)
    described = [METADATA] if METADATA in folder.files else sorted(filter(RANK_METADATA.fullmatch, folder.files))
    parts = tuple(Part(name, Content.INDEX, file=name) for name in described)
    return replace(save, parts=(*save.parts, *parts), skipped=(*save.skipped, *skipped))


def read_save(metadata: Metadata, open_file: OpenFile) -> Save:
    """Read what a save's metadata describes."""
    pieces = Pieces(open_file, metadata.pieces.values())
    root = restore(assemble(metadata, pieces), metadata.paths)
    skipped = tuple(drop_incomplete(root))
    return Save(
        root,
        parts=tuple(Part(file, Content.WEIGHTS, file=file) for file in pieces.names),
        flaws=pieces.flaws,
        skipped=skipped,
        pickled_names=(*metadata.pickled_names, *pieces.pickled_names),
        unchecked=tuple(pieces.unchecked),
        opcodes=metadata.opcodes + pieces.opcodes,
    )


def _read_all_metadata(folder: Folder) -> Metadata:
    """Read the metadata of a folder, whether one rank wrote it for all, or each rank for itself in one of two forms.

    Raises:
        UnreadableCheckpoint: there is none, or it cannot be read.
    """
    if METADATA in folder.files:
        return read_metadata(folder.open(METADATA))
    if shards := find_shards(folder.files):
        return read_shards(folder, shards)
    ranks = sorted((name for name in folder.files if RANK_METADATA.fullmatch(name)), key=_rank_of)
    if not ranks:
        raise _describe_unfinished(folder)
    return merge_metadata((folder.locate(name), read_metadata(folder.open(name), name)) for name in ranks)


def _rank_of(name: str) -> int:
    found = RANK_METADATA.fullmatch(name)
    return int(found[1]) if found else 0


def _describe_unfinished(folder: Folder) -> UnreadableCheckpoint:
    count = quantity(sum(name.endswith(PIECES) for name in folder.files), f"{PIECES} file")
    begun = f", only a {METADATA}.tmp" if f"{METADATA}.tmp" in folder.files else ""
    return UnreadableCheckpoint(
        f"{folder.path} is an incomplete save: it has {count}, but no {METADATA}{begun}, which is written last",
        "take an earlier checkpoint: without it nobody knows which bytes belong to which tensor",
    )
