"""The loader of Orbax's checkpoints, which are folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Content, Flaw, Part, Patch, Tensor
from checkpoint_doctor.errors import RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.plugins.protocols import FoldersOnly
from checkpoint_doctor.sources import Folder, Source

if TYPE_CHECKING:
    from checkpoint_doctor.builtin.loaders._trees.leaves import Leaf

METADATA = "_METADATA"
STEP = "_CHECKPOINT_METADATA"
"""A file in the folder of a step, and in that of each item."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""Part of a folder's name while it is written."""
UNNAMED = ("default", "state")
"""Items whose name says nothing where they are the only one."""


class OrbaxLoader(FoldersOnly, Struct, frozen=True):
    """Opens what Orbax's checkpointers write, by themselves or as a step of a ``CheckpointManager``."""

    name: str = "orbax"
    suffixes: tuple[str, ...] = ()

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """See ``FolderLoader.claim_folder``."""
        return folder.files | folder.folders if _find_items(folder) else ()

    def open_folder(self, folder: Folder) -> Checkpoint:
        """See ``FolderLoader.open_folder``."""
        if UNFINISHED in PurePath(folder.path).name:
            raise UnreadableCheckpoint(
                f"{folder.path} is a checkpoint of Orbax that was not finished: its folder has its temporary name",
                "take an earlier checkpoint",
            )
        from checkpoint_doctor.builtin.loaders._trees.tree import build_checkpoint
        from checkpoint_doctor.builtin.loaders.orbax.arrays import read_leaves
        from checkpoint_doctor.builtin.loaders.orbax.tree import read_tree

        items = _find_items(folder)
        leaves: list[Leaf] = []
        for item in items:
            named = item and not (len(items) == 1 and item in UNNAMED)
            leaves += read_leaves(read_tree(folder.enter(item) if item else folder), (item,) if named else ())
        lost = [leaf for leaf in leaves if leaf.values is None and leaf.problem.startswith("tensorstore")]
        if lost and all(leaf.values is None for leaf in leaves):
            raise UnreadableCheckpoint(
                f"nothing of {folder.path} can be read: {lost[0].name}: {lost[0].problem}", "take an earlier checkpoint"
            )
        opened = build_checkpoint(folder.path, self.name, leaves)
        name = PurePath(folder.path).name
        step = int(name) if name.isascii() and name.isdigit() and len(name) < 16 else None
        return replace(
            opened,
            step=opened.step if opened.step is not None else step,
            parts=tuple(_list_parts(items)),
            is_patchable=False,
            flaws=tuple(Flaw(f"its array {leaf.name} cannot be read: {leaf.problem}", leaf.name) for leaf in lost),
        )

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``. Checkpoints of Orbax are examined, not patched."""
        raise RepairFailed(
            "a checkpoint of Orbax cannot be changed in place: its arrays are compressed",
            "restore it with Orbax, repair the arrays that the report names, and save it again",
        )


def _find_items(folder: Folder) -> list[str]:
    """Return the folders of a step's items; ``""`` for a folder that is an item itself."""
    if METADATA in folder.files:
        return [""]
    if STEP not in folder.files:
        return []
    return sorted(name for name in folder.folders if METADATA in folder.enter(name).files)


def _list_parts(items: Sequence[str]) -> list[Part]:
    if items == [""]:
        return [Part(METADATA, Content.INDEX, file=METADATA)]
    return [Part(item, Content.WEIGHTS, file=f"{item}/{METADATA}") for item in items]


loader = OrbaxLoader()
