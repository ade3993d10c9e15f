"""The loader of distributed checkpoints: folders that ``torch.distributed.checkpoint.save`` writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Content, Part, Patch, Skipped, Tensor
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.loaders._zip.format import LOCAL_SIGNATURE
from checkpoint_doctor.loaders.distributed.assembly import assemble
from checkpoint_doctor.loaders.distributed.metadata import Metadata, is_metadata, merge_metadata, read_metadata
from checkpoint_doctor.loaders.distributed.nesting import drop_incomplete, restore
from checkpoint_doctor.loaders.distributed.pieces import OpenFile, Pieces
from checkpoint_doctor.loaders.distributed.sharded_safetensors import find_shards, read_shards
from checkpoint_doctor.loaders.distributed.tied import share_tied
from checkpoint_doctor.loaders.torch.archive import Archive
from checkpoint_doctor.loaders.torch.loader import describe
from checkpoint_doctor.sources import Folder, Source
from checkpoint_doctor.text import quantity

METADATA = ".metadata"
PIECES = ".distcp"
RANK_METADATA = re.compile(r"__(\d{1,6})\.metadata")
"""What each rank writes for itself where the ranks do not communicate (``use_collectives=False``)."""


@dataclass(frozen=True)
class DistributedLoader:
    """Opens folders with a ``.metadata`` and ``*.distcp`` files."""

    name: str = "distributed"
    suffixes: tuple[str, ...] = ()

    def recognizes(self, source: Source) -> bool:
        """True for a ``.metadata``, and for a ``.distcp`` file, which cannot be read by itself. Never raises."""
        try:
            return is_metadata(source) or _is_piece_file(source)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """Open the checkpoint that a ``.metadata`` describes; see ``Loader.open``.

        Raises:
            NotACheckpoint: it is a file of pieces.
            UnreadableCheckpoint: nothing of the checkpoint can be read.
        """
        if _is_piece_file(source):
            raise NotACheckpoint(
                f"{source.name} is one of the files of a distributed checkpoint", "name the folder that it is in"
            )
        return self._open(source.name, read_metadata(source), source.sibling)

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """See ``FolderLoader.claim_folder``."""
        pieces = {name for name in folder.files if name.endswith(PIECES)}
        described = {name for name in folder.files if RANK_METADATA.fullmatch(name)}
        if METADATA in folder.files and (pieces or is_metadata(folder.open(METADATA))):
            described.add(METADATA)
        return pieces | described or find_shards(folder.files)

    def open_folder(self, folder: Folder) -> Checkpoint:
        """See ``FolderLoader.open_folder``."""
        opened = self._open(
            folder.path,
            _read_all_metadata(folder),
            lambda name: folder.open(name) if name in folder.files else None,
        )
        files = {part.file for part in opened.parts}
        strays = sorted(name for name in folder.files if name.endswith(PIECES) and name not in files)
        skipped = (Skipped(name, "the metadata does not refer to it: another save left it there") for name in strays)
        described = [METADATA] if METADATA in folder.files else sorted(filter(RANK_METADATA.fullmatch, folder.files))
        parts = tuple(Part(name, Content.INDEX, file=name) for name in described)
        return replace(opened, parts=(*opened.parts, *parts), skipped=(*opened.skipped, *skipped))

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``. Distributed checkpoints are examined, not patched."""
        raise RepairFailed(
            "a distributed checkpoint cannot be changed in place: its tensors are spread over the files of all ranks",
            "convert it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and fix the file",
        )

    def _open(self, name: str, metadata: Metadata, open_file: OpenFile) -> Checkpoint:
        pieces = Pieces(open_file, metadata.pieces.values())
        entries = assemble(metadata, pieces)
        root = restore(entries, metadata.paths)
        skipped = tuple(drop_incomplete(root))
        archive = Archive(
            name=name,
            container="distributed",
            root=root,
            pickled_names=(*metadata.pickled_names, *pieces.pickled_names),
            flaws=pieces.flaws,
            unchecked=tuple(pieces.unchecked),
            opcodes=metadata.opcodes + pieces.opcodes,
        )
        opened = share_tied(describe(archive, self.name))
        if not opened.tensors and not opened.optimizers and (opened.flaws or opened.skipped):
            reasons = [f"{flaw.member}: {flaw.message}" for flaw in opened.flaws]
            reasons += [f"{each.what}: {each.why}" for each in opened.skipped]
            raise UnreadableCheckpoint(f"nothing of {name} can be read: {reasons[0]}", "take an earlier checkpoint")
        files = tuple(Part(file, Content.WEIGHTS, file=file) for file in pieces.names)
        return replace(opened, parts=(*opened.parts, *files), skipped=(*opened.skipped, *skipped))


def _is_piece_file(source: Source) -> bool:
    # Its bytes begin like those of any file of torch.save.
    return source.name.endswith(PIECES) and source.read(0, min(4, source.size)) == LOCAL_SIGNATURE


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


loader = DistributedLoader()
