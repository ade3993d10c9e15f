"""Init rules on small arrays, entry by entry, and the arithmetic of old and new entries."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.layers.init_rules import (
    at_lines,
    draw_all,
    draw_normal,
    draw_orthogonal,
    draw_uniform,
    fill,
    fill_typical,
    fill_zeros,
    in_turn,
    where_not_finite,
    within,
)
from checkpoint_doctor.repair.entries import differs, generator, round_toward_zero, typical_square, widen

NAN, INF = np.nan, np.inf


class Extremes:
    """A random generator that gives both ends of an interval and its middle, in turn."""

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> NDArray:
        return np.resize([low, (low + high) / 2, high], size).astype(np.float64)

    def normal(self, mean: float, deviation: float, size: tuple[int, ...]) -> NDArray:
        return np.resize([mean - deviation, mean, mean + deviation], size)


RANDOM: Any = Extremes()


def test_drawn_zeros_are_neither_zero_nor_at_the_limit() -> None:
    new = draw_uniform(0.01)(np.array([0.0, 0.0, 0.0, 0.5, -0.0]), RANDOM)
    assert new == pytest.approx([-0.0099, 0.00001, 0.0099, 0.5, 0.00001])


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        (fill_zeros(2.0), [0, 1, -0.0, NAN], [2, 1, 2, NAN]),
        (fill(3.0), [0, 1, NAN], [3, 3, 3]),
        (draw_all(0.5), [1, 1, 1], [-0.5, 0, 0.5]),
        (draw_normal(2.0), [1, 1, 1], [-2, 0, 2]),
        (within(slice(1, 3), fill(9.0)), [0, 1, 2, 3], [0, 9, 9, 3]),
        (where_not_finite(fill(9.0)), [NAN, 1, -INF], [9, 1, 9]),
        (where_not_finite(lambda old, random: old - 1), [NAN, 1, INF], [-1, 1, -1]),
        (in_turn([fill_zeros(1.0), lambda old, random: old * 2]), [0, 3], [2, 6]),
        (fill_typical, [NAN, 1, 2, 4, 0, INF], [2, 1, 2, 4, 0, 2]),
        (fill_typical, [NAN, 0, INF], [0, 0, 0]),
        (fill_typical, [NAN, NAN], [0, 0]),
    ],
)
def test_a_rule_changes_these_entries(rule: Any, old: list[float], new: list[float]) -> None:
    before = np.array(old, np.float64)
    kept = before.copy()
    assert rule(before, RANDOM) == pytest.approx(np.array(new, np.float64), nan_ok=True)
    assert np.array_equal(before, kept, equal_nan=True), "the old values stay as they are"


@pytest.mark.parametrize(("axis", "changed"), [(0, [[1, 1], [9, 9], [9, 9]]), (1, [[1, 9], [1, 9], [1, 9]])])
def test_lines_are_rows_or_columns(axis: int, changed: list[list[float]]) -> None:
    lines = [1, 2] if axis == 0 else [1]
    assert at_lines(lines, axis, fill(9.0))(np.ones((3, 2), np.float32), RANDOM).tolist() == changed


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 2, 3), (2, 3, 3)])
def test_an_orthogonal_draw_is_the_one_of_pytorch(shape: tuple[int, ...]) -> None:
    rows, columns = shape[0], int(np.prod(shape[1:]))
    drawn = draw_orthogonal(2.0)(np.zeros(shape), np.random.default_rng(0))
    assert drawn.shape == shape
    matrix = drawn.reshape(rows, columns) / 2
    tall = matrix if rows >= columns else matrix.T
    assert tall.T @ tall == pytest.approx(np.eye(tall.shape[1]))
    # The decomposition is unique where the triangle's diagonal is positive.
    sample = np.random.default_rng(0).normal(size=tall.shape)
    triangle = tall.T @ sample
    assert np.diag(triangle).min() > 0
    assert triangle == pytest.approx(np.triu(triangle))


def test_a_matrix_without_rows_stays_empty() -> None:
    assert draw_orthogonal(1.0)(np.zeros((0, 4)), np.random.default_rng(0)).shape == (0, 4)


# Old and new entries


@pytest.mark.parametrize(
    ("values", "repaired", "least", "typical"),
    [
        ([1, 2, 4, 100], [0, 0, 0, 1], 1e-16, 2),
        ([1, 2, 4, 0, INF, NAN], [0] * 6, 1e-16, 2),
        ([1, 2, 4, 8], [1, 1, 1, 1], 1e-16, 3),
        ([0, 0, NAN], [0, 0, 0], 1e-16, 0),
        ([], [], 1e-16, 0),
        ([1e-20, 1e-20, 1e-20, 1e-4], [0] * 4, 1e-16, 1e-4),
        ([1e-20, 1e-20, 1e-20, 1e-16], [0] * 4, 1e-16, 1e-16),
        ([1e-20, 1e-16, 1e-4], [0] * 3, 1e-16, 1e-16),
        ([1e-20, 1e-20, 1e-20, 1e-17], [0] * 4, 1e-16, 1e-20),
        ([1e-20, 1e-20, 1e-20, 1e-4], [0, 0, 0, 1], 1e-16, 1e-4),
    ],
    ids=[
        "the healthy ones", "finite and not zero", "all repaired", "no gradient ever", "nothing", "faded",
        "faded but one at the limit", "at the limit", "all faded", "the only live one is repaired",
    ],
)  # fmt: skip
def test_a_second_moment_gets_a_typical_value(
    values: list[float], repaired: list[int], least: float, typical: float
) -> None:
    found = typical_square(np.array(values, np.float64), np.array(repaired, bool), least=least)
    assert found == pytest.approx(typical, rel=1e-12, abs=0)


def test_each_tensor_has_random_numbers_of_its_own_and_the_same_in_every_version() -> None:
    draws = [generator(seed, name).random() for seed, name in ((0, "a"), (0, "b"), (1, "a"), (0, "a"))]
    assert draws[0] == draws[3]
    assert len(set(draws)) == 3
    assert draws[0] == 0.2175946115766234
    generator(0, "\udcff")  # a name that is no UTF-8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_new_values_are_rounded_towards_zero(dtype: Any) -> None:
    wide = np.array([0.1, -0.1, 0.3, -0.3, 1.0, 0.0, 1 / 3, NAN])
    old = np.full(8, 7.0).astype(dtype)
    rounded = round_toward_zero(wide, old)
    assert rounded.dtype == old.dtype
    narrow = rounded.astype(np.float64)
    assert (np.abs(narrow[:7]) <= np.abs(wide[:7])).all()
    assert narrow[:7] == pytest.approx(wide[:7], rel=float(ml_dtypes.finfo(dtype).eps))
    assert np.isnan(narrow[7])
    assert narrow[4] == 1.0


def test_what_does_not_change_keeps_its_bits() -> None:
    old = np.array([-0.0, 0.1, NAN, 2.0], np.float32)
    old.view(np.uint32)[2] |= 5  # a NaN with a payload
    new = round_toward_zero(np.array([0.0, float(old[1]), NAN, 3.0]), old)
    assert new.view(np.uint32)[:3].tolist() == old.view(np.uint32)[:3].tolist()
    assert new[3] == 3.0


def test_double_precision_and_complex_numbers_are_taken_as_they_are() -> None:
    assert round_toward_zero(np.array([0.1]), np.zeros(1)).tolist() == [0.1]
    assert round_toward_zero(np.array([0.5 + 0.25j]), np.zeros(1, np.complex64)).tolist() == [0.5 + 0.25j]
    assert widen(np.zeros(1, np.complex64)).dtype == np.complex128
    assert widen(np.zeros(1, np.float16)).dtype == np.float64


def test_nan_does_not_differ_from_nan() -> None:
    old, new = np.array([1.0, NAN, NAN, 1.0, 0.0]), np.array([1.0, NAN, 1.0, NAN, 2.0])
    assert differs(old, new).tolist() == [False, False, True, True, True]
