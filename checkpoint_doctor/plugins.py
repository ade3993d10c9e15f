"""The doors for loaders, analyzers and reporters: ours come in the same way as a stranger's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from numpy.typing import NDArray

from checkpoint_doctor.model import Checkpoint, Patch, Report, Tensor
from checkpoint_doctor.rule import Rule
from checkpoint_doctor.source import Source

LOADERS = "checkpoint_doctor.loaders"
ANALYZERS = "checkpoint_doctor.analyzers"
REPORTERS = "checkpoint_doctor.reporters"


class Loader(Protocol):
    """Reads one family of formats, and patches what it reads. An entry point names an instance."""

    name: str
    """The word that reports print as the format."""
    suffixes: tuple[str, ...]
    """File name endings by which a folder is searched; content alone decides whether a file is opened."""

    def recognizes(self, source: Source) -> bool:
        """True where the first bytes (or the directory at the end) are of this loader's format. Never raises."""

    def open(self, source: Source) -> Checkpoint:
        """Open a checkpoint without executing anything in it; tensors stay on disk until they are asked for.

        Raises:
            UnreadableCheckpoint: it cannot be opened; the message says why, with expected and found byte counts.
        """

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """Say which bytes of which files to replace so that tensors get new values and the container stays whole.

        ``changes`` maps tensors of this checkpoint (the model's or an optimizer's) to arrays of the same shape.

        Raises:
            RepairFailed: the format cannot be patched in place; the message says why.
        """


@dataclass(frozen=True)
class Page:
    """What a reporter may know about where its text goes."""

    width: int = 80
    color: bool = False
    verbose: bool = False


class Reporter(Protocol):
    """Turns a report into text. An entry point names an instance; its name is the ``--format``."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the whole output; the command line writes it."""
