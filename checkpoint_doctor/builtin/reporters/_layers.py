"""Summarizes a checkpoint's tensors by layer, and selects the layers that are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import hypot, sqrt

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, TensorRecord
from checkpoint_doctor.text import printable


class Row(Struct, frozen=True):
    """The statistics of a layer, or of one tensor in it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Shape of the layer's largest tensor."""
    updates: tuple[int, int] | None
    """Fewest and most updates among its tensors; ``None`` where no optimizer holds any."""
    zeros: float | None
    """Share of exact zeros, from 0 to 1; ``None`` where no values were read."""
    nonfinite: int
    rms: float | None
    """Root mean square of the finite values, without running statistics."""
    input_rms: float | None = None
    """Root mean square of the layer's inputs, as the optimizer's moments show it; ``None`` where they do not."""
    gradient_rms: float | None = None
    update_ratio: float | None = None
    severity: Severity | None = None
    """Severity of the worst finding about it."""
    codes: tuple[str, ...] = ()
    remark: str = ""
    parts: tuple[Row, ...] = ()
    """One row for each tensor, where a layer has several."""
    is_repeated: bool = False
    """True where all its tensors are also stored in an earlier layer."""


def layer_rows(examination: Examination) -> list[Row]:
    """Return a row for every layer of a checkpoint, in file order."""
    layers: dict[str, list[TensorRecord]] = {}
    for tensor in examination.tensors:
        layers.setdefault(tensor.layer or tensor.name, []).append(tensor)
    by_subject: dict[str, list[Finding]] = {}
    for finding in examination.counted:
        for subject in {finding.tensor, finding.layer} - {None}:
            by_subject.setdefault(str(subject), []).append(finding)
    rows = []
    for name, tensors in layers.items():
        parts = tuple(_summarize(each.name, [each], by_subject.get(each.name, ())) for each in tensors)
        subjects = {name, *(each.name for each in tensors)}
        row = _summarize(name, tensors, [finding for each in subjects for finding in by_subject.get(each, ())])
        rows.append(replace(row, parts=parts if len(parts) > 1 else ()))
    return rows


def _summarize(name: str, tensors: Sequence[TensorRecord], findings: Sequence[Finding]) -> Row:
    entries = sum(tensor.size for tensor in tensors)
    counts = [tensor.updates for tensor in tensors if tensor.updates is not None]
    largest = max(tensors, key=lambda tensor: tensor.size)
    learned = [tensor for tensor in tensors if not tensor.is_statistic] or tensors
    measured = [tensor for tensor in learned if tensor.norm is not None and tensor.size > (tensor.nonfinite or 0)]
    finite = sum(tensor.size - (tensor.nonfinite or 0) for tensor in measured)
    zeros = [tensor.zeros for tensor in tensors if tensor.zeros is not None]
    return Row(
        name=name,
        kind=printable(largest.kind).replace("_", " "),
        shape=largest.shape,
        updates=(min(counts), max(counts)) if counts else None,
        zeros=None if len(zeros) < len(tensors) else sum(zeros) / entries if entries else 0.0,
        nonfinite=sum(tensor.nonfinite or 0 for tensor in tensors),
        rms=hypot(*((tensor.norm or 0.0) / sqrt(finite) for tensor in measured)) if finite else None,
        input_rms=_first(tensor.input_rms for tensor in tensors),
        gradient_rms=_first(tensor.gradient_rms for tensor in tensors),
        update_ratio=_first(tensor.update_ratio for tensor in tensors),
        severity=max((finding.severity for finding in findings), default=None),
        codes=tuple(sorted({printable(finding.code) for finding in findings})),
        is_repeated=all(tensor.tied_to is not None for tensor in tensors),
    )


def _first(figures: Iterable[float | None]) -> float | None:
    return next((figure for figure in figures if figure is not None), None)


def choose_remarkable(rows: Sequence[Row], at_most: int) -> list[Row]:
    """Return the layers with findings (the worst, if there are too many) and the extremes among the others.

    The remark of an extreme layer says what it is: the one with the most zeros or the fewest updates of all, or with
    the largest or smallest magnitude of its kind; kinds with the most layers come first. File order is kept.
    """
    ill = sorted((row for row in rows if row.severity), key=lambda row: -(row.severity or 0))
    chosen = {row.name: row for row in ill[: at_most * 3 // 4]}
    for row, remark in _find_extremes([row for row in rows if not row.severity]):
        if row.name in chosen or len(chosen) < at_most:
            known = chosen.get(row.name, row)
            chosen[row.name] = replace(known, remark=", ".join(filter(None, (known.remark, remark))))
    return [chosen[row.name] for row in rows if row.name in chosen]


def _find_extremes(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    yield from _find_lowest(rows, "most zeros", lambda row: -(row.zeros or 0.0))
    yield from _find_lowest(
        [row for row in rows if row.updates], "fewest updates", lambda row: min(row.updates or (0,))
    )
    for kind, _ in Counter(row.kind for row in rows).most_common():
        alike = [row for row in rows if row.kind == kind and row.rms is not None]
        yield from _find_lowest(alike, f"largest {kind}", lambda row: -(row.rms or 0.0))
        yield from _find_lowest(alike, f"smallest {kind}", lambda row: row.rms or 0.0)


def _find_lowest(rows: Sequence[Row], remark: str, key: Callable[[Row], float]) -> Iterator[tuple[Row, str]]:
    if len({key(row) for row in rows}) > 1:
        yield min(rows, key=key), remark
