"""The report as SARIF 2.1.0, for code-scanning services such as GitHub's.

Limits and required properties: https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from checkpoint_doctor import __version__
from checkpoint_doctor.builtin.reporters._artifacts import artifact_path, artifact_uri
from checkpoint_doctor.builtin.reporters._order import rank_all
from checkpoint_doctor.builtin.reporters._wording import (
    LISTED,
    headline,
    join_sentences,
    one_line,
    skipped_in_words,
    subject_of,
    unsearched_in_words,
)
from checkpoint_doctor.plugins.explanation import find_docs
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.identity import identify, identify_diagnosis
from checkpoint_doctor.results.json import plain, write_json
from checkpoint_doctor.results.report import Alert, Examination, Page, Report
from checkpoint_doctor.text import quantity

MOST_RESULTS = 5_000
"""GitHub shows so many results of a run and refuses more than 25,000."""
MOST_RELATED = 100
"""Findings listed with a diagnosis; GitHub keeps 1,000 locations of a result."""
MOST_BYTES = 10_000_000
"""GitHub's limit is 10 MB after compression; below it without compression, the limit always holds."""

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class SarifReporter:
    """Renders one run with the metadata of all rules and the worst results; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the SARIF document, with as many results as the limits allow."""
        ranked = rank_all(report)
        kept = min(len(ranked), MOST_RESULTS)
        while True:
            text = write_json(_write_log(report, rules, ranked[:kept], len(ranked) - kept))
            if len(text.encode()) <= MOST_BYTES or kept == 0:
                return text
            kept = kept * 3 // 4


def _write_log(
    report: Report, rules: Sequence[Rule], alerts: Sequence[tuple[Examination, Alert]], left_out: int
) -> dict[str, Any]:
    causes = {alert.cause: alert for _, alert in alerts if isinstance(alert, Diagnosis)}
    rules = [rule for rule in rules if report.asked is None or rule.code in report.asked]
    identifiers = [*(rule.code for rule in rules), *causes]
    positions = {identifier: index for index, identifier in enumerate(identifiers)}
    repetitions: Counter[str] = Counter()
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "checkpoint-doctor",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": [*map(_write_rule, rules), *map(_write_cause, causes.values())],
                    }
                },
                "invocations": [_write_invocation(report, left_out)],
                "results": [_write_result(examination, alert, positions, repetitions) for examination, alert in alerts],
                "columnKind": "unicodeCodePoints",
                "properties": {
                    "failed": report.failed,
                    "failOn": report.fail_on.label if report.fail_on else "never",
                    "summary": report.summary_line,
                },
            }
        ],
    }


def _write_invocation(report: Report, left_out: int) -> dict[str, Any]:
    return {
        "executionSuccessful": report.is_complete,
        "toolExecutionNotifications": _write_notifications(report, left_out),
        "toolConfigurationNotifications": [
            _write_notification(
                remark.code, remark.severity.label, join_sentences(headline(remark), one_line(remark.advice))
            )
            for remark in report.remarks
            if remark.ignored is None
        ],
    }


def _write_rule(rule: Rule) -> dict[str, Any]:
    sections = list(rule.sections.items())
    docs = find_docs()
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary or rule.name},
        "fullDescription": {"text": rule.sections.get("Why it matters") or rule.summary or rule.name},
        **({"helpUri": f"{docs}/rules/{rule.code}/"} if docs and rule.package == "checkpoint_doctor" else {}),
        "help": {
            "text": "\n\n".join([rule.summary, *(f"{heading}:\n{body}" for heading, body in sections)]).strip()
            or rule.name,
            "markdown": "\n\n".join(
                [
                    f"**{rule.code} {rule.name}**: {rule.summary}",
                    *(f"### {heading}\n\n{body}" for heading, body in sections),
                ]
            ),
        },
        "defaultConfiguration": {"level": rule.severity.label},
        "properties": {
            "tags": [
                "checkpoint",
                rule.check.__module__.rpartition(".")[2],
                *([f"fix-{rule.fix.value}"] if rule.fix else []),
            ]
        },
    }


def _write_cause(diagnosis: Diagnosis) -> dict[str, Any]:
    """Write a cause as SARIF describes a rule: what a result is an instance of."""
    summary = diagnosis.summary or diagnosis.cause
    return {
        "id": diagnosis.cause,
        "name": "".join(word.capitalize() for word in diagnosis.cause.split("-")),
        "shortDescription": {"text": summary},
        "fullDescription": {"text": summary},
        "help": {
            "text": f"{summary} `ckdoc explain {diagnosis.cause}` says how it is known and what to do.",
            "markdown": f"**{diagnosis.cause}**: {summary}\n\n`ckdoc explain {diagnosis.cause}` says how it is known "
            "and what to do.",
        },
        "defaultConfiguration": {"level": diagnosis.severity.label},
        "properties": {"tags": ["checkpoint", "diagnosis"]},
    }


def _write_result(
    examination: Examination, alert: Alert, positions: dict[str, int], repetitions: Counter[str]
) -> dict[str, Any]:
    """Write an alert; the findings that a diagnosis explains are its related locations, so that it is one alert."""
    identity = identify_diagnosis(alert) if isinstance(alert, Diagnosis) else identify(alert)
    parts = (identity.code, artifact_path(examination.path), identity.subject, *filter(None, (identity.part,)))
    key = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]
    repetitions[key] += 1
    result: dict[str, Any] = {
        "ruleId": identity.code,
        **({"ruleIndex": positions[identity.code]} if identity.code in positions else {}),
        "level": Severity.NOTE.label if alert.preview else alert.severity.label,
        "message": {"text": join_sentences(headline(alert), one_line(alert.advice))},
        "locations": [_write_location(examination.path, _logical_location(alert, examination))],
        "partialFingerprints": {"primaryLocationLineHash": f"{key}:{repetitions[key]}"},
        "properties": {
            "name": alert.cause if isinstance(alert, Diagnosis) else alert.name,
            "evidence": _shorten_lists(plain(alert.evidence)),
            **({"preview": True} if alert.preview else {}),
            **(
                {"certainty": alert.certainty.label, "prognosis": alert.prognosis.value, "remedy": alert.remedy}
                if isinstance(alert, Diagnosis)
                else {"fix": plain(alert.fix)}
            ),
        },
    }
    if isinstance(alert, Diagnosis):
        explained = (examination.findings[position] for position in alert.explains[:MOST_RELATED])
        result["relatedLocations"] = [
            {
                "id": number,
                **_write_location(examination.path, _logical_location(finding, examination)),
                "message": {"text": f"{finding.title}: {headline(finding)}"},
            }
            for number, finding in enumerate(explained, 1)
        ]
    if alert.ignored is not None:
        justification = one_line(alert.ignored)
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
    return result


def _logical_location(alert: Alert, examination: Examination) -> dict[str, Any] | None:
    if not alert.subject:
        return None
    if isinstance(alert, Diagnosis):
        is_tensor = any(tensor.name == alert.subject for tensor in examination.tensors)
    else:
        is_tensor = alert.tensor is not None
    return {"fullyQualifiedName": subject_of(alert), "kind": "variable" if is_tensor else "module"}


def _write_location(path: str, logical: dict[str, Any] | None = None) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": artifact_uri(path), "uriBaseId": "%SRCROOT%"},
            # A checkpoint has no lines, and GitHub shows nothing without one.
            "region": {"startLine": 1},
        }
    }
    if logical:
        location["logicalLocations"] = [logical]
    return location


def _write_notifications(report: Report, left_out: int) -> list[dict[str, Any]]:
    notifications = []
    for examination in report.checkpoints:
        if examination.is_unreadable:
            message = one_line(" · ".join(filter(None, (examination.error, examination.hint))) or "could not be read")
            notifications.append(_write_notification("unreadable", "error", message, examination.path))
        notifications += [
            _write_notification(crash.code, "error", one_line(crash.message), examination.path)
            for crash in examination.crashes
        ]
        for skipped in examination.skipped:
            message = skipped_in_words(skipped)
            notifications.append(_write_notification("skipped", "warning", message, examination.path))
    for words, on_purpose in unsearched_in_words(report):
        notifications.append(_write_notification("unsearched", "note" if on_purpose else "error", words))
    if left_out:
        message = (
            f"{quantity(left_out, 'result')} left out, those of the lowest severity, to stay within GitHub's limits; "
            "the JSON format has all"
        )
        notifications.append(_write_notification("truncated", "warning", message))
    return notifications


def _write_notification(identifier: str, level: str, message: str, path: str | None = None) -> dict[str, Any]:
    return {
        "descriptor": {"id": identifier},
        "level": level,
        "message": {"text": message},
        **({"locations": [_write_location(path)]} if path is not None else {}),
    }


def _shorten_lists(value: Any) -> Any:
    """Shorten long lists and add how many items were left out; the JSON format has all items."""
    if isinstance(value, dict):
        return {key: _shorten_lists(each) for key, each in value.items()}
    if isinstance(value, list):
        rest = len(value) - LISTED
        return [*map(_shorten_lists, value[:LISTED]), *([f"and {rest:,} more"] if rest > 0 else [])]
    return value


reporter = SarifReporter()
