"""The loader of folders that are one checkpoint of another library."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed
from checkpoint_doctor.plugins.protocols import FoldersOnly
from checkpoint_doctor.sources import Folder, Source


class FolderLoader(FoldersOnly, Struct, frozen=True):
    """Opens folders as transformers, PEFT, accelerate, DeepSpeed, the RL Zoo and others write them.

    The checkpoint has the format of its weights, whose loader also patches it, or the format of this loader where the
    weights are put together from the files of several ranks. What reads folders is imported when there is one.
    """

    name: str = "folders"
    suffixes: tuple[str, ...] = ()

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``. What several ranks saved is examined, not patched."""
        raise RepairFailed(
            f"{checkpoint.path} cannot be changed in place: its weights are spread over the files of several ranks",
            "put the weights together with the library's own tool (zero_to_fp32.py), and fix the file",
        )

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """See ``FolderLoader.claim_folder``."""
        from checkpoint_doctor.builtin.loaders.folders.layouts import find_layout

        _, claimed = find_layout(folder)
        return {name.partition("/")[0] for name in claimed}

    def open_folder(self, folder: Folder) -> Checkpoint:
        """See ``FolderLoader.open_folder``."""
        from checkpoint_doctor.builtin.loaders.folders.layouts import find_layout
        from checkpoint_doctor.builtin.loaders.folders.opening import open_parts

        layout, claimed = find_layout(folder)
        if not claimed:
            raise NotACheckpoint(f"the files of {folder.path} are not one checkpoint", "name a file in it")
        opened = open_parts(folder, layout, claimed)
        return replace(opened, is_patchable=opened.is_patchable and opened.format != self.name)


loader = FolderLoader()
