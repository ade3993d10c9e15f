"""A new version keeps what a team has decided: known findings stay known, and what is new counts one version later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from checkpoint_doctor import Report, __version__, scan
from checkpoint_doctor.results.baseline import Entry, read_baseline, relate
from checkpoint_doctor.results.identity import identify
from tests.gathering import apply_baseline, find_stale
from tests.released import RELEASED, declare, find_changes, read_verdicts

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
VERSIONS = sorted(path.name for path in RELEASED.iterdir())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("upgrade")
    for file in (ROOT / "fixtures").glob("case_*.[zp][it]*"):
        shutil.copy(file, folder)
    return scan([folder])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stored_baseline_still_hides_all_but_what_the_changelog_names(version: str, report: Report) -> None:
    folder = Path(report.checkpoints[0].path).parent
    shutil.copy(RELEASED / version / "baseline.json", folder)
    baseline = read_baseline(str(folder / "baseline.json"))
    assert len(baseline.known) > 60
    after = apply_baseline(report, baseline)
    came = {
        finding.code
        for each in after.checkpoints
        for finding in each.findings
        if finding.ignored is None and finding.severity.label != "note"
    }
    gone = {stale.entry.key.code for stale in find_stale(after, baseline, lambda code, path: True)}
    named = read_verdicts(CHANGELOG, version if version != __version__ else "")
    assert came | gone <= named, f"{sorted((came | gone) - named)} need a line under Verdicts in the changelog"
    hidden = sum(finding.ignored is not None for each in after.checkpoints for finding in each.findings)
    assert hidden >= 0.9 * sum(extent.count for extent in baseline.known.values())


@pytest.mark.parametrize("version", [each for each in VERSIONS if each != __version__] or ["none yet"])
def test_every_changed_declaration_has_a_line_in_the_changelog(version: str) -> None:
    if version == "none yet":
        pytest.skip("no earlier version was released")
    before = json.loads((RELEASED / version / "declarations.json").read_text())
    missing = set(find_changes(before, declare())) - read_verdicts(CHANGELOG, version)
    assert not missing, f"{sorted(missing)} need a line under Verdicts in the changelog"


def test_what_can_change_a_verdict_is_found() -> None:
    rule = {"severity": "warning", "preview": False, "options": {"share": 0.1}, "part": [], "worse": []}
    before = {"AAA001": rule, "AAA002": rule, "AAA003": {**rule, "preview": True}, "AAA004": rule, "AAA005": rule}
    after = {
        "AAA001": rule,
        "AAA002": {**rule, "options": {"share": 0.2}},
        "AAA003": rule,
        "AAA005": {**rule, "part": ["gate"]},
        "AAA006": {**rule, "preview": True},
        "AAA007": rule,
    }
    assert list(find_changes(before, after)) == ["AAA002", "AAA003", "AAA004", "AAA005", "AAA007"]


def test_the_lines_about_verdicts_are_read() -> None:
    text = """
## [Unreleased]

### Verdicts

- NET001, `ZER003` and `dead-relu`: more
  than before, unlike VAL001: that stays.
- Nothing about OPT001 here.

### Fixed

- RNN001: no verdict.

## [0.2.0]

### Verdicts

- NET002: less.

## [0.1.0]

### Verdicts

- NET003: first.
"""
    assert read_verdicts(text, "0.1.0") == {"NET001", "ZER003", "dead-relu", "NET002"}
    assert read_verdicts(text, "0.2.0") == {"NET001", "ZER003", "dead-relu"}


def test_today_is_declared_in_full() -> None:
    declared = declare()
    assert declared["NET001"]["options"]
    assert declared["ZER003"]["severity"] == "warning" or declared["ZER003"]["severity"] == "error"
    assert declared["dead-relu"]["prognosis"]
    assert json.loads(json.dumps(declared)) == declared


def test_a_baselines_entries_are_those_of_its_findings(report: Report) -> None:
    """The identity in the file is the one that the next run computes."""
    folder = Path(report.checkpoints[0].path).parent
    shutil.copy(RELEASED / "0.1.0" / "baseline.json", folder)
    known = read_baseline(str(folder / "baseline.json")).known
    found = {
        Entry(relate(each.path, str(folder / "baseline.json")), identify(finding))
        for each in report.checkpoints
        for finding in each.findings
    }
    assert len(known.keys() & found) >= 0.95 * len(known)
