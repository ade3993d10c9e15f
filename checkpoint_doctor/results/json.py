"""A report as versioned JSON: written and read in this one place.

Other programs depend on these names: fields are added freely, never changed or dropped without a new version. The
text is strict JSON (RFC 8259): numbers for which JSON has no token are null among a tensor's figures, and the strings
``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` in a finding's evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from math import inf, isfinite, isnan
from typing import Any, TypeVar, cast

import numpy as np

from checkpoint_doctor import __version__
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.report import Examination, Report, TensorRecord, Verdict

SCHEMA_VERSION = 1

_NEVER = "never"
_UNSAFE_CHARACTERS = re.compile(r"[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Those that would act on a terminal or cannot be encoded; within JSON they only occur inside strings."""

_Choice = TypeVar("_Choice")


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
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "checkpoint-doctor", "version": __version__},
        "rules": report.rules,
        "fail_on": report.fail_on.label if report.fail_on else _NEVER,
        "failed": report.failed,
        "hidden": report.hidden,
        "remarks": [_write_finding(each) for each in report.remarks],
        "checkpoints": [_write_examination(each) for each in report.checkpoints],
    }


def _write_examination(examination: Examination) -> dict[str, Any]:
    entries = sum(tensor.size for tensor in examination.tensors)
    zeros = sum(tensor.zeros for tensor in examination.tensors)
    return {
        "path": examination.path,
        "format": examination.format,
        "verdict": examination.verdict.value,
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
            "zeros": int(zeros),
            "zero_fraction": zeros / entries if entries else 0.0,
            "nonfinite": int(sum(tensor.nonfinite for tensor in examination.tensors)),
        },
        "tensors": [_write_tensor(each) for each in examination.tensors],
        "findings": [_write_finding(each) for each in examination.findings],
        "skipped": [{"what": each.what, "why": each.why} for each in examination.skipped],
    }


def _write_tensor(tensor: TensorRecord) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": [int(length) for length in tensor.shape],
        "dtype": tensor.dtype,
        "kind": tensor.kind,
        "layer": tensor.layer,
        "updates": plain(tensor.updates),
        "zeros": int(tensor.zeros),
        "nonfinite": int(tensor.nonfinite),
        "minimum": _figure(tensor.minimum),
        "maximum": _figure(tensor.maximum),
        "mean": _figure(tensor.mean),
        "std": _figure(tensor.std),
        "norm": _figure(tensor.norm),
        "tied_to": tensor.tied_to,
    }


def _figure(value: float | int | None) -> float | int | None:
    number = plain(value)
    return None if isinstance(number, str) else number


def _write_finding(finding: Finding) -> dict[str, Any]:
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
    }


def write_json(document: Mapping[str, Any]) -> str:
    """Lay a JSON document out for people and line-wise tools: indented, with one line for each innermost record."""
    return _UNSAFE_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", "".join(_lay_out(document, ""))) + "\n"


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


def read(text: str | bytes) -> Report:
    """Read a report from the text that ``ckdoc scan --format json`` printed.

    Raises:
        UsageError: it is not JSON, or not such a report.
    """
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"this is no JSON: {error}", "use the output of `ckdoc scan --format json`") from None
    return from_json(document)


def _refuse_constant(token: str) -> Any:
    raise ValueError(f"the token {token} is not allowed in it")


def from_json(document: Any) -> Report:
    """Return the report that a JSON document of schema version 1 holds. Fields that nobody knows here are passed over.

    Raises:
        UsageError: the document is of another version, or a field (the message names it) is not what it must be.
    """
    root = _Fields(document, "")
    version = root.take("schema_version", int)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"the report has schema version {version}, and this checkpoint-doctor reads version {SCHEMA_VERSION}",
            "write it again with this version of ckdoc, or install the one that wrote it",
        )
    return Report(
        checkpoints=tuple(_read_examination(each) for each in root.records("checkpoints")),
        rules=root.take("rules", int, 0),
        fail_on=root.choose("fail_on", {**_SEVERITIES, _NEVER: None}, Severity.ERROR),
        remarks=tuple(_read_finding(each) for each in root.records("remarks", [])),
    )


_SEVERITIES = {severity.label: severity for severity in Severity}
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_SAFETIES = {safety.value: safety for safety in Safety}
_REQUIRED: Any = object()


class _Fields:
    """A JSON object whose fields are taken with the type they must have."""

    def __init__(self, value: Any, place: str) -> None:
        self.place = place
        if not isinstance(value, dict):
            raise self.refusal("", "an object", value)
        self.value = value

    def take(self, key: str, kinds: type | tuple[type, ...], default: Any = _REQUIRED) -> Any:
        """Return a field's value, which is of one of these types; null counts as absent where there is a default."""
        value = self.value.get(key)
        if value is None and default is not _REQUIRED:
            return default
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(value) not in kinds:
            raise self.refusal(key, " or ".join(_JSON_NAMES[kind] for kind in kinds), value)
        return value

    def choose(self, key: str, choices: Mapping[str, _Choice], default: Any = _REQUIRED) -> _Choice:
        """Return the choice that a field names."""
        word = self.take(key, str, default)
        if word is default:
            return cast(_Choice, word)
        if word not in choices:
            raise self.refusal(key, f"one of {', '.join(choices)}", word)
        return choices[word]

    def records(self, key: str, default: Any = _REQUIRED) -> Iterator[_Fields]:
        """Yield the objects of a list."""
        for index, each in enumerate(self.take(key, list, default)):
            yield _Fields(each, f"{self.path(key)}[{index}]")

    def path(self, key: str) -> str:
        """Say where a field stands, as in ``checkpoints[0].findings[2].severity``."""
        return ".".join(part for part in (self.place, key) if part)

    def refusal(self, key: str, expected: str, found: Any) -> UsageError:
        """Return the error that says what a field must be."""
        shown = json.dumps(found, default=str)
        shown = shown if len(shown) <= 40 else shown[:39] + "…"
        return UsageError(
            f"this is no ckdoc report: {self.path(key) or 'the document'} must be {expected}, not {shown}",
            "use the output of `ckdoc scan --format json`",
        )


_JSON_NAMES: dict[Any, str] = {
    str: "a string", int: "an integer", float: "a number", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip


def _read_examination(fields: _Fields) -> Examination:
    summary = _Fields(fields.take("summary", dict, {}), fields.path("summary"))
    return Examination(
        path=fields.take("path", str),
        format=fields.take("format", str, None),
        verdict=fields.choose("verdict", _VERDICTS),
        error=fields.take("error", str, None),
        hint=fields.take("hint", str, ""),
        algorithm=fields.take("algorithm", str, None),
        step=fields.take("step", int, None),
        versions={str(key): str(value) for key, value in fields.take("versions", dict, {}).items()},
        hyperparameters=fields.take("hyperparameters", dict, {}),
        layers=summary.take("layers", int, 0),
        tensors=tuple(_read_tensor(each) for each in fields.records("tensors", [])),
        findings=tuple(_read_finding(each) for each in fields.records("findings", [])),
        skipped=tuple(Skipped(each.take("what", str), each.take("why", str)) for each in fields.records("skipped", [])),
    )


def _read_tensor(fields: _Fields) -> TensorRecord:
    shape = fields.take("shape", list)
    if not all(type(length) is int and length >= 0 for length in shape):
        raise fields.refusal("shape", "a list of sizes", shape)
    return TensorRecord(
        name=fields.take("name", str),
        shape=tuple(shape),
        dtype=fields.take("dtype", str),
        kind=fields.take("kind", str),
        layer=fields.take("layer", str, ""),
        updates=fields.take("updates", int, None),
        zeros=fields.take("zeros", int),
        nonfinite=fields.take("nonfinite", int),
        minimum=fields.take("minimum", (int, float), None),
        maximum=fields.take("maximum", (int, float), None),
        mean=fields.take("mean", (int, float), None),
        std=fields.take("std", (int, float), None),
        norm=fields.take("norm", (int, float), None),
        tied_to=fields.take("tied_to", str, None),
    )


def _read_finding(fields: _Fields) -> Finding:
    return Finding(
        code=fields.take("code", str),
        name=fields.take("name", str),
        severity=fields.choose("severity", _SEVERITIES),
        message=fields.take("message", str),
        tensor=fields.take("tensor", str, None),
        layer=fields.take("layer", str, None),
        evidence=fields.take("evidence", dict, {}),
        fix=fields.choose("fix", _SAFETIES, None),
        advice=fields.take("advice", str, ""),
        ignored=fields.take("ignored", str, None),
    )
