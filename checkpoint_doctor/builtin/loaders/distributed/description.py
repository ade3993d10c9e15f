"""Describes one or several distributed saves as one checkpoint."""

from __future__ import annotations

from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders.distributed.names import MODEL, find_files, find_saves
from checkpoint_doctor.builtin.loaders.distributed.save import Save, read_folder
from checkpoint_doctor.builtin.loaders.distributed.tied import share_tied
from checkpoint_doctor.builtin.loaders.torch.archive import Archive
from checkpoint_doctor.builtin.loaders.torch.loader import describe
from checkpoint_doctor.checkpoint import Checkpoint, Content, Flaw, Part
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder
from checkpoint_doctor.sources.budget import Budget

FORMAT = "distributed"


def describe_save(name: str, save: Save) -> Checkpoint:
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
    opened = share_tied(describe(archive, FORMAT))
    opened = replace(
        opened,
        parts=(*opened.parts, *save.parts),
        skipped=(*opened.skipped, *save.skipped),
        is_patchable=False,
    )
    if not opened.tensors and not opened.optimizers and (opened.flaws or opened.skipped):
        reasons = [f"{flaw.member}: {flaw.message}" for flaw in opened.flaws]
        reasons += [f"{each.what}: {each.why}" for each in opened.skipped]
        raise UnreadableCheckpoint(f"nothing of {name} can be read: {reasons[0]}", "take an earlier checkpoint")
    return opened


def open_saves(folder: Folder) -> Checkpoint:
    """Open accelerate's folders in a folder as one checkpoint.

    Raises:
        UnreadableCheckpoint: a model cannot be read.
    """
    joined = Save({})
    for name in find_saves(folder):
        try:
            save = read_folder(folder.enter(name)).within(name)
        except UnreadableCheckpoint as error:
            if MODEL.fullmatch(name):
                raise
            content = dict.fromkeys(sorted(find_files(folder.enter(name))), Content.OPTIMIZER)
            parts = tuple(Part(f"{name}/{file}", each, file=f"{name}/{file}") for file, each in content.items())
            save = Save({}, parts=parts, flaws=(Flaw(error.message, name),))
        joined = _join(joined, save)
    return describe_save(folder.path, joined)


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
