"""The sabotage bench counts a kind as seen for the right reasons only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sabotage import RULES_OF_CAUSE, alarms, counts, main, names, new_findings
from benchmarks.sabotage_kinds import KINDS
from checkpoint_doctor.results.findings import Finding, Severity


def finding(code: str, severity: Severity = Severity.WARNING, **about: object) -> Finding:
    return Finding(code, code.lower(), severity, "as found", **about)


@pytest.mark.parametrize(
    ("found", "affected", "named"),
    [
        ({"tensor": "actor.mu.bias"}, "actor", True),
        ({"tensor": "pytorch_variables.pth/log_ent_coef"}, "log_ent_coef", True),
        ({"layer": "actor.mu"}, "actor.mu.weight", True),
        ({"evidence": {"optimizer": "actor.optimizer"}}, "actor.optimizer", True),
        ({"evidence": {"tensors": ["h.1.ln.weight", "h.1.ln.bias"]}}, "h.1", True),
        ({"tensor": "actor.mu.bias", "layer": "actor.mu"}, "actor.mu.weight", False),
        ({"tensor": "h.10.bias"}, "h.1", False),
        ({}, "h.1", False),
    ],
)
def test_what_a_finding_names(found: dict[str, object], affected: str, named: bool) -> None:
    assert names(finding("VAL001", **found), [affected]) is named


def test_a_finding_about_the_whole_checkpoint_needs_a_rule_that_fits() -> None:
    kind = KINDS["learning-rate-of-1e-13"]
    assert counts(finding("OPT009"), kind, ["optimizer"])
    assert not counts(finding("FIL004"), kind, ["optimizer"])
    assert not counts(finding("OPT009", tensor="other.weight"), kind, ["optimizer"])


def test_what_the_twin_has_too_is_not_new() -> None:
    known = finding("NET001", Severity.NOTE, layer="0")
    worse = finding("NET001", Severity.ERROR, layer="0")
    assert new_findings([known], [known]) == []
    assert new_findings([worse], [known]) == [worse]
    assert new_findings([known], [worse]) == []


def test_one_warning_about_a_healthy_file_is_allowed() -> None:
    warning = finding("NET001", layer="0")
    assert alarms([warning]) == ()
    assert len(alarms([warning, warning])) == 2
    assert len(alarms([finding("VAL001", Severity.ERROR)])) == 1


def test_every_kind_says_what_was_done_and_has_a_known_cause() -> None:
    assert {kind.cause for kind in KINDS.values()} <= RULES_OF_CAUSE.keys()
    assert [kind.name for kind in KINDS.values() if not kind.fact] == []


def test_a_kind_that_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "outcomes.json"
    options = ["--only", "biases-overwritten-*", "--keep", str(tmp_path / "files"), "--json", str(report)]
    assert main(options) == 0
    assert "1 kinds: 1 seen (100.0%)" in capsys.readouterr().out
    (outcome,) = json.loads(report.read_text())
    assert (outcome["seen"], outcome["cause"], outcome["alarms"]) == ("seen", "overwritten", [])
    files = tmp_path / "files" / "biases-overwritten-with-zero"
    assert sorted(path.name for path in files.iterdir()) == ["healthy.pt", "ill.pt"]
