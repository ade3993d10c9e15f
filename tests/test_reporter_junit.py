"""JUnit XML: other parsers read it, and its failures are the run's."""

import junitparser
import pytest
from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import CLINIC, HEALTHY, HIDDEN, ILL, ONE_HEALTHY, ONE_ILL, RULES, ZERO_BIAS, record

from checkpoint_doctor.builtin.reporters.junit import reporter
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict


def parse(report):
    return junitparser.JUnitXml.fromstring(reporter.render(report, RULES, Page()).encode())


def cases_of(report):
    return {case.name: case for suite in parse(report) for case in suite}


def test_a_clean_run_has_a_passing_case_for_every_rule():
    xml = parse(ONE_HEALTHY)
    assert (xml.tests, xml.failures, xml.errors, xml.skipped) == (3, 0, 0, 0)
    assert all(case.is_passed for suite in xml for case in suite)


def test_there_is_a_case_for_each_rule_and_file():
    files = tuple(replace(HEALTHY, path=f"{n}.zip") for n in range(4))
    xml = parse(Report(files, 3))
    assert xml.tests == 4 * len(RULES)
    assert len({(case.classname, case.name) for suite in xml for case in suite}) == 4 * len(RULES)
    assert [suite.name for suite in xml] == ["0.zip", "1.zip", "2.zip", "3.zip"]


def test_the_counts_agree_with_the_cases():
    xml = parse(CLINIC)
    counted = (xml.tests, xml.failures, xml.errors, xml.skipped)
    xml.update_statistics()
    assert counted == (xml.tests, xml.failures, xml.errors, xml.skipped) == (13, 1, 1, 1)


def test_a_failure_tells_everything_in_its_body():
    (failure,) = cases_of(ONE_ILL)["ZER003 zero-bias"].result
    assert isinstance(failure, junitparser.Failure)
    assert failure.type == "error"
    assert failure.message == f"actor.mu.bias: {ZERO_BIAS.message}"
    for words in (
        "evidence: zero fraction 100%",
        "advice: Look for code",
        "fix: safe (`ckdoc fix`): uniform(-0.01, 0.01)",
    ):
        assert words in failure.text


@pytest.mark.parametrize(
    ("fail_on", "failing"),
    [
        (Severity.NOTE, {"FIL004 code-in-schedule", "NET001 dormant-units", "ZER003 zero-bias"}),
        (Severity.WARNING, {"NET001 dormant-units", "ZER003 zero-bias"}),
        (Severity.ERROR, {"ZER003 zero-bias"}),
        (None, set()),
    ],
)
def test_a_case_fails_from_fail_on_upwards(fail_on, failing):
    cases = cases_of(replace(ONE_ILL, fail_on=fail_on))
    assert {
        name for name, case in cases.items() if any(isinstance(each, junitparser.Failure) for each in case.result)
    } == failing
    for name in {"FIL004 code-in-schedule", "NET001 dormant-units"} - failing:
        assert cases[name].system_out


def test_a_rule_whose_findings_are_all_hidden_is_skipped_with_the_reason():
    case = cases_of(Report((replace(ILL, findings=(HIDDEN,)),), 3))["ZER003 zero-bias"]
    (skipped,) = case.result
    assert isinstance(skipped, junitparser.Skipped)
    assert skipped.message == "1 finding hidden by config: by design, since 2024"


def test_a_hidden_finding_beside_a_failure_is_not_lost():
    assert "hidden by config: by design" in cases_of(ONE_ILL)["ZER003 zero-bias"].system_out


def test_several_findings_of_a_rule_share_its_case():
    other = replace(ZERO_BIAS, tensor="critic.mu.bias")
    (failure,) = cases_of(Report((replace(ILL, findings=(ZERO_BIAS, other)),), 3))["ZER003 zero-bias"].result
    assert failure.message.startswith("2 findings: actor.mu.bias")
    assert "critic.mu.bias" in failure.text


def test_an_unreadable_checkpoint_is_an_error_and_runs_no_rule():
    suite = next(suite for suite in parse(CLINIC) if suite.name == "runs/broken.zip")
    (case,) = suite
    (error,) = case.result
    assert isinstance(error, junitparser.Error)
    assert "4,096 bytes are expected" in error.message
    assert "copy or download it again" in error.text


def test_what_could_not_be_looked_at_is_skipped_with_the_reason():
    (skipped,) = cases_of(ONE_ILL)["looked at pytorch_variables.pth"].result
    assert skipped.message == "its pickle asks for a class that is not known"


def test_a_finding_of_an_unlisted_rule_has_its_case():
    assert "ACM001 odd-name" in cases_of(CLINIC)


def test_a_remark_about_the_run_has_a_case_of_its_own():
    assert "matched nothing" in cases_of(CLINIC)["CKD002 unused-ignore"].system_out


names = st.text(st.characters(codec=None), max_size=30)


@given(names, names, names)
@settings(max_examples=150, deadline=None)
def test_any_text_stays_well_formed(path, name, message):
    finding = Finding("ACM001", "odd", Severity.ERROR, message, name, None, {name: message}, advice=message)
    examination = Examination(
        path, "torch", Verdict.ILL, tensors=(record(name, (1,), name),),
        findings=(finding, replace(finding, ignored=message)), skipped=(Skipped(name, message),),
    )  # fmt: skip
    unreadable = Examination(path, None, Verdict.UNREADABLE, error=message, hint=name)
    text = reporter.render(Report((examination, unreadable), 1), RULES, Page())
    ElementTree.fromstring(text.encode("utf-8"))
