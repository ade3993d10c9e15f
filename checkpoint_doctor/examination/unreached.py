"""Adds to an examination which entries receive no gradient, so that a series of reports shows how they become more.

It takes a pass over the moments, which a scan does not make.
"""

from __future__ import annotations

from math import isfinite

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.series_figures import Measured, measure_point
from checkpoint_doctor.results.examination import Examination, Unreached

MOST_COLUMNS = 1024
"""Columns of a tensor that are listed; of more, only their share is kept."""


def with_unreached(examination: Examination, checkpoint: Checkpoint) -> Examination:
    """Return an examination whose tensors say which of their entries receive no gradient, as the moments show it.

    Raises:
        UnreadableCheckpoint: the bytes of a moment cannot be read.
    """
    measured = measure_point(checkpoint)
    tensors = (
        replace(each, unreached=_describe(measured[each.name])) if each.name in measured else each
        for each in examination.tensors
    )
    return replace(examination, tensors=tuple(tensors))


def _describe(measured: Measured) -> Unreached | None:
    figures, columns = measured.figures, measured.columns
    if not isfinite(figures.vanished_fraction):
        return None

    def known(value: float) -> float | None:
        return value if isfinite(value) else None

    vanished, untouched = ((), ()) if columns is None else (columns.vanished.tolist(), columns.untouched.tolist())
    return Unreached(
        entries=figures.vanished_fraction,
        scattered=known(figures.scattered_fraction),
        units=known(figures.dormant_fraction),
        untouched=known(figures.untouched_columns),
        columns=tuple(vanished) if columns is not None and len(vanished) <= MOST_COLUMNS else None,
        untouched_columns=tuple(untouched) if columns is not None and len(untouched) <= MOST_COLUMNS else None,
    )
