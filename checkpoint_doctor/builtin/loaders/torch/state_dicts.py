"""Finds state dicts, modules and optimizers in an unpickled object, at any depth.

A mapping (or list) that contains tensors directly is a state dict; the containers around it are wrappers. Training code
stores much else beside the model, which is recognized by the wrapper's name or form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders._optimizers.state import is_optimizer
from checkpoint_doctor.builtin.loaders._pickle.modules import (
    Entry,
    ScriptDeclarations,
    attributes_of,
    entries_of,
    is_module,
    is_script_module,
)
from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledStorage, PickledTensor
from checkpoint_doctor.builtin.loaders.torch.archive import Archive
from checkpoint_doctor.builtin.loaders.torch.contents import LIBRARIES
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint

DEEPEST_WRAPPER = 64
FEWEST_VISITS = 20_000
"""Values that may be looked at in any file, beside one for each instruction of its pickle."""
LONGEST_NAME = 2000
_LONGEST_TUPLE = 8
"""Parts of a tuple up to which it names what is below it; edge types of graphs have three."""

BESIDE_THE_MODEL = re.compile(
    r"opt|optims?|optimi[sz]ers?|sched|schedulers?|rng|random|replay|rollouts?|callbacks?|loops|hparams|hyper|"
    r"metrics?|history|loss|losses|logs|dataset|dataloader|sampler"
)
"""Words in the names of wrappers that do not contain the model's tensors; all are from published training code."""
PROGRESS = re.compile(
    r"epochs?|steps?|iters?|iterations?|best|score|acc|accuracy|prec|seed|num|count|updates|time|rewards?|returns?|lr|"
    r"state|mean|std|average|avg|total"
)
"""Words in the names of single tensors that are figures about the training and not weights."""

OBJECTS_WITHOUT_WEIGHTS = (
    "gym.", "gymnasium.", "stable_baselines3.common.buffers.", "stable_baselines3.her.",
    *(f"{library}." for library in LIBRARIES),
)  # fmt: skip
"""Packages whose objects contain arrays but no network: bounds of an environment, replayed transitions, estimators."""

CONTAINERS = (dict, list, tuple, Inert)
"""What is searched for tensors."""
SEARCHED = (*CONTAINERS, PickledTensor, PickledStorage)
"""What is not passed over: a log of a million numbers takes no more than a look at each."""


class StateDict(Struct, frozen=True):
    """A model's tensors by their keys."""

    path: str
    """The wrappers' keys joined by ``/``; empty for the outermost object."""
    entries: tuple[Entry, ...]
    is_stray: bool = False
    """True for single tensors beside whole state dicts."""


class FoundOptimizer(Struct, frozen=True):
    """An optimizer's state dict, or a whole pickled optimizer."""

    path: str
    state: Mapping[str, Any]
    kind: str | None = None


class Contents(Struct):
    """The state dicts and optimizers in an unpickled object."""

    state_dicts: list[StateDict] = field(default_factory=list)
    optimizers: list[FoundOptimizer] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def named(self) -> Iterator[tuple[str, str, Entry]]:
        """Yield ``(name, path of the state dict, entry)`` for every tensor.

        Names have the path of the state dict as a prefix where there are several. Names are unique: a tensor whose name
        is taken gets its whole path as a prefix, and is skipped where that name is taken too.
        """
        whole = [each for each in self.state_dicts if not each.is_stray]
        taken: set[str] = set()
        for each in self.state_dicts:
            path = f"{each.path}/" if each.path else ""
            prefix = path if len(whole) > 1 else ""
            for entry in each.entries:
                name = prefix + entry.key
                if name in taken:
                    name = path + entry.key
                if name in taken or len(name) > LONGEST_NAME:
                    self.skipped.append(
                        Skipped(name[:200], "another tensor has the same name, or the name is too long")
                    )
                    continue
                taken.add(name)
                yield name, each.path, entry


def find_contents(archive: Archive) -> Contents:
    """Find the state dicts and optimizers in an archive.

    Raises:
        UnreadableCheckpoint: the object contains the same parts so often that the search would not end.
    """
    search = _Search(archive, inside_objects=False)
    search.visit(archive.root, ())
    if not search.contents.state_dicts and not search.contents.optimizers:
        # Without anything that looks like a model, every tensor counts, also inside objects of unknown classes.
        search = _Search(archive, inside_objects=True)
        search.visit(archive.root, ())
    return search.contents


class _Search:
    def __init__(self, archive: Archive, inside_objects: bool) -> None:
        self.contents = Contents()
        self._scripts = ScriptDeclarations(archive.members)
        self._name = archive.name
        self._everything = inside_objects
        self._left = FEWEST_VISITS + archive.opcodes
        self._inside: set[int] = set()
        self._nothing_inside: set[tuple[int, bool]] = set()
        """Containers that were searched to the end without a result, so that references to them cost nothing."""
        self._cuts = 0
        """How often a container was left out because it contains itself or lies too deep."""

    def visit(self, value: Any, path: tuple[str, ...], in_object: bool = False) -> bool:
        """Search one value; return whether it contains a state dict."""
        if isinstance(value, PickledTensor) and not path:
            return self._add((), [Entry("tensor", value)])
        if not isinstance(value, CONTAINERS) or (id(value), in_object) in self._nothing_inside:
            return False
        if id(value) in self._inside or len(path) > DEEPEST_WRAPPER:
            self._cuts += 1
            return False
        before = self._cuts, self._found
        self._inside.add(id(value))
        try:
            return self._visit_container(value, path, in_object)
        finally:
            self._inside.discard(id(value))
            if before == (self._cuts, self._found):
                self._nothing_inside.add((id(value), in_object))

    @property
    def _found(self) -> int:
        """Number of results so far."""
        return len(self.contents.state_dicts) + len(self.contents.optimizers) + len(self.contents.skipped)

    def _visit_container(self, value: Any, path: tuple[str, ...], in_object: bool) -> bool:
        if is_module(value):
            for key, part in value.attributes.items():
                if is_optimizer(attributes_of(part)):
                    self.visit(part, (*path, str(key)))
            return self._add(path, self._counted(entries_of(value)))
        if is_script_module(value) and not self._everything:
            return self._add(path, self._counted(self._scripts.entries_of(value)))
        if isinstance(value, Inert):
            if is_optimizer(value.attributes):
                kind = value.type_name.rpartition(".")[2]
                self.contents.optimizers.append(FoundOptimizer("/".join(path), value.attributes, kind))
                return False
            if value.type_name.startswith(OBJECTS_WITHOUT_WEIGHTS):
                return False
            found = [
                self._visit_items(items, path, in_object=is_state)
                for items, is_state in (
                    (value.entries.items(), in_object),
                    (enumerate(value.items), in_object),
                    (enumerate(value.arguments), True),
                    (value.attributes.items(), True),
                    (self._parts_of_state(value), True),
                )
            ]
            return any(found)
        if is_optimizer(value):
            self.contents.optimizers.append(FoundOptimizer("/".join(path), value))
            return False
        return self._visit_items(value.items() if isinstance(value, Mapping) else enumerate(value), path, in_object)

    def _parts_of_state(self, value: Inert) -> Iterable[tuple[int, Any]]:
        """Return the state of packed weights (quantized TorchScript), which is not a dictionary of attributes."""
        is_packed = self._everything and isinstance(value.state, list | tuple) and not value.attributes
        return enumerate(value.state) if is_packed else ()

    def _visit_items(self, items: Any, path: tuple[str, ...], in_object: bool) -> bool:
        direct: list[Entry] = []
        below = False
        place = len(self.contents.state_dicts)
        for key, value in items:
            self._count()
            if not isinstance(value, SEARCHED):
                continue
            name = _name_key(key)
            if isinstance(value, PickledTensor):
                direct.append(Entry(name, value))
            elif isinstance(value, PickledStorage):
                why = "it is a bare storage, without a shape"
                self.contents.skipped.append(Skipped("/".join((*path, name)), why))
            elif (
                self._everything
                or isinstance(key, int)
                or not _has_word(BESIDE_THE_MODEL, name)
                or _may_be_optimizer(value)
            ):
                below |= self.visit(value, (*path, name), in_object)
        if in_object and not self._everything:
            return below
        is_stray = below and not self._everything and not any("." in entry.key for entry in direct)
        if is_stray:
            direct = [entry for entry in direct if "float" in entry.tensor.dtype and not _is_figure(entry.key)]
        return self._add(path, direct, is_stray, place) or below

    def _add(self, path: tuple[str, ...], entries: Any, is_stray: bool = False, place: int | None = None) -> bool:
        kept = tuple(entries)
        if not kept:
            return False
        # Tensors directly in a mapping come before those of nested mappings.
        at = len(self.contents.state_dicts) if place is None else place
        self.contents.state_dicts.insert(at, StateDict("/".join(path), kept, is_stray))
        return True

    def _counted(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self._count()
            yield entry

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnreadableCheckpoint(
                f"{self._name} contains the same parts too often: it may be a decompression bomb",
                "do not load this file",
            )


def _name_key(key: object) -> str:
    """Return the name of a dictionary's key; the parts of a tuple, such as an edge type of a graph, are joined."""
    if isinstance(key, tuple) and 0 < len(key) <= _LONGEST_TUPLE and all(isinstance(part, str) for part in key):
        return ",".join(part[:LONGEST_NAME] for part in key)
    return str(key)[:LONGEST_NAME] if isinstance(key, str | int | float | bytes) else type(key).__name__


def _has_word(words: re.Pattern[str], name: str) -> bool:
    return any(map(words.fullmatch, re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name[:200]).lower())))


def _is_figure(name: str) -> bool:
    return _has_word(BESIDE_THE_MODEL, name) or _has_word(PROGRESS, name)


def _may_be_optimizer(value: Any) -> bool:
    """Return whether a wrapper named like an optimizer is one, or contains some."""
    if isinstance(value, list | tuple):
        return any(_may_be_optimizer(item) for item in value[:16] if not isinstance(item, list | tuple))
    if isinstance(value, Mapping):
        return is_optimizer(value) or any(is_optimizer(item) for item in islice(value.values(), 64))
    return is_optimizer(attributes_of(value))
