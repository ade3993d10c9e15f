"""Numbers near the largest of their type, and complex ones, are measured, judged and repaired like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoint_doctor import FixOptions, Outcome, fix, open_checkpoint, scan, to_json
from checkpoint_doctor.layers.init_rules import at_lines, fill, within
from checkpoint_doctor.repair.entries import round_toward_zero, widen
from checkpoint_doctor.statistics.tensors import measure
from checkpoint_doctor.statistics.values import InMemory, as_real


@pytest.mark.parametrize("size", [1e155, 1e200, 1e300])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_norm_of_large_numbers_is_finite(size: float, dtype: type) -> None:
    statistics = measure(InMemory(np.full((3, 4), size, dtype)))
    assert statistics.norm == pytest.approx(size * 12**0.5)
    if dtype is np.float64:
        assert statistics.row_norms is not None
        assert statistics.row_norms.tolist() == pytest.approx([2 * size] * 3)
        assert (statistics.mean, statistics.std) == (pytest.approx(size), 0.0)


def test_figures_beyond_the_largest_number_are_the_largest_number() -> None:
    statistics = measure(InMemory(np.array([[1.7e308, -1.7e308], [1.7e308, 1.7e308]])))
    largest = np.finfo(np.float64).max
    assert (statistics.norm, statistics.row_norms.tolist()) == (largest, [largest] * 2)  # type: ignore[union-attr]
    assert statistics.mean == pytest.approx(0.85e308)
    assert statistics.std == pytest.approx(1.7e308 * 0.75**0.5)


def test_complex_numbers_are_judged_by_their_magnitudes() -> None:
    assert as_real(np.array([3 + 4j, -1j], np.complex64)).tolist() == [5.0, 1.0]
    assert as_real(np.array([-2.0], np.float16)).tolist() == [-2.0]


@pytest.mark.parametrize("rule", [within(slice(0, 1), fill(0.0)), at_lines([0], 0, fill(0.0))])
def test_a_repair_of_some_rows_keeps_the_imaginary_part_of_the_others(rule: object) -> None:
    old = np.array([[np.nan, 1j], [2 + 3j, 4j]], np.complex64)
    new = round_toward_zero(rule(widen(old), np.random.default_rng(0)), old)  # type: ignore[operator]
    assert new.dtype == np.complex64
    assert new.tolist() == [[0, 0], [2 + 3j, 4j]]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.complex64, size) for size in (1e-30, 1.0, 1e30)),
        *((dtype, size) for dtype in (torch.complex128, torch.float64) for size in (1e-200, 1.0, 1e200, 1e307)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_size_and_type_gets_a_diagnosis_and_a_repair(
    dtype: torch.dtype, size: float, tmp_path: Path, one_torch: None
) -> None:
    torch.manual_seed(0)
    model = {f"{at}.{role}": torch.randn(shape, dtype=dtype) for at in (0, 2) for role, shape in _SHAPES.items()}
    model = {name: each * size for name, each in model.items()}
    model["0.weight"][0, 0] = float("nan")
    model["2.bias"].zero_()
    path = tmp_path / "model.pt"
    torch.save(model, path)
    report = scan([path])
    assert not any(finding.is_about_ckdoc for finding in report.checkpoints[0].findings)
    assert to_json(report)
    (result,) = fix([path], options=FixOptions(unsafe=True, recycle=True))
    assert result.outcome in (Outcome.FIXED, Outcome.RELIEVED), result.error
    before, after = (open_checkpoint(each).by_name["0.weight"].array for each in (path, result.output))
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(before.reshape(-1)[1:], after.reshape(-1)[1:])


_SHAPES = {"weight": (8, 8), "bias": (8,)}
