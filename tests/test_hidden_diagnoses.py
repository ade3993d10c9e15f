"""What hides a diagnosis, and what makes a run complete: one condition at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from checkpoint_doctor import Certainty, Diagnosis, Examination, Finding, Report, Severity, Unsearched, Verdict
from checkpoint_doctor.config.settings import Ignore, Section
from checkpoint_doctor.results.baseline import read_baseline, write_baseline
from checkpoint_doctor.results.report import IN_BASELINE, PLUGIN_LEFT_OUT, RULE_CRASHED
from tests.gathering import apply_baseline

ERROR, WARNING = Severity.ERROR, Severity.WARNING
FINDINGS = (
    Finding("ZER003", "zero-bias", ERROR, "zero", tensor="net.0.bias", layer="net.0"),
    Finding("NET001", "dormant-units", WARNING, "dormant", layer="net.2"),
)
DIAGNOSIS = Diagnosis("overwritten", Certainty.PROVEN, ERROR, "overwritten", (0, 1), subject="actor")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"codes": ("detached", "overwritten")}, True),
        ({"codes": ("detached",)}, False),
        ({"codes": ("ZER003",)}, False),
        ({"tensors": ("actor",)}, True),
        ({"tensors": ("net.0.*",)}, True),
        ({"tensors": ("net.2",)}, True),
        ({"tensors": ("critic", "net.2")}, True),
        ({"tensors": ("critic*",)}, False),
        ({"paths": ("models/*",)}, True),
        ({"paths": ("other/*",)}, False),
        ({"tensors": ("actor",), "paths": ("other/*",)}, False),
        ({"tensors": ("critic",), "paths": ("models/*",)}, False),
    ],
)
def test_an_ignore_is_about_the_cause_its_tensors_and_the_path(fields: dict[str, Any], expected: bool) -> None:
    ignore = Ignore(**{"codes": ("overwritten",), "reason": "known", **fields})
    assert Section("ckdoc.toml").hides_diagnosis(ignore, DIAGNOSIS, FINDINGS, "models/a.pt") is expected


def test_an_ignore_of_tensors_is_not_about_a_diagnosis_without_any() -> None:
    nameless = (Finding("HYP001", "learning-rate-range", WARNING, "too high"),)
    ignore = Ignore(("overwritten",), "known", tensors=("*",))
    diagnosis = replace(DIAGNOSIS, explains=(0,), subject=None)
    assert Section("ckdoc.toml").hides_diagnosis(ignore, diagnosis, nameless, "models/a.pt") is False


def examined(*findings: Finding, diagnoses: tuple[Diagnosis, ...] = ()) -> Report:
    return Report((Examination("a.pt", "torch", Verdict.ILL, findings=findings, diagnoses=diagnoses),), rules=1)


@pytest.mark.parametrize(
    ("report", "complete"),
    [
        (examined(), True),
        (replace(examined(), checkpoints=(Examination("a.pt", None, Verdict.UNREADABLE, error="no"),)), False),
        (examined(Finding(RULE_CRASHED, "rule-crashed", WARNING, "no")), False),
        (replace(examined(), remarks=(Finding(PLUGIN_LEFT_OUT, "plugin-left-out", WARNING, "no"),)), False),
        (replace(examined(), remarks=(Finding("CKD002", "unused-ignore", WARNING, "no"),)), True),
        (replace(examined(), unsearched=(Unsearched("data", "hidden", on_purpose=True),)), True),
        (replace(examined(), unsearched=(Unsearched("data", "permission denied", on_purpose=False),)), False),
    ],
)
def test_a_run_is_complete_where_nothing_was_missed(report: Report, complete: bool) -> None:
    assert report.is_complete is complete


@pytest.mark.parametrize(
    ("before", "hidden"),
    [
        (examined(*FINDINGS, diagnoses=(DIAGNOSIS,)), True),
        (examined(*FINDINGS), True),
        (examined(FINDINGS[0]), False),
        (examined(replace(FINDINGS[0], severity=WARNING), FINDINGS[1]), False),
        (examined(), False),
    ],
)
def test_a_baseline_hides_a_diagnosis_that_it_knows_or_of_which_it_knows_all_findings(
    before: Report, hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "known.json").write_text(write_baseline(before, "known.json"))
    now = examined(*FINDINGS, diagnoses=(DIAGNOSIS,))
    (after,) = apply_baseline(now, read_baseline("known.json")).checkpoints
    (diagnosis,) = after.diagnoses
    assert (diagnosis.ignored == IN_BASELINE) is hidden
    assert all(each.ignored == IN_BASELINE for each in after.findings) is hidden
    assert after.verdict is (Verdict.HEALTHY if hidden else Verdict.ILL)
