"""Numbers near the largest of their type, and complex ones, are measured, judged and repaired like others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint_doctor import (
    FixOptions,
    Outcome,
    Page,
    Report,
    compare,
    discover,
    examine_logs,
    fix,
    open_checkpoint,
    scan,
    to_json,
)
from checkpoint_doctor.builtin.reporters._sparklines import sparkline
from checkpoint_doctor.layers.init_rules import at_lines, fill, within
from checkpoint_doctor.repair.entries import round_toward_zero, widen
from checkpoint_doctor.statistics.histogram import count_values
from checkpoint_doctor.statistics.tensors import measure
from checkpoint_doctor.statistics.values import InMemory, as_real, share_of_range


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


@pytest.mark.parametrize("unit", [5e-324, 1e-310, 1.0, 1e200, 8.9e307])
def test_numbers_of_any_size_have_a_place_between_others(unit: float) -> None:
    assert [share_of_range(each * unit, -2 * unit, 2 * unit) for each in (-2.0, -1.0, 0.0, 2.0)] == [0, 0.25, 0.5, 1]
    assert share_of_range(unit, unit, unit) == 0
    assert sparkline([0.0, unit, 2 * unit]) == "▁▅█"
    values = InMemory(np.array([0.0, unit, -2 * unit, 2 * unit]))
    histogram = count_values(values, measure(values))
    assert histogram is not None
    assert sum(histogram.counts) + histogram.below + histogram.above == 3


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

BEYOND = 10**1200
"""An integer that no number of the processor holds, and that Python writes only when it is asked to."""


def render_everything(report: Report) -> None:
    catalogue = discover()
    for name, reporter in catalogue.reporters.items():
        if not getattr(reporter, "is_binary", False):
            assert isinstance(reporter.render(report, catalogue.rules, Page(verbose=True)), str), name


def train(model: dict[str, torch.Tensor], **settings: object) -> dict[str, Any]:
    state = {at: {"step": 5, "exp_avg": each, "exp_avg_sq": each.abs()} for at, each in enumerate(model.values())}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "params": [*state], **settings}
    return {"state": state, "param_groups": [group]}


@pytest.mark.parametrize("setting", ["lr", "eps", "weight_decay", "betas", "step", "a parameter", "epoch"])
@pytest.mark.filterwarnings("error")
def test_integers_of_1200_digits_in_an_optimizer_are_no_fault(setting: str, tmp_path: Path, one_torch: None) -> None:
    model = {"0.weight": torch.randn(8, 8), "0.bias": torch.zeros(8)}
    optimizer = train(model)
    if setting == "step":
        optimizer["state"][0]["step"] = BEYOND
    elif setting == "a parameter":
        optimizer["param_groups"][0]["params"][0] = BEYOND
    else:
        optimizer["param_groups"][0][setting] = (BEYOND, BEYOND) if setting == "betas" else BEYOND
    content = {"model": model, "optimizer": optimizer, "epoch": BEYOND, "scheduler": {"last_epoch": BEYOND}}
    torch.save(content, tmp_path / "model.pt")
    report = scan([tmp_path])
    assert not report.checkpoints[0].is_unreadable
    assert not any(finding.is_about_ckdoc for finding in report.checkpoints[0].findings)
    render_everything(report)
    (result,) = fix([tmp_path / "model.pt"], options=FixOptions(dry_run=True))
    assert result.outcome is not Outcome.FAILED, result.error


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_settings_nested_700_deep_are_in_every_report(kind: type, tmp_path: Path, one_torch: None) -> None:
    deep: Any = 1.0
    for _ in range(700):
        deep = {"a": deep} if kind is dict else kind([deep])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # of the program that writes it
    try:
        torch.save({"model": {"0.weight": torch.randn(8, 8)}, "hyper_parameters": {"x": deep}}, tmp_path / "model.pt")
    finally:
        sys.setrecursionlimit(limit)
    report = scan([tmp_path])
    assert not report.checkpoints[0].is_unreadable
    render_everything(report)


@pytest.mark.parametrize("size", [1e200, 1.7e308, 5e-324, BEYOND], ids=["1e200", "1.7e308", "5e-324", "1200 digits"])
@pytest.mark.filterwarnings("error")
def test_logs_of_any_size_are_examined(size: float, tmp_path: Path) -> None:
    rows = [f"{at},{size},{-size},{size if at % 2 else 0},{size},{size}" for at in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["step,loss,policy_loss,grad_norm,learning_rate,accuracy", *rows]))
    lines = [{"step": at * size, "loss": size, "x": [[size]], "grad_norm": -size} for at in range(60)]
    sys.set_int_max_str_digits(0)
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    catalogue = discover()
    report = examine_logs([tmp_path / "log.csv", tmp_path / "log.jsonl"])
    assert len(report.logs) == 2
    assert not any(finding.is_about_ckdoc for finding in report.report.findings)
    for name in ("terminal", "json", "markdown", "html"):
        assert catalogue.reporters[name].render_logs(report, catalogue.rules, Page(verbose=True))  # type: ignore[union-attr]


@pytest.mark.filterwarnings("error")
def test_a_series_of_all_sizes_is_compared(tmp_path: Path, one_torch: None) -> None:
    for step, size in enumerate([1e154, 1e200, 1.7e308, 5e-324, float("inf")]):
        model = {"0.weight": torch.rand(8, 8, dtype=torch.float64) * size, "1.weight": torch.ones(2, 2) * (1 + 1j)}
        model["1.weight"] = model["1.weight"].to(torch.complex128) * size
        content = {"model": model, "optimizer": train(model, lr=size, weight_decay=size), "step": step}
        torch.save(content, tmp_path / f"{step}.pt")
    catalogue = discover()
    report = compare([tmp_path])
    (series,) = report.series
    assert not any(finding.is_about_ckdoc for finding in series.findings)
    for name in ("terminal", "json", "markdown", "html"):
        assert catalogue.reporters[name].render_series(report, catalogue.rules, Page(verbose=True))  # type: ignore[union-attr]
