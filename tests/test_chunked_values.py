"""Tensors stored in chunks: what belongs together is read as one tensor, and what does not is said."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_doctor.builtin.loaders._storage.chunked_values import Chunk, ChunkedValues, PlacedChunk, describe_gaps
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.statistics.values import InMemory


@st.composite
def cut_tensors(draw: st.DrawFn) -> tuple[np.ndarray, list[Chunk]]:
    """A tensor and the chunks that a grid of cuts leaves of it, in any order."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    edges = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    spans = [list(pairwise(each)) for each in edges]
    chunks = [Chunk(tuple(a for a, _ in box), tuple(b - a for a, b in box)) for box in product(*spans)]
    chunks = draw(st.permutations(chunks))
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape), chunks


def _place(whole: np.ndarray, chunk: Chunk, how: int) -> PlacedChunk:
    box = whole[tuple(slice(a, a + n) for a, n in zip(chunk.offsets, chunk.sizes, strict=True))]
    if how == 0:
        return PlacedChunk(chunk, InMemory(box))
    if how == 1:  # stored with its axes reversed, as the transposed view of a tensor is
        source = MemorySource("part", b"head" + np.ascontiguousarray(box.T).tobytes())
        strides = tuple(int(np.prod(box.shape[:axis])) for axis in range(box.ndim))
        return PlacedChunk(chunk, StoredValues(source, 4, whole.dtype, box.shape, strides))
    source = MemorySource("part", b"head" + box.tobytes())
    return PlacedChunk(chunk, StoredValues(source, 4, whole.dtype, box.shape))


@given(cut=cut_tensors(), elements=st.integers(1, 40), seed=st.integers(0, 2))
def test_chunks_are_read_as_the_tensor_that_was_cut(
    cut: tuple[np.ndarray, list[Chunk]], elements: int, seed: int
) -> None:
    whole, chunks = cut
    assert describe_gaps(whole.shape, chunks) == ""
    placed = [_place(whole, chunk, (seed + index) % 3) for index, chunk in enumerate(chunks)]
    values = ChunkedValues(whole.shape, whole.dtype, placed)
    blocks = [block.copy() for block in values.blocks(elements)]
    assert [block.size for block in blocks[:-1]] == [elements] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks), whole.reshape(-1))
    np.testing.assert_array_equal(values.read(), whole)


@given(cut=cut_tensors(), data=st.data())
def test_a_missing_or_repeated_chunk_is_noticed(cut: tuple[np.ndarray, list[Chunk]], data: st.DataObject) -> None:
    whole, chunks = cut
    index = data.draw(st.integers(0, len(chunks) - 1))
    without = chunks[:index] + chunks[index + 1 :]
    left = whole.size - int(np.prod(chunks[index].sizes))
    assert describe_gaps(whole.shape, without) == f"its chunks cover {left:,} of {whole.size:,} values"
    assert "overlap" in describe_gaps(whole.shape, [*chunks, chunks[index]])


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([Chunk((0, 0), (3, 4)), Chunk((3, 0), (2, 4))], "the chunk at [3, 0] reaches to [5, 4]"),
        ([Chunk((0, 0), (3, 4)), Chunk((2, 0), (2, 4))], "the chunks at [0, 0] and [2, 0] overlap"),
        ([Chunk((0,), (4,))], "a chunk has 1 axes, but the tensor has 2"),
        ([Chunk((0, 0), (4, 2))], "its chunks cover 8 of 16 values"),
        ([Chunk((0, 0), (4, 4)), Chunk((4, 0), (0, 4))], ""),
    ],
)
def test_what_is_wrong_with_the_chunks_is_said(chunks: list[Chunk], message: str) -> None:
    assert describe_gaps((4, 4), chunks).startswith(message)
    assert bool(describe_gaps((4, 4), chunks)) == bool(message)


def test_many_chunks_are_checked_quickly() -> None:
    rows = [Chunk((index, 0), (1, 8)) for index in range(30_000)]
    assert describe_gaps((30_000, 8), rows) == ""
