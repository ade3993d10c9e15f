"""A report as versioned JSON.

Other programs depend on these names: fields are added freely, never changed or dropped without a new version. The
text is strict JSON (RFC 8259): numbers for which JSON has no token are null among a tensor's figures, and the strings
``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` in a finding's evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from math import inf, isfinite, isnan
from typing import Any

import numpy as np
from msgspec import to_builtins

from checkpoint_doctor import __version__
from checkpoint_doctor.checkpoint.reviewed_settings import ReviewedSetting
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.examination import Examination, Provenance, TensorRecord, Unreached
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Report
from checkpoint_doctor.text import UNPRINTABLE

SCHEMA_VERSION = 1

NEVER = "never"
"""Stands for a ``fail_on`` that nothing reaches."""


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: NumPy's types and enums become plain ones, NaN and infinities words."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Severity):
        return value.label
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if isfinite(value):
            return float(value)
        return "NaN" if isnan(value) else "Infinity" if value == inf else "-Infinity"
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        item = value.item()
        return plain(float(value) if isinstance(item, np.generic) else item)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(each) for each in value), key=repr)
    return str(value)


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as a JSON document of schema version 1. It carries no repairs; ``fix`` tells of them."""
    return {**_write_run(report), "checkpoints": [write_examination(each) for each in report.checkpoints]}


def close_json(report: Report) -> dict[str, Any]:
    """Return what a report says of the whole run, as the last line of the format ``jsonl`` has it."""
    totals = report.totals
    return {
        **_write_run(report),
        "complete": report.is_complete,
        "summary": report.summary_line,
        "examined": totals.checkpoints,
        "verdicts": {word: totals.verdicts[word] for word in sorted(totals.verdicts)},
        "spoken": [
            {
                "severity": severity.label,
                "title": title,
                "count": count,
                "checkpoints": totals.holders[severity, title],
            }
            for (severity, title), count in sorted(
                totals.spoken.items(), key=lambda item: (-item[0][0], -item[1], item[0][1])
            )
        ],
        "worst": [
            {"path": each.path, "verdict": each.verdict.value, "reasons": list(each.reasons), "others": each.others}
            for _, each in totals.worst
        ],
    }


def _write_run(report: Report) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "checkpoint-doctor", "version": __version__},
        "rules": report.rules,
        "asked": None if report.asked is None else list(report.asked),
        "configuration": report.configuration,
        "fail_on": report.fail_on.label if report.fail_on else NEVER,
        "failed": report.failed,
        "hidden": report.hidden,
        "hidden_by_baseline": report.known,
        "remarks": [write_finding(each) for each in report.remarks],
        "carried_over": report.carried_over,
        "passed_over": [{"path": each.what, "why": each.why} for each in report.passed_over],
        "unrecognized": dict(sorted(report.unrecognized.items())),
        "unsearched": [
            {"path": each.path, "why": each.why, "on_purpose": each.on_purpose} for each in report.unsearched
        ],
    }


def write_examination(examination: Examination) -> dict[str, Any]:
    """Return an examination as plain JSON values: an entry of ``checkpoints``."""
    entries = sum(tensor.size for tensor in examination.tensors)
    zeros = _add(tensor.zeros for tensor in examination.tensors)
    return {
        "path": examination.path,
        "format": examination.format,
        "verdict": examination.verdict.value,
        "asked": None if examination.asked is None else list(examination.asked),
        "crashed_rules": [each.evidence.get("rule") for each in examination.crashes],
        "error": examination.error,
        "hint": examination.hint,
        "versions": plain(examination.versions),
        "hyperparameters": plain(examination.hyperparameters),
        "algorithm": examination.algorithm,
        "step": plain(examination.step),
        "summary": {
            "tensors": len(examination.tensors),
            "layers": examination.layers,
            "parameters": examination.parameters,
            "entries": entries,
            "zeros": zeros,
            "zero_fraction": None if zeros is None else zeros / entries if entries else 0.0,
            "nonfinite": _add(tensor.nonfinite for tensor in examination.tensors),
        },
        "tensors": [_write_tensor(each) for each in examination.tensors],
        "diagnoses": [write_diagnosis(each) for each in examination.diagnoses],
        "findings": [
            {**write_finding(each), "diagnosis": examination.diagnosis_of.get(position)}
            for position, each in enumerate(examination.findings)
        ],
        "skipped": [{"what": each.what, "why": each.why} for each in examination.skipped],
        "layout": examination.layout,
        "settings": [_write_setting(each) for each in examination.settings],
        "resume": _write_resumption(examination),
        "content": examination.content,
        "parts": [{"file": each.file, "content": each.content.word} for each in examination.parts],
        "provenance": _write_provenance(examination.provenance),
    }


def _add(counts: Iterable[int | None]) -> int | None:
    """Return the sum of counts, ``None`` where one is not known."""
    known = list(counts)
    return None if None in known else int(sum(count or 0 for count in known))


def _write_provenance(provenance: Provenance | None) -> dict[str, Any] | None:
    return None if provenance is None else {"asked_with": provenance.asked_with, **to_builtins(provenance.read)}


def _write_setting(setting: ReviewedSetting) -> dict[str, Any]:
    known = setting.range
    return {
        "name": setting.name,
        "value": setting.value,
        "verdict": setting.verdict.value,
        "low": known.low if known else None,
        "high": known.high if known else None,
        "evidence": known.kind.value if known else None,
        "source": known.source if known else setting.remark or None,
    }


def _write_resumption(examination: Examination) -> dict[str, Any] | None:
    resumption = examination.resumption
    if resumption is None:
        return None
    return {
        "step": plain(resumption.step),
        "learning_rates": list(resumption.learning_rates),
        "goes_on": resumption.goes_on(examination.findings),
        "problems": list(resumption.problems),
        "answer": examination.resume_answer,
    }


def _write_tensor(tensor: TensorRecord) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": [int(length) for length in tensor.shape],
        "dtype": tensor.dtype,
        "kind": tensor.kind,
        "layer": tensor.layer,
        "updates": plain(tensor.updates),
        "zeros": plain(tensor.zeros),
        "nonfinite": plain(tensor.nonfinite),
        "minimum": _figure(tensor.minimum),
        "maximum": _figure(tensor.maximum),
        "mean": _figure(tensor.mean),
        "std": _figure(tensor.std),
        "norm": _figure(tensor.norm),
        "input_rms": _figure(tensor.input_rms),
        "gradient_rms": _figure(tensor.gradient_rms),
        "update_ratio": _figure(tensor.update_ratio),
        "tied_to": tensor.tied_to,
        **({"unreached": _write_unreached(tensor.unreached)} if tensor.unreached else {}),
    }


def _write_unreached(unreached: Unreached) -> dict[str, Any]:
    return {
        "entries": unreached.entries,
        "scattered": unreached.scattered,
        "units": unreached.units,
        "untouched": unreached.untouched,
        "columns": None if unreached.columns is None else list(unreached.columns),
        "untouched_columns": None if unreached.untouched_columns is None else list(unreached.untouched_columns),
    }


def _figure(value: float | int | None) -> float | int | None:
    number = plain(value)
    return None if isinstance(number, str) else number


def write_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain JSON values, without its repairs."""
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.label,
        "tensor": finding.tensor,
        "layer": finding.layer,
        "message": finding.message,
        "evidence": plain(finding.evidence),
        "advice": finding.advice,
        "fix": finding.fix.value if finding.fix else None,
        "ignored": finding.ignored,
        "preview": finding.preview,
    }


def write_diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as plain JSON values."""
    return {
        "cause": diagnosis.cause,
        "summary": diagnosis.summary,
        "certainty": diagnosis.certainty.label,
        "severity": diagnosis.severity.label,
        "subject": diagnosis.subject,
        "message": diagnosis.message,
        "evidence": plain(diagnosis.evidence),
        "advice": diagnosis.advice,
        "remedy": diagnosis.remedy,
        "prognosis": diagnosis.prognosis.value,
        "explains": list(diagnosis.explains),
        "ignored": diagnosis.ignored,
        "preview": diagnosis.preview,
    }


def write_line(entry: Mapping[str, Any]) -> str:
    """Write a JSON object as one line of JSON Lines, with its end."""
    return UNPRINTABLE.sub(_escape, json.dumps(entry, ensure_ascii=False, allow_nan=False)) + "\n"


def write_json(document: Mapping[str, Any]) -> str:
    """Lay a JSON document out for people and line-wise tools: indented, with one line for each innermost record."""
    return "\n".join(UNPRINTABLE.sub(_escape, line) for line in "".join(_lay_out(document, "")).split("\n")) + "\n"


def _escape(found: re.Match[str]) -> str:
    """Write a character of a string as JSON does; nothing else in JSON would be acted on."""
    number = ord(found[0])
    return f"\\u{number:04x}" if number < 0x10000 else json.dumps(found[0])[1:-1]


def _lay_out(value: Any, indent: str) -> Iterator[str]:
    if not isinstance(value, (dict, list)) or _is_record(value):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)
        return
    separator, closing = "{}" if isinstance(value, dict) else "[]"
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        label = f"{json.dumps(key, ensure_ascii=False)}: " if isinstance(value, dict) else ""
        yield f"{separator}\n{indent}  {label}"
        yield from _lay_out(each, indent + "  ")
        separator = ","
    yield f"\n{indent}{closing}"


def _is_record(value: dict[str, Any] | list[Any]) -> bool:
    """True where nothing inside is nested further than a list of plain values."""
    inner = value.values() if isinstance(value, dict) else value
    return not any(
        isinstance(each, dict) or (isinstance(each, list) and any(isinstance(item, (dict, list)) for item in each))
        for each in inner
        if each
    )
