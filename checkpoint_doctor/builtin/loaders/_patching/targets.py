"""A tensor with its new values, as bytes of a file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._patching.places import Place, locate
from checkpoint_doctor.builtin.loaders._patching.rounding import cast, find_kept, refuse_losses
from checkpoint_doctor.builtin.loaders._storage.converted_values import ConvertedValues
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.text import shown

PIECE = 1 << 18
"""Elements of a tensor that are compared in memory at a time."""


class Target(Struct, frozen=True, eq=False):
    """A tensor, or a piece of one, and its new values."""

    tensor: Tensor
    wanted: NDArray
    """The new values, flat, in the dtype in which they were given."""
    stored: StoredValues
    place: Place
    """The offset of the stored values' source in the file."""

    @property
    def name(self) -> str:
        """The tensor's name for messages."""
        return shown(self.tensor.name)

    @property
    def start(self) -> int:
        """Offset of its first element in the file."""
        return self.place.start + self.stored.offset

    @property
    def end(self) -> int:
        """Offset after its last element in the file."""
        return self.start + self.stored.extent

    def pieces(self) -> Iterator[Target]:
        """Yield it in pieces that are patched one by one; a tensor that is not contiguous is a single piece."""
        if not self.stored.is_contiguous:
            yield self
            return
        for first in range(0, self.wanted.size, PIECE):
            wanted = self.wanted[first : first + PIECE]
            offset = self.stored.offset + first * self.stored.dtype.itemsize
            yield replace(
                self, wanted=wanted, stored=replace(self.stored, offset=offset, shape=wanted.shape, strides=None)
            )

    def elements_in(self, content: NDArray, start: int) -> NDArray:
        """Return a view of its elements in ``content``, which has one entry per byte of the file from ``start`` on.

        The view has the tensor's shape and one more axis for the bytes of an element.
        """
        content = content[self.start - start : self.end - start]
        width = self.stored.dtype.itemsize
        if self.stored.strides is None or self.stored.is_contiguous:
            return content.reshape(*self.stored.shape, width)
        steps = (*(stride * width for stride in self.stored.strides), 1)
        return np.lib.stride_tricks.as_strided(content, (*self.stored.shape, width), steps)

    def render(self, rows: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return the new bytes of its elements, given the present ones, and which elements change.

        Raises:
            RepairFailed: the tensor's dtype cannot represent a value.
        """
        values = self.tensor.values
        present = np.ascontiguousarray(rows).reshape(-1).view(self.stored.dtype)
        written = cast(self.wanted, values.dtype)
        if isinstance(values, ConvertedValues):
            encoded = values.encode(written)
            old, written = values.decode(present), values.decode(encoded)
        else:
            old, encoded = present, written
        changes = ~find_kept(old, self.wanted, written)
        refuse_losses(self.wanted[changes], written[changes], self.tensor.is_floating, self.name)
        content = np.ascontiguousarray(encoded).view(np.uint8).reshape(rows.shape)
        changes = changes.reshape(rows.shape[:-1])
        return np.where(changes[..., None], content, rows), changes


def find_target(tensor: Tensor, wanted: NDArray) -> Target:
    """Find a tensor's bytes in its file.

    Raises:
        RepairFailed: the file contains the bytes in another form only, or the new values have another shape.
    """
    wanted = np.asarray(wanted)
    name = shown(tensor.name)
    if wanted.shape != tensor.shape:
        raise RepairFailed(
            f"values of shape {list(wanted.shape)} cannot be written into {name} of shape {list(tensor.shape)}"
        )
    stored = tensor.values.stored if isinstance(tensor.values, ConvertedValues) else tensor.values
    if not isinstance(stored, StoredValues):
        raise RepairFailed(f"{name} cannot be changed in place: its values are not in a file")
    return Target(tensor, wanted.reshape(-1), stored, locate(stored.source, name))
