"""Formats series of figures, onsets and illnesses over time as text, the same in every format that people read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from checkpoint_doctor.builtin.reporters._wording import figure, one_line, percentage
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.series_report import Illness, SeriesRecord, TensorRow, Values
from checkpoint_doctor.text import printable, quantity, shown

SHARES = frozenset({"zero_fraction", "still_fraction", "dormant_fraction", "vanished_fraction"})

FIGURE_NAMES = {
    "zero_fraction": "zeros",
    "vanished_fraction": "no gradient",
    "dormant_fraction": "dormant units",
    "norm": "norm",
    "change": "change",
    "still_fraction": "same bits",
    "input_rms": "input rms",
    "gradient_rms": "gradient rms",
    "update_ratio": "update ratio",
}
"""The figures of a tensor, as people read them."""

FIGURE_OF = {
    "TRD001": "zero_fraction", "TRD002": "norm", "TRD003": "change", "TRD004": "dormant_fraction",
    "TRD005": "vanished_fraction", "TRD007": "change", "TRD008": "change", "TRD010": "zero_fraction",
}  # fmt: skip
"""Rule to the figure that shows what it found."""

PRIVATE = "_"
"""Beginning of the settings in which a library keeps the progress of a run."""

ONSET = frozenset({"onset_step", "onset_path"})

VALUES_SHOWN = 10
"""Up to so many values of a series are all written out; of more, those around the onset and the ends."""


def known(values: Values) -> bool:
    """Return whether a figure is known at any checkpoint."""
    return any(value is not None for value in values)


def value_in_words(name: str, value: float | None) -> str:
    """Format one value of a figure."""
    if value is None:
        return "–"
    return percentage(value) if name in SHARES else figure(value)


def values_in_words(name: str, values: Values, onset: int | None, mark: str = "▶") -> str:
    """Write out a series, the onset with a mark: ``4.4%, 4.4%, ▶27.3%, 65.4%``."""
    places = list(range(len(values)))
    if len(values) > VALUES_SHOWN:
        middle = len(values) - 1 if onset is None else onset
        near = range(max(0, middle - 2), min(len(values), middle + 3))
        places = sorted({0, 1, *near, len(values) - 2, len(values) - 1})
    words, previous = [], -1
    for place in places:
        if place != previous + 1:
            words.append("…")
        words.append((mark if place == onset else "") + value_in_words(name, values[place]))
        previous = place
    return ", ".join(words)


def name_point(record: SeriesRecord, position: int) -> str:
    """Name a checkpoint: ``step 6,000``, or its path where it has no step or another one has the same."""
    point = record.points[position]
    steps = [each.step for each in record.points]
    return shown(point.path) if point.step is None or steps.count(point.step) > 1 else f"step {point.step:,}"


def describe_series(record: SeriesRecord) -> str:
    """Describe a series: ``12 checkpoints, step 100 to 1,200, ordered by step``."""
    first, last = record.points[0], record.points[-1]
    span = [] if first.step is None or last.step is None else [f"step {first.step:,} to {last.step:,}"]
    origin = " ".join(filter(None, (last.format, last.algorithm)))
    order = "in the order of the command line" if record.ordered_by == "command line" else f"by {record.ordered_by}"
    return printable(", ".join([*filter(None, [origin]), quantity(len(record.points), "checkpoint"), *span, order]))


def common_path(record: SeriesRecord) -> str:
    """Return the folder that all checkpoints of a series are in, or the paths of two."""
    from os.path import commonpath, dirname

    if record.is_pair:
        return printable(f"{record.points[0].path} → {record.points[1].path}")
    paths = {point.path for point in record.points}
    if len(paths) == 1:  # a monitor calls all its checks by one name
        return printable(paths.pop())
    try:
        common = commonpath([dirname(path) for path in paths]) or "."
        # It writes one slash where an address has two.
        is_address = all("://" in path for path in paths)
        return printable(common.replace(":/", "://", 1) if is_address else common)
    except ValueError:  # absolute and relative paths
        return printable(record.points[0].path)


def span_in_words(illness: Illness, record: SeriesRecord) -> str:
    """Say when an illness was there: ``since step 6,000``, ``from step 200, gone since step 300``."""
    began = name_point(record, illness.began)
    if illness.gone is not None:
        return f"from {began}, gone since {name_point(record, illness.gone)}"
    return "from the first checkpoint on" if illness.began == 0 else f"since {began}"


def evidence_without_onset(finding: Finding) -> Mapping[str, Any]:
    """Return the evidence of a finding that a report does not show elsewhere."""
    return {key: value for key, value in finding.evidence.items() if key not in ONSET and key != "fractions"}


def settings_in_words(record: SeriesRecord, most: int = 12) -> Iterator[str]:
    """Yield the settings that are not the same everywhere: ``gamma 0.99 → 0.95``."""
    rows = [
        row
        for row in record.settings
        if record.is_pair or not (_is_counter(row.values) or row.name.startswith(PRIVATE))
    ]
    for row in rows[:most]:
        changes = [row.values[0]]
        for value in row.values[1:]:
            if value != changes[-1]:
                changes.append(value)
        changed = [_setting(value) for value in changes]
        words = changed if len(changed) <= 5 else [*changed[:2], "…", *changed[-2:]]
        yield one_line(f"{row.name} {' → '.join(words)}")
    if len(rows) > most:
        yield f"and {len(rows) - most:,} more"


def _setting(value: Any) -> str:
    return "none" if value is None else figure(value) if isinstance(value, float) else str(value)


def _is_counter(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return len(numbers) == len(values) and len(set(numbers)) == len(numbers) and numbers == sorted(numbers)


def choose_tensors(record: SeriesRecord, patterns: Sequence[str]) -> list[TensorRow]:
    """Return the tensors that patterns name (of tensors or layers), those with the worst findings first."""
    worst: dict[str, int] = {}
    for finding in record.counted:
        if finding.subject is not None:
            worst[finding.subject] = max(worst.get(finding.subject, 0), finding.severity)

    def badness(row: TensorRow) -> tuple[float, ...]:
        severity = max(worst.get(row.name, 0), min(worst.get(row.layer, 0), Severity.WARNING))
        change = row.change[-1] if record.is_pair else None
        return (-severity, -(change or 0.0))

    rows = [
        row
        for row in record.tensors
        if not patterns or any(fnmatchcase(name, each) for name in (row.name, row.layer) for each in patterns)
    ]
    return sorted(rows, key=badness)


def onset_of_row(row: TensorRow, record: SeriesRecord) -> tuple[int | None, list[str]]:
    """Return where the worst finding about a tensor began, and the codes of all findings about it, worst first."""
    about = [finding for finding in record.counted if finding.tensor == row.name]
    about += [each for each in record.counted if each.tensor is None and each.layer == row.layer and row.shape[1:]]
    onsets = [record.onset_of(finding) for finding in about if finding.severity > Severity.NOTE]
    return next((each for each in onsets if each is not None), None), list(dict.fromkeys(f.code for f in about))


def left_out_in_words(left_out: Iterable[Skipped]) -> Iterator[str]:
    """Yield a sentence about each checkpoint that is not part of a series."""
    for skipped in left_out:
        yield f"{printable(skipped.what)}: {one_line(skipped.why)}"
