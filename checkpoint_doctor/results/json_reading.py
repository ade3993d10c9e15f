"""Reading a report back from its JSON, so that an earlier report can stand in for its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from msgspec import ValidationError, convert

from checkpoint_doctor.checkpoint import Content, Part, Skipped
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
from checkpoint_doctor.results.examination import Examination, Provenance, TensorRecord, Unreached, Verdict
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.json import NEVER, SCHEMA_VERSION
from checkpoint_doctor.results.report import Report
from checkpoint_doctor.results.resume import Resumption
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.traces import Trace

MOST_COLUMNS = 1 << 40
"""Above every position of a column."""

_Choice = TypeVar("_Choice")


def read_json(text: str | bytes) -> Report:
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
        fail_on=root.choose("fail_on", {**_SEVERITIES, NEVER: None}, Severity.ERROR),
        remarks=tuple(_read_finding(each) for each in root.records("remarks", [])),
        passed_over=tuple(
            Skipped(each.take("path", str), each.take("why", str)) for each in root.records("passed_over", [])
        ),
        asked=_read_codes(root),
        configuration=root.take("configuration", str, ""),
        carried_over=root.take("carried_over", int, 0),
        unrecognized=root.take("unrecognized", dict, {}),
        unsearched=tuple(
            Unsearched(each.take("path", str), each.take("why", str), each.take("on_purpose", bool))
            for each in root.records("unsearched", [])
        ),
    )


_SEVERITIES = {severity.label: severity for severity in Severity}
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_CERTAINTIES = {certainty.label: certainty for certainty in Certainty}
_PROGNOSES = {prognosis.value: prognosis for prognosis in Prognosis}
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


def read_examination(entry: Any) -> Examination:
    """Return the examination that an entry of ``checkpoints`` holds. Raises as ``from_json``."""
    return _read_examination(_Fields(entry, ""))


def _read_examination(fields: _Fields) -> Examination:
    findings = tuple(_read_finding(each) for each in fields.records("findings", []))
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
        findings=findings,
        diagnoses=tuple(_read_diagnosis(each, len(findings)) for each in fields.records("diagnoses", [])),
        skipped=tuple(Skipped(each.take("what", str), each.take("why", str)) for each in fields.records("skipped", [])),
        layout=fields.take("layout", str, ""),
        resumption=_read_resumption(fields, len(findings)),
        content=fields.take("content", str, ""),
        parts=tuple(_read_part(each) for each in fields.records("parts", [])),
        asked=_read_codes(fields),
        provenance=read_provenance(fields.value.get("provenance")),
    )


def read_provenance(value: Any) -> Provenance | None:
    """Return what an examination was made of; ``None`` where that cannot be told, so that it is made again."""
    with suppress(ValidationError, KeyError, TypeError):
        return Provenance(str(value["asked_with"]), convert(value, Trace))
    return None


def _read_resumption(fields: _Fields, findings: int) -> Resumption | None:
    found = fields.take("resume", dict, None)
    if found is None:
        return None
    inner = _Fields(found, fields.path("resume"))
    problems = inner.take("problems", list)
    if not all(type(each) is int and 0 <= each < findings for each in problems):
        raise inner.refusal("problems", "a list of positions in findings", problems)
    rates = inner.take("learning_rates", list)
    if not all(type(each) in (int, float) for each in rates):
        raise inner.refusal("learning_rates", "a list of numbers", rates)
    return Resumption(inner.take("step", int, None), tuple(map(float, rates)), tuple(problems))


def _read_codes(fields: _Fields) -> tuple[str, ...] | None:
    codes = fields.take("asked", list, None)
    if codes is not None and not all(isinstance(code, str) for code in codes):
        raise fields.refusal("asked", "a list of codes", codes)
    return None if codes is None else tuple(codes)


def _read_part(fields: _Fields) -> Part:
    file = fields.take("file", str)
    return Part(file, fields.choose("content", {each.word: each for each in Content}), file=file)


def _read_diagnosis(fields: _Fields, findings: int) -> Diagnosis:
    explains = fields.take("explains", list)
    if not all(type(each) is int and 0 <= each < findings for each in explains):
        raise fields.refusal("explains", "a list of positions in findings", explains)
    return Diagnosis(
        cause=fields.take("cause", str),
        certainty=fields.choose("certainty", _CERTAINTIES),
        severity=fields.choose("severity", _SEVERITIES),
        message=fields.take("message", str),
        explains=tuple(explains),
        summary=fields.take("summary", str, ""),
        subject=fields.take("subject", str, None),
        evidence=fields.take("evidence", dict, {}),
        advice=fields.take("advice", str, ""),
        remedy=fields.take("remedy", str, ""),
        prognosis=fields.choose("prognosis", _PROGNOSES),
        ignored=fields.take("ignored", str, None),
        preview=fields.take("preview", bool, False),
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
        zeros=fields.take("zeros", int, None),
        nonfinite=fields.take("nonfinite", int, None),
        minimum=fields.take("minimum", (int, float), None),
        maximum=fields.take("maximum", (int, float), None),
        mean=fields.take("mean", (int, float), None),
        std=fields.take("std", (int, float), None),
        norm=fields.take("norm", (int, float), None),
        input_rms=fields.take("input_rms", (int, float), None),
        gradient_rms=fields.take("gradient_rms", (int, float), None),
        update_ratio=fields.take("update_ratio", (int, float), None),
        tied_to=fields.take("tied_to", str, None),
        unreached=_read_unreached(fields),
    )


def _read_unreached(tensor: _Fields) -> Unreached | None:
    if tensor.take("unreached", dict, None) is None:
        return None
    fields = _Fields(tensor.value["unreached"], tensor.path("unreached"))

    def columns(name: str) -> tuple[int, ...] | None:
        listed = fields.take(name, list, None)
        if listed is not None and not all(type(each) is int and 0 <= each < MOST_COLUMNS for each in listed):
            raise fields.refusal(name, "a list of positions", listed)
        return None if listed is None else tuple(listed)

    return Unreached(
        entries=fields.take("entries", (int, float)),
        scattered=fields.take("scattered", (int, float), None),
        units=fields.take("units", (int, float), None),
        untouched=fields.take("untouched", (int, float), None),
        columns=columns("columns"),
        untouched_columns=columns("untouched_columns"),
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
        preview=fields.take("preview", bool, False),
    )
