"""Annotations: escaped, the worst first, within what GitHub shows."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import CLEAN, CLINIC, DORMANT_UNITS, HEALTHY, ILL, RULES, SCHEDULE, UNREADABLE, ZERO_BIAS

from checkpoint_doctor.builtin.reporters.github import reporter
from checkpoint_doctor.results.report import Page, Report

COMMAND = re.compile(r"::(?P<level>error|warning|notice) (?P<properties>[^:]*)::(?P<message>.*)")


def annotate(report):
    return [COMMAND.fullmatch(line) for line in reporter.render(report, RULES, Page()).removesuffix("\n").split("\n")]


def unescape(text):
    for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, character)
    return text


def properties_of(command):
    return {key: unescape(value) for key, value in (pair.split("=", 1) for pair in command["properties"].split(","))}


UNREPAIRABLE = replace(ZERO_BIAS, fix=None, repairs=())


def test_each_finding_is_an_annotation_and_nothing_else_is_printed():
    commands = annotate(CLINIC)
    assert all(commands)
    assert [command["level"] for command in commands] == [
        "error", "error", "warning", "warning", "warning", "notice", "notice", "notice", "notice",
    ]  # fmt: skip


def test_an_annotation_says_where_what_and_how_to_fix_it():
    command = annotate(Report((ILL,), 3))[0]
    assert properties_of(command) == {"file": "runs/model.zip", "title": "ZER003 zero-bias"}
    assert command["message"].startswith("actor.mu.bias: All 3 entries are exactly zero")
    assert command["message"].endswith("Fix: safe (`ckdoc fix`): uniform(-0.01, 0.01)")


def test_message_and_advice_are_two_sentences():
    finding = replace(UNREPAIRABLE, message="all zero", advice="Look upstream", tensor=None, layer=None)
    assert annotate(Report((replace(ILL, findings=(finding,)),), 3))[0]["message"] == "all zero. Look upstream"


def test_hidden_findings_are_not_annotated():
    assert "critic.qf0.0.bias" not in reporter.render(CLINIC, RULES, Page())


def test_a_clean_run_says_what_was_looked_at():
    (command,) = annotate(CLEAN)
    assert command["message"] == "passed: 1 tensor, 3 rules, 0 findings"


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report((ILL, UNREADABLE), 1), "failed and incomplete"),
        (Report((ILL,), 1), "failed"),
        (Report((ILL,), 1, fail_on=None), "passed"),
        (Report((HEALTHY, UNREADABLE), 1), "incomplete"),
        (Report((HEALTHY,), 1), "passed"),
    ],
)
def test_the_last_notice_has_the_verdict(report, verdict):
    assert annotate(report)[-1]["message"].startswith(f"{verdict}: ")


def test_beyond_what_github_shows_the_worst_are_kept_and_the_rest_is_counted():
    findings = (SCHEDULE,) * 15 + (DORMANT_UNITS,) * 12 + (ZERO_BIAS,) * 11
    commands = annotate(Report((replace(ILL, findings=findings, skipped=()),), 1))
    assert Counter(command["level"] for command in commands) == {"error": 10, "warning": 10, "notice": 10}
    assert "; 9 more annotations not shown here" in commands[-1]["message"]
    levels = [command["level"] for command in commands]
    assert levels == sorted(levels, key=["error", "warning", "notice"].index)


@given(st.text(st.characters(codec=None), min_size=1, max_size=40), st.text(st.characters(codec=None), max_size=40))
@settings(max_examples=200, deadline=None)
def test_no_name_breaks_out_of_its_annotation(path, message):
    finding = replace(UNREPAIRABLE, message=f"a{message}::error::x\r\n::warning::y%0A", tensor=f"t{message}", advice="")
    path = f"runs/{path.replace('/', '-')}"
    commands = annotate(Report((replace(UNREADABLE, path=path), replace(ILL, path=path, findings=(finding,))), 1))
    assert all(commands)
    assert len(commands) == 4
    assert set(properties_of(commands[1])) == {"file", "title"}
    assert unescape(commands[1]["message"]).endswith(r"\x3a:error\x3a:x \x3a:warning\x3a:y%0A")
