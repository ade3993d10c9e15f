"""Opens every part of a folder with the reader of its format and joins the optimizers to the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._optimizers.foreign import describe_other_model
from checkpoint_doctor.builtin.loaders._optimizers.parameter_order import possible_orders
from checkpoint_doctor.builtin.loaders._optimizers.state import identify_optimizer
from checkpoint_doctor.builtin.loaders._pickle.modules import attributes_of
from checkpoint_doctor.builtin.loaders.distributed.description import open_saves
from checkpoint_doctor.builtin.loaders.distributed.names import find_saves
from checkpoint_doctor.builtin.loaders.folders import megatron
from checkpoint_doctor.builtin.loaders.folders.deepspeed import files as deepspeed
from checkpoint_doctor.builtin.loaders.folders.deepspeed.reading import read_ranks
from checkpoint_doctor.builtin.loaders.folders.layouts import Claimed
from checkpoint_doctor.builtin.loaders.folders.missing import find_missing
from checkpoint_doctor.builtin.loaders.folders.rank_files import Ranks
from checkpoint_doctor.builtin.loaders.folders.side_files import (
    STEPS_OF_RLLIB,
    read_counters,
    read_settings,
    read_side_file,
)
from checkpoint_doctor.builtin.loaders.folders.weights import Models, open_weights
from checkpoint_doctor.builtin.loaders.torch.archive import Archive, read_archive
from checkpoint_doctor.builtin.loaders.torch.loader import describe
from checkpoint_doctor.builtin.loaders.torch.parts import describe_part, find_parts
from checkpoint_doctor.builtin.loaders.torch.state_dicts import find_contents
from checkpoint_doctor.checkpoint import Checkpoint, Checksum, Content, Flaw, Optimizer, Part, PickledName, Skipped
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import Folder, Source
from checkpoint_doctor.sources.budget import Budget

LONGEST_TEXT = 1 << 20
"""Bytes of such a file that are read."""

_WITHOUT_PICKLE = (".json", ".yml", ".yaml", ".txt", ".npz", ".csv", ".model", ".jinja", "latest")
"""Endings of side files in which no pickle is looked for."""


def open_parts(folder: Folder, layout: str, claimed: Claimed) -> Checkpoint:
    """Open the files of a folder as one checkpoint.

    Raises:
        UnreadableCheckpoint: no part of the model can be read.
    """
    return _Opening(folder, claimed).finish(layout)


class _Opening(Struct):
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
    counters: dict[str, int] = field(default_factory=dict)
    """What pickles beside the weights count."""
    texts: dict[str, str] = field(default_factory=dict)
    """The text of other files that are read, by file name."""

    def finish(self, layout: str) -> Checkpoint:
        saves = find_saves(self.folder)
        sharded = [name for name in self.claimed if name.partition("/")[0] in saves]
        is_of_rank = megatron.is_of_rank if layout == "megatron" else deepspeed.content_of
        of_ranks = {name: content for name, content in self.claimed.items() if is_of_rank(name)}
        others = {name: each for name, each in self.claimed.items() if name not in of_ranks and name not in sharded}
        weights = [name for name, content in others.items() if content in (Content.WEIGHTS, Content.INDEX)]
        models: Models = {}
        if sharded:
            model = open_saves(self.folder)
        elif weights:
            model, models = open_weights(self.folder, weights)
            self.parts += [Part(name, others[name], file=name) for name in weights]
            if of_ranks:
                self._join_ranks(of_ranks)
                model = replace(model, format="folders")  # on the ranks is a copy of the weights, which is resumed from
        else:
            model = self._open_ranks(megatron.read_ranks if layout == "megatron" else read_ranks, of_ranks)
        for name, content in others.items():
            if name == "optimizer.bin" and "optimizer.pt" in others:
                self.parts.append(Part(name, content, file=name))
                self.skipped.append(Skipped(name, "optimizer.pt is beside it, and Trainer loads that one"))
            elif name not in weights:
                self._read(name, content)
        settings = read_settings(self.facts)
        steps = [self.counters[key] for key in STEPS_OF_RLLIB if key in self.counters]
        # safetensors sorts tensors by name; PyTorch's files keep the model's order.
        orders = possible_orders(models, settings.architecture) if model.format == "safetensors" else None
        optimizers = list(model.optimizers)
        for name, state, budget in self.optimizers:
            try:
                optimizers.append(self._identify(name, state, models, budget, orders))
            except UnreadableCheckpoint as error:
                self.flaws.append(Flaw(error.message, name))
        archives = self.archives
        return replace(
            model,
            path=self.folder.path,
            layout=layout,
            optimizers=tuple(optimizers),
            hyperparameters={**self._arguments(), **model.hyperparameters},
            step=next((each for each in (settings.step, *steps, model.step) if each is not None), None),
            counters={**model.counters, **self.counters, **settings.counters},
            versions={**settings.versions, **model.versions},
            metadata={**model.metadata, **settings.metadata},
            parts=(*self.parts, *model.parts),
            flaws=(*model.flaws, *self.flaws, *(flaw for each in archives for flaw in _flaws_of(each))),
            checksums=(
                *(map(_as_damage, model.checksums) if of_ranks else model.checksums),
                *(_as_damage(checksum) for each in archives for checksum in each.checksums),
            ),
            pickled_names=(*model.pickled_names, *(name for each in archives for name in _names_of(each))),
            skipped=(*model.skipped, *self.skipped),
            missing=tuple(find_missing(layout, self.claimed, self.texts, self.folder)),
        )

    def _identify(
        self,
        name: str,
        state: Mapping[str, Any],
        models: Models,
        budget: Budget,
        orders: Sequence[Models] | None,
    ) -> Optimizer:
        """Match an optimizer with the weights; in a file beside a single model, it must be that model's."""
        optimizer = identify_optimizer(name, state, models, budget, orders=orders)
        if optimizer.unmatched and not optimizer.mismatch and len(models) == 1:
            (tensors,) = models.values()
            return replace(optimizer, mismatch=describe_other_model(optimizer, tensors))
        return optimizer

    def _open_ranks(self, read: Callable[[Folder, Claimed], Ranks], contents: Claimed) -> Checkpoint:
        """Open what the ranks have together. Raises as ``open_parts``."""
        ranks = read(self.folder, contents)
        try:
            opened = describe(ranks.as_archive(self.folder.path), "folders")
        except NotACheckpoint as error:
            raise UnreadableCheckpoint(error.message, error.hint) from None
        skipped = (*opened.skipped, *ranks.skipped)
        if not opened.tensors and skipped:
            why = opened.flaws[0].message if opened.flaws else skipped[0].why
            raise UnreadableCheckpoint(
                f"no tensor of {self.folder.path} is whole: {why}", "copy the files of all ranks"
            )
        self.parts += ranks.parts
        return replace(opened, skipped=skipped, versions=ranks.versions)

    def _join_ranks(self, contents: Claimed) -> None:
        """Join the optimizer of the ranks to weights that have a file of their own."""
        self.parts += [Part(name, content, file=name) for name, content in contents.items()]
        try:
            ranks = read_ranks(self.folder, contents)
        except UnreadableCheckpoint as error:
            self.flaws.append(Flaw(error.message, next(iter(contents))))
            return
        archive = ranks.as_archive(self.folder.path)
        self.archives.append(archive)
        self.skipped += ranks.skipped
        state = ranks.root.get("optimizer")
        if isinstance(state, Mapping):
            self.optimizers.append(("optimizer", state, archive.budget))
        kept = (Content.SCHEDULER, Content.LOSS_SCALER)
        self.parts += (part for part in find_parts(ranks.root, archive.budget) if part.content in kept)

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
        if name.endswith((".yml", "latest")):
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
        if part.content is Content.PROGRESS:
            self.counters |= read_counters(archive.root)
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


def _as_damage(checksum: Checksum) -> Checksum:
    """Return a checksum of one file of several: where it cannot be verified, that is damage to this file alone."""

    def verify() -> Flaw | None:
        try:
            return checksum.verify()
        except UnreadableCheckpoint as error:
            return Flaw(error.message)

    return replace(checksum, verify=verify)


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
