"""Nothing that a file says reaches a terminal or a CI log as a command, whichever report and stream shows it."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_reports import RULES, record

from checkpoint_doctor.acts.scan import Progress
from checkpoint_doctor.checkpoint import Content, Part, Skipped
from checkpoint_doctor.cli import progress
from checkpoint_doctor.cli.output import complain, remark
from checkpoint_doctor.cli.scanning import warn_of_broken_plugins
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict
from checkpoint_doctor.results.resume import Resumption

PIECES = (
    "::error::pwned", "::add-mask::*", "##[error]pwned", "##vso[task.complete result=Succeeded;]", "###[group]", ":::",
    "##teamcity[buildStop]", ":", "#", "::", " ", "\n", "\r", "\r\n", "\t", "\x1b[2J", "\x1b]0;title\x07", "\x9b31m",
    "\u061c", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\x85", "\x00", "\xad", "\ud800", "\U000e0001",
    "\U000e0041", "\U000e007f", "layers.0.weight", "a/b", "x" * 60, "|", "`", "<b>", "%0A", "%3A", "{0}", "[bold]",
)  # fmt: skip
NAMES = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=6).map("".join)
REPORTERS = discover().reporters

ACTED_ON = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
    "|[\U000e0000-\U000e0fff]|##[a-z]*\\["
)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
ANNOTATION = re.compile(r"::(error|warning|notice) [^:]*::[^\n]*")


def findings(name: st.SearchStrategy[str]) -> st.SearchStrategy[Finding]:
    evidence = st.dictionaries(name, name | st.lists(name, max_size=9) | st.floats() | st.none(), max_size=3)
    repairs = name.map(lambda each: (Repair(each, each, lambda old, random: old),))
    return st.builds(
        Finding,
        code=st.sampled_from(["ZER003", "ACM001", "CKD001", "CKD003"]),
        name=name,
        severity=st.sampled_from(Severity),
        message=name,
        tensor=st.none() | name,
        layer=st.none() | name,
        evidence=evidence,
        repairs=repairs,
        fix=st.none() | st.sampled_from(Safety),
        advice=name,
        ignored=st.none() | name,
    )


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A report in which whatever can come from a file, a configuration or a plugin is any text, of a few."""
    name = st.sampled_from(draw(st.lists(NAMES, min_size=1, max_size=12)))
    examinations = []
    for _ in range(draw(st.integers(0, 2))):
        found = tuple(draw(st.lists(findings(name), max_size=4)))
        explained = tuple(range(draw(st.integers(0, len(found)))))
        diagnosis = Diagnosis(
            cause=draw(name),
            certainty=Certainty.LIKELY,
            severity=Severity.ERROR,
            message=draw(name),
            explains=explained,
            summary=draw(name),
            subject=draw(st.none() | name),
            evidence={draw(name): draw(name)},
            advice=draw(name),
            remedy=draw(name),
            prognosis=Prognosis.CURED,
            ignored=draw(st.none() | name),
        )
        examinations.append(
            Examination(
                path=re.sub("[\ud800-\udfff]", "", draw(name)) or "a",  # no system gives such a path
                format=draw(st.sampled_from(["sb3", "torch"])),
                verdict=draw(st.sampled_from(Verdict)),
                error=draw(st.none() | name),
                hint=draw(name),
                layout=draw(name),
                algorithm=draw(st.none() | name),
                step=3,
                versions={draw(name): draw(name)},
                hyperparameters={draw(name): draw(name), draw(name): 0.5, "gamma": 0.9},
                layers=1,
                tensors=(record(draw(name), (2, 2), draw(name), kind=draw(name), dtype=draw(name)),),
                findings=found,
                diagnoses=(diagnosis,) if explained else (),
                skipped=(Skipped(draw(name), draw(name)),),
                parts=(Part(draw(name), Content.WEIGHTS, file=draw(name)),),
                resumption=Resumption(step=3, learning_rates=(0.5,)),
                content=draw(name),
            )
        )
    return Report(
        checkpoints=tuple(examinations),
        rules=3,
        remarks=tuple(draw(st.lists(findings(name), max_size=2))),
        passed_over=(Skipped(draw(name), draw(name)),),
        configuration=draw(name),
    )


def assert_inert(text: str) -> None:
    assert not ACTED_ON.search(text), ACTED_ON.search(text)
    assert not [line for line in text.split("\n") if line.lstrip().startswith("::")]
    text.encode()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(report=reports(), width=st.sampled_from([20, 40, 80, 200]), verbose=st.booleans(), color=st.booleans())
def test_no_report_passes_a_command_on(report: Report, width: int, verbose: bool, color: bool) -> None:
    for form, reporter in REPORTERS.items():
        if form == "parquet":  # it is no text
            continue
        text = reporter.render(report, RULES, Page(width, color, verbose))
        assert_document(form, text, report)
        if form == "terminal" and color:
            text = COLOR.sub("", text)
        if form == "github":
            text = "\n".join(line.removeprefix("::") for line in text.split("\n"))
        assert_inert(text)


def assert_document(form: str, text: str, report: Report) -> None:
    """Assert that programs can read it, and that nothing is lost."""
    if form == "github":
        lines = text.rstrip("\n").split("\n")
        assert all(ANNOTATION.fullmatch(line) for line in lines), lines
        assert lines[-1].startswith("::notice title=checkpoint-doctor::")
    elif form == "json":
        document = json.loads(text)
        assert [each["path"] for each in document["checkpoints"]] == [each.path for each in report.checkpoints]
        assert document["configuration"] == report.configuration
    elif form == "sarif":
        json.loads(text)
    elif form == "junit":
        ElementTree.fromstring(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=NAMES, hint=NAMES)
def test_standard_error_passes_no_command_on(text: str, hint: str) -> None:
    stream, kept = io.StringIO(), sys.stderr
    sys.stderr = stream
    try:
        remark(text)
        complain(text, hint)
    finally:
        sys.stderr = kept
    assert_inert(stream.getvalue())


@pytest.mark.parametrize("piece", PIECES)
def test_a_broken_plugin_says_no_command(piece: str, capsys: pytest.CaptureFixture[str]) -> None:
    from msgspec.structs import replace

    catalogue = discover()
    broken = replace(catalogue.plugins[-1], distribution="acme", name=piece, problem=f"ImportError: {piece}")
    warn_of_broken_plugins(replace(catalogue, plugins=(*catalogue.plugins, broken)))
    assert_inert(capsys.readouterr().err)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("piece", PIECES)
def test_the_progress_bar_passes_no_command_on(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress.show_progress(quiet=False) as advance:
        assert advance is not None
        for number in (1, 2):
            advance(Progress(f"runs/{piece}", number, 2, 1, 2))
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue())
    assert_inert(drawn)
    assert "\x1b[2J" not in stream.getvalue()


def test_every_kind_of_file_name_is_spelt(tmp_path: Any) -> None:
    from checkpoint_doctor.text import printable, shown

    def spelt() -> Iterator[str]:
        yield from map(printable, PIECES)
        yield from map(shown, PIECES)

    for text in spelt():
        assert_inert(text)
    assert printable("std::vector") == "std\\x3a:vector"
    assert printable("a:b # c [0:2]") == "a:b # c [0:2]"
