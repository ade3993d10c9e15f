"""The loader of distributed checkpoints: folders that ``torch.distributed.checkpoint.save`` writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders.distributed.names import find_files, is_metadata, is_piece_file
from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.sources import Folder, Source


class DistributedLoader(Struct, frozen=True):
    """Opens folders with a ``.metadata`` and ``*.distcp`` files. What reads them is imported when there is one."""

    name: str = "distributed"
    suffixes: tuple[str, ...] = ()

    def recognizes(self, source: Source) -> bool:
        """True for a ``.metadata``, and for a ``.distcp`` file, which cannot be read by itself. Never raises."""
        try:
            return is_metadata(source) or is_piece_file(source)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """Open the checkpoint that a ``.metadata`` describes; see ``Loader.open``.

        Raises:
            NotACheckpoint: it is a file of pieces.
            UnreadableCheckpoint: nothing of the checkpoint can be read.
        """
        if is_piece_file(source):
            raise NotACheckpoint(
                f"{source.name} is one of the files of a distributed checkpoint", "name the folder that it is in"
            )
        from checkpoint_doctor.builtin.loaders.distributed.description import describe_save
        from checkpoint_doctor.builtin.loaders.distributed.metadata import read_metadata
        from checkpoint_doctor.builtin.loaders.distributed.save import read_save

        return describe_save(source.name, read_save(read_metadata(source), source.sibling))

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """See ``FolderLoader.claim_folder``."""
        return find_files(folder)

    def open_folder(self, folder: Folder) -> Checkpoint:
        """See ``FolderLoader.open_folder``."""
        from checkpoint_doctor.builtin.loaders.distributed.description import describe_save
        from checkpoint_doctor.builtin.loaders.distributed.save import read_folder

        return describe_save(folder.path, read_folder(folder))

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``. Distributed checkpoints are examined, not patched."""
        raise RepairFailed(
            "a distributed checkpoint cannot be changed in place: its tensors are spread over the files of all ranks",
            "convert it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and fix the file",
        )


loader = DistributedLoader()
