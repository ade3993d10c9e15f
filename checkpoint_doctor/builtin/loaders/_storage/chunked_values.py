"""The values of a tensor that is stored in chunks: boxes of it at any place of one or several files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.statistics.values import Values

Shape = tuple[int, ...]


class Chunk(Struct, frozen=True):
    """A box of a tensor."""

    offsets: Shape
    """Index of its first element along each axis of the whole tensor."""
    sizes: Shape
    """Number of elements along each axis."""


class PlacedChunk(Struct, frozen=True):
    """A box of a tensor with its values, which have the box's shape."""

    chunk: Chunk
    values: Values


def describe_gaps(shape: Shape, chunks: Sequence[Chunk]) -> str:
    """Return why chunks are not the whole tensor, each element once; empty where they are.

    Chunks without elements may be anywhere.
    """
    kept = [chunk for chunk in chunks if 0 not in chunk.sizes]
    for chunk in kept:
        if len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape):
            return f"a chunk has {len(chunk.sizes)} axes, but the tensor has {len(shape)}"
        ends = [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        if any(end > size for end, size in zip(ends, shape, strict=True)):
            return f"the chunk at {list(chunk.offsets)} reaches to {ends}, beyond the tensor's shape {list(shape)}"
    overlap = _find_overlap(kept)
    if overlap is not None:
        return f"the chunks at {list(overlap[0].offsets)} and {list(overlap[1].offsets)} overlap"
    covered, size = sum(prod(chunk.sizes) for chunk in kept), prod(shape)
    return "" if covered == size else f"its chunks cover {covered:,} of {size:,} values"


def _find_overlap(chunks: Sequence[Chunk]) -> tuple[Chunk, Chunk] | None:
    """Return two chunks that share elements, ``None`` where there are none."""
    if len(chunks) < 2 or not chunks[0].sizes:
        return (chunks[0], chunks[1]) if len(chunks) > 1 else None
    starts = np.array([chunk.offsets for chunk in chunks])
    ends = starts + np.array([chunk.sizes for chunk in chunks])
    # Swept along the axis with the most different offsets, few chunks are open at the same time.
    axis = max(range(starts.shape[1]), key=lambda each: len(set(starts[:, each].tolist())))
    order = np.argsort(starts[:, axis], kind="stable")
    starts, ends = starts[order], ends[order]
    first = 0
    for index in range(1, len(chunks)):
        while ends[first, axis] <= starts[index, axis]:
            first += 1
        others = slice(first, index)
        shares = ((starts[others] < ends[index]) & (ends[others] > starts[index])).all(axis=1)
        if shares.any():
            return chunks[order[first + int(np.argmax(shares))]], chunks[order[index]]
    return None


class ChunkedValues:
    """``Values`` of a tensor whose chunks are all of it, each element once.

    A block is gathered from the chunks that it touches. Only the block is in memory, and those chunks that it touches
    and that are not stored in row-major order, which are read as a whole.
    """

    def __init__(self, shape: Shape, dtype: np.dtype, chunks: Sequence[PlacedChunk]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.chunks = tuple(each for each in chunks if 0 not in each.chunk.sizes)
        self._starts = _table([each.chunk.offsets for each in self.chunks], len(shape))
        self._ends = self._starts + _table([each.chunk.sizes for each in self.chunks], len(shape))

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        total = prod(self.shape)
        buffer = np.empty(min(elements, total), self.dtype)
        whole: dict[int, NDArray] = {}
        for start in range(0, total, elements):
            stop = min(start + elements, total)
            touched: set[int] = set()
            for box in _boxes(self.shape, start, stop):
                part = buffer[box.first - start : box.first - start + box.size(self.shape)]
                touched |= self._fill(part, box, whole)
            whole = {index: content for index, content in whole.items() if index in touched}
            yield buffer[: stop - start]

    def read(self) -> NDArray:
        """See ``Values.read``."""
        result = np.empty(self.shape, self.dtype)
        for each in self.chunks:
            ends = zip(each.chunk.offsets, each.chunk.sizes, strict=True)
            result[tuple(slice(offset, offset + size) for offset, size in ends)] = each.values.read()
        return result

    def _fill(self, part: NDArray, box: _Box, whole: dict[int, NDArray]) -> set[int]:
        """Fill the flat values of a box of the tensor, and return which chunks were needed."""
        axis = len(box.prefix)
        rows = part.reshape(-1, *self.shape[axis + 1 :])
        prefix = np.array(box.prefix, np.int64)
        starts, ends = self._starts, self._ends
        fits = ((starts[:, :axis] <= prefix) & (prefix < ends[:, :axis])).all(axis=1)
        fits &= (starts[:, axis] < box.stop) & (ends[:, axis] > box.start)
        found = np.flatnonzero(fits).tolist()
        for index in found:
            chunk = self.chunks[index].chunk
            begin, end = max(box.start, chunk.offsets[axis]), min(box.stop, chunk.offsets[axis] + chunk.sizes[axis])
            columns = (
                slice(offset, offset + size)
                for offset, size in zip(chunk.offsets[axis + 1 :], chunk.sizes[axis + 1 :], strict=True)
            )
            target = rows[(slice(begin - box.start, end - box.start), *columns)]
            inside = (*(np.array(box.prefix, int) - chunk.offsets[:axis]).tolist(), begin - chunk.offsets[axis])
            first = _flat_index(inside, chunk.sizes)
            self._copy(index, first, target, whole)
        return set(found)

    def _copy(self, index: int, first: int, target: NDArray, whole: dict[int, NDArray]) -> None:
        """Copy the values of a chunk from the flat index ``first`` on, as many as there are in the target."""
        values = self.chunks[index].values
        if not isinstance(values, StoredValues) or not values.is_contiguous:
            if index not in whole:
                whole[index] = values.read().reshape(-1)
            target[...] = whole[index][first : first + target.size].reshape(target.shape)
            return
        offset = values.offset + first * values.dtype.itemsize
        if target.flags.c_contiguous:
            values.source.read_into(offset, target.reshape(-1).view(np.uint8).data)
            return
        content = np.empty(target.size, values.dtype)
        values.source.read_into(offset, content.view(np.uint8).data)
        target[...] = content.reshape(target.shape)


class _Box(Struct, frozen=True):
    """Whole rows of a tensor from one index to another along the axis after ``prefix``, which gives the axes before."""

    first: int
    """Flat index of its first element in the tensor."""
    prefix: Shape
    start: int
    stop: int

    def size(self, shape: Shape) -> int:
        return (self.stop - self.start) * prod(shape[len(self.prefix) + 1 :])


def _boxes(shape: Shape, start: int, stop: int, prefix: Shape = (), first: int = 0) -> Iterator[_Box]:
    """Split a range of flat indices into boxes, in order. At most two of them are split further along each axis."""
    if not shape:
        return
    axis = len(prefix)
    row = prod(shape[axis + 1 :])
    begin, end = -(-start // row), stop // row
    if begin > end:  # inside one row
        yield from _boxes(shape, start - end * row, stop - end * row, (*prefix, end), first + end * row)
        return
    if start < begin * row:
        at = begin - 1
        yield from _boxes(shape, start - at * row, row, (*prefix, at), first + at * row)
    if begin < end:
        yield _Box(first + begin * row, prefix, begin, end)
    if end * row < stop:
        yield from _boxes(shape, 0, stop - end * row, (*prefix, end), first + end * row)


def _flat_index(index: Shape, sizes: Shape) -> int:
    """Return the flat index of the first element under an index of some of the axes."""
    flat = 0
    for place, size in zip(index, sizes, strict=False):
        flat = flat * size + place
    return flat * prod(sizes[len(index) :])


def _table(rows: Sequence[Shape], width: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(len(rows), width)
