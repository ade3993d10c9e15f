"""The loader of folders: opens every part with the reader of its format and joins the optimizers to the weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, NoReturn

from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Content, Flaw, Part, Patch, PickledName, Skipped, Tensor
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.loaders._optimizers.parameter_order import possible_orders
from checkpoint_doctor.loaders._optimizers.state import identify_optimizer
from checkpoint_doctor.loaders._patching.places import checksum_of
from checkpoint_doctor.loaders._pickle.modules import attributes_of
from checkpoint_doctor.loaders.folders.layouts import Claimed, find_layout
from checkpoint_doctor.loaders.folders.missing import find_missing
from checkpoint_doctor.loaders.folders.side_files import read_settings, read_side_file
from checkpoint_doctor.loaders.folders.weights import open_weights
from checkpoint_doctor.loaders.torch.archive import Archive, read_archive
from checkpoint_doctor.loaders.torch.parts import describe_part
from checkpoint_doctor.loaders.torch.state_dicts import find_contents
from checkpoint_doctor.sources import Folder, Source
from checkpoint_doctor.sources.budget import Budget

LONGEST_TEXT = 1 << 20
"""Bytes of a YAML file that are read."""

_WITHOUT_PICKLE = (".json", ".yml", ".txt", ".npz", ".csv", ".model", ".jinja")
"""Endings of side files in which no pickle is looked for."""


@dataclass(frozen=True)
class FolderLoader:
    """Opens folders as transformers, PEFT, accelerate and the RL Zoo write them.

    The checkpoint has the format of its weights, whose loader also patches it.
    """

    name: str = "folders"
    suffixes: tuple[str, ...] = ()

    def recognizes(self, source: Source) -> bool:
        """Return false: a file by itself is for the loader of its format."""
        return False

    def open(self, source: Source) -> NoReturn:
        """Raise: there is nothing that this loader recognizes.

        Raises:
            NotACheckpoint: always.
        """
        raise NotACheckpoint(f"{source.name} is not a folder", "name the folder that it is in")

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        raise RepairFailed(f"{checkpoint.path} has no weights that could be patched")

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """See ``FolderLoader.claim_folder``."""
        _, claimed = find_layout(folder)
        return {name.partition("/")[0] for name in claimed}

    def open_folder(self, folder: Folder) -> Checkpoint:
        """See ``FolderLoader.open_folder``."""
        layout, claimed = find_layout(folder)
        if not claimed:
            raise NotACheckpoint(f"the files of {folder.path} are not one checkpoint", "name a file in it")
        return _Opening(folder, claimed).finish(layout)


@dataclass
class _Opening:
    """A folder that is being read, part by part."""

    folder: Folder
    claimed: Claimed
    parts: list[Part] = field(default_factory=list)
    optimizers: list[tuple[str, Mapping[str, Any], Budget]] = field(default_factory=list)
    """Name, state dict and budget of the file, which are matched with the tensors when all are read."""
    archives: list[Archive] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """What the files in JSON say, by file name."""
    texts: dict[str, str] = field(default_factory=dict)
    """The text of the files in YAML, by file name."""

    def finish(self, layout: str) -> Checkpoint:
        weights = [name for name, content in self.claimed.items() if content in (Content.WEIGHTS, Content.INDEX)]
        model, models = open_weights(self.folder, weights)
        self.parts += [Part(name, self.claimed[name], file=name) for name in weights]
        for name, content in self.claimed.items():
            if name not in weights:
                self._read(name, content)
        settings = read_settings(self.facts)
        # safetensors sorts tensors by name; PyTorch's files keep the model's order.
        orders = possible_orders(models, settings.architecture) if model.format == "safetensors" else None
        optimizers = list(model.optimizers)
        for name, state, budget in self.optimizers:
            try:
                optimizers.append(identify_optimizer(name, state, models, budget, orders=orders))
            except UnreadableCheckpoint as error:
                self.flaws.append(Flaw(error.message, name))
        archives = self.archives
        return replace(
            model,
            path=self.folder.path,
            layout=layout,
            optimizers=tuple(optimizers),
            hyperparameters={**self._arguments(), **model.hyperparameters},
            step=model.step if settings.step is None else settings.step,
            counters={**model.counters, **settings.counters},
            versions={**settings.versions, **model.versions},
            metadata={**model.metadata, **settings.metadata},
            parts=(*self.parts, *model.parts),
            flaws=(*model.flaws, *self.flaws, *(flaw for each in archives for flaw in _flaws_of(each))),
            checksums=(*model.checksums, *(checksum_of(member) for each in archives for member in each.unchecked)),
            pickled_names=(*model.pickled_names, *(name for each in archives for name in _names_of(each))),
            skipped=(*model.skipped, *self.skipped),
            missing=tuple(find_missing(layout, self.claimed, self.texts)),
        )

    def _read(self, name: str, content: Content) -> None:
        """Read a part beside the weights; damage to it does not affect the others."""
        part = Part(name, content, file=name)
        try:
            source = self.folder.open(name)
            if name.endswith(_WITHOUT_PICKLE):
                part = replace(part, values=self._read_text(name, source))
            elif content is not Content.TOKENIZER:
                part = self._read_pickle(part, source)
        except UnreadableCheckpoint as error:
            self.flaws.append(Flaw(error.message, name))
        self.parts.append(part)

    def _read_text(self, name: str, source: Source) -> Mapping[str, Any]:
        self.facts[name] = read_side_file(name, source)
        if name.endswith(".yml"):
            self.texts[name] = source.read(0, min(source.size, LONGEST_TEXT)).decode("utf-8", "replace")
        return {}

    def _read_pickle(self, part: Part, source: Source) -> Part:
        archive = read_archive(source, part.file)
        self.archives.append(archive)
        stem = PurePath(part.file).stem
        optimizers = find_contents(archive).optimizers if part.content is Content.OPTIMIZER else ()
        self.optimizers += [
            (f"{stem}/{each.path}" if each.path else stem, each.state, archive.budget) for each in optimizers
        ]
        found = next(describe_part(part.name, archive.root, archive.budget), None)
        if found is not None and found.content is not Content.STATE_DICT:
            return replace(found, file=part.file)
        if part.content is Content.OPTIMIZER and not optimizers:
            self.skipped.append(Skipped(part.file, "it does not contain an optimizer's state dict"))
        return replace(part, values=_plain_attributes(archive.root) if part.content is Content.SETTINGS else {})

    def _arguments(self) -> dict[str, Any]:
        """Return the settings of the training that are stored as a pickle."""
        return {
            key: value for part in self.parts if part.content is Content.SETTINGS for key, value in part.values.items()
        }


def _plain_attributes(value: object) -> dict[str, Any]:
    found = attributes_of(value)
    return {
        str(key)[:200]: each
        for key, each in list(found.items())[:1000]
        if isinstance(each, bool | int | float | str) and not str(key).startswith("_")
    }


def _flaws_of(archive: Archive) -> Iterator[Flaw]:
    for flaw in archive.flaws:
        yield replace(flaw, member=flaw.member or PurePath(archive.name).name)


def _names_of(archive: Archive) -> Iterator[PickledName]:
    for name in archive.pickled_names:
        yield replace(name, member=name.member or PurePath(archive.name).name)


loader = FolderLoader()
