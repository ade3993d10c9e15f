"""Reports as JSON: nothing is lost, nothing invalid is written, nothing wrong is read."""

import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import jsonschema
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_reports import CLINIC, ONE_ILL, REPORTS, ZERO_BIAS, record

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.results import json as report_json
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.json_reading import from_json, read_json
from checkpoint_doctor.results.report import Examination, Report, TensorRecord, Verdict

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_text())

texts = st.text(st.characters(), max_size=12)
counts = st.integers(0, 2**70)
figures = st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
tensors = st.builds(
    TensorRecord,
    name=texts,
    shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    dtype=texts,
    kind=texts,
    layer=texts,
    updates=st.none() | counts,
    zeros=counts,
    nonfinite=counts,
    minimum=figures,
    maximum=figures,
    mean=figures,
    std=figures,
    norm=figures,
)
findings = st.builds(
    Finding,
    code=st.from_regex(r"[A-Z]{3}\d{3}", fullmatch=True),
    name=texts,
    severity=st.sampled_from(Severity),
    message=texts,
    tensor=st.none() | texts,
    layer=st.none() | texts,
    evidence=st.dictionaries(texts, plain_values, max_size=3),
    fix=st.none() | st.sampled_from(Safety),
    advice=texts,
    ignored=st.none() | texts,
)
examinations = st.builds(
    Examination,
    path=texts,
    format=st.none() | texts,
    verdict=st.sampled_from(Verdict),
    error=st.none() | texts,
    hint=texts,
    algorithm=st.none() | texts,
    step=st.none() | counts,
    versions=st.dictionaries(texts, texts, max_size=2),
    layers=st.integers(0, 1000),
    tensors=st.lists(tensors, max_size=3).map(tuple),
    findings=st.lists(findings, max_size=3).map(tuple),
    skipped=st.lists(st.builds(Skipped, what=texts, why=texts), max_size=2).map(tuple),
)
reports = st.builds(
    Report,
    checkpoints=st.lists(examinations, max_size=3).map(tuple),
    rules=st.integers(0, 100),
    fail_on=st.none() | st.sampled_from(Severity),
    remarks=st.lists(findings, max_size=2).map(tuple),
)


@given(reports)
@settings(max_examples=150, deadline=None)
def test_a_report_comes_back_as_it_was_from_text_that_can_be_stored_and_shown_anywhere(report):
    text = report_json.write_json(report_json.to_json(report))
    assert read_json(text) == report
    text.encode("utf-8")
    assert not [letter for letter in text if letter != "\n" and (ord(letter) < 32 or 127 <= ord(letter) < 160)]


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_obeys_the_published_schema(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(report_json.write_json(report_json.to_json(REPORTS[name]))), SCHEMA)


def test_the_schema_notices_what_is_missing_or_misspelled():
    for path in ("verdict", "tensors", "findings"):
        document = report_json.to_json(ONE_ILL)
        del document["checkpoints"][0][path]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, SCHEMA)


def test_the_names_other_programs_depend_on():
    document = report_json.to_json(ONE_ILL)
    checkpoint = document["checkpoints"][0]
    assert document["schema_version"] == 1
    assert set(document["tool"]) == {"name", "version"}
    assert list(checkpoint["summary"]) == [
        "tensors", "layers", "parameters", "entries", "zeros", "zero_fraction", "nonfinite",
    ]  # fmt: skip
    assert checkpoint["summary"]["parameters"] == 256 * 11 + 256 + 3 * 256 + 3 + 256 * 14 + 256
    assert checkpoint["summary"]["zeros"] == 1 + 3 + 256
    assert checkpoint["summary"]["zero_fraction"] == (1 + 3 + 256) / checkpoint["summary"]["entries"]
    assert checkpoint["findings"][3] == {
        "code": "ZER003", "name": "zero-bias", "severity": "error", "tensor": "actor.mu.bias", "layer": "actor.mu",
        "message": ZERO_BIAS.message, "evidence": {"zero_fraction": 1.0, "cause": "overwritten", "updates": 990000},
        "advice": "Look for code that resets biases after training.", "fix": "safe", "ignored": None, "preview": False,
        "diagnosis": None,
    }  # fmt: skip


def test_buffers_and_running_statistics_are_entries_but_no_parameters():
    tensors = (
        record("bn.weight", (8,), "bn", kind="batch_norm"),
        record("bn.running_mean", (8,), "bn", kind="batch_norm"),
        record("bn.num_batches_tracked", (), "bn", kind="batch_norm", dtype="int64"),
        record("mask", (16, 16), "mask", kind="buffer", dtype="bool"),
    )
    summary = report_json.to_json(Report((Examination("a", "torch", Verdict.HEALTHY, tensors=tensors),), 1))[
        "checkpoints"
    ][0]["summary"]
    assert (summary["parameters"], summary["entries"]) == (8, 8 + 8 + 1 + 256)


def test_figures_without_a_json_token_are_null_and_integers_stay_integers():
    tensor = record("a", (4,), "a", minimum=-math.inf, maximum=math.nan, norm=np.float32(np.inf), mean=np.float64(0.5))
    whole = record("b", (4,), "b", dtype="int64", minimum=np.int64(-3), maximum=2**62)
    document = report_json.to_json(Report((Examination("a", "torch", Verdict.HEALTHY, tensors=(tensor, whole)),), 1))
    first, second = json.loads(report_json.write_json(document))["checkpoints"][0]["tensors"]
    assert [first[key] for key in ("minimum", "maximum", "norm", "mean")] == [None, None, None, 0.5]
    assert (second["minimum"], second["maximum"]) == (-3, 2**62)
    assert type(second["minimum"]) is int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (np.float32(-np.inf), "-Infinity"),
        (np.float32(0.5), 0.5),
        (np.int8(3), 3),
        (np.bool_(True), True),
        (ml_dtypes.bfloat16(2), 2.0),
        (np.array([[1, 2]], np.int16), [[1, 2]]),
        (np.array([1, np.nan], ml_dtypes.bfloat16), [1.0, "NaN"]),
        (np.longdouble(2), 2.0),
        ((1, {"a": (np.int64(2),)}), [1, {"a": [2]}]),
        ({3, 1, 2}, [1, 2, 3]),
        (Severity.ERROR, "error"),
        (Safety.ON_REQUEST, "on-request"),
        (1 + 2j, "(1+2j)"),
        ({1: None}, {"1": None}),
    ],
    ids=str,
)
def test_evidence_becomes_plain_json(value, expected):
    found = report_json.plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_innermost_records_have_a_line_each():
    lines = report_json.write_json(report_json.to_json(CLINIC)).splitlines()
    (line,) = [line for line in lines if '"name": "actor.mu.bias"' in line]
    assert json.loads(line.strip().rstrip(","))["shape"] == [3]
    (units,) = [line for line in lines if '"units"' in line]
    assert "[0, 1, 2, 3," in units
    assert "138, 139]" in units


def change(path, value):
    document = report_json.to_json(ONE_ILL)
    place = document
    *parents, last = path
    for key in parents:
        place = place[key]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the document must be an object, not []"),
        ({}, "schema_version must be an integer, not null"),
        (change(["schema_version"], 2), "schema version 2"),
        (change(["schema_version"], True), "schema_version must be an integer, not true"),
        (change(["fail_on"], "sometimes"), "fail_on must be one of note, warning, error, never"),
        (change(["checkpoints"], {}), "checkpoints must be a list, not {}"),
        (change(["checkpoints", 0], 3), "checkpoints[0] must be an object, not 3"),
        (
            change(["checkpoints", 0, "verdict"], "dead"),
            "checkpoints[0].verdict must be one of healthy, ill, incomplete, unreadable",
        ),
        (
            change(["checkpoints", 0, "tensors", 1, "shape"], [1, "2"]),
            "checkpoints[0].tensors[1].shape must be a list of",
        ),
        (change(["checkpoints", 0, "tensors", 1, "zeros"], 1.5), "tensors[1].zeros must be an integer, not 1.5"),
        (change(["checkpoints", 0, "tensors", 0, "mean"], "x"), "tensors[0].mean must be an integer or a number"),
        (
            change(["checkpoints", 0, "findings", 2, "severity"], None),
            "findings[2].severity must be a string, not null",
        ),
        (change(["checkpoints", 0, "findings", 0, "fix"], "maybe"), "findings[0].fix must be one of safe, on-request"),
        (change(["checkpoints", 0, "path"], "x" * 500 and 7), "checkpoints[0].path must be a string, not 7"),
    ],
)
def test_a_wrong_document_is_refused_by_the_name_of_its_field(document, words):
    with pytest.raises(UsageError) as caught:
        from_json(document)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"schema_version": NaN}', b"\xff\xfe\x00", "<html>"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(UsageError, match="no JSON") as caught:
        read_json(text)
    assert caught.value.hint


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_document_is_read_or_refused_but_never_crashes(data):
    document = json.loads(report_json.write_json(report_json.to_json(ONE_ILL)))
    place = document
    while isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()):
            place[key] = data.draw(plain_values)
            break
        place = place[key]
    with suppress(UsageError):
        from_json(document)


def test_fields_of_a_later_minor_version_are_passed_over():
    document = report_json.to_json(CLINIC)
    document["moon"] = "full"
    document["checkpoints"][1]["findings"][0]["mood"] = {"deep": [1]}
    assert from_json(document) == from_json(report_json.to_json(CLINIC))


def test_a_report_of_the_first_days_is_still_read():
    """The fields of the published example alone, without those that were added later."""
    report = from_json(
        {
            "schema_version": 1,
            "tool": {"name": "checkpoint-doctor", "version": "0.1.0"},
            "checkpoints": [
                {
                    "path": "runs/model.zip", "format": "sb3", "verdict": "ill", "error": None, "versions": {},
                    "algorithm": "SAC", "step": 990000,
                    "summary": {"tensors": 1, "layers": 1, "parameters": 3,
                                "zeros": 0, "zero_fraction": 0.0, "nonfinite": 0},
                    "tensors": [
                        {"name": "actor.mu.bias", "shape": [3], "dtype": "float32", "kind": "linear", "updates": 990000,
                         "zeros": 0, "nonfinite": 0, "minimum": -0.1, "maximum": 0.2, "mean": 0.0, "std": 0.1,
                         "norm": 0.3}
                    ],
                    "findings": [
                        {"code": "ZER003", "name": "zero-bias", "severity": "error", "tensor": "actor.mu.bias",
                         "layer": "actor.mu", "message": "…", "evidence": {}, "fix": "safe", "ignored": None}
                    ],
                }
            ],
        }
    )  # fmt: skip
    assert report.failed
    assert report.checkpoints[0].tensors[0].shape == (3,)
    assert report.findings[0].fix is Safety.SAFE


def test_writing_json_costs_no_import_of_rich():
    program = (
        "import sys, checkpoint_doctor.builtin.reporters.json, checkpoint_doctor.builtin.reporters.terminal;"
        "sys.exit(any(name.partition('.')[0] in ('rich', 'xml') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (Report((), 1), "0 checkpoints, 0 tensors, 1 rule, 0 findings"),
        (
            Report((Examination("a", "torch", Verdict.HEALTHY, tensors=(record("a", (1,), "a"),)),), 1),
            "1 tensor, 1 rule, 0 findings",
        ),
        (ONE_ILL, "6 tensors, 41 rules, 3 findings, 1 hidden by config, 1 not looked at"),
        (
            CLINIC,
            "4 checkpoints (1 unreadable, 1 ill, 1 with warnings, 1 healthy), 8 tensors, 41 rules, 6 findings, "
            "1 hidden by config, 1 not looked at",
        ),
        (
            Report(
                (
                    Examination(
                        "a", "torch", Verdict.ILL, tensors=(record("a", (1,), "a"),) * 1234, findings=(ZERO_BIAS,)
                    ),
                ),
                2,
            ),
            "1,234 tensors, 2 rules, 1 finding",
        ),
    ],
)
def test_the_summary_line_counts_in_words(report, line):
    assert report.summary_line == line
