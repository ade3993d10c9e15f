"""Earlier reports in place of their checkpoints: the figures of a series from what a scan wrote down."""

from __future__ import annotations

from math import nan

import numpy as np

from checkpoint_doctor.checkpoint.series import ColumnRecord, Point, TensorFigures
from checkpoint_doctor.checkpoint.series_builder import TensorOutline
from checkpoint_doctor.checkpoint.series_figures import Measured
from checkpoint_doctor.checkpoint.series_order import Heading
from checkpoint_doctor.results.report import Examination, TensorRecord

LARGEST = 1e300

DORMANT_UNITS = "NET001"
"""Code of the rule whose findings list the units that receive no gradient."""


def head_examination(examination: Examination) -> Heading:
    """Return what the order of a series needs of a checkpoint, from its report."""
    updates = max((tensor.updates for tensor in examination.tensors if tensor.updates), default=None)
    shapes = {tensor.name: tensor.shape for tensor in examination.tensors if tensor.tied_to is None}
    return Heading(examination.path, shapes, step=examination.step, updates=updates, algorithm=examination.algorithm)


def point_of(examination: Examination) -> Point:
    """Return a checkpoint's place in a series, from its report."""
    settings = {
        name: value
        for name, value in examination.hyperparameters.items()
        if isinstance(value, (bool, int, float, str)) and len(str(value)) <= 80
    }
    return Point(examination.path, examination.step, head_examination(examination).updates, settings)


def outlines_of(examination: Examination) -> list[TensorOutline]:
    """Return what does not change about the tensors of a checkpoint, from its report."""
    return [
        TensorOutline(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            kind=tensor.kind,
            layer=tensor.layer,
            is_statistic=tensor.is_statistic,
        )
        for tensor in examination.tensors
        if tensor.tied_to is None
    ]


def figures_of(examination: Examination) -> dict[str, Measured]:
    """Return the figures of a series that a report holds. It does not say what changed between checkpoints."""
    dormant = {
        finding.layer: finding.evidence["units"]
        for finding in examination.findings
        if finding.code == DORMANT_UNITS and isinstance(finding.evidence.get("units"), list)
    }
    return {
        tensor.name: Measured(_figures(tensor, dormant.get(tensor.layer)), _columns(tensor))
        for tensor in examination.tensors
        if tensor.tied_to is None
    }


def _figures(tensor: TensorRecord, dormant: list[int] | None) -> TensorFigures:
    def known(value: float | int | None) -> float:
        # An integer of a report may be beyond what a float can hold.
        return nan if value is None else float(max(-LARGEST, min(value, LARGEST)))

    is_weight = len(tensor.shape) > 1
    unreached = tensor.unreached
    units = len(dormant) / tensor.shape[0] if dormant is not None and is_weight else None
    return TensorFigures(
        zero_fraction=nan if tensor.zeros is None else min(tensor.zeros, tensor.size) / max(tensor.size, 1),
        nonfinite=known(tensor.nonfinite),
        norm=known(tensor.norm),
        dormant_fraction=known(unreached.units if unreached else units),
        vanished_fraction=known(unreached.entries if unreached else None),
        scattered_fraction=known(unreached.scattered if unreached else None),
        untouched_columns=known(unreached.untouched if unreached else None),
        input_rms=known(tensor.input_rms),
        gradient_rms=known(tensor.gradient_rms),
        update_ratio=known(tensor.update_ratio),
        updates=known(tensor.updates),
    )


def _columns(tensor: TensorRecord) -> ColumnRecord | None:
    unreached = tensor.unreached
    if unreached is None or unreached.columns is None or unreached.untouched_columns is None:
        return None
    return ColumnRecord(np.array(unreached.columns, int), np.array(unreached.untouched_columns, int))
