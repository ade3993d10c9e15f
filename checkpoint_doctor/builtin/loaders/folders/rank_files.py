"""Reads the files in which each of several ranks saved its part of a run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders.torch.archive import Archive, read_archive
from checkpoint_doctor.checkpoint import Content, Flaw, Part, PickledName, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder, Source
from checkpoint_doctor.sources.budget import Budget

DESCRIPTIONS = frozenset(
    (
        "argparse.Namespace",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    )
)
"""Classes in such files that only describe something."""

SLICED = "each holds its slice of the tensors, and no file says along which axis: they are examined rank by rank"


class Ranks(Struct):
    """What the ranks saved, as one object, and what is wrong with their files."""

    parts: list[Part]
    """The files."""
    root: dict[str, Any] = field(default_factory=dict)
    """Like a file that a single process would have saved: ``module``, ``optimizer``, ``lr_scheduler`` …"""
    read: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """File name to the dictionary in it, of the files that can be read."""
    problems: list[UnreadableCheckpoint] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    archives: list[Archive] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    size: int = 0
    """Bytes of all files together."""

    def note(self, name: str, error: UnreadableCheckpoint) -> None:
        """Note that a file cannot be read."""
        self.problems.append(error)
        self.flaws.append(Flaw(error.message, name))

    def as_archive(self, name: str) -> Archive:
        """Return all of it as the contents of one file with a name."""
        return Archive(
            name=name,
            budget=Budget(name, self.size),
            container="ranks",
            root=self.root,
            pickled_names=tuple(_with_known(name) for each in self.archives for name in each.pickled_names),
            flaws=(*self.flaws, *chain.from_iterable(each.flaws for each in self.archives)),
            unchecked=tuple(member for each in self.archives for member in each.unchecked),
            opcodes=sum(each.opcodes for each in self.archives),
        )


def read_files(folder: Folder, contents: Mapping[str, Content]) -> Ranks:
    """Read files of PyTorch by their names; what cannot be read is a flaw."""
    found = Ranks([Part(name, content, file=name) for name, content in contents.items()])
    sources: dict[str, Source] = {}
    for name in contents:
        try:
            sources[name] = folder.open(name)
        except UnreadableCheckpoint as error:
            found.note(name, error)
    found.size = sum(source.size for source in sources.values())
    for name, source in sources.items():
        try:
            archive = read_archive(source, name)
        except UnreadableCheckpoint as error:
            found.note(name, error)
            continue
        found.archives.append(archive)
        found.read[name] = archive.root if isinstance(archive.root, Mapping) else {}
    return found


def _with_known(name: PickledName) -> PickledName:
    return replace(name, known=name.known or name.qualified in DESCRIPTIONS)
