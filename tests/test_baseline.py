"""A baseline hides what is known, speaks again when it gets worse, and says what of it is no longer true."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from checkpoint_doctor import to_json
from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.config.settings import Config, Section
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.plugins.self_checks import RULES as OWN_RULES
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.results.baseline import IN_BASELINE, read_baseline, write_baseline
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Report, Verdict
from tests.gathering import apply_baseline, remark_stale_entries


@rule(
    "ZER002",
    "partial-zeros",
    Severity.WARNING,
    on=Tensor,
    part=("gate",),
    worse=("zero_fraction", "units", "names", "largest", "nan"),
)
def partial_zeros(tensor: Tensor) -> Iterator[Finding]:
    """Zeros are scattered in a dense weight."""
    return iter(())


RULES = (*OWN_RULES, partial_zeros)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with one file where the reports have their checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model.zip").touch()
    return tmp_path


def found(
    tensor: str | None = "actor.0.weight", severity: Severity = Severity.ERROR, code: str = "ZER002", **evidence: Any
) -> Finding:
    identity = partial_zeros.identity
    return Finding(code, "partial-zeros", severity, "It has zeros.", tensor, evidence=evidence, identity=identity)


def report(*findings: Finding, path: str = "runs/model.zip", readable: bool = True) -> Report:
    ill = Verdict.ILL if findings else Verdict.HEALTHY
    verdict = ill if readable else Verdict.UNREADABLE
    return Report((Examination(path=path, format="sb3", verdict=verdict, findings=findings),), rules=len(RULES))


def apply(known: Report, now: Report, config: Config | None = None) -> Report:
    """What a run says on the baseline of another."""
    Path("baseline.json").write_text(write_baseline(known, "baseline.json"))
    baseline = read_baseline("baseline.json")
    return remark_stale_entries(apply_baseline(now, baseline), baseline, config or Config(), RULES, ())


def test_what_is_known_is_hidden_and_counted() -> None:
    result = apply(report(found(zero_fraction=0.309)), report(found(zero_fraction=0.309)))
    assert result.findings == []
    assert (result.hidden, result.known) == (1, 1)
    assert to_json(result)["hidden_by_baseline"] == 1
    assert "1 hidden by the baseline" in result.summary_line
    assert "by config" not in result.summary_line
    assert not result.failed
    assert result.checkpoints[0].verdict is Verdict.HEALTHY
    assert result.checkpoints[0].findings[0].ignored == IN_BASELINE


@pytest.mark.parametrize(
    ("before", "now", "counts"),
    [
        ({"zero_fraction": 0.309}, {"zero_fraction": 0.30908}, False),
        ({"zero_fraction": 0.309}, {"zero_fraction": 0.2}, False),
        ({"zero_fraction": 0.309}, {"zero_fraction": 0.311}, True),
        ({"units": [1, 2, 3]}, {"units": [7, 8, 9]}, False),
        ({"units": [1, 2, 3]}, {"units": [1, 2, 3, 4]}, True),
        ({"names": ["os.system", "a.b"]}, {"names": ["os.system"]}, False),
        ({"names": ["os.system"]}, {"names": ["subprocess.run"]}, True),
        ({"largest": 1e7}, {"largest": 1e8}, True),
        ({"largest": inf}, {"largest": inf}, False),
        ({"largest": 1e30}, {"largest": inf}, True),
        ({"nan": 3}, {"nan": 4}, True),
        ({"updates": 100}, {"updates": 5000}, False),
        ({"shape": [2, 2]}, {"shape": [2, 2, 2]}, False),
        ({"severity": Severity.WARNING}, {"severity": Severity.ERROR}, True),
        ({"severity": Severity.ERROR}, {"severity": Severity.WARNING}, False),
        ({}, {"zero_fraction": 0.5}, False),
        ({"zero_fraction": nan}, {"zero_fraction": nan}, False),
    ],
)
def test_only_what_is_worse_counts_again(before: dict[str, Any], now: dict[str, Any], counts: bool) -> None:
    result = apply(report(found(**before)), report(found(**now)))
    assert len(result.findings) == counts
    assert result.failed is counts
    assert result.checkpoints[0].verdict is (Verdict.ILL if counts else Verdict.HEALTHY)
    assert result.remarks == ()


@pytest.mark.parametrize(
    "other",
    [
        report(found(tensor="actor.2.weight")),
        report(found(code="ZER001")),
        report(found(), path="runs/other.zip"),
        report(found(gate="forget")),
        report(replace(found(tensor=None), layer="actor.0")),
    ],
)
def test_another_finding_is_not_known(other: Report) -> None:
    assert len(list(apply(report(found()), other).checkpoints[0].counted)) == 1


def test_what_is_beyond_the_known_count_counts() -> None:
    result = apply(report(found(), found()), report(found(), found(), found()))
    assert (len(result.findings), result.hidden) == (1, 2)


def test_the_worse_of_several_counts() -> None:
    known = report(found(zero_fraction=0.1), found(zero_fraction=0.2))
    result = apply(known, report(found(zero_fraction=0.3), found(zero_fraction=0.1)))
    assert [each.evidence["zero_fraction"] for each in result.findings] == [0.3]
    assert result.remarks == ()


def test_paths_hold_from_wherever_the_run_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("baseline.json").write_text(write_baseline(report(found()), "baseline.json"))
    monkeypatch.chdir("runs")
    for path in ("model.zip", "./model.zip", str(folder / "runs" / "model.zip")):
        now = report(found(), path=path)
        result = apply_baseline(now, read_baseline("../baseline.json"))
        assert (result.findings, result.hidden) == ([], 1)


class TestStale:
    def test_an_illness_that_is_gone_is_remarked_on(self) -> None:
        result = apply(report(found()), report())
        (remark,) = result.remarks
        assert (remark.code, remark.severity) == ("CKD002", Severity.NOTE)
        assert "baseline.json: ZER002 actor.0.weight in runs/model.zip matched nothing" in remark.message
        assert not result.failed

    def test_one_of_two_that_is_gone_is_told_as_that(self) -> None:
        (remark,) = apply(report(found(), found()), report(found())).remarks
        assert "1 of 2 × ZER002 actor.0.weight" in remark.message

    def test_a_file_that_is_gone_is_stale_and_one_outside_the_run_is_not(self) -> None:
        elsewhere = report(path="elsewhere.pt")
        assert apply(report(found()), elsewhere).remarks == ()
        os.remove("runs/model.zip")
        assert len(apply(report(found()), elsewhere).remarks) == 1

    def test_what_could_not_be_looked_at_is_not_judged(self) -> None:
        assert apply(report(found()), report(readable=False)).remarks == ()
        assert apply(report(found()), report(), Config((Section("here", select=("VAL",)),))).remarks == ()
        off = Config((Section("here", severities={"ZER002": None}),))
        assert apply(report(found()), report(), off).remarks == ()

    def test_a_rule_that_is_not_installed_is_not_judged(self) -> None:
        assert apply(report(found(code="ACM001")), report()).remarks == ()

    def test_how_severe_it_is_can_be_set(self) -> None:
        strict = Config((Section("here", severities={"CKD002": Severity.ERROR}),))
        result = apply(report(found()), report(), strict)
        assert [each.severity for each in result.findings] == [Severity.ERROR]
        assert result.failed
        assert apply(report(found()), report(), Config((Section("here", severities={"CKD002": None}),))).remarks == ()


class TestWriting:
    def test_it_is_stable_and_readable_line_by_line(self) -> None:
        one, two = found(tensor="a", units=[1, 2], names=["y", "x"]), found(tensor="b", zero_fraction=1 / 3)
        text = write_baseline(report(one, two), "baseline.json")
        assert text == write_baseline(report(two, one), "baseline.json")
        assert json.loads(text)["findings"][1]["figures"] == {"zero_fraction": 0.333}
        assert len(text.splitlines()) < 30

    def test_what_the_configuration_hides_is_not_known_and_what_a_baseline_hides_is(self) -> None:
        hidden = [replace(found(tensor=each), ignored=each) for each in ("reason", IN_BASELINE)]
        entries = json.loads(write_baseline(report(*hidden), "baseline.json"))["findings"]
        assert [each["subject"] for each in entries] == [IN_BASELINE]

    def test_a_crashed_rule_is_never_known(self) -> None:
        crash = report_crash(partial_zeros, ValueError("no"))
        assert [each.code for each in apply(report(crash), report(crash)).findings] == ["CKD001"]

    def test_an_unreadable_checkpoint_stays_unreadable(self) -> None:
        assert apply(report(), report(readable=False)).checkpoints[0].verdict is Verdict.UNREADABLE

    @given(
        st.lists(
            st.builds(
                found,
                tensor=st.none() | st.text(max_size=5),
                severity=st.sampled_from(Severity),
                zero_fraction=st.floats(),
                largest=st.floats() | st.integers(),
                names=st.lists(st.text(max_size=3), max_size=3),
                units=st.lists(st.integers(), max_size=3),
                gate=st.sampled_from(["forget", None]),
            ),
            max_size=6,
        )
    )
    def test_a_baseline_of_a_report_hides_all_of_it(self, findings: list[Finding]) -> None:
        result = apply(report(*findings), report(*findings))
        assert (result.findings, result.hidden, result.remarks) == ([], len(findings), ())


class TestReading:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is not JSON"),
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("\udcff", "is not JSON"),
            ("[]", "is not a baseline"),
            ('{"schema_version": 1, "checkpoints": []}', "is not a baseline"),
            ('{"baseline_version": 2, "findings": []}', "is a baseline of version 2"),
            ('{"baseline_version": 1}', "findings must be a list"),
            ('{"baseline_version": 1, "findings": [3]}', r"findings\[0\] is damaged"),
            ('{"baseline_version": 1, "findings": [{"path": "a"}]}', r"findings\[0\] is damaged: code is missing"),
        ],
    )
    def test_what_is_no_baseline_is_one_sentence(self, text: str, message: str) -> None:
        Path("bad.json").write_text(text, errors="surrogateescape")
        with pytest.raises(UsageError, match=message) as caught:
            read_baseline("bad.json")
        assert "--write-baseline" in caught.value.hint
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize("path", ["absent.json", "runs"])
    def test_a_file_that_cannot_be_read_is_one_sentence(self, path: str) -> None:
        with pytest.raises(UsageError, match="cannot read the baseline"):
            read_baseline(path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("severity", "bad"), ("count", "1"), ("figures", {"units": "x"}), ("figures", {"units": nan}),
         ("figures", {"units": [1]}), ("names", {"names": 3}), ("names", {"names": [3]}), ("names", []), ("path", 1)],
    )  # fmt: skip
    def test_a_damaged_entry_is_named(self, field: str, value: Any) -> None:
        document = json.loads(write_baseline(report(found(tensor="a"), found(tensor="b")), "baseline.json"))
        document["findings"][1][field] = value
        Path("bad.json").write_text(json.dumps(document))
        with pytest.raises(UsageError, match=r"bad.json: findings\[1\] is damaged: \w+"):
            read_baseline("bad.json")
