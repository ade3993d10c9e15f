"""Causes compete for findings, and a diagnosis stands in every report in the place of what it explains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import checkpoint_doctor.builtin.causes
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.file import load_config
from checkpoint_doctor.diagnosis.competition import collect_claims
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.cause import Cause, Claim, Symptoms, cause
from checkpoint_doctor.results.baseline import read_baseline, write_baseline
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.report import Examination, Report, Verdict, judge
from checkpoint_doctor.testing import build_checkpoint, check_cause, diagnoses_of
from tests.gathering import apply_baseline

CHECKPOINT = build_checkpoint({"net.weight": np.ones((2, 2), np.float32)})
CATALOGUE = discover()
POSSIBLE, LIKELY, PROVEN = Certainty


def finding(code: str, severity: Severity = Severity.WARNING, **fields: Any) -> Finding:
    return Finding(code, code.lower(), severity, f"{code} was found", **fields)


def declare(
    name: str, proof: Iterable[str], consequences: Iterable[str] = (), *, is_outcome: bool = False, **claim: Any
) -> Cause:
    """Declare a cause that explains findings by their codes."""

    @cause(name, Prognosis.CURED, is_outcome=is_outcome)
    def explain(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterable[Claim]:
        found = symptoms.of(*proof)
        if found:
            yield explain.claim(found, consequences=symptoms.of(*consequences), **claim)

    return explain


A, B, C = finding("AAA001"), finding("BBB001", Severity.ERROR), finding("CCC001", Severity.NOTE)

COMPETITIONS: dict[str, tuple[list[Cause], dict[str, tuple[int, ...]]]] = {
    "nobody claims anything": ([], {}),
    "a cause explains what proves it and what follows": ([declare("one", ["AAA001"], ["CCC001"])], {"one": (0, 2)}),
    "the more certain claim wins, though it explains less": (
        [
            declare("wide", ["AAA001"], ["BBB001", "CCC001"], certainty=LIKELY),
            declare("sure", ["AAA001"], certainty=PROVEN),
        ],
        {"sure": (0,)},
    ),
    "among equally certain claims the one that explains an error wins": (
        [declare("few", ["AAA001"], ["CCC001"]), declare("grave", ["AAA001"], ["BBB001"])],
        {"grave": (0, 1)},
    ),
    "a finding belongs to one diagnosis": (
        [declare("first", ["BBB001"], ["CCC001"]), declare("second", ["AAA001"], ["CCC001"], certainty=LIKELY)],
        {"first": (1, 2), "second": (0,)},
    ),
    "a claim falls with its last proof, and what only it claimed stays unexplained": (
        [declare("better", ["AAA001"]), declare("worse", ["AAA001"], ["CCC001"], certainty=LIKELY)],
        {"better": (0,)},
    ),
    "an outcome comes last, however certain it is": (
        [
            declare("outcome", ["AAA001"], ["BBB001"], certainty=PROVEN, is_outcome=True),
            declare("cause", ["AAA001"], certainty=POSSIBLE),
        ],
        {"cause": (0,)},
    ),
    "an outcome explains what no cause does": (
        [declare("outcome", ["AAA001", "BBB001"], is_outcome=True), declare("cause", ["AAA001"])],
        {"cause": (0,), "outcome": (1,)},
    ),
}


@pytest.mark.parametrize("name", COMPETITIONS)
def test_causes_compete(name: str) -> None:
    causes, expected = COMPETITIONS[name]
    assert {each.cause: each.explains for each in diagnoses_of(causes, CHECKPOINT, [A, B, C])} == expected


def test_a_diagnosis_is_as_severe_as_the_worst_that_it_explains_unless_the_cause_says_otherwise() -> None:
    [worst] = diagnoses_of(declare("one", ["CCC001"], ["BBB001"]), CHECKPOINT, [A, B, C])
    assert worst.severity is Severity.ERROR
    [waiting] = diagnoses_of(declare("one", ["BBB001"], severity=Severity.NOTE), CHECKPOINT, [A, B, C])
    assert waiting.severity is Severity.NOTE


def test_diagnoses_come_the_worst_first() -> None:
    causes = [declare("mild", ["CCC001"]), declare("grave", ["BBB001"]), declare("middle", ["AAA001"])]
    assert [each.cause for each in diagnoses_of(causes, CHECKPOINT, [A, B, C])] == ["grave", "middle", "mild"]


def test_a_claim_takes_words_and_evidence_from_its_only_proof() -> None:
    proof = finding("AAA001", tensor="net.weight", evidence={"units": [1]}, advice="Look there.")
    [diagnosis] = diagnoses_of(declare("one", ["AAA001"]), CHECKPOINT, [proof])
    assert (diagnosis.message, diagnosis.subject) == ("AAA001 was found", "net.weight")
    assert (diagnosis.evidence, diagnosis.advice) == ({"units": [1]}, "Look there.")


def test_nothing_can_be_cured_where_no_finding_has_a_repair() -> None:
    [without] = diagnoses_of(declare("one", ["AAA001"]), CHECKPOINT, [A])
    [repairable] = diagnoses_of(declare("one", ["AAA001"]), CHECKPOINT, [replace(A, fix=Safety.SAFE)])
    assert (without.prognosis, repairable.prognosis) == (Prognosis.POINTLESS, Prognosis.CURED)


def test_hidden_findings_are_not_shown_to_causes() -> None:
    claims, _ = collect_claims(CHECKPOINT, [replace(A, ignored="known")], [declare("one", ["AAA001"])])
    assert claims == []


def test_symptoms_are_selected_by_rule_and_evidence() -> None:
    first, second = finding("AAA001", evidence={"cause": "x"}), finding("AAA001", evidence={"cause": "y"})
    symptoms = Symptoms([first, second, B])
    assert symptoms.of("AAA001", cause="y") == (second,)
    assert symptoms.of("AAA001", cause=("x", "y")) == (first, second)
    assert symptoms.of("AAA001", "BBB001") == (first, second, B)


def test_a_crashing_cause_is_named_and_the_others_are_asked() -> None:
    @cause("broken", Prognosis.POINTLESS)
    def broken(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterable[Claim]:
        raise ZeroDivisionError("no tensor has a size")

    claims, crashes = collect_claims(CHECKPOINT, [A], [broken, declare("one", ["AAA001"])])
    assert [each.cause.name for each in claims] == ["one"]
    [crash] = crashes
    assert (crash.code, crash.evidence["rule"]) == ("CKD001", "broken")
    assert "no tensor has a size" in crash.message


@pytest.mark.parametrize("declared", CATALOGUE.causes, ids=lambda each: each.name)
def test_every_cause_is_declared_in_full(declared: Cause) -> None:
    check_cause(declared)


def test_causes_name_only_rules_that_exist() -> None:
    files = Path(checkpoint_doctor.builtin.causes.__file__).parent.glob("*.py")
    named = {code for file in files for code in re.findall(r"\b[A-Z]{3}\d{3}\b", file.read_text(encoding="utf-8"))}
    assert "OPT001" in named
    assert named <= {rule.code for rule in CATALOGUE.rules}


# --- the verdict ------------------------------------------------------------------------------------------------------


def diagnosis(explains: tuple[int, ...], severity: Severity = Severity.ERROR, **fields: Any) -> Diagnosis:
    return Diagnosis("one-cause", Certainty.PROVEN, severity, "It is this.", explains, **fields)


VERDICTS: dict[str, tuple[list[Finding], list[Diagnosis], Verdict]] = {
    "an explained error": ([B], [diagnosis((0,))], Verdict.ILL),
    "an error that its cause makes a note": ([B], [diagnosis((0,), Severity.NOTE)], Verdict.HEALTHY),
    "an error beside a diagnosis": ([A, B], [diagnosis((0,), Severity.WARNING)], Verdict.ILL),
    "a hidden diagnosis": ([replace(B, ignored="known")], [diagnosis((0,), ignored="known")], Verdict.HEALTHY),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_counts_a_diagnosis_in_the_place_of_what_it_explains(name: str) -> None:
    findings, diagnoses, verdict = VERDICTS[name]
    assert judge(findings, diagnoses) is verdict
    report = Report((Examination("a.pt", "torch", verdict, findings=tuple(findings), diagnoses=tuple(diagnoses)),), 3)
    assert report.failed is (verdict is Verdict.ILL)


# --- hiding -----------------------------------------------------------------------------------------------------------


SETTING = "HYP001"
"""The rule that speaks besides: the learning rate of this agent is far outside the tuned range."""


@pytest.fixture
def overwritten(fixtures: Path) -> Path:
    return fixtures / "case_2_overwritten.zip"


def test_one_illness_is_one_diagnosis(overwritten: Path) -> None:
    [examination] = scan([overwritten]).checkpoints
    assert [each.cause for each in examination.diagnoses] == ["overwritten"]
    explained = examination.diagnoses[0].explains
    assert len(explained) > 20
    assert [each.code for place, each in enumerate(examination.findings) if place not in explained] == [SETTING]
    assert len(examination.alerts) == 2


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Any]:
    def write(text: str = "", **options: Any) -> Any:
        (tmp_path / "ckdoc.toml").write_text(text)
        return load_config(CATALOGUE.rules, causes=CATALOGUE.causes, file=str(tmp_path / "ckdoc.toml"), **options)

    return write


def test_a_cause_can_be_ignored_with_a_reason(overwritten: Path, configure: Callable[..., Any]) -> None:
    config = configure('[[ignore]]\ncode = "overwritten"\nreason = "The reset is meant."\n')
    report = scan([overwritten], config=config)
    assert not report.failed
    assert report.checkpoints[0].diagnoses[0].ignored == "The reset is meant."
    explained = [each for each in report.checkpoints[0].findings if each.code != SETTING]
    assert {each.ignored for each in explained} == {"overwritten: The reset is meant."}
    assert report.remarks == ()


def test_a_cause_can_be_ignored_for_some_tensors(overwritten: Path, configure: Callable[..., Any]) -> None:
    other = configure('[[ignore]]\ncode = "overwritten"\ntensor = "encoder.*"\nreason = "Known."\n')
    report = scan([overwritten], config=other)
    assert report.failed
    assert [each.code for each in report.remarks] == ["CKD002"]


def test_a_cause_can_be_ignored_on_the_command_line(overwritten: Path, configure: Callable[..., Any]) -> None:
    assert not scan([overwritten], config=configure(ignore=["overwritten"])).failed


def test_a_misspelt_cause_is_refused_with_the_nearest_name(configure: Callable[..., Any]) -> None:
    with pytest.raises(UsageError) as refused:
        configure(ignore=["overwriten"])
    assert "overwritten" in refused.value.hint


def test_a_known_diagnosis_is_known_whatever_it_explains(
    overwritten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = scan([overwritten])
    examination = report.checkpoints[0]
    setting = next(each for each in examination.findings if each.code == SETTING)
    explained = [each for each in examination.findings if each is not setting]
    fewer = replace(examination, findings=(*explained[:5], setting), diagnoses=(
        replace(examination.diagnoses[0], explains=(0, 1, 2, 3, 4)),
    ))  # fmt: skip
    Path("baseline.json").write_text(write_baseline(replace(report, checkpoints=(fewer,)), "baseline.json"))
    now = apply_baseline(report, read_baseline("baseline.json"))
    assert not now.failed
    assert now.checkpoints[0].alerts == []
    worse = replace(fewer, diagnoses=(replace(fewer.diagnoses[0], severity=Severity.WARNING),))
    Path("baseline.json").write_text(write_baseline(replace(report, checkpoints=(worse,)), "baseline.json"))
    assert apply_baseline(report, read_baseline("baseline.json")).failed


# --- reports ----------------------------------------------------------------------------------------------------------


def render(form: str, path: Path) -> str:
    from checkpoint_doctor.results.report import Page

    return CATALOGUE.reporters[form].render(scan([path], catalogue=CATALOGUE), CATALOGUE.rules, Page())


def test_one_illness_is_one_alert_with_its_symptoms_as_related_locations(overwritten: Path) -> None:
    results = json.loads(render("sarif", overwritten))["runs"][0]["results"]
    assert [each["ruleId"] for each in results] == ["overwritten", SETTING]
    assert len(results[0]["relatedLocations"]) > 20


def test_one_illness_is_one_failing_test_case(overwritten: Path) -> None:
    import defusedxml.ElementTree

    cases = defusedxml.ElementTree.fromstring(render("junit", overwritten)).iter("testcase")
    assert [each.get("name") for each in cases if each.find("failure") is not None] == ["diagnosis overwritten"]


def test_the_json_links_findings_and_diagnoses(overwritten: Path) -> None:
    [checkpoint] = json.loads(render("json", overwritten))["checkpoints"]
    [only] = checkpoint["diagnoses"]
    explained = [place for place, each in enumerate(checkpoint["findings"]) if each["code"] != SETTING]
    assert sorted(only["explains"]) == explained
    assert {checkpoint["findings"][place]["diagnosis"] for place in explained} == {0}
