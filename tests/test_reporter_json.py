"""The JSON reporter prints the report JSON, strictly and fast enough for the largest models."""

import json
import time

import pytest
from sample_reports import REPORTS, RULES, record

from checkpoint_doctor.builtin.reporters.json import reporter
from checkpoint_doctor.results import json as report_json
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_strict_json_and_complete(name):
    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    text = reporter.render(REPORTS[name], RULES, Page())
    assert json.loads(text, parse_constant=refuse) == report_json.to_json(REPORTS[name])


def test_ten_thousand_tensors_take_no_time_worth_mentioning():
    tensors = tuple(record(f"blocks.{n}.mlp.weight", (256, 256), f"blocks.{n}.mlp") for n in range(10_000))
    report = Report((Examination("a.pt", "torch", Verdict.HEALTHY, layers=10_000, tensors=tensors),), 41)
    start = time.process_time()
    text = reporter.render(report, RULES, Page())
    assert time.process_time() - start < 2
    assert text.count("\n") < 10_100
