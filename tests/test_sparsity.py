"""Scattered zeros: how they are counted, and which patterns are recognised, each beside its nearest neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence
from checkpoint_doctor.builtin.analyzers._zeros.sparsity import describe_sparsity, is_fixed, is_pruned, scattered_zeros
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.testing import build_checkpoint

NAME = "net.0.weight"


def zeroed(shape: tuple[int, ...], *places: Any) -> NDArray:
    array = np.random.default_rng(0).normal(size=shape)
    for place in places:
        array[place] = 0
    return array


@pytest.mark.parametrize(
    ("array", "count", "share"),
    [
        (zeroed((4, 4)), 0, 0.0),
        (zeroed((4, 4), (1, 2)), 1, 1 / 16),
        (zeroed((4, 4), 0, (1, 2)), 1, 1 / 12),
        (zeroed((4, 5), (slice(None), 0), (1, 2)), 1, 1 / 16),
        (zeroed((4, 5), 0, (slice(None), 0)), 0, 0.0),
        (zeroed((4, 5), 0, 3, (slice(None), 0), (1, 2)), 1, 1 / 8),
        (zeroed((4, 4), ...), 0, 0.0),
        (zeroed((4, 5, 3), 0, (1, 2, 1)), 1, 1 / 45),
        (zeroed((4, 5, 3), (slice(None), 4), (1, 2, 1)), 1, 1 / 48),
        (zeroed((8,), 1), 0, 0.0),
        (zeroed((0, 4)), 0, 0.0),
    ],
    ids=[
        "none", "one", "beside a row", "beside a column", "a row and a column", "among rows and columns", "all",
        "beside a filter", "beside a channel", "a vector", "no entries",
    ],
)  # fmt: skip
def test_zeros_in_zero_rows_and_columns_are_not_scattered(array: NDArray, count: int, share: float) -> None:
    checkpoint = build_checkpoint({NAME: array})
    assert scattered_zeros(checkpoint.tensors[0]) == (count, pytest.approx(share))


def described(
    array: NDArray, cause: Cause = Cause.UNKNOWN, others: Mapping[str, NDArray] | None = None, **fields: Any
) -> str:
    checkpoint = build_checkpoint({NAME: array, **(others or {})}, **fields)
    why = ZeroEvidence(cause, None, "")
    return describe_sparsity(checkpoint.by_name[NAME], checkpoint.layer_of[NAME], checkpoint, why)


def scattered(magnitudes: NDArray, zeros: int = 75, shape: tuple[int, int] | None = None, seed: int = 0) -> NDArray:
    """A matrix of 15 columns with these magnitudes of either sign, and zeros, at random places."""
    random = np.random.default_rng(seed)
    values = magnitudes * np.resize([1.0, -1.0], magnitudes.size)
    flat = np.concatenate([values, np.zeros(zeros)])
    return random.permutation(flat).reshape(shape or (-1, 15))


def spread(count: int = 300, small: int = 30, tiny: int = 0) -> NDArray:
    """Distinct magnitudes with a median near 1, so many of them below a quarter of it, so many below a twentieth."""
    tiny_ones, small_ones = np.linspace(0.01, 0.04, tiny), np.linspace(0.1, 0.2, small - tiny)
    return np.concatenate([tiny_ones, small_ones, np.linspace(0.5, 1.5, count - small)])


ORDINARY = scattered(spread())
MASK = np.where(np.random.default_rng(5).permutation(375) < 75, 0.0, 1.0).reshape(25, 15)


def turned(*kept: slice, rows: int = 25) -> NDArray:
    """Rows whose entries are kept in one of these slices in turn."""
    array = zeroed((rows, 15))
    for row in range(rows):
        for column in range(15):
            if column not in range(15)[kept[row % len(kept)]]:
                array[row, column] = 0
    return array


def in_fours(kept: int, columns: int = 16) -> NDArray:
    array = zeroed((20, columns))
    random = np.random.default_rng(1)
    for row in range(20):
        for start in range(0, columns, 4):
            array[row, start + random.permutation(min(4, columns - start))[kept:]] = 0
    return array


GRID, SIGN, MAGNITUDE, PENALTY = "a grid", "clamped at zero", "pruned by magnitude", "an L1 penalty"
LEVELS = np.resize(np.linspace(0.1, 1.6, 16), 300)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (ORDINARY, ""),
        (np.eye(12)[np.arange(25) % 12] * 3.0, "one-hot"),
        (np.vstack([np.eye(12)[np.arange(24) % 12], zeroed((1, 12))]), ""),
        (np.tril(zeroed((12, 12))), "triangular"),
        (np.triu(zeroed((12, 12))), "triangular"),
        (np.tril(zeroed((6, 6)), 1), ""),
        (np.triu(zeroed((6, 6)), -1), ""),
        (in_fours(2), "2:4"),
        (in_fours(3), ""),
        (in_fours(2, 18), ""),
        (turned(slice(0, 9), slice(5, 15)), "same positions"),
        (turned(slice(0, 9), slice(5, 15), slice(2, 11)), "same positions"),
        (turned(slice(0, 9), slice(5, 15), slice(2, 11), rows=23), ""),
        (turned(slice(0, 9), slice(5, 15), slice(2, 11), slice(4, 9)), ""),
        (turned(slice(0, 9), slice(5, 15), rows=8), "same positions"),
        (turned(slice(0, 9), slice(5, 15), rows=7), ""),
        (turned(*(slice(0, stop) for stop in range(3, 13)), rows=20), "autoregressive"),
        (turned(*(slice(0, stop) for stop in range(3, 13)), rows=10), ""),
        (turned(*(slice(0, stop) for stop in range(3, 9)), slice(2, 12), rows=14), ""),
        (scattered(LEVELS), GRID),
        (scattered(np.append(LEVELS, [2.0] * 15)), ""),
        (np.abs(ORDINARY), SIGN),
        (-np.abs(ORDINARY), SIGN),
        (scattered(spread(small=18)), MAGNITUDE),
        (scattered(spread(small=19)), ""),
        (scattered(spread(small=40, tiny=30)), ""),
        (scattered(spread(small=40, tiny=31), zeros=75), PENALTY),
        (scattered(spread(64, small=0), zeros=11), MAGNITUDE),
        (scattered(spread(63, small=0), zeros=12), ""),
        (np.where(np.arange(375).reshape(25, 15) == np.argmax(ORDINARY), np.nan, scattered(spread(small=0))), ""),
    ],
    ids=[
        "ordinary", "one-hot", "one-hot but for a row", "lower triangle", "upper triangle", "beyond the lower triangle",
        "beyond the upper triangle", "two of four", "three of four", "columns that are no fours", "two patterns",
        "three patterns of 25 rows", "three patterns of 23 rows", "four patterns of 25 rows", "eight rows",
        "seven rows", "autoregressive", "all rows different", "not nested", "sixteen levels", "seventeen levels",
        "positive", "negative", "few small ones", "enough small ones", "some tiny ones", "many tiny ones",
        "64 weights", "63 weights", "NaN",
    ],
)  # fmt: skip
def test_a_pattern_is_named_and_its_neighbour_is_not(array: NDArray, words: str) -> None:
    found = described(array)
    assert words in found
    assert bool(found) is bool(words)


def test_a_mask_in_the_file_is_named() -> None:
    array = np.where(MASK == 0, 0.0, scattered(spread(375, small=40), zeros=0))
    assert described(array) == ""
    assert "pruning mask" in described(array, others={f"{NAME}_mask": MASK})
    assert "pruning mask" in described(array, others={"net.0.weight_mask": np.ones(3)})
    assert described(array, others={"keep": MASK}) == "its zeros are those of keep: a mask"
    assert described(array, others={"keep": 1 - MASK}) == ""
    assert described(array, others={"keep": 2 * MASK}) == ""
    assert described(array, others={"keep": MASK.reshape(15, 25)}) == ""


def test_the_cause_may_show_a_mask_too() -> None:
    assert "fixed mask" in described(ORDINARY, Cause.NEVER_TRAINED)
    assert described(ORDINARY, Cause.OVERWRITTEN) == ""


def held(*names: str, tensors: Mapping[str, NDArray] | None = None) -> Checkpoint:
    weights = dict(tensors or {NAME: ORDINARY, "net.2.weight": zeroed((4, 25))})
    state = {"step": 9, "exp_avg": np.ones(4), "exp_avg_sq": np.ones(4)}
    return build_checkpoint(weights, optimizer=dict.fromkeys(names, state) if names else None)


@pytest.mark.parametrize(
    ("names", "fixed"), [((), False), ((NAME,), False), (("net.2.weight",), True), ((NAME, "net.2.weight"), False)]
)
def test_a_tensor_is_fixed_where_an_optimizer_holds_others(names: tuple[str, ...], fixed: bool) -> None:
    checkpoint = held(*names)
    assert is_fixed(checkpoint.by_name[NAME], checkpoint) is fixed
    why = ZeroEvidence(Cause.UNKNOWN, None, "")
    words = describe_sparsity(checkpoint.by_name[NAME], checkpoint.layer_of[NAME], checkpoint, why)
    assert words == ("no optimizer holds it while they hold others: it is fixed" if fixed else "")


def layers(*zeros: int, shape: tuple[int, int] = (10, 10)) -> Checkpoint:
    """A network whose weights have so many scattered zeros each."""
    weights = {}
    for number, count in enumerate(zeros):
        array = zeroed(shape)
        for place in range(count):
            array[place, (3 * place + number) % shape[1]] = 0
        weights[f"net.{2 * number}.weight"] = array
    return build_checkpoint(weights)


@pytest.mark.parametrize(
    ("checkpoint", "pruned"),
    [
        (layers(5, 5), True),
        (layers(5, 4), False),
        (layers(5), False),
        (layers(5, 5, 0, 0), True),
        (layers(5, 5, 0, 0, 0), False),
        (layers(5, 5, shape=(8, 8)), True),
        (layers(5, 5, shape=(9, 7)), False),
    ],
)
def test_a_model_is_pruned_where_half_of_its_large_weights_are(checkpoint: Checkpoint, pruned: bool) -> None:
    assert is_pruned(checkpoint) is pruned
