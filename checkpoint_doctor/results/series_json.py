"""A comparison as versioned JSON; the promises are those of ``results.json``."""

from __future__ import annotations

from typing import Any

from checkpoint_doctor import __version__
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.json import NEVER, SCHEMA_VERSION, plain, write_finding
from checkpoint_doctor.results.report import Examination
from checkpoint_doctor.results.series_report import (
    Illness,
    PointRecord,
    SeriesRecord,
    SeriesReport,
    TensorRow,
    Values,
)


def series_to_json(report: SeriesReport) -> dict[str, Any]:
    """Return a comparison as a JSON document of schema version 1."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "checkpoint-doctor", "version": __version__},
        "rules": report.rules,
        "configuration": report.configuration,
        "fail_on": report.fail_on.label if report.fail_on else NEVER,
        "failed": report.failed,
        "remarks": [write_finding(each) for each in report.remarks],
        "series": [_write_series(each) for each in report.series],
        "unreadable": [_write_unreadable(each) for each in report.unreadable],
        "left_out": [_write_skipped(each) for each in report.left_out],
        "passed_over": [_write_skipped(each) for each in report.passed_over],
        "unsearched": [
            {"path": each.path, "why": each.why, "on_purpose": each.on_purpose} for each in report.unsearched
        ],
    }


def _write_series(record: SeriesRecord) -> dict[str, Any]:
    return {
        "ordered_by": record.ordered_by,
        "checkpoints": [_write_point(each) for each in record.points],
        "findings": [write_finding(each) for each in record.findings],
        "diagnoses": [_write_illness(each, record) for each in record.illnesses],
        "tensors": [_write_tensor(each) for each in record.tensors],
        "settings": [{"name": each.name, "values": plain(each.values)} for each in record.settings],
        "appeared": list(record.appeared),
        "vanished": list(record.vanished),
        "remarks": list(record.remarks),
        "unreadable": [_write_unreadable(each) for each in record.unreadable],
        "left_out": [_write_skipped(each) for each in record.left_out],
    }


def _write_point(point: PointRecord) -> dict[str, Any]:
    return {
        "path": point.path,
        "step": plain(point.step),
        "updates": plain(point.updates),
        "verdict": point.verdict.value,
        "format": point.format,
        "algorithm": point.algorithm,
        "diagnoses": [each.cause for each in point.diagnoses],
        "findings": [each.code for each in point.findings],
    }


def _write_illness(illness: Illness, record: SeriesRecord) -> dict[str, Any]:
    began = record.points[illness.began]
    gone = None if illness.gone is None else record.points[illness.gone]
    return {
        "name": illness.name,
        "subject": illness.subject,
        "severity": illness.severity.label,
        "certainty": illness.certainty.label if illness.certainty else None,
        "message": illness.message,
        "onset_step": plain(began.step),
        "onset_path": began.path,
        "gone_step": plain(gone.step) if gone else None,
        "gone_path": gone.path if gone else None,
        "checkpoints": list(illness.seen),
    }


def _write_tensor(row: TensorRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "layer": row.layer,
        "kind": row.kind,
        "shape": [int(length) for length in row.shape],
        "dtype": row.dtype,
        "zero_fraction": _round(row.zero_fraction),
        "nonfinite": [None if value is None else int(value) for value in row.nonfinite],
        "norm": _round(row.norm),
        "change": _round(row.change),
        "still_fraction": _round(row.still_fraction),
        "dormant_fraction": _round(row.dormant_fraction),
        "vanished_fraction": _round(row.vanished_fraction),
        "input_rms": _round(row.input_rms),
        "gradient_rms": _round(row.gradient_rms),
        "update_ratio": _round(row.update_ratio),
        "updates": [None if value is None else int(value) for value in row.updates],
    }


def _round(values: Values) -> list[float | None]:
    """Return six significant digits, which no chart shows and which halve the document."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def _write_unreadable(examination: Examination) -> dict[str, Any]:
    return {"path": examination.path, "error": examination.error, "hint": examination.hint}


def _write_skipped(skipped: Skipped) -> dict[str, Any]:
    return {"path": skipped.what, "why": skipped.why}
