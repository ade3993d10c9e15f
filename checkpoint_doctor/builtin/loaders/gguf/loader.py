"""The loader of GGUF files, the format of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Skipped, Tensor
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source

if TYPE_CHECKING:
    from checkpoint_doctor.builtin.loaders.gguf.header import Entry

MAGIC = b"GGUF"


class GgufLoader(Struct, frozen=True):
    """Opens ``*.gguf``. Tensors of plain numbers are read; quantised ones are listed, and their values are not."""

    name: str = "gguf"
    suffixes: tuple[str, ...] = (".gguf",)

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            return source.size > 8 and source.read(0, 4) == MAGIC
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``. Tensors come in the order of their bytes."""
        from checkpoint_doctor.builtin.loaders.gguf.header import read_header

        entries, settings = read_header(source)
        return Checkpoint(
            path=source.name,
            format=self.name,
            tensors=tuple(_as_tensor(source, each, each.dtype) for each in entries if each.dtype is not None),
            metadata={key: value for key, value in settings.items() if value},
            skipped=tuple(_skip(each) for each in entries if each.dtype is None),
        )

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


def _as_tensor(source: Source, entry: Entry, dtype: str) -> Tensor:
    from checkpoint_doctor.builtin.loaders._storage.converted_values import stored_values

    return Tensor(entry.name, entry.shape, dtype, stored_values(source, entry.start, dtype, entry.shape))


def _skip(entry: Entry) -> Skipped:
    shape = "×".join(map(str, entry.shape))
    if entry.size is None:
        return Skipped(f"tensor {entry.name} ({shape}, {entry.type_name})", "this type is not known")
    return Skipped(f"tensor {entry.name} ({shape}, {entry.type_name})", "quantised values are not judged")


loader = GgufLoader()
