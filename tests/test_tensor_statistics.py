"""What one pass over a tensor tells, against NumPy's own answers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from checkpoint_doctor.statistics import tensors
from checkpoint_doctor.statistics.tensors import measure
from checkpoint_doctor.statistics.values import InMemory, distinct, median

FLOATS = st.floats(width=32, allow_subnormal=True)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=4, max_side=7), elements=FLOATS))
def test_counts_and_range_equal_numpys(array):
    found = measure(InMemory(array))
    finite = array[np.isfinite(array)]
    assert found.count == array.size
    assert found.zeros == np.count_nonzero(array == 0)
    assert found.nan == np.count_nonzero(np.isnan(array))
    assert found.infinite == np.count_nonzero(np.isinf(array))
    assert found.subnormals == np.count_nonzero((array != 0) & (np.abs(array) < np.finfo(np.float32).smallest_normal))
    assert found.minimum == (finite.min() if finite.size else None)
    assert found.maximum == (finite.max() if finite.size else None)
    if found.nonfinite:
        assert found.first_nonfinite == np.flatnonzero(~np.isfinite(array).reshape(-1))[0]


SPECIAL = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38]


@given(arrays.arrays(np.float32, st.integers(1, 4), elements=st.sampled_from(SPECIAL)))
def test_special_numbers_in_every_company(array):
    found = measure(InMemory(array))
    finite = array[np.isfinite(array)]
    assert found.zeros == np.count_nonzero(array == 0)
    assert found.nonfinite == array.size - finite.size
    assert found.subnormals == np.count_nonzero(np.abs(array) == np.float32(1e-45))
    assert (found.minimum, found.maximum) == ((finite.min(), finite.max()) if finite.size else (None, None))


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_blocks_make_no_difference(rows, columns, seed):
    array = np.random.default_rng(seed).integers(-2, 3, size=(rows, columns)).astype(np.float32)
    whole = measure(InMemory(array))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "BLOCK_ELEMENTS", 16)
        pieces = measure(InMemory(array))
    assert pieces.zeros == whole.zeros
    assert pieces.zero_rows.tolist() == whole.zero_rows.tolist() == np.flatnonzero(~array.any(axis=1)).tolist()
    assert pieces.zero_columns.tolist() == whole.zero_columns.tolist() == np.flatnonzero(~array.any(axis=0)).tolist()
    assert sorted(map(sorted, pieces.duplicate_rows)) == sorted(map(sorted, whole.duplicate_rows))
    assert pieces.norm == pytest.approx(whole.norm)


def test_duplicate_columns_are_the_identical_ones_of_finite_numbers_and_not_zero():
    array = np.random.default_rng(0).normal(size=(700, 12)).astype(np.float32)
    array[:, [3, 7, 11]] = array[:, :1]
    array[:, [4, 5]] = 0
    array[:, [1, 2]] = np.nan
    array[:-1, 6] = array[:-1, 8]
    assert measure(InMemory(array), compares_columns=True).duplicate_columns == ((0, 3, 7, 11),)
    assert measure(InMemory(array)).duplicate_columns == ()


def test_columns_are_told_apart_by_any_row_of_any_block(monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setattr(tensors, "BLOCK_ELEMENTS", 50)
    for rows in (1, 7, 40, 300):
        array = np.repeat(random.integers(0, 2, (rows, 1)), 9, axis=1).astype(np.float32)
        array[:, 0] = 1
        array[random.integers(rows), 3] += 1
        array[random.integers(rows), [5, 6]] -= 1
        same = {}
        for column in range(9):
            if array[:, column].any():
                same.setdefault(array[:, column].tobytes(), []).append(column)
        expected = sorted(tuple(group) for group in same.values() if len(group) > 1)
        assert sorted(measure(InMemory(array), array.shape, compares_columns=True).duplicate_columns) == expected


def test_rows_and_columns_are_those_of_the_shape_that_was_asked_for():
    kernel = np.ones((2, 3, 4), np.float32)
    kernel[..., 1] = 0
    kernel[1, 2] = 0
    found = measure(InMemory(kernel), (6, 4))
    assert (found.zero_columns.tolist(), found.zero_rows.tolist()) == ([1], [5])


def test_duplicate_rows_are_the_identical_ones():
    array = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32)
    array[[7, 19, 41]] = array[3]
    array[[5, 6]] = 0
    assert measure(InMemory(array)).duplicate_rows == ((3, 7, 19, 41),)


def test_a_permuted_row_is_no_duplicate():
    array = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32)
    array[7] = array[3][::-1]
    assert measure(InMemory(array)).duplicate_rows == ()


def test_a_convolutions_column_is_an_input_channel():
    kernel = np.ones((4, 3, 2, 2), dtype=np.float32)
    kernel[:, 1] = 0
    kernel[0, 2, 0, 0] = 0
    found = measure(InMemory(kernel))
    assert found.zero_columns.tolist() == [1]
    assert found.zero_rows.tolist() == []


def test_large_values_do_not_overflow_the_norm():
    array = np.full((2, 3), 1.5e24, dtype=np.float32)
    found = measure(InMemory(array))
    assert found.nonfinite == 0
    assert found.norm == pytest.approx(1.5e24 * np.sqrt(6), rel=1e-6)


def test_one_nan_does_not_hide_the_others():
    array = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    array[1, 1] = np.nan
    found = measure(InMemory(array))
    assert (found.minimum, found.maximum, found.nan) == (-1.0, 1.0, 1)
    assert found.mean == pytest.approx(np.nanmean(array), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_narrow_floats_are_measured_exactly(dtype):
    array = np.array([[0.0, -0.0, 1.5], [-2.0, 0.25, 3.0]]).astype(dtype)
    found = measure(InMemory(array))
    assert (found.zeros, found.minimum, found.maximum) == (2, -2.0, 3.0)
    assert found.mean == pytest.approx(2.75 / 6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_])
def test_integers_keep_exact_ranges(dtype):
    array = np.array([0, 1, 1, 0]).astype(dtype)
    found = measure(InMemory(array))
    assert (found.zeros, found.minimum, found.maximum, found.subnormals) == (2, 0, 1, 0)
    assert isinstance(found.minimum, int)


def test_large_integers_are_not_rounded():
    found = measure(InMemory(np.array([2**62 + 1, -(2**62) - 1])))
    assert (found.minimum, found.maximum) == (-(2**62) - 1, 2**62 + 1)


def test_complex_numbers_have_a_norm_and_no_order():
    found = measure(InMemory(np.array([3 + 4j, 0, np.nan + 1j])))
    assert (found.zeros, found.nan, found.minimum, found.mean) == (1, 1, None, None)
    assert found.norm == pytest.approx(5.0)


def test_an_empty_tensor_has_no_figures():
    found = measure(InMemory(np.empty((0, 3), dtype=np.float32)))
    assert (found.count, found.zeros, found.minimum, found.norm) == (0, 0, None, None)


def test_a_constant_has_no_spread():
    assert measure(InMemory(np.full(100_000, 0.1, dtype=np.float32))).std == 0.0


def test_mean_and_spread_of_a_large_tensor_are_precise():
    array = np.random.default_rng(1).normal(3.0, 0.5, size=(1200, 700)).astype(np.float32)
    found = measure(InMemory(array))
    assert found.mean == pytest.approx(array.mean(dtype=np.float64), rel=1e-6)
    assert found.std == pytest.approx(array.std(dtype=np.float64), rel=1e-4)
    assert found.row_norms == pytest.approx(np.linalg.norm(array, axis=1), rel=1e-5)


@given(arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)))
def test_the_median_equals_numpys(array):
    assert median(array) == pytest.approx(np.median(array))


@given(arrays.arrays(np.float64, st.integers(0, 30), elements=st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0])))
def test_the_distinct_values_equal_numpys(array):
    assert distinct(array).tolist() == np.unique(array).tolist()
