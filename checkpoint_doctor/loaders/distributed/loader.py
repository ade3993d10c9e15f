"""The loader of distributed checkpoints: folders that ``torch.distributed.checkpoint.save`` writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Flaw, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.loaders._zip.format import LOCAL_SIGNATURE
from checkpoint_doctor.loaders.distributed.metadata import is_metadata, read_metadata
from checkpoint_doctor.loaders.distributed.save import PIECES, Save, find_files, read_folder, read_save
from checkpoint_doctor.loaders.distributed.tied import share_tied
from checkpoint_doctor.loaders.torch.archive import Archive
from checkpoint_doctor.loaders.torch.loader import describe
from checkpoint_doctor.sources import Folder, Source
from checkpoint_doctor.sources.budget import Budget

MODEL = re.compile(r"pytorch_model_fsdp_\d{1,4}")
OPTIMIZER = re.compile(r"optimizer_\d{1,4}")
"""The folders in which accelerate saves model and optimizer, each as a distributed checkpoint of its own."""


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
        return self._describe(source.name, read_save(read_metadata(source), source.sibling))

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """See ``FolderLoader.claim_folder``."""
        return find_files(folder) or _find_saves(folder)

    def open_folder(self, folder: Folder) -> Checkpoint:
        """See ``FolderLoader.open_folder``."""
        if find_files(folder):
            return self._describe(folder.path, read_folder(folder))
        joined = Save({})
        for name in _find_saves(folder):
            try:
                save = read_folder(folder.enter(name)).within(name)
            except UnreadableCheckpoint as error:
                if MODEL.fullmatch(name):
                    raise
                save = Save({}, flaws=(Flaw(error.message, name),))
            joined = _join(joined, save)
        return self._describe(folder.path, joined)

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``. Distributed checkpoints are examined, not patched."""
        raise RepairFailed(
            "a distributed checkpoint cannot be changed in place: its tensors are spread over the files of all ranks",
            "convert it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and fix the file",
        )

    def _describe(self, name: str, save: Save) -> Checkpoint:
        """Return what was saved as a checkpoint.

        Raises:
            UnreadableCheckpoint: nothing of it can be read.
        """
        archive = Archive(
            name=name,
            budget=Budget(name, save.opcodes),  # there are at least as many bytes
            container="distributed",
            root=save.root,
            pickled_names=save.pickled_names,
            flaws=save.flaws,
            unchecked=save.unchecked,
            opcodes=save.opcodes,
        )
        opened = share_tied(describe(archive, self.name))
        opened = replace(opened, parts=(*opened.parts, *save.parts), skipped=(*opened.skipped, *save.skipped))
        if not opened.tensors and not opened.optimizers and (opened.flaws or opened.skipped):
            reasons = [f"{flaw.member}: {flaw.message}" for flaw in opened.flaws]
            reasons += [f"{each.what}: {each.why}" for each in opened.skipped]
            raise UnreadableCheckpoint(f"nothing of {name} can be read: {reasons[0]}", "take an earlier checkpoint")
        return opened


def _find_saves(folder: Folder) -> list[str]:
    """Return the names of accelerate's folders that are distributed saves, the models first."""
    models = sorted(name for name in folder.folders if MODEL.fullmatch(name))
    optimizers = sorted(name for name in folder.folders if OPTIMIZER.fullmatch(name)) if models else []
    return [name for name in (*models, *optimizers) if find_files(folder.enter(name))]


def _join(one: Save, other: Save) -> Save:
    """Return two saves as one; where both have a key, that of the second gets a number."""
    root = dict(one.root)
    for key, value in other.root.items():
        number = len(root)
        root[f"{key}_{number}" if key in root else key] = value
    return Save(
        root,
        parts=(*one.parts, *other.parts),
        flaws=(*one.flaws, *other.flaws),
        skipped=(*one.skipped, *other.skipped),
        pickled_names=(*one.pickled_names, *other.pickled_names),
        unchecked=(*one.unchecked, *other.unchecked),
        opcodes=one.opcodes + other.opcodes,
    )


def _is_piece_file(source: Source) -> bool:
    # Its bytes begin like those of any file of torch.save.
    return source.name.endswith(PIECES) and source.read(0, min(4, source.size)) == LOCAL_SIGNATURE


loader = DistributedLoader()
