"""The page: one self-contained, well-formed file in which every text from a checkpoint stays text."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace
from sample_reports import CLINIC, DIAGNOSED, HEALTHY, ILL, REPORTS, RULES, record
from test_hostile_names import NAMES, assert_inert, reports
from test_outputs import ckdoc

from checkpoint_doctor import discover, scan
from checkpoint_doctor.builtin.reporters.html.reporter import reporter
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict
from checkpoint_doctor.results.series_report import (
    Illness,
    PointRecord,
    SeriesRecord,
    SeriesReport,
    SettingRow,
    TensorRow,
)
from checkpoint_doctor.statistics.histogram import BINS, count_values
from checkpoint_doctor.statistics.tensors import measure
from checkpoint_doctor.statistics.values import InMemory
from checkpoint_doctor.testing import check_reporter

VOID = {"meta", "link", "input", "br", "hr", "img"}
HEADING = re.compile("h[1-6]")


class Reader(HTMLParser):
    """Reads a page as a browser does, and fails where an element is not closed in its place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attributes}) == len(attributes), "an attribute stands twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def render(report: Report) -> str:
    return reporter.render(report, RULES, Page())


def check_page(page: str) -> Reader:
    """Check what every page must be: well-formed, self-contained, and in order for those who do not see it."""
    read = Reader(page)
    tags = Counter(tag for tag, _ in read.elements)
    assert tags["main"] == tags["header"] == tags["footer"] == tags["h1"] == 1
    identifiers = [str(each["id"]) for _, each in read.elements if "id" in each]
    assert len(identifiers) == len(set(identifiers))
    for _, each in read.elements:
        assert not any(name.startswith("on") or name in ("style", "srcset") for name in each)
        for name in ("src", "href", "action"):
            assert str(each.get(name, "#")).startswith(("#", "data:,")), each
        if str(each.get("href", "")).startswith("#"):
            assert str(each["href"])[1:] in identifiers
        assert {str(each[name]) for name in ("aria-labelledby",) if name in each} <= set(identifiers)
    levels = [int(tag[1]) for tag, _ in read.elements if HEADING.fullmatch(tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert tags["table"] == tags["caption"]
    assert all(each.get("scope") in ("col", "row") for each in read.find("th"))
    assert all(each.get("aria-label") for each in read.find("svg") if each.get("role") == "img")
    assert all(each.get("role") == "img" or each.get("aria-hidden") or "x" in each for each in read.find("svg"))
    return read


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_is_a_page(name: str) -> None:
    page = render(REPORTS[name])
    check_page(page)
    assert page == render(REPORTS[name])
    page.encode()


def test_it_keeps_the_protocol_of_reporters() -> None:
    check_reporter(reporter)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(report=reports())
def test_whatever_a_file_says_stays_text(report: Report) -> None:
    read = check_page(render(report))
    assert len(read.find("script")) == len(read.find("style")) == 1


def test_a_tensor_that_is_called_like_a_script_stays_text() -> None:
    name = '<script>alert(1)</script>"onload="alert(2)\u202e'
    finding = Finding("ZER003", "zero-bias", Severity.ERROR, "all `<b>` zero", tensor=name, layer=name)
    checkpoint = Examination(
        f"runs/{name}.pt",
        "torch",
        Verdict.ILL,
        layers=1,
        tensors=(record(name, (2, 2), name, zeros=4, norm=0.0),),
        findings=(finding,),
    )
    page = render(Report((checkpoint,), rules=1))
    read = check_page(page)
    assert len(read.find("script")) == 1
    assert "alert(1)" not in re.sub("&lt;script&gt;alert\\(1\\)", "", page)
    assert 'onload="' not in page
    assert "<script>alert(1)</script>" in "".join(read.text), "it is shown as it is called"


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_nothing_else() -> None:
    page = render(CLINIC)
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_diagnosis_comes_before_the_findings_and_these_before_the_network() -> None:
    text = " ".join("".join(Reader(render(Report((DIAGNOSED,), rules=41))).text).split())
    order = ["ILL", "overwritten", "proven", "What to do", "Findings without a known cause", "The network"]
    places = [text.upper().index(words.upper()) for words in order]
    assert places == sorted(places)
    assert "model.policy.load_state_dict(best)" in text, "the line of code to write"
    assert "Why it matters" in text, "the rules are explained on the page"


def test_many_checkpoints_have_an_overview_with_the_worst_first() -> None:
    healthy = [replace(HEALTHY, path=f"runs/step_{number}.zip") for number in range(40)]
    read = check_page(render(Report((*healthy, ILL), rules=3)))
    rows = re.findall(r"runs/\w+\.zip", "".join(read.text))
    assert rows[0] == ILL.path
    assert {f"runs/step_{number}.zip" for number in range(40)} <= set(rows)
    assert "#c1" in [each.get("href") for each in read.find("a")]
    assert "#c2" not in [each.get("href") for each in read.find("a")], "healthy ones are listed, and no more"


def test_names_may_be_broken_between_their_words_alone() -> None:
    page = render(Report((replace(ILL, path="runs/first_try.zip"),), rules=3))
    assert '<span class="path">runs/<wbr/>first_<wbr/>try.<wbr/>zip</span>' in page
    assert '<th scope="row">actor.<wbr/>latent_<wbr/>pi.<wbr/>0</th>' in page


def test_a_series_of_two_hundred_ill_checkpoints_stays_below_a_megabyte() -> None:
    tensors = tuple(record(f"net.{number}.weight", (64, 64), f"net.{number}") for number in range(60))
    findings = tuple(
        replace(ILL.findings[-1], tensor=f"net.{number}.bias", layer=f"net.{number}", advice=f"look at {number}")
        for number in range(60)
    )
    ill = [replace(ILL, path=f"runs/{number}.zip", tensors=tensors, findings=findings) for number in range(200)]
    page = render(Report(tuple(ill), rules=3))
    assert len(page.encode()) < 1_000_000
    read = check_page(page)
    assert sum(str(each.get("class")) == "checkpoint" for each in read.find("section")) == 200


def test_a_network_of_ten_thousand_layers_is_folded() -> None:
    tensors = tuple(record(f"net.{number}.weight", (8, 8), f"net.{number}") for number in range(10_000))
    read = check_page(render(Report((replace(ILL, tensors=tensors),), rules=3)))
    assert len(read.find("rect")) <= 200
    assert len(read.find("tr")) < 200


def test_ten_thousand_checkpoints_are_a_page_that_can_be_mailed() -> None:
    ill = tuple(replace(ILL, path=f"runs/{number}.zip") for number in range(5_000))
    page = render(Report(ill + tuple(replace(HEALTHY, path=f"ok/{number}.zip") for number in range(5_000)), rules=3))
    assert len(page.encode()) < 1_000_000
    assert "9,000 more are not listed here" in page


def test_the_command_writes_it_to_a_file_and_to_a_pipe(tmp_path: Path, fixtures: Path) -> None:
    file = fixtures / "case_1_head_v6.zip"
    result = ckdoc(tmp_path, "scan", file, "--format", "html", "--output", tmp_path / "page.html")
    assert result.returncode == 1
    piped = ckdoc(tmp_path, "scan", file, "--format", "html")
    assert piped.returncode == 1
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert piped.stdout == page
    read = check_page(page)
    assert "entry_quality_head.1.weight" in read.text
    assert any("Histogram of entry_quality_head.1.weight" in str(each.get("aria-label")) for each in read.find("svg"))


def test_only_a_report_that_draws_histograms_counts_them(fixtures: Path) -> None:
    file = fixtures / "case_1_head_v6.zip"
    assert not any(each.histogram for each in scan([file]).checkpoints[0].tensors)
    drawn = [each for each in scan([file], histograms=True).checkpoints[0].tensors if each.histogram]
    assert [each.name for each in drawn] == ["entry_quality_head.1.weight"]
    histogram = drawn[0].histogram
    assert histogram is not None
    assert histogram.zeros == 79
    assert sum(histogram.counts) == 256 - 79


def test_a_plain_scan_imports_no_templates(fixtures: Path) -> None:
    code = f"import sys\nfrom checkpoint_doctor import scan\nscan([{str(fixtures / 'case_5_healthy.pt')!r}])\n"
    code += "assert not {'jinja2', 'markupsafe', 'watchfiles'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "numbers",
    [
        np.random.default_rng(0).normal(size=10_000).astype(np.float32),
        np.array([-1.0, 0.0, 0.0, 1.0, np.nan, np.inf]),
        np.concatenate([np.random.default_rng(0).normal(size=1_000), [1e6, -1e6]]),
        np.array([1e308, -1e308]),
        np.array([3, 3, 4], dtype=np.int64),
        np.full(5, 2.0),
        np.zeros(7, dtype=np.float16),
    ],
    ids=["normal", "odd", "outliers", "huge", "integers", "constant", "zeros"],
)
def test_a_histogram_counts_every_finite_value_once(numbers: np.ndarray) -> None:
    histogram = count_values(InMemory(numbers), measure(InMemory(numbers)))
    assert histogram is not None
    assert len(histogram.counts) == BINS
    assert np.isfinite([histogram.low, histogram.high]).all()
    assert histogram.zeros == np.count_nonzero(numbers == 0)
    counted = sum(histogram.counts) + histogram.zeros + histogram.below + histogram.above
    assert counted == np.isfinite(numbers.astype(np.float64)).sum()


def test_there_is_no_histogram_of_what_is_no_number() -> None:
    for numbers in (np.array([np.nan, np.inf]), np.array([1 + 2j]), np.empty(0)):
        assert count_values(InMemory(numbers), measure(InMemory(numbers))) is None


def test_every_reporter_is_listed_with_the_page() -> None:
    assert "html" in discover().reporters


def series(points: int, tensors: int) -> SeriesReport:
    """A run in which units of one layer die from the middle on."""
    middle = points // 2
    steps = [
        PointRecord(f"runs/<b>/step_{place}.pt", step=1000 * place, updates=place, verdict=Verdict.HEALTHY)
        for place in range(points)
    ]
    flat = (0.5,) * points
    norms = tuple(1.0 + place for place in range(points))
    rising = tuple(0.0 if place < middle else 0.8 for place in range(points))
    known = dict.fromkeys(("nonfinite", "still_fraction", "vanished_fraction", "update_ratio", "updates"), flat)
    rows = [
        TensorRow(
            name=f"net.{number}.weight", layer=f"net.{number}", kind="linear", shape=(64, 64), dtype="float32",
            is_statistic=False, zero_fraction=rising if number else flat, norm=norms,
            change=(None, *flat[1:]), dormant_fraction=rising, input_rms=(None,) * points, gradient_rms=flat, **known,
        )
        for number in range(tensors)
    ]  # fmt: skip
    place = {"onset_step": 1000 * middle, "onset_path": steps[middle].path}
    finding = Finding("ZER003", "zero-bias", Severity.WARNING, "it <i>died</i>", "net.1.weight", evidence=place)
    illness = Illness(
        "dead-relu", "net.1", Severity.WARNING, None, "units died", middle, None, tuple(range(middle, points))
    )
    record = SeriesRecord("step", tuple(steps), tuple(rows), (finding,), (illness,), remarks=("steps run <backwards>",))
    return SeriesReport((record,), rules=3)


def test_a_series_shows_what_changed_and_when_it_began() -> None:
    read = check_page(reporter.render_series(series(12, 4), RULES, Page()))
    text = " ".join(" ".join(read.text).split())
    order = ["Diagnoses over time", "dead-relu", "What changed, and when it began", "Began at step 6,000"]
    places = [text.index(words) for words in [*order, "Tensors and checkpoints"]]
    assert places == sorted(places)
    drawn = [str(each["aria-label"]) for each in read.find("svg") if "aria-label" in each]
    assert any(label.startswith("Dormant units of net.1.weight: 0% at step 0, 80.0% at step 11,000") for label in drawn)
    assert any(label.startswith("Dormant units of 4 tensors through 12 checkpoints") for label in drawn)
    onsets = [str(each["d"]) for each in read.find("path") if each.get("class") == "begin"]
    assert "M6 0v4" in onsets, "the column of the first checkpoint that shows it"
    assert "<i>died</i>" in text
    assert "steps run <backwards>" in text


def test_a_long_series_of_a_deep_network_stays_below_a_megabyte() -> None:
    page = reporter.render_series(series(1_000, 300), RULES, Page())
    assert len(page.encode()) < 1_000_000
    check_page(page)


def test_a_comparison_without_a_series_says_what_was_left_out() -> None:
    report = SeriesReport((), rules=3, left_out=(Skipped("a.pt", "it has <other> tensors"),))
    text = " ".join(check_page(reporter.render_series(report, RULES, Page())).text)
    assert "a.pt, because it has <other> tensors" in text


def test_the_command_compares_on_a_page(tmp_path: Path, fixtures: Path) -> None:
    files = sorted(fixtures.glob("case_3_step_*.pt"))
    result = ckdoc(tmp_path, "compare", *files, "--format", "html", "--output", "page.html")
    assert result.returncode in (0, 1), result.stderr
    read = check_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    drawn = [str(each["aria-label"]) for each in read.find("svg") if "aria-label" in each]
    assert any(label.startswith("Vanished gradients of") for label in drawn)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(name=NAMES)
def test_whatever_the_files_of_a_series_say_stays_text(name: str) -> None:
    one = series(4, 2).series[0]
    tensors = tuple(replace(each, name=name, layer=name) for each in one.tensors)
    findings = tuple(replace(each, message=name, tensor=name, advice=name) for each in one.findings)
    illnesses = tuple(replace(each, name=name, subject=name, message=name) for each in one.illnesses)
    settings_changed = (SettingRow(name, (name, 1.0, None, True)),)
    hostile = replace(
        one, tensors=tensors, findings=findings, illnesses=illnesses, settings=settings_changed, remarks=(name,),
        appeared=(name,), left_out=(Skipped(name, name),),
    )  # fmt: skip
    page = reporter.render_series(SeriesReport((hostile,), rules=3), RULES, Page())
    read = check_page(page)
    assert len(read.find("script")) == 1
    assert_inert(page)


@pytest.mark.parametrize("points", [2, 3])
def test_several_short_series_are_one_page(points: int) -> None:
    one = series(points, 2).series[0]
    check_page(reporter.render_series(SeriesReport((one, one), rules=3), RULES, Page()))


def test_training_logs_are_a_page_with_the_curves_of_their_metrics(tmp_path: Path, fixtures: Path) -> None:
    hostile = tmp_path / "<b>.csv"
    hostile.write_text("step,<script>loss</script>\n" + "".join(f"{step},{step % 7}\n" for step in range(500)))
    logs = [fixtures / "case_5_log.csv", fixtures / "case_5_log_healthy.csv", hostile]
    for files in (logs[:1], logs):
        result = ckdoc(tmp_path, "log", *files, "--format", "html")
        assert result.returncode == 1, result.stderr
        read = check_page(result.stdout)
        assert len(read.find("script")) == 1
        drawn = [str(each["aria-label"]) for each in read.find("svg") if "aria-label" in each]
        assert any(
            label.startswith("discrete_agreement: 38.7 at step 36,000, 40.2 at step 1,023,000, began at step 165,000")
            for label in drawn
        )
    assert any(label.startswith("<script>loss</script>: 0 at step 0") for label in drawn)
