"""The verdict is the same in every format and for every ``--fail-on``, which decides only what fails the run."""

import json
import re
from itertools import product
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from sample_reports import CLEAN, CLINIC, HEALTHY, ILL, ODD, ONE_UNREADABLE, RULES, UNUSED

from checkpoint_doctor.builtin.reporters import github, junit, markdown, sarif, terminal
from checkpoint_doctor.builtin.reporters import json as json_reporter
from checkpoint_doctor.results.baseline import Baseline
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.json_reading import read_json
from checkpoint_doctor.results.report import Page, Report, Verdict
from tests.gathering import apply_baseline

FAILED_BY_HAND = {
    ("error", Severity.ERROR): True, ("error", Severity.WARNING): True, ("error", Severity.NOTE): True,
    ("warning", Severity.ERROR): False, ("warning", Severity.WARNING): True, ("warning", Severity.NOTE): True,
    ("note", Severity.ERROR): False, ("note", Severity.WARNING): False, ("note", Severity.NOTE): True,
}  # fmt: skip
WORST = {"error": ILL, "warning": ODD, "note": HEALTHY, "none": CLEAN.checkpoints[0]}
HIDDEN = replace(ILL, findings=tuple(replace(each, ignored="known") for each in ILL.findings))


@pytest.mark.parametrize(("worst", "fail_on"), list(product(WORST, [*Severity, None])))
def test_fail_on_decides_what_fails(worst, fail_on):
    report = Report((WORST[worst],), 3, fail_on)
    assert report.failed is FAILED_BY_HAND.get((worst, fail_on), False)


@pytest.mark.parametrize("fail_on", [*Severity, None])
def test_a_baseline_judges_by_errors_alone(fail_on):
    report = apply_baseline(Report((ILL, ODD, HEALTHY), 3, fail_on), Baseline("baseline.json", {}))
    assert [each.verdict for each in report.checkpoints] == [Verdict.ILL, Verdict.HEALTHY, Verdict.HEALTHY]


@pytest.mark.parametrize("fail_on", [*Severity, None])
def test_every_report_names_a_checkpoint_ill_for_an_error_and_healthy_for_a_warning(fail_on):
    for examination, verdict in ((ILL, "ill"), (replace(ODD, path="runs/odd.pt"), "healthy")):
        report = Report((examination,), 3, fail_on)
        assert json.loads(json_reporter.reporter.render(report, RULES, Page()))["checkpoints"][0]["verdict"] == verdict
        assert f"{verdict} | `{examination.path}`" in markdown.reporter.render(report, RULES, Page())
        assert terminal.reporter.render(report, RULES, Page()).startswith(verdict.upper())


def test_a_hidden_finding_never_fails_the_run():
    assert not Report((HIDDEN,), 3, Severity.NOTE).failed


@pytest.mark.parametrize("remarks", [(), (UNUSED,)], ids=["", "remark"])
@pytest.mark.parametrize(
    ("checkpoints", "fail_on"),
    list(
        product(
            [(), *((each,) for each in WORST.values()), (HIDDEN,), ONE_UNREADABLE.checkpoints, CLINIC.checkpoints],
            [*Severity, None],
        )
    ),
    ids=lambda value: "+".join(each.path[5:9] for each in value) if isinstance(value, tuple) else str(value),
)
def test_every_format_tells_the_same_verdict(checkpoints, fail_on, remarks):
    report = Report(checkpoints, 3, fail_on, remarks)
    texts = {
        module.__name__.rpartition(".")[2]: module.reporter.render(report, RULES, Page())
        for module in (github, json_reporter, junit, markdown, sarif)
    }
    verdicts = {
        "json": json.loads(texts["json"])["failed"],
        "read back": read_json(texts["json"]).failed,
        "sarif": json.loads(texts["sarif"])["runs"][0]["properties"]["failed"],
        "junit": ElementTree.fromstring(texts["junit"]).find(".//failure") is not None,
        "github": re.search("title=checkpoint-doctor::failed\\b", texts["github"]) is not None,
        "markdown": texts["markdown"].startswith("## Checkpoint doctor: failed"),
    }
    assert verdicts == dict.fromkeys(verdicts, report.failed)


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (CLEAN, "1 tensor, 3 rules, 0 findings"),
        (ONE_UNREADABLE, "0 tensors, 41 rules, 0 findings, 1 unreadable"),
        (Report((ILL,), 3), "6 tensors, 3 rules, 3 findings, 1 hidden by config, 1 not looked at"),
        (Report((), 3), "0 checkpoints, 0 tensors, 3 rules, 0 findings"),
        (Report((ILL,), 3, remarks=(UNUSED,)), "6 tensors, 3 rules, 4 findings, 1 hidden by config, 1 not looked at"),
        (replace(CLEAN, carried_over=1), "1 tensor, 3 rules, 0 findings, 1 carried over"),
        (replace(CLEAN, configuration="off: ZER003"), "1 tensor, 3 rules, 0 findings, off: ZER003"),
    ],
)
def test_the_summary_names_only_what_there_is(report, line):
    assert report.summary_line == line


def test_a_page_is_plain_and_eighty_columns_wide_unless_it_is_said():
    assert Page() == Page(80, color=False, verbose=False, settings=False, resume=False, ascii_only=False, tensors=())
