"""What is new is shown for one minor version before it counts: rules and causes in preview decide nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file

from checkpoint_doctor import (
    Catalogue,
    Checkpoint,
    Finding,
    FixOptions,
    Prognosis,
    Repair,
    Report,
    Severity,
    Tensor,
    Verdict,
    cause,
    discover,
    fix,
    load_config,
    rule,
    scan,
)
from checkpoint_doctor.results.json import to_json
from checkpoint_doctor.results.json_reading import from_json
from checkpoint_doctor.results.report import Page

FORMATS = ("terminal", "json", "sarif", "junit", "github", "markdown", "concise", "statistics")


@rule("ACM001", "new-illness", Severity.ERROR, on=Tensor, preview=True)
def new_illness(tensor: Tensor) -> Iterator[Finding]:
    """It finds something new."""
    yield new_illness.finding("this is new", tensor, repairs=[Repair(tensor.name, "zeros", lambda old, _: old * 0)])


@rule("ACM002", "known-illness", Severity.ERROR, on=Tensor)
def known_illness(tensor: Tensor) -> Iterator[Finding]:
    """It finds something known."""
    if tensor.name == "0.bias":
        yield known_illness.finding("this is known", tensor)


@cause("new-cause", Prognosis.POINTLESS, preview=True)
def new_cause(checkpoint: Checkpoint, symptoms):
    """It explains what is known as something harmless."""
    if proof := symptoms.of("ACM002"):
        yield new_cause.claim(proof, "it is harmless", severity=Severity.NOTE)


@cause("old-cause", Prognosis.POINTLESS)
def old_cause(checkpoint: Checkpoint, symptoms):
    """It explains what is new."""
    if proof := symptoms.of("ACM001"):
        yield old_cause.claim(proof, "it is bad")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0).normal
    save_file({"0.weight": draw(0, 0.3, (8, 8)), "0.bias": draw(0, 0.3, 8)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def catalogue_of(*declared: object) -> Catalogue:
    installed = discover()
    rules = [each for each in declared if each in (new_illness, known_illness)]
    causes = [each for each in declared if each in (new_cause, old_cause)]
    return replace(installed, rules=(*installed.rules, *rules), causes=(*installed.causes, *causes))


def examine(file: Path, *declared: object, preview: bool = False, fail_on: str = "note") -> Report:
    catalogue = catalogue_of(*declared)
    config = load_config(catalogue.rules, causes=catalogue.causes, preview=preview, select=["ACM"], fail_on=fail_on)
    return scan([file], catalogue=catalogue, config=config)


def test_a_rule_in_preview_is_shown_and_decides_nothing(file: Path) -> None:
    report = examine(file, new_illness)
    assert not report.failed
    [examination] = report.checkpoints
    assert examination.verdict is Verdict.HEALTHY
    assert [each.code for each in examination.in_preview] == ["ACM001"] * 2
    assert "0 findings, 2 in preview" in report.summary_line


def test_it_counts_where_it_was_asked_for(file: Path) -> None:
    report = examine(file, new_illness, preview=True)
    assert report.failed
    [examination] = report.checkpoints
    assert examination.verdict is Verdict.ILL
    assert examination.in_preview == []


@pytest.mark.parametrize("text", ["preview = true", "[tool.ckdoc]\npreview = true"])
def test_a_configuration_can_ask_for_it(text: str, file: Path, tmp_path: Path) -> None:
    name = "pyproject.toml" if "tool" in text else "ckdoc.toml"
    (tmp_path / name).write_text(text)
    catalogue = catalogue_of(new_illness)
    config = load_config(catalogue.rules, select=["ACM"])
    assert scan([file], catalogue=catalogue, config=config).failed


def test_a_cause_in_preview_takes_nothing_away(file: Path) -> None:
    """Else it could turn a known error into something harmless."""
    report = examine(file, known_illness, new_cause, fail_on="error")
    assert report.failed
    [examination] = report.checkpoints
    assert [each.title for each in examination.alerts] == ["ACM002 known-illness"]
    assert [each.title for each in examination.in_preview] == ["new-cause"]
    assert report.diagnoses == []


def test_a_cause_competes_where_it_was_asked_for(file: Path) -> None:
    report = examine(file, known_illness, new_cause, preview=True, fail_on="error")
    assert not report.failed
    assert [each.cause for each in report.diagnoses] == ["new-cause"]


def test_known_causes_do_not_see_what_is_in_preview(file: Path) -> None:
    assert examine(file, new_illness, old_cause).diagnoses == []
    assert [each.cause for each in examine(file, new_illness, old_cause, preview=True).diagnoses] == ["old-cause"]


def test_a_repair_in_preview_is_not_made(file: Path) -> None:
    catalogue = catalogue_of(new_illness)
    planned = {}
    for preview in (False, True):
        config = load_config(catalogue.rules, select=["ACM"], preview=preview)
        [result] = fix([file], FixOptions(dry_run=True, unsafe=True), catalogue=catalogue, config=config)
        planned[preview] = len(result.summary.changes) or result.error
    assert not planned[False]
    assert planned[True]


@pytest.mark.parametrize("form", FORMATS)
def test_every_report_marks_it(form: str, file: Path) -> None:
    report = examine(file, new_illness, known_illness, new_cause)
    text = import_module(f"checkpoint_doctor.builtin.reporters.{form}").reporter.render(
        report, catalogue_of(new_illness, known_illness).rules, Page(100)
    )
    words = {
        "terminal": ("in preview: shown, not counted", "ACM001 new-illness · 0.bias", "new-cause"),
        "json": ('"preview": true', "ACM001", "new-cause"),
        "sarif": ('"preview": true', "ACM001", "new-cause"),
        "junit": ("ACM001 new-illness, in preview", "new-cause (proven), in preview"),
        "github": (
            "::notice file=",
            "title=ACM001 new-illness%2C in preview",
            "title=new-cause (proven)%2C in preview",
        ),
        "concise": ("error ACM001 new-illness, in preview 0.bias", "new-cause (proven), in preview"),
        "statistics": ("2 error   ACM001 new-illness, in preview", "1 note    new-cause (proven), in preview"),
        "markdown": ("in preview, not counted: error **ACM001** new-illness", "new-cause"),
    }
    for each in words[form]:
        assert each in text
    if form == "sarif":
        levels = {each["ruleId"]: each["level"] for each in json.loads(text)["runs"][0]["results"]}
        assert levels == {"ACM001": "note", "new-cause": "note", "ACM002": "error"}
    if form == "junit":
        assert text.count("<failure ") == 1
    if form == "github":
        assert text.count("::error ") == 1


def test_a_report_that_is_read_back_knows_it(file: Path) -> None:
    report = examine(file, new_illness, known_illness, new_cause)
    again = from_json(to_json(report))
    assert again.failed == report.failed
    assert [each.title for each in again.checkpoints[0].in_preview] == [
        each.title for each in report.checkpoints[0].in_preview
    ]


def test_a_baseline_knows_what_is_in_preview(file: Path, tmp_path: Path) -> None:
    """So that nothing new fails on the day on which it begins to count."""
    from checkpoint_doctor.results.baseline import read_baseline, write_baseline
    from tests.gathering import apply_baseline

    path = tmp_path / "known.json"
    path.write_text(write_baseline(examine(file, new_illness), str(path)))
    assert not apply_baseline(examine(file, new_illness, preview=True), read_baseline(str(path))).failed
