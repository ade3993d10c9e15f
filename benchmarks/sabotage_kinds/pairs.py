"""What a kind is: a function that makes an ill file beside its healthy twin, with the cause that it should be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Content = dict[str, Any]
"""What ``torch.save`` writes: state dicts and counters by name."""


@dataclass(frozen=True)
class Pair:
    """An ill file beside its healthy twin."""

    ill: Path
    healthy: Path
    affected: tuple[str, ...]
    """The tensors, layers and optimizers that the fault concerns; a layer stands for all that lies in it. Empty where
    the fault is one of the whole checkpoint."""


@dataclass(frozen=True)
class Kind:
    """One way to be ill."""

    name: str
    cause: str
    """Its name in the table of causes."""
    subject: str
    """The module that it stands in."""
    fact: str
    """What was done, and what in the file tells."""
    make: Callable[[Path], Pair]
    """Writes both files into a folder."""
    not_visible: str = ""
    """Why nobody can tell from the file, where that is so: the kind is then listed and not counted."""


@dataclass(frozen=True)
class Decoy:
    """A healthy model that looks like one of the kinds."""

    name: str
    make: Callable[[Path], Path]
    """Writes the file into a folder."""


KINDS: dict[str, Kind] = {}
"""All kinds by name, filled by the decorator below."""

DECOYS: dict[str, Decoy] = {}


def kind(cause: str, *, not_visible: str = "") -> Callable[[Callable[[Path], Pair]], Callable[[Path], Pair]]:
    """Add a function to the kinds, under its own name."""

    def add(make: Callable[[Path], Pair]) -> Callable[[Path], Pair]:
        name = make.__name__.replace("_", "-")
        fact = " ".join((make.__doc__ or "").split())
        KINDS[name] = Kind(name, cause, make.__module__.rpartition(".")[2], fact, make, not_visible)
        return make

    return add


def decoy(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Add a function to the decoys, under its own name."""
    name = make.__name__.replace("_", "-")
    DECOYS[name] = Decoy(name, make)
    return make


def save(content: object, path: Path) -> Path:
    """Write a file as ``torch.save`` does and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def save_pair(folder: Path, ill: object, healthy: object, *affected: str) -> Pair:
    """Write both files and return them with the names of what is affected."""
    return Pair(save(ill, folder / "ill.pt"), save(healthy, folder / "healthy.pt"), affected)
