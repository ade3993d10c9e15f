"""Tensors that were flattened one behind the other and then cut into equal parts, one for each process."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders._storage.chunked_values import Chunk, ChunkedValues, PlacedChunk
from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type
from checkpoint_doctor.builtin.loaders._storage.reshaped_values import ReshapedValues
from checkpoint_doctor.checkpoint import Skipped, Tensor


class FlattenedTensor(PickledTensor, eq=False):
    """A tensor in several stretches, each of them a flat tensor."""

    stretches: tuple[PickledTensor, ...] = ()

    def as_tensor(self, name: str, is_buffer: bool = False) -> Tensor | Skipped:
        """Return the tensor with a name, or why it cannot be examined. Raises as ``PickledTensor.as_tensor``."""
        if self.problem:
            return Skipped(name, self.problem)
        placed, begin, first = [], 0, None
        for stretch in self.stretches:
            checked = stretch.as_tensor(name)
            if isinstance(checked, Skipped):
                return checked
            first = first or checked
            placed.append(PlacedChunk(Chunk((begin,), stretch.shape), checked.values))
            begin += stretch.shape[0]
        flat = ChunkedValues((begin,), numpy_type(self.dtype), placed)
        # Two names of one tensor have the same stretches, of which the first tells them from all others.
        storage, place = (first.storage, first.storage_range) if first else ("", (0, 0))
        return Tensor(name, self.shape, self.dtype, ReshapedValues(flat, self.shape), storage, place, is_buffer)


def cut(flat: PickledTensor, start: int, length: int) -> PickledTensor:
    """Return a stretch of a flat tensor; its ``problem`` says where there is no such stretch."""
    if flat.problem:
        return flat
    is_flat = len(flat.shape) == 1 and flat.strides in (None, (1,))
    if not is_flat or start < 0 or length < 0 or start + length > flat.shape[0]:
        problem = f"elements {start:,} to {start + length:,} are not in a flat tensor of shape {list(flat.shape)}"
        return PickledTensor(dtype=flat.dtype, shape=(length,), problem=problem)
    return replace(flat, shape=(length,), strides=None, offset=flat.offset + start)


def join(shape: tuple[int, ...], stretches: Sequence[PickledTensor]) -> PickledTensor:
    """Return the tensor of a shape whose elements are those of flat tensors, one after the other."""
    kept = [stretch for stretch in stretches if stretch.problem or stretch.shape != (0,)]
    dtype = kept[0].dtype if kept else "float32"
    problem = next((stretch.problem for stretch in kept if stretch.problem), "")
    held = sum(prod(stretch.shape) for stretch in kept)
    if not problem and held != prod(shape):
        problem = f"its parts have {held:,} of {prod(shape):,} elements"
    if not problem and any(stretch.dtype != dtype for stretch in kept):
        problem = "its parts differ in their element type"
    if problem:
        return PickledTensor(dtype=dtype, shape=shape, problem=problem)
    if len(kept) == 1:
        return replace(kept[0], shape=shape)
    return FlattenedTensor(dtype=dtype, shape=shape, problem="", stretches=tuple(kept))
