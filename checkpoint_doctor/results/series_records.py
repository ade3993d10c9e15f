"""From a series and the examinations of its checkpoints to what a report says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Point, Series, TensorSeries
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity, by_severity
from checkpoint_doctor.results.report import Examination
from checkpoint_doctor.results.series_report import (
    Illness,
    PointRecord,
    SeriesRecord,
    SettingRow,
    TensorRow,
    Values,
)


class Kept(Struct, frozen=True):
    """What is kept of the examination of one checkpoint."""

    record: PointRecord
    findings: tuple[Finding, ...]
    """Warnings and errors that count, with the severity of the diagnosis that explains them where that is milder."""


def keep(examination: Examination, point: Point) -> Kept:
    """Return what a series keeps of the examination of a checkpoint."""
    unexplained = tuple(
        replace(finding, repairs=()) for finding in examination.unexplained if finding.severity > Severity.NOTE
    )
    lasting = tuple(_list_serious(examination))
    record = PointRecord(
        path=examination.path,
        step=point.step,
        updates=point.updates,
        verdict=examination.verdict,
        algorithm=examination.algorithm,
        format=examination.format,
        diagnoses=tuple(replace(each, explains=()) for each in examination.diagnoses if each.counts),
        findings=unexplained,
        keys=frozenset((finding.code, finding.subject) for finding in lasting),
        settings=point.settings,
    )
    return Kept(record, lasting)


def _list_serious(examination: Examination) -> Iterator[Finding]:
    for position, finding in enumerate(examination.findings):
        severity = finding.severity
        if (diagnosis := examination.diagnosis_of.get(position)) is not None:
            severity = min(severity, examination.diagnoses[diagnosis].severity)
        if finding.counts and severity > Severity.NOTE:
            yield replace(finding, severity=severity, repairs=())


def record_series(
    series: Series, kept: Sequence[PointRecord], last: Iterable[Finding], trends: Iterable[Finding]
) -> SeriesRecord:
    """Return the record of a series: its tensors, its findings with their onsets, its illnesses over time.

    Args:
        series: the figures.
        kept: what the examination of each checkpoint left, in order.
        last: warnings and errors of the last checkpoint by itself.
        trends: the findings of the rules about series.
    """
    illnesses = tuple(sorted(_trace_illnesses(kept), key=lambda each: (-each.severity, each.gone is not None)))
    findings = [*trends, *(_with_onset(finding, kept, series) for finding in last)]
    return SeriesRecord(
        ordered_by=series.ordered_by,
        points=tuple(kept),
        tensors=tuple(_row(tensor) for tensor in series.tensors),
        findings=tuple(sorted(findings, key=by_severity)),
        illnesses=illnesses,
        settings=tuple(_compare_settings(series.points)),
    )


def _row(tensor: TensorSeries) -> TensorRow:
    def values(figure: str) -> Values:
        return tuple(float(value) if isfinite(value) else None for value in tensor[figure])

    return TensorRow(
        name=tensor.name,
        layer=tensor.layer,
        kind=tensor.kind,
        shape=tensor.shape,
        dtype=tensor.dtype,
        is_statistic=tensor.is_statistic,
        zero_fraction=values("zero_fraction"),
        nonfinite=values("nonfinite"),
        norm=values("norm"),
        change=values("change"),
        still_fraction=values("still_fraction"),
        dormant_fraction=values("dormant_fraction"),
        vanished_fraction=values("vanished_fraction"),
        input_rms=values("input_rms"),
        gradient_rms=values("gradient_rms"),
        update_ratio=values("update_ratio"),
        updates=values("updates"),
    )


def _trace_illnesses(kept: Sequence[PointRecord]) -> Iterator[Illness]:
    """Yield each cause, and each finding without one, with the checkpoints that have it."""
    seen: dict[tuple[str, str | None], list[tuple[int, Diagnosis | Finding]]] = {}
    for position, point in enumerate(kept):
        for diagnosis in point.diagnoses:
            seen.setdefault((diagnosis.cause, None), []).append((position, diagnosis))
        for finding in point.findings:
            seen.setdefault((finding.title, finding.subject), []).append((position, finding))
    for (name, _), places in seen.items():
        last, latest = places[-1]
        yield Illness(
            name=name,
            subject=latest.subject,
            severity=latest.severity if last == len(kept) - 1 else max(each.severity for _, each in places),
            certainty=latest.certainty if isinstance(latest, Diagnosis) else None,
            message=latest.message,
            began=places[0][0],
            gone=None if last == len(kept) - 1 else last + 1,
            seen=tuple(dict.fromkeys(position for position, _ in places)),
        )


def _with_onset(finding: Finding, kept: Sequence[PointRecord], series: Series) -> Finding:
    """Return a finding of the last checkpoint with where it began: the first of the checkpoints without a gap."""
    onset = len(kept) - 1
    while onset > 0 and _has(kept[onset - 1], finding):
        onset -= 1
    return replace(finding, evidence={**finding.evidence, **series.place(onset)})


def _has(point: PointRecord, finding: Finding) -> bool:
    return (finding.code, finding.subject) in point.keys


def _compare_settings(points: Sequence[Point]) -> Iterator[SettingRow]:
    names = dict.fromkeys(name for point in points for name in point.settings)
    for name in names:
        values: list[Any] = [point.settings.get(name) for point in points]
        if any(one != other for one, other in pairwise(values)):
            yield SettingRow(name, tuple(values))
