"""Nothing that a file says reaches a terminal or a CI log as a command, whichever report and stream shows it."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_reports import RULES, record

from checkpoint_doctor.acts.fix import FixResult, Outcome
from checkpoint_doctor.acts.scan import Progress
from checkpoint_doctor.checkpoint import Content, Part, Skipped
from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.cli import progress
from checkpoint_doctor.cli.fixing import draw as draw_fix
from checkpoint_doctor.cli.output import complain, remark
from checkpoint_doctor.cli.scanning import warn_of_broken_plugins
from checkpoint_doctor.cli.watching import Tally
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.protocols import LogReporter, SeriesReporter
from checkpoint_doctor.repair.changes import Purpose, Unfixed, Upstream
from checkpoint_doctor.repair.record import ChangeRecord, Figures, Summary
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
from checkpoint_doctor.results.events import Arrival, Loss, Stall
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.results.log_report import LogReport
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict
from checkpoint_doctor.results.resume import Resumption
from checkpoint_doctor.results.series_report import (
    Illness,
    PointRecord,
    SeriesRecord,
    SeriesReport,
    SettingRow,
    TensorRow,
)
from checkpoint_doctor.sources import Unsearched

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


FILES = NAMES.map(lambda name: re.sub("[\ud800-\udfff]", "", name) or "a")  # no system gives another path


@st.composite
def diagnoses(draw: st.DrawFn) -> Diagnosis:
    return Diagnosis(
        cause=draw(NAMES), certainty=Certainty.LIKELY, severity=Severity.ERROR, message=draw(NAMES), explains=(),
        summary=draw(NAMES), subject=draw(st.none() | NAMES), evidence={draw(NAMES): draw(NAMES)}, advice=draw(NAMES),
        remedy=draw(NAMES), prognosis=Prognosis.CURED,
    )  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> SeriesReport:
    """A report on a series in which whatever can come from a file, a configuration or a plugin is any text."""
    count = draw(st.integers(2, 4))
    points = tuple(
        PointRecord(
            path=draw(FILES), step=step, updates=step, verdict=draw(st.sampled_from(Verdict)), algorithm=draw(NAMES),
            format=draw(NAMES), diagnoses=(draw(diagnoses()),), findings=(draw(findings(NAMES)),),
            settings={draw(NAMES): draw(NAMES)},
        )
        for step in range(count)
    )  # fmt: skip
    values = tuple(float(step) for step in range(count))
    row = TensorRow(draw(NAMES), draw(NAMES), draw(NAMES), (2, 2), draw(NAMES), False, *[values] * 11)
    illness = Illness(draw(NAMES), draw(NAMES), Severity.ERROR, Certainty.LIKELY, draw(NAMES), 0, None, (0, 1))
    unread = Examination(path=draw(FILES), format=None, verdict=Verdict.UNREADABLE, error=draw(NAMES), hint=draw(NAMES))
    left = (Skipped(draw(NAMES), draw(NAMES)),)
    record = SeriesRecord(
        ordered_by="step", points=points, tensors=(row,), findings=tuple(draw(st.lists(findings(NAMES), max_size=3))),
        illnesses=(illness,), settings=(SettingRow(draw(NAMES), tuple(draw(NAMES) for _ in range(count))),),
        appeared=(draw(NAMES),), vanished=(draw(NAMES),), left_out=left, unreadable=(unread,), remarks=(draw(NAMES),),
    )  # fmt: skip
    return SeriesReport(
        series=(record,), rules=3, unreadable=(unread,), left_out=left, passed_over=left,
        unsearched=(Unsearched(draw(NAMES), draw(NAMES), draw(st.booleans())),),
        remarks=(draw(findings(NAMES)),), configuration=draw(NAMES),
    )  # fmt: skip


@st.composite
def log_reports(draw: st.DrawFn) -> LogReport:
    """A report on logs in which whatever can come from a file, a configuration or a plugin is any text."""
    path, unread = draw(FILES), draw(FILES)
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    builder = LogBuilder(path)
    builder.kind = draw(NAMES)
    builder.skipped.append(Skipped(draw(NAMES), draw(NAMES)))
    builder.choose_step(names)
    builder.add_rows(names, np.ones((4, len(names))), np.ones((4, len(names)), bool))
    found = tuple(draw(st.lists(findings(NAMES), max_size=3)))
    examinations = (
        Examination(
            path=path, format=draw(NAMES), verdict=Verdict.ILL, findings=found, skipped=tuple(builder.skipped),
            hint=draw(NAMES),
        ),
        Examination(path=unread, format=None, verdict=Verdict.UNREADABLE, error=draw(NAMES), hint=draw(NAMES)),
    )  # fmt: skip
    report = Report(
        checkpoints=examinations, rules=3, remarks=(draw(findings(NAMES)),), configuration=draw(NAMES),
        unsearched=(Unsearched(draw(NAMES), draw(NAMES), draw(st.booleans())),),
    )  # fmt: skip
    return LogReport(report, {path: builder.build()})


def assert_page(form: str, text: str) -> None:
    if form in ("json", "jsonl", "sarif"):
        json.loads(text)
    assert_inert("\n".join(line.removeprefix("::") for line in text.split("\n")) if form == "github" else text)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    report=comparisons(),
    width=st.sampled_from([20, 80, 200]),
    verbose=st.booleans(),
    tensors=st.sampled_from([(), ("*",)]),
)
def test_no_report_on_a_series_passes_a_command_on(
    report: SeriesReport, width: int, verbose: bool, tensors: tuple[str, ...]
) -> None:
    for form, reporter in REPORTERS.items():
        if isinstance(reporter, SeriesReporter):
            page = Page(width, verbose=verbose, tensors=tensors)
            assert_page(form, reporter.render_series(report, RULES, page))
    assert_inert(report.summary_line)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(report=log_reports(), width=st.sampled_from([20, 80, 200]), verbose=st.booleans())
def test_no_report_on_logs_passes_a_command_on(report: LogReport, width: int, verbose: bool) -> None:
    for form, reporter in REPORTERS.items():
        if isinstance(reporter, LogReporter):
            assert_page(form, reporter.render_logs(report, RULES, Page(width, verbose=verbose)))
    assert_inert(report.summary_line)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(text=st.lists(NAMES, min_size=16, max_size=16), path=FILES, found=findings(NAMES), diagnosis=diagnoses())
def test_no_line_of_a_fix_or_a_watch_passes_a_command_on(
    text: list[str], path: str, found: Finding, diagnosis: Diagnosis
) -> None:
    say = iter(text).__next__
    figures = Figures(0.5, 1.5, 1.0, 0.1, 1, 0)
    change = ChangeRecord(say(), Purpose.REPAIR, say(), (say(),), say(), say(), 1, 4, ((0, 1),), (), figures, figures)
    unfixed = Unfixed(say(), say(), Severity.ERROR, say(), say(), say(), say())
    examination = Examination(path=path, format=None, verdict=Verdict.ILL, findings=(found,), diagnoses=(diagnosis,))
    summary = Summary((change,), (unfixed, unfixed), (Upstream(say(), say()),))
    results = [
        FixResult(path, outcome, examination, summary, say(), treated=(diagnosis,))
        for outcome in (Outcome.FIXED, Outcome.PLANNED)
    ]
    results.append(FixResult(path, Outcome.FAILED, error=say(), hint=text[0]))
    assert_inert("\n".join(line for each in results for line in draw_fix(each)))
    report = Report((examination,), 1, remarks=(found,))
    arrival = Arrival(examination, report, new=(found, diagnosis), gone=(diagnosis,), follows=path)
    events = [arrival, Loss(path), Unsearched(path, text[1]), Stall(9.0)]
    unread = Examination(path=path, format=None, verdict=Verdict.UNREADABLE, error=text[2])
    events.append(Arrival(unread, Report((unread,), 0), new=(), gone=(), follows=None))
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        tally = Tally(path, "")
        for event in events:
            tally.tell(event)
    assert_inert(output.getvalue())
    assert_inert(errors.getvalue())


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
