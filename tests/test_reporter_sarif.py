"""SARIF: valid by the standard, accepted by GitHub, stable from run to run."""

import json
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import pytest
from conftest import ROOT
from msgspec.structs import replace
from sample_reports import CLINIC, DORMANT_UNITS, HEALTHY, ILL, REPORTS, RULES, SCHEDULE, ZERO_BIAS

from checkpoint_doctor import discover
from checkpoint_doctor.builtin.reporters import sarif
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict

STANDARD = Path(__file__).parent.parent.parent / "shared" / "schemas" / "sarif-2.1.0.json"


def write(report, rules=RULES):
    return json.loads(sarif.reporter.render(report, rules, Page()))


def run_of(report, rules=RULES):
    (run,) = write(report, rules)["runs"]
    return run


@pytest.mark.skipif(not STANDARD.exists(), reason=f"the OASIS schema is not at {STANDARD}")
@pytest.mark.parametrize("name", REPORTS)
def test_the_document_obeys_the_oasis_schema(name):
    schema = json.loads(STANDARD.read_text())
    jsonschema.validators.validator_for(schema)(schema, format_checker=jsonschema.FormatChecker()).validate(
        write(REPORTS[name])
    )


def find_github_problems(document, text):
    """Return what GitHub's code scanning would refuse, by its published requirements and limits."""
    problems = []
    if document.get("version") != "2.1.0" or not document.get("$schema", "").endswith("sarif-2.1.0.json"):
        problems.append("version or $schema")
    if len(document["runs"]) > 20 or len(text) > 10_000_000:
        problems.append("too large")
    for run in document["runs"]:
        rules = run["tool"]["driver"]["rules"]
        if len(rules) > 25_000 or len(run["results"]) > 25_000:
            problems.append("too many rules or results")
        for rule in rules:
            if len(rule["properties"]["tags"]) > 20:
                problems.append(f"{rule['id']} has too many tags")
            if not all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help")):
                problems.append(f"{rule['id']} lacks a description")
            if len(rule["name"]) > 255 or len(rule["shortDescription"]["text"]) > 1024:
                problems.append(f"{rule['id']} is too wordy")
        for result in run["results"]:
            if not result["message"]["text"] or not 1 <= len(result["locations"]) <= 1000:
                problems.append("a result without message or location")
            if result.get("ruleIndex", -1) >= 0 and rules[result["ruleIndex"]]["id"] != result["ruleId"]:
                problems.append("a rule index that points elsewhere")
            if result["level"] not in ("error", "warning", "note", "none"):
                problems.append(f"level {result['level']}")
            if not re.fullmatch(r"[0-9a-f]{16,}:\d+", result["partialFingerprints"]["primaryLocationLineHash"]):
                problems.append("a malformed fingerprint")
            for location in result["locations"]:
                place = location["physicalLocation"]
                uri = place["artifactLocation"]["uri"]
                if uri.startswith("/") or ".." in uri.split("/") or re.match(r"[a-z]+:", uri) or "\\" in uri:
                    problems.append(f"the path {uri} is not relative")
                if place["region"]["startLine"] < 1:
                    problems.append("a line before the first")
    return problems


@pytest.mark.parametrize("name", REPORTS)
def test_github_accepts_it(name):
    text = sarif.reporter.render(REPORTS[name], RULES, Page())
    assert find_github_problems(json.loads(text), text) == []


def test_each_level_has_its_word_and_the_worst_come_first():
    assert [result["level"] for result in run_of(CLINIC)["results"]] == [
        "error", "warning", "warning", "note", "note", "error",
    ]  # fmt: skip
    assert "suppressions" in run_of(CLINIC)["results"][-1]


def test_a_rule_brings_its_explanation():
    (rule,) = [rule for rule in run_of(CLINIC)["tool"]["driver"]["rules"] if rule["id"] == "ZER003"]
    assert rule["defaultConfiguration"] == {"level": "warning"}
    assert "### When it is normal\n\nAt step 0." in rule["help"]["markdown"]
    assert "Why it matters:\nA layer without a bias" in rule["help"]["text"]
    assert "fix-safe" in rule["properties"]["tags"]


def test_only_the_rules_given_are_listed_and_a_foreign_finding_still_counts():
    run = run_of(CLINIC)
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [rule.code for rule in RULES]
    (odd,) = [result for result in run["results"] if result["ruleId"] == "ACM001"]
    assert "ruleIndex" not in odd


def test_our_rules_link_to_the_documentation_that_the_package_names(monkeypatch):
    monkeypatch.setattr(sarif, "find_docs", lambda: "https://example.org/docs")
    check = next(iter(RULES)).check
    monkeypatch.setattr(check, "__module__", "checkpoint_doctor.builtin.analyzers.files.containers")
    links = {rule["id"]: rule.get("helpUri") for rule in run_of(CLINIC)["tool"]["driver"]["rules"]}
    assert links == {"FIL004": "https://example.org/docs/rules/FIL004/", "NET001": None, "ZER003": None}


def test_each_of_our_rules_has_its_page_on_the_site():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    rules = [rule for rule in discover().rules if rule.package == "checkpoint_doctor"]
    links = {rule["id"]: rule["helpUri"] for rule in run_of(CLINIC, rules)["tool"]["driver"]["rules"]}
    pages = {page.stem for page in (ROOT / "docs" / "rules").glob("*.md")} - {"README"}
    # The site has a folder for each file of docs/.
    assert links == {code: f"{urls['Documentation']}rules/{code}/" for code in pages}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("runs/model.zip", "runs/model.zip"),
        ("./runs/../runs//model.zip", "runs/model.zip"),
        ("{here}/runs/model.zip", "runs/model.zip"),
        ("../other/model.zip", "{parent}/other/model.zip"),
        ("/data/a b#c?.pt", "data/a%20b%23c%3F.pt"),
        ("runs/é%.pt", "runs/%C3%A9%25.pt"),
        ("runs/C:x.pt", "runs/C%3Ax.pt"),
        ("s3://bucket/key.pt", "bucket/key.pt"),
    ],
)
def test_paths_are_relative_to_the_working_directory(tmp_path, monkeypatch, given, expected):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    report = Report((replace(ILL, path=given.format(here=here)),), 1)
    uri = run_of(report)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == expected.format(parent=str(tmp_path).lstrip("/"))


def test_a_byte_that_is_no_text_survives_in_the_uri():
    uris = [
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in run_of(CLINIC)["results"]
    ]
    assert any(unquote(uri, errors="surrogateescape").endswith("é\udcff.pt") for uri in uris)


def test_the_tensor_is_the_logical_location():
    result = run_of(CLINIC)["results"][0]
    assert result["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "actor.mu.bias", "kind": "variable"}]
    assert result["message"]["text"].startswith("actor.mu.bias: All 3 entries")


def prints(*findings, path="runs/model.zip"):
    run = run_of(Report((replace(ILL, path=path, findings=findings),), 1))
    return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]


def test_a_fingerprint_knows_rule_file_and_tensor_but_no_values(tmp_path, monkeypatch):
    (first,) = prints(ZERO_BIAS)
    worse = replace(ZERO_BIAS, message="other words", evidence={"zero_fraction": 0.5}, severity=Severity.NOTE)
    assert prints(worse) == [first]
    assert prints(ZERO_BIAS, path="./runs/model.zip") == [first]
    others = [
        *prints(replace(ZERO_BIAS, code="ZER004")),
        *prints(replace(ZERO_BIAS, tensor="actor.mu.weight")),
        *prints(ZERO_BIAS, path="runs/other.zip"),
    ]
    assert len({first, *others}) == 4


def test_two_findings_about_the_same_thing_have_two_fingerprints():
    first, second = prints(DORMANT_UNITS, DORMANT_UNITS)
    assert first.split(":")[0] == second.split(":")[0]
    assert (first[-2:], second[-2:]) == (":1", ":2")


def test_a_hidden_finding_is_suppressed_with_its_reason():
    (hidden,) = [result for result in run_of(CLINIC)["results"] if "suppressions" in result]
    assert hidden["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": "by design, since 2024"}
    ]


def test_what_could_not_be_read_or_looked_at_is_notified():
    (invocation,) = run_of(CLINIC)["invocations"]
    assert invocation["executionSuccessful"] is False
    told = {each["level"]: each["message"]["text"] for each in invocation["toolExecutionNotifications"]}
    assert told["error"].startswith("runs/broken.zip ends at byte 1,024")
    assert told["error"].endswith("copy or download it again")
    assert told["warning"].startswith("pytorch_variables.pth could not be looked at, because")
    assert run_of(Report((HEALTHY,), 1))["invocations"][0]["executionSuccessful"] is True


def test_a_remark_about_the_run_is_a_notification():
    (remark,) = run_of(CLINIC)["invocations"][0]["toolConfigurationNotifications"]
    assert (remark["level"], remark["descriptor"]["id"]) == ("note", "CKD002")
    assert "matched nothing" in remark["message"]["text"]


def crowd(count, **fields):
    findings = tuple(
        Finding("NET001", "dormant-units", Severity.WARNING, f"{n}", f"t{n}", **fields) for n in range(count)
    )
    return Report((Examination("a.pt", "torch", Verdict.ILL, findings=(SCHEDULE, *findings, ZERO_BIAS)),), 1)


def test_beyond_the_limit_the_worst_are_kept_and_the_rest_is_counted():
    run = run_of(crowd(6_000))
    assert len(run["results"]) == sarif.MOST_RESULTS
    assert run["results"][0]["ruleId"] == "ZER003"
    assert all(result["level"] != "note" for result in run["results"])
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert "1,002 results left out" in notification["message"]["text"]


def test_the_document_stays_below_the_limit_of_bytes():
    report = crowd(3_000, advice="word " * 1000)
    text = sarif.reporter.render(report, RULES, Page())
    assert len(text.encode()) <= sarif.MOST_BYTES
    run = json.loads(text)["runs"][0]
    assert run["results"][0]["ruleId"] == "ZER003"
    assert f"{3_002 - len(run['results']):,} results left out" in json.dumps(run["invocations"], ensure_ascii=False)


def test_long_lists_are_cut():
    (silent,) = [result for result in run_of(CLINIC)["results"] if result["ruleId"] == "NET001"]
    assert silent["properties"]["evidence"]["units"] == [0, 1, 2, 3, 4, 5, "and 134 more"]
