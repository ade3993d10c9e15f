"""Values that are not finite: how many are few, and which buffers hold infinity on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.values.nonfinite import nonfinite_values
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

WEIGHT = {"net.weight": np.ones((4, 4))}


def spoiled(size: int, nan: int = 0, infinite: int = 0) -> NDArray:
    values = np.ones(size, np.float32)
    values[:nan] = np.nan
    values[nan : nan + infinite] = np.inf
    return values.reshape(10, -1)


FEW = "only a few, as after one infinite gradient or in a damaged file"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (spoiled(100, 1), FEW),
        (spoiled(100, 4), FEW),
        (spoiled(100, 2, 2), FEW),
        (spoiled(100, 5), "5.0% of the tensor"),
        (spoiled(100, 2, 3), "5.0% of the tensor"),
        (spoiled(1000, 10), FEW),
        (spoiled(1000, 11), "1.1% of the tensor"),
        (spoiled(100, 100), "every entry is NaN, as after a NaN loss"),
        (spoiled(100, 99), "99.0% of the tensor"),
        (spoiled(100, 0, 100), "100.0% of the tensor"),
    ],
)
def test_how_much_of_a_tensor_is_spoiled(values: NDArray, words: str) -> None:
    (finding,) = findings_of(nonfinite_values, build_checkpoint({"net.weight": values}))
    assert finding.severity is Severity.ERROR
    assert words in finding.message
    assert finding.evidence["count"] == values.size
    assert finding.evidence["first_index"] == [0, 0]


INF = np.inf


@pytest.mark.parametrize(
    ("name", "values", "speaks"),
    [
        ("attn_mask", [[0.0, -INF], [0.0, 0.0]], False),
        ("attn_mask", [[1.0, -INF], [0.0, 0.0]], True),
        ("attn_mask", [[0.0, INF], [0.0, 0.0]], True),
        ("attn_mask", [[0.0, -INF], [INF, 0.0]], True),
        ("observer.min_val", [INF], False),
        ("observer.min_val", [INF, INF], False),
        ("observer.max_val", [-INF, -INF], False),
        ("observer.max_val", [-INF, INF], True),
        ("observer.max_val", [-INF, 3.0], False),
        ("observer.min_val", [INF, 3.0], False),
        ("observer.min_val", [np.nan], True),
        ("net.bias", [INF] * 4, True),
    ],
)
def test_infinity_on_purpose(name: str, values: list[float], speaks: bool) -> None:
    found = findings_of(nonfinite_values, build_checkpoint(WEIGHT | {name: np.array(values, np.float32)}))
    assert [each.tensor for each in found] == [name] * speaks


@pytest.mark.parametrize(
    ("beside", "optimizer", "severity"),
    [({}, None, Severity.WARNING), ({}, {"table": {"step": 3}}, Severity.ERROR), (WEIGHT, None, Severity.ERROR)],
    ids=["data", "a parameter", "a network"],
)
def test_nan_is_a_warning_where_a_file_may_hold_data(
    beside: dict[str, NDArray], optimizer: Any, severity: Severity
) -> None:
    tensors = beside | {"table": np.array([[0.5, np.nan], [1.0, 2.0]], np.float32)}
    (finding,) = findings_of(nonfinite_values, build_checkpoint(tensors, optimizer=optimizer))
    assert finding.severity is severity


def test_a_table_that_is_nan_altogether_is_no_data() -> None:
    (finding,) = findings_of(nonfinite_values, build_checkpoint({"table": np.full((2, 2), np.nan, np.float32)}))
    assert finding.severity is Severity.ERROR
