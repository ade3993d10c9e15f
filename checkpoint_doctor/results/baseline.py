"""Findings that are known and accepted for now, so that a gate speaks of what is new or worse.

What makes a finding the same one in the next run, and what makes it worse, is declared by its rule (``identity``).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from math import isnan
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.identity import Extent, FindingKey, extent_of, identify, identify_diagnosis
from checkpoint_doctor.results.json import write_json
from checkpoint_doctor.results.report import IN_BASELINE, Examination, Report, judge

VERSION = 1

_HINT = "write it anew with --write-baseline"
_SEVERITIES = {severity.label: severity for severity in Severity}


class Entry(Struct, frozen=True, order=True):
    """A finding in a checkpoint, as a baseline names it."""

    path: str
    """The checkpoint's, relative to the folder of the baseline, with ``/`` between the names."""
    key: FindingKey

    def __str__(self) -> str:
        return f"{self.key} in {self.path}"


class Baseline(Struct, frozen=True):
    """The known findings of a file."""

    file: str
    known: Mapping[Entry, Extent]


class Stale(Struct, frozen=True):
    """An entry of a baseline for findings that are no longer there."""

    entry: Entry
    missing: int
    """How many of the known findings were not found."""
    known: int

    def __str__(self) -> str:
        return str(self.entry) if self.missing == self.known else f"{self.missing} of {self.known} × {self.entry}"


def relate(path: str, file: str) -> str:
    """Return a path as seen from the folder of a file, with ``/`` between the names."""
    folder = os.path.dirname(os.path.abspath(file))
    return os.path.relpath(os.path.abspath(path), folder).replace(os.sep, "/")


def write_baseline(report: Report, file: str) -> str:
    """Return the text of a baseline that is to stand at a path, with every finding that no configuration hides.

    It is JSON in a stable order and without dates, so that a diff shows what changed. What ckdoc says about itself is
    left out: that a rule crashes is never a known state.
    """
    known: dict[Entry, Extent] = {}
    for examination in report.checkpoints:
        for finding in examination.findings:
            if finding.ignored in (None, IN_BASELINE) and not finding.is_about_ckdoc:
                _add(known, Entry(relate(examination.path, file), identify(finding)), extent_of(finding))
        for diagnosis in examination.diagnoses:
            if diagnosis.ignored in (None, IN_BASELINE):
                _add(known, Entry(relate(examination.path, file), identify_diagnosis(diagnosis)), extent_of(diagnosis))
    entries = [
        {
            "path": entry.path,
            "code": entry.key.code,
            "subject": entry.key.subject,
            "part": entry.key.part,
            "severity": extent.severity.label,
            "count": extent.count,
            "figures": dict(sorted(extent.figures.items())),
            "names": {name: sorted(values) for name, values in sorted(extent.names.items())},
        }
        for entry, extent in sorted(known.items(), key=lambda item: item[0])
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
    known: dict[Entry, Extent] = {}
    for index, entry in enumerate(entries):
        try:
            _add(known, *_read_entry(entry))
        except ValueError as error:
            raise UsageError(f"{file}: findings[{index}] is damaged: {error}", _HINT) from None
    return Baseline(file, known)


class EntryUse:
    """Hides what a baseline knows, examination by examination, and keeps which of its entries are still needed."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self._paths = {entry.path for entry in baseline.known}
        self._hidden: Counter[Entry] = Counter()
        self._seen: Counter[Entry] = Counter()
        self._read: dict[str, str | None] = {}
        """The checkpoints of entries that were examined: as the baseline calls them, to the path in the run; ``None``
        where one is unreadable."""

    def hide_known(self, examination: Examination) -> Examination:
        """Hide the findings that the baseline knows.

        A finding that is more severe or of a larger extent than the baseline knows still counts, and so do those beyond
        the known count. A diagnosis that is known, and no more severe, hides whatever it explains: the illness is the
        same.
        """
        path = relate(examination.path, self.baseline.file)
        if path in self._paths:
            self._read[path] = None if examination.is_unreadable else examination.path
        findings = [self._hide(finding, path) for finding in examination.findings]
        diagnoses = []
        for diagnosis in examination.diagnoses:
            known = self._look_up(Entry(path, identify_diagnosis(diagnosis)))
            is_known = known is not None and known.covers(extent_of(diagnosis))
            if is_known or all(findings[position].ignored for position in diagnosis.explains):
                diagnosis = replace(diagnosis, ignored=diagnosis.ignored or IN_BASELINE)
                for position in diagnosis.explains:
                    findings[position] = replace(findings[position], ignored=findings[position].ignored or IN_BASELINE)
            diagnoses.append(diagnosis)
        verdict = examination.verdict if examination.is_unreadable else judge(findings, diagnoses)
        return replace(examination, findings=tuple(findings), diagnoses=tuple(diagnoses), verdict=verdict)

    def _hide(self, finding: Finding, path: str) -> Finding:
        if finding.is_about_ckdoc:
            return finding
        entry = Entry(path, identify(finding))
        known = self._look_up(entry)
        if finding.ignored or known is None or self._hidden[entry] == known.count:
            return finding
        if not known.covers(extent_of(finding)):
            return finding
        self._hidden[entry] += 1
        return replace(finding, ignored=IN_BASELINE)

    def _look_up(self, entry: Entry) -> Extent | None:
        known = self.baseline.known.get(entry)
        if known is not None:
            self._seen[entry] += 1
        return known

    def find_stale(self, was_asked: Callable[[str, str], bool]) -> list[Stale]:
        """Return the entries of the baseline that nothing needs any more.

        ``was_asked`` says whether the rule with a code was run on the checkpoint at a path. Entries for checkpoints
        outside the run, for unreadable ones and for rules that were not run are left alone; those for deleted files are
        stale.
        """
        folder = os.path.dirname(os.path.abspath(self.baseline.file))
        stale = []
        for entry, known in sorted(self.baseline.known.items(), key=lambda item: item[0]):
            if entry.path not in self._read:
                missing = known.count if not os.path.lexists(os.path.join(folder, entry.path)) else 0
            else:
                path = self._read[entry.path]
                is_judged = path is not None and was_asked(entry.key.code, path)
                missing = known.count - self._seen[entry] if is_judged else 0
            if missing > 0:
                stale.append(Stale(entry, missing, known.count))
        return stale


def _add(known: dict[Entry, Extent], entry: Entry, extent: Extent) -> None:
    known[entry] = known[entry].merge(extent) if entry in known else extent


def _read_entry(entry: Any) -> tuple[Entry, Extent]:
    path, code, subject, part = (_take(entry, name, str) for name in ("path", "code", "subject", "part"))
    figures, names = _take(entry, "figures", dict), _take(entry, "names", dict)
    if not all(type(value) in (int, float) and not isnan(value) for value in figures.values()):
        raise ValueError("figures holds what is no number")
    if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in names.values()):
        raise ValueError("names holds what is not a list of names")
    severity = _take(entry, "severity", str)
    if severity not in _SEVERITIES:
        raise ValueError(f"there is no severity {severity!r}")
    collections = {name: frozenset(values) for name, values in names.items()}
    return Entry(path, FindingKey(code, subject, part)), Extent(
        _take(entry, "count", int), _SEVERITIES[severity], figures, collections
    )


def _take(entry: Any, name: str, kind: type) -> Any:
    if not isinstance(entry, dict) or type(entry.get(name)) is not kind:
        raise ValueError(f"{name} is missing or of the wrong type")
    return entry[name]
