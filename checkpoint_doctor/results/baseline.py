"""Findings that are known and accepted for now, so that a gate speaks of what is new or worse.

How a finding is recognised in the next run, and what makes it worse, is the subject of ``recognition``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.plugins.self_checks import RULES, report_unused, unused_ignore
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.identity import Extent, Key, measure, recognize, relate
from checkpoint_doctor.results.json import write_json
from checkpoint_doctor.results.report import Examination, Report, Verdict

VERSION = 1

IN_BASELINE = "in the baseline"
"""The reason that hides a known finding."""

_HINT = "write it anew with --write-baseline"
_SEVERITIES = {severity.label: severity for severity in Severity}


@dataclass(frozen=True)
class Baseline:
    """The known findings of a file."""

    file: str
    known: Mapping[Key, Extent]


def write_baseline(report: Report, file: str) -> str:
    """Return the text of a baseline that is to stand at a path, with every finding that no configuration hides.

    It is JSON in a stable order and without dates, so that a diff shows what changed. What ckdoc says about itself is
    left out: that a rule crashes is never a known state.
    """
    known: dict[Key, Extent] = {}
    for examination in report.checkpoints:
        for finding in examination.findings:
            if finding.ignored in (None, IN_BASELINE) and not _is_about_ckdoc(finding):
                _add(known, recognize(finding, examination.path, file), measure(finding))
    entries = [
        {
            "path": key.path,
            "code": key.code,
            "subject": key.subject,
            "part": key.part,
            "severity": extent.severity.label,
            "count": extent.count,
            "figures": dict(sorted(extent.figures.items())),
            "names": {name: sorted(values) for name, values in sorted(extent.names.items())},
        }
        for key, extent in sorted(known.items(), key=lambda item: item[0])
    ]
    return write_json({"baseline_version": VERSION, "findings": entries})


def read_baseline(file: str) -> Baseline:
    """Read the baseline at a path.

    Raises:
        UsageError: the file cannot be read, or is not what ``--write-baseline`` writes.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            document = json.load(stream)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot read the baseline {file}: {reason}", "write it first with --write-baseline") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the baseline {file} is not JSON: {error}", _HINT) from None
    if not isinstance(document, dict) or "baseline_version" not in document:
        raise UsageError(f"{file} is not a baseline", "write one with --write-baseline; a report is something else")
    if document["baseline_version"] != VERSION:
        raise UsageError(
            f"{file} is a baseline of version {document['baseline_version']}, and this ckdoc reads version {VERSION}",
            _HINT,
        )
    entries = document.get("findings")
    if not isinstance(entries, list):
        raise UsageError(f"{file}: findings must be a list", _HINT)
    known: dict[Key, Extent] = {}
    for index, entry in enumerate(entries):
        try:
            _add(known, *_read_entry(entry))
        except ValueError as error:
            raise UsageError(f"{file}: findings[{index}] is damaged: {error}", _HINT) from None
    return Baseline(file, known)


def apply_baseline(report: Report, baseline: Baseline, config: Config, rules: Sequence[Rule]) -> Report:
    """Hide the findings that a baseline knows, and remark on those of its entries that nothing needs any more.

    A finding that is more severe or of a larger extent than the baseline knows still counts, and so do those beyond the
    known count. Entries for checkpoints outside the run and for rules that were not asked are left alone; those for
    files that are gone are stale.
    """
    seen: Counter[Key] = Counter()
    hidden: Counter[Key] = Counter()

    def judge(finding: Finding, path: str) -> Finding:
        if _is_about_ckdoc(finding):
            return finding
        key = recognize(finding, path, baseline.file)
        seen[key] += 1
        known = baseline.known.get(key)
        if known is None or finding.ignored or hidden[key] == known.count or not known.covers(measure(finding)):
            return finding
        hidden[key] += 1
        return replace(finding, ignored=IN_BASELINE)

    checkpoints = []
    for each in report.checkpoints:
        findings = tuple(judge(finding, each.path) for finding in each.findings)
        ill = any(report.fails(finding) for finding in findings)
        verdict = each.verdict if each.verdict is Verdict.UNREADABLE else Verdict.ILL if ill else Verdict.HEALTHY
        checkpoints.append(replace(each, findings=findings, verdict=verdict))
    stale = tuple(_find_stale(checkpoints, baseline, seen, config, rules))
    return replace(report, checkpoints=tuple(checkpoints), remarks=(*report.remarks, *stale))


def _find_stale(
    checkpoints: Sequence[Examination],
    baseline: Baseline,
    seen: Mapping[Key, int],
    config: Config,
    rules: Sequence[Rule],
) -> Iterator[Finding]:
    if not config.general.selects(unused_ignore):
        return
    folder = os.path.dirname(os.path.abspath(baseline.file))
    by_path = {relate(each.path, baseline.file): each for each in checkpoints}
    by_code = {rule.code: rule for rule in rules}
    for key, known in sorted(baseline.known.items(), key=lambda item: item[0]):
        examination = by_path.get(key.path)
        if examination is None:
            missing = known.count if not os.path.lexists(os.path.join(folder, key.path)) else 0
        else:
            rule = by_code.get(key.code)
            asked = rule is not None and config.for_path(examination.path).selects(rule)
            readable = examination.verdict is not Verdict.UNREADABLE
            missing = known.count - seen[key] if asked and readable else 0
        if missing > 0:
            about = str(key) if missing == known.count else f"{missing} of {known.count} × {key}"
            evidence = {"path": key.path, "code": key.code, "subject": key.subject, "count": missing}
            yield config.general.judge(report_unused(about, baseline.file, evidence), "")


def _is_about_ckdoc(finding: Finding) -> bool:
    return any(finding.code == rule.code for rule in RULES)


def _add(known: dict[Key, Extent], key: Key, extent: Extent) -> None:
    known[key] = known[key].merge(extent) if key in known else extent


def _read_entry(entry: Any) -> tuple[Key, Extent]:
    key = Key(*(_take(entry, name, str) for name in ("path", "code", "subject", "part")))
    figures, names = _take(entry, "figures", dict), _take(entry, "names", dict)
    if not all(type(value) in (int, float) and not isnan(value) for value in figures.values()):
        raise ValueError("figures holds what is no number")
    if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in names.values()):
        raise ValueError("names holds what is no list of names")
    severity = _take(entry, "severity", str)
    if severity not in _SEVERITIES:
        raise ValueError(f"there is no severity {severity!r}")
    collections = {name: frozenset(values) for name, values in names.items()}
    return key, Extent(_take(entry, "count", int), _SEVERITIES[severity], figures, collections)


def _take(entry: Any, name: str, kind: type) -> Any:
    if not isinstance(entry, dict) or type(entry.get(name)) is not kind:
        raise ValueError(f"{name} is missing or of the wrong type")
    return entry[name]
