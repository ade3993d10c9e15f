"""Opens the weights of a folder: a file, several models, or shards with their index."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders.foreign.signatures import name_file
from checkpoint_doctor.builtin.loaders.safetensors.loader import loader as safetensors
from checkpoint_doctor.builtin.loaders.safetensors.loader import read_index
from checkpoint_doctor.builtin.loaders.sb3.loader import loader as sb3
from checkpoint_doctor.builtin.loaders.torch.loader import loader as torch
from checkpoint_doctor.checkpoint import Checkpoint, Flaw, Skipped, Tensor
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import Folder
from checkpoint_doctor.text import quantity, shown

READERS = (safetensors, sb3, torch)
"""The readers of weights, in the order in which they are asked."""

INDEX = ".index.json"
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
"""The name of a shard: that of the model, its number and their count."""

Models = Mapping[str, Sequence[Tensor]]
"""Name of each model, empty where there is one, to its tensors."""


class _Model(Struct):
    """The files of one model."""

    name: str
    """The file's without endings, as in ``model_1``, or that of the folder that it is in."""
    index: str = ""
    files: list[str] = field(default_factory=list)


def open_weights(folder: Folder, names: Iterable[str]) -> tuple[Checkpoint, Models]:
    """Open weights as one checkpoint, and return it with the tensors of each model.

    Tensors have their model's name and a ``/`` before theirs where there are several models.

    Raises:
        UnreadableCheckpoint: no tensor can be read.
    """
    opened: list[tuple[str, Checkpoint]] = []
    flaws: list[Flaw] = []
    problems: list[UnreadableCheckpoint] = []
    models = _find_models(names)
    for model in models:
        try:
            opened.append((model.name, _open_model(folder, model)))
        except UnreadableCheckpoint as error:
            problems.append(error)
            flaws.append(Flaw(error.message, model.index or model.files[0]))
    if not opened:
        raise problems[0]
    if len(models) == 1:
        ((_, checkpoint),) = opened
        return checkpoint, {"": checkpoint.tensors}
    renamed = {
        name: tuple(replace(each, name=f"{name}/{each.name}") for each in checkpoint.tensors)
        for name, checkpoint in opened
    }
    merged = _merge([checkpoint for _, checkpoint in opened])
    return replace(merged, tensors=tuple(chain(*renamed.values())), flaws=(*merged.flaws, *flaws)), renamed


def _find_models(names: Iterable[str]) -> list[_Model]:
    """Group files by the model that they belong to."""
    models: dict[str, _Model] = {}
    for name in names:
        shard = SHARD.fullmatch(name)
        if name.endswith(INDEX):
            stem = name.removesuffix(INDEX).rpartition(".")[0]
            models.setdefault(stem, _Model(stem)).index = name
        else:
            stem = shard[1] if shard else name.rpartition("/")[0].rpartition("/")[2] or name.rpartition(".")[0]
            models.setdefault(stem, _Model(stem)).files.append(name)
    return list(models.values())


def _open_model(folder: Folder, model: _Model) -> Checkpoint:
    """Open one model. Raises as ``open_weights``."""
    if not model.index:
        return _open_shards(folder, model.files, lambda tensor, shard: True, _find_missing(model))
    source = folder.open(model.index)
    weight_map, metadata = read_index(source)
    left_out = [Skipped(name, "the index does not name it") for name in model.files if name not in weight_map.values()]
    if all(shard.endswith(".safetensors") for shard in weight_map.values()):
        return _with_skipped(safetensors.open(source), left_out)
    shards = sorted(set(weight_map.values()))
    opened = _open_shards(folder, shards, lambda tensor, shard: weight_map.get(tensor.name) == shard)
    held = {tensor.name for tensor in opened.tensors}
    lost = [name for name, shard in weight_map.items() if name not in held and shard in folder.files]
    flaws = [
        Flaw(f"the index lists {shown(name)} in {weight_map[name]}, which does not contain it", name) for name in lost
    ]
    return _with_skipped(
        replace(opened, flaws=(*opened.flaws, *flaws), metadata={**opened.metadata, **metadata}), left_out
    )


def _with_skipped(checkpoint: Checkpoint, more: Sequence[Skipped]) -> Checkpoint:
    return replace(checkpoint, skipped=(*checkpoint.skipped, *more))


def _find_missing(model: _Model) -> list[Flaw]:
    """Return what is missing of shards without an index, whose names say how many there are."""
    numbers = [found for name in model.files if (found := SHARD.fullmatch(name))]
    if not numbers:
        return []
    flaws = [Flaw("the index of its shards is missing, and no library loads them without it", model.name)]
    counts = sorted({int(found[3]) for found in numbers})
    if len(counts) > 1:
        flaws.append(
            Flaw(f"its shards are those of several saves, of {' and of '.join(map(str, counts))} shards", model.name)
        )
    missing = counts[0] - len({int(found[2]) for found in numbers})
    if missing > 0 and len(counts) == 1:
        flaws.append(Flaw(f"{quantity(missing, 'shard')} of {counts[0]:,} missing", model.name))
    return flaws


def _open_shards(
    folder: Folder, names: Sequence[str], belongs: Callable[[Tensor, str], bool], flaws: Sequence[Flaw] = ()
) -> Checkpoint:
    """Open files as one model, with the tensors that belong to it. Raises as ``open_weights``."""
    opened: list[Checkpoint] = []
    problems: list[UnreadableCheckpoint] = []
    found = list(flaws)
    for name in names:
        try:
            shard = _open_file(folder, name)
        except UnreadableCheckpoint as error:
            problems.append(error)
            found.append(Flaw(error.message, name))
            continue
        opened.append(replace(shard, tensors=tuple(each for each in shard.tensors if belongs(each, name))))
    if not opened:
        raise problems[0]
    merged = _merge(opened)
    return replace(merged, flaws=(*merged.flaws, *found))


def _open_file(folder: Folder, name: str) -> Checkpoint:
    source = folder.open(name)
    reader = next((each for each in READERS if each.recognizes(source)), None)
    try:
        if reader is None:
            raise name_file(source)
        return _of_file(reader.open(source), name)
    except NotACheckpoint as error:  # in the place of weights, a sound file of another kind is no better than none
        raise UnreadableCheckpoint(error.message, error.hint) from None


def _of_file(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return a checkpoint that is one of several files: what is in it says in which file it is."""
    return replace(
        checkpoint,
        tensors=tuple(
            replace(each, storage=f"{name}:{each.storage}") if each.storage else each for each in checkpoint.tensors
        ),
        checksums=tuple(
            replace(each, storage=f"{name}:{each.storage}") if each.storage else each for each in checkpoint.checksums
        ),
        flaws=tuple(replace(each, member=each.member or name) for each in checkpoint.flaws),
        pickled_names=tuple(replace(each, member=each.member or name) for each in checkpoint.pickled_names),
    )


def _merge(opened: Sequence[Checkpoint]) -> Checkpoint:
    """Return several checkpoints as one: the facts of the first, and the contents of all."""
    if len(opened) == 1:
        return opened[0]
    return replace(
        opened[0],
        tensors=tuple(tensor for each in opened for tensor in each.tensors),
        optimizers=tuple(optimizer for each in opened for optimizer in each.optimizers),
        parts=tuple(part for each in opened for part in each.parts),
        flaws=tuple(flaw for each in opened for flaw in each.flaws),
        checksums=tuple(checksum for each in opened for checksum in each.checksums),
        pickled_names=tuple(name for each in opened for name in each.pickled_names),
        skipped=tuple(skipped for each in opened for skipped in each.skipped),
    )
