"""Checks that a reporter renders every kind of report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import cast

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.plugins.protocols import Reporter, StreamReporter
from checkpoint_doctor.plugins.self_checks import RULES
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, TensorRecord, Verdict

HOSTILE = 'a "layer" with <tags> | pipes, 100 %, ::error::, \x1b[31mcolour\x1b[0m and ünïcode.weight'
"""A tensor's name with the special characters of all formats; names in an untrusted checkpoint may be anything."""


def check_reporter(reporter: Reporter) -> None:
    """Check a reporter on healthy, ill and unreadable checkpoints, on hidden findings and on hostile names.

    It must return the same text every time, which contains the code of every rule that found something and no escape
    characters of a tensor's name. One that streams must write that text, or bytes where its format is binary.

    Raises:
        AssertionError: the reporter breaks its protocol; the message lists everything that is wrong.
    """
    problems = [
        f"a report about {what} {problem}"
        for what, report in build_reports().items()
        for problem in _judge_report(reporter, report)
    ]
    assert not problems, f"{type(reporter).__name__}: {'; '.join(problems)}"


def build_reports() -> Mapping[str, Report]:
    """Return one report for each case that a reporter must render, by a description of the case."""
    found = Finding(
        code="CKD001",
        name="rule-crashed",
        severity=Severity.ERROR,
        message=f"something about {HOSTILE}",
        tensor=HOSTILE,
        layer="head",
        evidence={"zero_fraction": 1.0, "units": [0, 1], "cause": None},
        advice="look upstream",
    )
    record = TensorRecord(
        name=HOSTILE, shape=(2, 2), dtype="float32", kind="linear", layer="head", updates=None, zeros=4, nonfinite=0,
        minimum=0.0, maximum=0.0, mean=0.0, std=0.0, norm=0.0,
    )  # fmt: skip
    empty = TensorRecord(
        name="empty", shape=(0,), dtype="bfloat16", kind="parameter", layer="", updates=0, zeros=0, nonfinite=0,
        minimum=None, maximum=None, mean=None, std=None, norm=None,
    )  # fmt: skip
    ill = Examination(
        path="runs/ill model.pt",
        format="memory",
        verdict=Verdict.ILL,
        layers=1,
        tensors=(record, empty),
        findings=(found,),
    )
    healthy = Examination(path="runs/healthy.pt", format="memory", verdict=Verdict.HEALTHY, layers=1, tensors=(record,))
    hidden = Examination(
        path="runs/known.pt",
        format="memory",
        verdict=Verdict.HEALTHY,
        layers=1,
        tensors=(record,),
        findings=(Finding("CKD002", "unused-ignore", Severity.ERROR, "known", ignored="by design"),),
        skipped=(Skipped("member data", "it is not valid JSON"),),
    )
    unreadable = Examination(
        path="runs/broken.pt",
        format=None,
        verdict=Verdict.UNREADABLE,
        error="runs/broken.pt ends at byte 12, but 64 bytes are expected",
        hint="copy or download it again",
    )
    return {
        "a healthy checkpoint": Report((healthy,), rules=1),
        "an ill checkpoint": Report((ill,), rules=1),
        "hidden findings": Report((hidden,), rules=1),
        "an unreadable checkpoint": Report((unreadable,), rules=1),
        "several checkpoints": Report((ill, unreadable, healthy, hidden), rules=1, fail_on=None, remarks=(found,)),
    }


def _judge_report(reporter: Reporter, report: Report) -> Iterator[str]:
    if isinstance(reporter, StreamReporter) and reporter.is_binary:
        yield from () if _stream(reporter, report, Page()) else ("is streamed as nothing",)
        return
    for page in (Page(), Page(width=40, verbose=True)):
        try:
            text, again = (cast(object, reporter.render(report, RULES, page)) for _ in range(2))
        except Exception as error:
            yield f"raises {type(error).__name__} ({error})"
            return
        if not isinstance(text, str) or not isinstance(again, str):
            yield f"is rendered as {type(text).__name__} and not as text"
            return
        yield from _judge_text(text, again, report.findings)
        if isinstance(reporter, StreamReporter) and _stream(reporter, report, page) != text.encode():
            yield "is streamed as something else than it is rendered"


def _stream(reporter: StreamReporter, report: Report, page: Page) -> bytes:
    stream = BytesIO()
    writer = reporter.open_stream(stream, RULES, page)
    for examination in report.checkpoints:
        writer.add(examination)
    writer.finish(replace(report, checkpoints=(), counted=report.totals))
    return stream.getvalue()


def _judge_text(text: str, again: str, findings: Sequence[Finding]) -> Iterator[str]:
    if text != again:
        yield "is rendered differently the second time"
    if missing := [finding.code for finding in findings if finding.code not in text]:
        yield f"does not contain the code {missing[0]}"
    if "\x1b" in text:
        yield "contains the escape character of a tensor's name"
