"""Stand-ins for tensors and storages in a pickle; their bytes lie elsewhere in the file."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from math import prod

import numpy as np
from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders._storage.converted_values import Conversion, ConvertedValues, cast, raw_type
from checkpoint_doctor.builtin.loaders._storage.dtypes import PACKED, numpy_type, size_of
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues, count_spanned, is_row_major
from checkpoint_doctor.checkpoint import Skipped, Tensor
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import REPEATED, TENSORS
from checkpoint_doctor.statistics.values import Values
from checkpoint_doctor.text import shown

MOST_AXES = 64
"""The limit of both PyTorch and NumPy."""


class Memory(Struct, eq=False, dict=True):
    """The bytes of a storage: known by name while the pickle is read, by offset afterwards."""

    name: str
    """Names the memory within the checkpoint, such as ``policy.pth:data/3``."""
    size: int
    """Bytes, as declared in the pickle."""
    place: Callable[[], Source] | None = None
    """Returns the bytes as a source; ``None`` where the container does not contain them (or is not read yet)."""
    big_endian: bool = False
    _viewed: int = 0
    """Bytes of all different views that were allowed."""
    _views: set[Hashable] = field(default_factory=set)

    @cached_property
    def source(self) -> Source:
        """The bytes.

        Raises:
            UnreadableCheckpoint: the file does not contain them.
        """
        if self.place is None:
            raise UnreadableCheckpoint(f"storage {shown(self.name)} is not in the file", "take an earlier checkpoint")
        return self.place()

    def allows(self, view: Hashable, size: int) -> bool:
        """Return whether a view of so many bytes may be read, and spend from the file's budget what it repeats."""
        if view in self._views:
            return True
        there = min(self.size, self.source.size)
        repeated = max(0, self._viewed + size - there) - max(0, self._viewed - there)
        if repeated > self.source.budget.left(REPEATED):
            return False
        self.source.budget.spend(REPEATED, repeated)
        self._views.add(view)
        self._viewed += size
        return True


class PickledStorage(Struct, frozen=True, eq=False):
    """A range of bytes with an element type: what a persistent id in a pickle refers to."""

    memory: Memory
    dtype: str
    start: int
    """First byte within the memory."""
    size: int
    """Bytes."""


class PickledTensor(Struct, eq=False, dict=True):
    """A tensor in an unpickled object. ``as_tensor`` names it and checks it against its storage."""

    storage: PickledStorage | None = None
    dtype: str = "float32"
    """PyTorch's name for the element type."""
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] | None = None
    """Strides in elements; ``None`` for row-major."""
    offset: int = 0
    """First element within the storage."""
    stored_dtype: str = ""
    """Element type in the file where PyTorch would convert while loading, ``""`` where it is the same."""
    is_conjugated: bool = False
    is_negated: bool = False
    problem: str = "its state was never set"
    """Why its values cannot be read; empty where they can."""

    def build(self, state: object) -> None:
        """Set the state that PyTorch before 0.4 stored for tensors, variables and parameters."""
        if not isinstance(state, tuple):
            return
        if len(state) == 4 and isinstance(state[0], PickledStorage):
            self._copy_from(view(state[0], state[1], state[2], state[3]))
        elif len(state) == 5 and isinstance(state[0], PickledTensor):
            self._copy_from(state[0])

    def _copy_from(self, other: PickledTensor) -> None:
        self.storage, self.dtype, self.shape = other.storage, other.dtype, other.shape
        self.strides, self.offset, self.problem = other.strides, other.offset, other.problem
        self.stored_dtype = other.stored_dtype

    @cached_property
    def values(self) -> Values:
        """The tensor's values, which are read lazily.

        Raises:
            UnreadableCheckpoint: the tensor does not fit into its storage, or the storage is not in the file.
        """
        assert self.storage is not None, self.problem
        memory = self.storage.memory
        dtype = self.stored_dtype or self.dtype
        strides = None if is_row_major(self.shape, self.strides) else self.strides
        raw, conversions = raw_type(dtype, memory.big_endian, strides is not None)
        stored = StoredValues(memory.source, self.storage_range[0], raw, self.shape, strides)
        if self.stored_dtype:
            conversions.append(cast(numpy_type(self.stored_dtype), numpy_type(self.dtype)))
        if self.is_conjugated:
            conversions.append(Conversion(np.conjugate, np.conjugate))
        if self.is_negated:
            conversions.append(Conversion(np.negative, np.negative))
        return ConvertedValues(stored, tuple(conversions), numpy_type(self.dtype)) if conversions else stored

    @property
    def extent(self) -> int:
        """Bytes from the first element to the end of the last one, gaps included."""
        return count_spanned(self.shape, self.strides) * size_of(self.stored_dtype or self.dtype)

    @property
    def storage_range(self) -> tuple[int, int]:
        """First byte of the tensor within its memory, and the byte after its last."""
        if self.storage is None:
            return 0, 0
        item = size_of(self.stored_dtype or self.dtype)
        start = self.storage.start + self.offset * item
        return start, start + count_spanned(self.shape, self.strides) * item

    def as_tensor(self, name: str, is_buffer: bool = False) -> Tensor | Skipped:
        """Return the tensor with a name, or why it cannot be examined.

        Raises:
            UnreadableCheckpoint: the tensor reaches beyond its storage, or the storage beyond the file.
        """
        if self.problem or self.storage is None:
            return Skipped(name, self.problem or "it has no storage")
        if self.dtype in PACKED or self.stored_dtype in PACKED:
            return Skipped(name, f"{self.dtype} packs several numbers into one byte, and such types are not unpacked")
        memory = self.storage.memory
        start, end = self.storage_range
        extent = end - start
        limit = min(self.storage.start + self.storage.size, memory.size)
        if end > limit and extent:
            raise UnreadableCheckpoint(
                f"tensor {shown(name)} should take bytes {start:,} to {end:,} of storage {shown(memory.name)}, "
                f"but the storage ends at byte {limit:,}",
                "the file is damaged: copy it again, or take an earlier checkpoint",
            )
        if extent and memory.source.size < end:
            raise UnreadableCheckpoint(
                f"tensor {shown(name)} should take bytes {start:,} to {end:,} of storage {shown(memory.name)}, "
                f"but only {memory.source.size:,} bytes of the storage are in the file",
                "the file is damaged: copy it again, or take an earlier checkpoint",
            )
        memory.source.budget.spend(TENSORS, 1)
        # A view with gaps is read with them, and rows without entries are still counted one by one.
        size = max(prod(self.shape) * size_of(self.dtype), extent, 8 * self.shape[0] if 0 in self.shape else 0)
        if not memory.allows((start, end, self.shape, self.strides, self.dtype), size):
            what = f"its {extent:,} bytes would take {size:,} in memory" if size > extent else "views overlap"
            return Skipped(name, f"{shown(memory.name)} is viewed too often: {what}")
        return Tensor(name, self.shape, self.dtype, self.values, memory.name, (start, end), is_buffer)


def view(storage: PickledStorage, offset: object, shape: object, strides: object, dtype: str = "") -> PickledTensor:
    """Return a tensor that is a view of a storage.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size or stride is negative, too large or missing.
    """
    if not isinstance(storage, PickledStorage):
        raise TypeError("not a storage")
    sizes, steps = dimensions(shape), dimensions(strides)
    if not isinstance(offset, int) or offset < 0 or offset >= 1 << 62:
        raise ValueError("the storage offset is out of range")
    if len(sizes) != len(steps):
        raise ValueError("shape and strides differ in length")
    return PickledTensor(storage, dtype or storage.dtype, sizes, steps, offset, problem="")


def dimensions(shape: object) -> tuple[int, ...]:
    """Return a shape (or strides) as a tuple of plain numbers.

    Raises:
        TypeError: it is not a sequence of integers.
        ValueError: a number is negative, or the whole is larger than any memory.
    """
    if not isinstance(shape, tuple | list):
        raise TypeError("a shape is not a tuple")
    if len(shape) > MOST_AXES:
        raise ValueError(f"a shape has {len(shape):,} axes")
    if not all(isinstance(size, int) for size in shape):
        raise TypeError("a shape contains something other than integers")
    if any(size < 0 for size in shape) or prod(max(size, 1) for size in shape) >= 1 << 59:
        raise ValueError("a shape has a negative or too large size")
    return tuple(int(size) for size in shape)
