"""The loader of Flax's msgpack files: parameters, or whole training states with optax's moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import Source

MAPS = (b"\xde", b"\xdf")
"""The first bytes of msgpack's larger maps; those of small ones are 81 to 8f."""
LONGEST_BEGINNING = 1 << 16
"""Bytes in which the first array must begin."""


class FlaxLoader(Struct, frozen=True):
    """Opens what ``flax.serialization.to_bytes`` writes: ``*.msgpack``, and the older ``checkpoint_1000``."""

    name: str = "flax"
    suffixes: tuple[str, ...] = (".msgpack", ".flax")

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            first = source.read(0, min(1, source.size))
            if not (b"\x81" <= first <= b"\x8f" or first in MAPS):
                return False
            from checkpoint_doctor.builtin.loaders.flax.msgpack import begins_like_state

            return begins_like_state(source.read(0, min(LONGEST_BEGINNING, source.size)))
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``.

        Raises:
            NotACheckpoint: its arrays are no parameters of a model.
            UnreadableCheckpoint: it is damaged.
        """
        from checkpoint_doctor.builtin.loaders._trees.tree import build_checkpoint, is_training_state
        from checkpoint_doctor.builtin.loaders.flax.msgpack import read_leaves

        leaves = read_leaves(source)
        if not is_training_state(leaves):
            raise NotACheckpoint(
                f"{source.name} is a msgpack file with arrays of Flax that are not the parameters of a model",
                "name the file that holds the model's parameters",
            )
        return build_checkpoint(source.name, self.name, leaves)

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


loader = FlaxLoader()
