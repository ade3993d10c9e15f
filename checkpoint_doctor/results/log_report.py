"""What a run found in training logs: the report on them, and the logs with their curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor import __version__
from checkpoint_doctor.checkpoint.training_log import Metric, TrainingLog
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.json import SCHEMA_VERSION, plain, write_finding
from checkpoint_doctor.results.report import Examination, Report, Verdict, hidden_in_words
from checkpoint_doctor.text import printable, quantity


class LogReport(Struct, frozen=True, eq=False, dict=True):
    """A report in which each examination is of a training log."""

    report: Report
    """Severities, baselines and exit codes are those of checkpoints."""
    logs: Mapping[str, TrainingLog] = field(default_factory=dict)
    """Path to the log, for those that were read."""

    @property
    def summary_line(self) -> str:
        """What was examined and found, as in ``1 log, 12 metrics, 10 rules, 2 findings``."""
        report = self.report
        return ", ".join(
            [
                f"{quantity(len(report.checkpoints), 'log')}{self._tally}",
                quantity(sum(len(each.metrics) for each in self.logs.values()), "metric"),
                quantity(report.rules, "rule"),
                quantity(len(report.findings), "finding"),
                *hidden_in_words(report.hidden - report.known, report.known),
                *report.unlisted_in_words,
                *([quantity(report.crashes, "rule crash", "rule crashes")] if report.crashes else []),
                *([printable(report.configuration)] if report.configuration else []),
            ]
        )

    @property
    def _tally(self) -> str:
        words = Counter(
            "with warnings"
            if each.verdict is Verdict.HEALTHY and each.worst is Severity.WARNING
            else each.verdict.value
            for each in self.report.checkpoints
        )
        if len(self.report.checkpoints) < 2:
            return ""
        order = ("unreadable", "ill", "incomplete", "with warnings", "healthy")
        return f" ({', '.join(f'{words[word]:,} {word}' for word in order if words[word])})"


def logs_to_json(report: LogReport) -> dict[str, Any]:
    """Return a report on training logs as a JSON document of schema version 1."""
    inner = report.report
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "checkpoint-doctor", "version": __version__},
        "rules": inner.rules,
        "asked": None if inner.asked is None else list(inner.asked),
        "configuration": inner.configuration,
        "fail_on": inner.fail_on.label if inner.fail_on else "never",
        "failed": inner.failed,
        "hidden": inner.hidden,
        "remarks": [write_finding(each) for each in inner.remarks],
        "unsearched": [
            {"path": each.path, "why": each.why, "on_purpose": each.on_purpose} for each in inner.unsearched
        ],
        "logs": [_write_log(each, report.logs.get(each.path)) for each in inner.checkpoints],
    }


def _write_log(examination: Examination, log: TrainingLog | None) -> dict[str, Any]:
    return {
        "path": examination.path,
        "kind": log.kind if log else None,
        "verdict": examination.verdict.value,
        "error": examination.error,
        "hint": examination.hint,
        "step_metric": log.step_name if log else None,
        "records": log.records if log else 0,
        "metrics": [_write_metric(each) for each in log.metrics] if log else [],
        "findings": [write_finding(each) for each in examination.findings],
        "skipped": [{"what": each.what, "why": each.why} for each in examination.skipped],
    }


def _write_metric(metric: Metric) -> dict[str, Any]:
    curve = metric.recorded
    return {
        "name": metric.name,
        "kind": metric.meaning.value,
        "count": curve.count,
        "first": plain(curve.first),
        "last": plain(curve.last),
        "nonfinite": int(curve.nonfinite.sum()),
    }


def findings_of_metric(findings: Sequence[Finding], name: str) -> list[Finding]:
    """Return the findings that count and are about a metric."""
    return [each for each in findings if each.counts and each.evidence.get("metric") == name]
