"""Runs that are trained here, with a fault from one checkpoint on and without: found with its onset, or calm."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import series_runs
from benchmarks.series import names_fault
from benchmarks.series_runs import KINDS, make_fault, train
from checkpoint_doctor import compare
from checkpoint_doctor.results.findings import Severity


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_runs, "UPDATES", 30)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_found_with_its_tensor_and_its_onset(kind: str, tmp_path: Path) -> None:
    network = "layer norm" if kind in ("killed units", "layer drawn anew") else "mlp"
    fault = make_fault(kind, network, 1)
    assert fault is not None

    [record] = compare(train(network, tmp_path, fault, 1)).series

    assert names_fault(record, fault), [(each.title, each.tensor, each.message) for each in record.findings]


@pytest.mark.parametrize("network", series_runs.PLAIN)
def test_a_healthy_run_has_no_warning(network: str, tmp_path: Path) -> None:
    [record] = compare(train(network, tmp_path, None, 0)).series

    assert len(record.points) == 12
    assert [each for each in record.counted if each.severity > Severity.NOTE] == []
