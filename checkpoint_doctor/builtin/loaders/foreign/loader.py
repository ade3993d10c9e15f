"""The loader that is tried last: its error says what a file is that no other loader recognizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders.foreign.signatures import name_file
from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.sources import Source


class ForeignLoader(Struct, frozen=True):
    """Recognizes everything and opens nothing."""

    name: str = "foreign"
    suffixes: tuple[str, ...] = ()

    def recognizes(self, source: Source) -> bool:
        """Return true, since all other loaders were tried before."""
        return True

    def open(self, source: Source) -> NoReturn:
        """Raise the error that says what the file is.

        Raises:
            NotACheckpoint: it is an intact file of another kind.
            UnreadableCheckpoint: it is damaged or empty, or a pointer or error page in place of a checkpoint.
        """
        raise name_file(source)

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        raise RepairFailed("a file of another kind cannot be repaired")


loader = ForeignLoader()
