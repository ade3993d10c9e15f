"""The pass over an optimizer's moments, against the plain computation."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from checkpoint_doctor.statistics import moments
from checkpoint_doctor.statistics.moments import measure_moments, tally_zeros
from checkpoint_doctor.statistics.values import InMemory

MOMENTS = st.sampled_from([0.0, 1e-45, 1e-20, 3e-4, 1.0, 2.5, -1.0, -7e5, float("nan"), float("inf")])


@pytest.fixture(params=[1, 3, 7, 64])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(moments, "BLOCK_ELEMENTS", request.param)
    return request.param


def pairs(shape: tuple[int, ...]) -> st.SearchStrategy:
    one = arrays(np.float32, shape, elements=MOMENTS)
    return st.tuples(one, one)


def largest(values: np.ndarray, axis: int) -> np.ndarray:
    lines = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    with np.errstate(all="ignore"):
        return np.fmax.reduce(lines, axis=1, initial=0.0)


@pytest.mark.usefixtures("block")
class TestAgainstThePlainComputation:
    @settings(max_examples=60, deadline=None)
    @given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6))
    def test_rows_and_columns(self, data: st.DataObject, shape: tuple[int, ...]):
        first, second = data.draw(pairs(shape))
        second = np.abs(second)
        found = measure_moments(InMemory(first), InMemory(second))
        with np.errstate(all="ignore"):
            root = np.sqrt(second)
            ratio = np.where(root > 0, np.abs(first) / root, np.float32(0.0))
            energy = root.astype(np.float64) ** 2
        np.testing.assert_allclose(found.row_first, largest(np.abs(first), 0), rtol=1e-6)
        np.testing.assert_allclose(found.row_second, largest(root, 0), rtol=1e-6)
        np.testing.assert_allclose(found.row_ratio, largest(ratio, 0), rtol=1e-6)
        if len(shape) > 1:
            np.testing.assert_allclose(found.column_second, largest(root, 1), rtol=1e-6)
            np.testing.assert_allclose(found.column_ratio, largest(ratio, 1), rtol=1e-6)
        else:
            assert found.column_second is None
        assert found.total == pytest.approx(float(energy[np.isfinite(energy)].sum()), rel=1e-5)
        assert found.nonfinite_first == int((~np.isfinite(first)).sum())
        assert found.nonfinite_second == int((~np.isfinite(second)).sum())
        assert found.untouched == int((second == 0).sum())

    @settings(max_examples=60, deadline=None)
    @given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
    def test_zeros_beside_their_moments(self, data: st.DataObject, shape: tuple[int, ...]):
        values, record = data.draw(pairs(shape))
        rows = np.array(data.draw(st.lists(st.integers(0, shape[0] - 1), unique=True)), dtype=int)
        for chosen in (None, rows):
            found = tally_zeros(InMemory(values), InMemory(record), chosen)
            inside = np.ones(shape, bool) if chosen is None else np.zeros(shape, bool)
            if chosen is not None:
                inside[chosen] = True
            assert found.selected == int(inside.sum())
            assert found.zeros == int(((values == 0) & inside).sum())
            assert found.zeros_untouched == int(((values == 0) & (record == 0) & inside).sum())
            assert found.untouched == int(((record == 0) & inside).sum())


def test_live_entries_are_counted_by_their_size():
    second = np.array([1e-12, 1e-10, 1e-2, 1.0, 0.0, 1.0], np.float32)
    first = np.array([1e-6, 1e-5, 1e-1, 1.0, 0.0, 1e-9], np.float32)  # the last one has stopped
    found = measure_moments(InMemory(first), InMemory(second))
    assert found.live_below(1e-4) == 0.5
    assert found.live_below(2.0) == 1.0
    assert found.live_below(0.0) == 0.0


def test_of_many_live_entries_a_sample_gives_the_share():
    second = np.full((512, 128), 1.0, np.float32)
    second[:, :32] = 1e-10
    found = measure_moments(InMemory(np.sqrt(second)), InMemory(second))
    assert found.live_below(1e-2) == pytest.approx(0.25, abs=0.01)


def test_half_precision_scalars_and_empty_moments():
    half = np.array([[0.5, 0.0], [2.0, 0.0]], ml_dtypes.bfloat16)
    found = measure_moments(InMemory(half), InMemory(half))
    np.testing.assert_allclose(found.row_first, [0.5, 2.0])
    np.testing.assert_allclose(found.column_first, [2.0, 0.0])
    assert measure_moments(InMemory(np.float32(2.0)), None).row_first.tolist() == [2.0]
    assert measure_moments(None, InMemory(np.zeros((0, 3), np.float32))).total == 0.0


def test_moments_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        measure_moments(InMemory(np.zeros(3)), InMemory(np.zeros(4)))


def test_memory_does_not_grow_with_the_moments():
    import tracemalloc

    class Endless:
        shape, dtype = (4096, 4096), np.dtype(np.float32)

        def blocks(self, elements: int):
            buffer = np.ones(elements, np.float32)
            for start in range(0, 4096 * 4096, elements):
                yield buffer[: min(elements, 4096 * 4096 - start)]

    tracemalloc.start()
    try:
        measure_moments(Endless(), Endless())
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
