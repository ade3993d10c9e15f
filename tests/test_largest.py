"""The largest magnitudes are those that sorting all values finds, and tensors without a spike are left early."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from checkpoint_doctor.statistics import largest
from checkpoint_doctor.statistics.largest import find_largest
from checkpoint_doctor.statistics.values import InMemory, as_real

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.complex64, np.int32]


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 3000), count=st.integers(1, 40))
@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_what_sorting_finds(dtype: type, seed: int, size: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    numbers = (draw.standard_t(2, size) * 10).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest, "BLOCK_ELEMENTS", 256)
        found = find_largest(InMemory(numbers), count, below=inf)
    assert found is not None
    magnitudes = as_real(np.abs(numbers.astype(np.float32) if numbers.dtype.itemsize < 4 else numbers))
    assert found.magnitudes.tolist() == np.sort(magnitudes)[-count:].tolist()
    assert magnitudes[found.positions].tolist() == found.magnitudes.tolist()
    assert len(set(found.positions.tolist())) == found.positions.size


class Counted(InMemory, frozen=True):
    """Values that count their blocks."""

    seen: list[int]

    def blocks(self, elements: int) -> Iterator[NDArray]:
        for block in super().blocks(elements):
            self.seen.append(block.size)
            yield block


@pytest.mark.parametrize(("below", "blocks"), [(5.0, 1), (5.1, 10)])
def test_a_tensor_whose_other_values_are_as_large_is_left_early(below: float, blocks: int) -> None:
    numbers = np.ones(largest.BLOCK_ELEMENTS * 10, dtype=np.float32)
    numbers[[3, 17]] = 5.0
    values = Counted(numbers, [])
    assert (find_largest(values, 2, below=below) is None) == (blocks == 1)
    assert len(values.seen) == blocks
