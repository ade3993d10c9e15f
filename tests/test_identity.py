"""One identity of a finding, declared by its rule, for baselines, code scanning and the grouping in reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor import Finding, Page, Report, Severity, Tensor, discover, rule
from checkpoint_doctor.builtin.analyzers.layers.recurrent import gate_saturation
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.baseline import read_baseline, write_baseline
from checkpoint_doctor.results.report import Examination, judge
from checkpoint_doctor.testing import build_checkpoint, findings_of
from tests.gathering import apply_baseline

CATALOGUE = discover()


@rule("ACM010", "odd-rows", Severity.ERROR, on=Tensor, part=("half",), worse=("rows",), group_by=("reason",))
def odd_rows(tensor: Tensor) -> Iterator[Finding]:
    """Rows of a tensor are odd."""
    half = tensor.shape[0] // 2
    for name, rows in (("upper", tensor.array[:half]), ("lower", tensor.array[half:])):
        odd = [int(row) for row in np.flatnonzero((rows % 2 == 1).any(axis=1))]
        if odd:
            yield odd_rows.finding(
                f"{len(odd)} odd rows", tensor, evidence={"half": name, "rows": odd, "reason": "because"}
            )


def report_on(*findings: Finding) -> Report:
    verdict = judge(findings)
    return Report((Examination("model.pt", "memory", verdict, findings=findings),), rules=1)


def odd(*values: int) -> list[Finding]:
    """Return what the rule says of a tensor whose rows hold these numbers."""
    return findings_of(odd_rows, build_checkpoint({"weight": np.array(values, np.float32)[:, None]}))


def counted_after(before: list[Finding], now: list[Finding], folder: Path) -> list[Finding]:
    """Return what still counts when the findings before are the baseline."""
    file = folder / "baseline.json"
    file.write_text(write_baseline(report_on(*before), str(file)))
    return list(apply_baseline(report_on(*now), read_baseline(str(file))).findings)


def test_evidence_that_a_plugin_declares_makes_a_known_finding_count_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = odd(1, 2, 2, 2)
    assert counted_after(known, odd(1, 2, 2, 2), tmp_path) == []
    assert [each.evidence["rows"] for each in counted_after(known, odd(1, 1, 2, 2), tmp_path)] == [[0, 1]]


def test_another_part_of_a_known_tensor_is_another_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [each.evidence["half"] for each in counted_after(odd(1, 2, 2, 2), odd(1, 2, 1, 2), tmp_path)] == ["lower"]


def fingerprints(findings: list[Finding]) -> dict[str, str]:
    """Return the SARIF fingerprint of each finding by the gate that it is about."""
    text = CATALOGUE.reporters["sarif"].render(report_on(*findings), [gate_saturation], Page())
    results = json.loads(text)["runs"][0]["results"]
    return {
        each["properties"]["evidence"]["gate"]: each["partialFingerprints"]["primaryLocationLineHash"]
        for each in results
    }


def lstm(**biases: float) -> Checkpoint:
    """Return an LSTM of four units whose gates have these biases."""
    bias = np.concatenate([np.full(4, biases.get(gate, 0.1)) for gate in ("input", "forget", "cell", "output")])
    generator = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        f"lstm.weight_{part}_l0": generator.normal(0, 0.3, (16, 4)).astype(np.float32) for part in ("ih", "hh")
    }
    tensors["lstm.bias_ih_l0"] = bias.astype(np.float32)
    tensors["lstm.bias_hh_l0"] = np.full(16, 0.1, np.float32)
    return build_checkpoint(tensors)


def test_an_alert_keeps_its_fingerprint_when_another_of_its_tensor_goes() -> None:
    both = fingerprints(findings_of(gate_saturation, lstm(input=20.0, forget=20.0)))
    alone = fingerprints(findings_of(gate_saturation, lstm(forget=20.0)))
    assert set(both) == {"input", "forget"}
    assert alone == {"forget": both["forget"]}


def test_an_alert_keeps_its_fingerprint_when_its_numbers_change() -> None:
    assert fingerprints(findings_of(gate_saturation, lstm(forget=20.0))) == fingerprints(
        findings_of(gate_saturation, lstm(forget=90.0))
    )


def test_findings_that_nobody_could_tell_apart_break_the_contract() -> None:
    @rule("ACM011", "same-again", Severity.NOTE, on=Tensor)
    def same_again(tensor: Tensor) -> Iterator[Finding]:
        """The same is said twice."""
        yield from [same_again.finding("once", tensor), same_again.finding("twice", tensor)]

    with pytest.raises(AssertionError, match="declare part="):
        findings_of(same_again, build_checkpoint({"weight": np.ones((2, 2), np.float32)}))


@pytest.mark.parametrize(("reasons", "shown"), [(["a"] * 3, 1), (["a", "a", "b"], 3), (["a"] * 2, 2)])
def test_findings_are_shown_as_one_where_their_declared_evidence_agrees(reasons: list[str], shown: int) -> None:
    tensors = build_checkpoint({f"w{n}": np.ones((2, 2), np.float32) for n in range(len(reasons))}).tensors
    findings = [
        odd_rows.finding(f"{n} odd rows: whatever", tensor, evidence={"reason": reason, "rows": [n]})
        for n, (tensor, reason) in enumerate(zip(tensors, reasons, strict=True))
    ]
    text = CATALOGUE.reporters["terminal"].render(report_on(*findings), [odd_rows], Page())
    assert text.count("✖ error ACM010") == shown
