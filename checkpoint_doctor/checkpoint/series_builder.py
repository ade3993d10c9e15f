"""Builds a series point by point, keeping a few numbers of each tensor and no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.series import FIGURES, ColumnRecord, Point, Series, TensorFigures, TensorSeries
from checkpoint_doctor.checkpoint.series_figures import Measured, measure_change
from checkpoint_doctor.layers import online_name

OF_MOMENTS = ("vanished_fraction", "update_ratio", "updates")
"""Figures of the optimizer's state."""


class TensorOutline(Struct, frozen=True, eq=False):
    """What does not change about a tensor in a series."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    layer: str
    is_statistic: bool
    is_output: bool = False
    reads_layer: bool = False


class SeriesBuilder:
    """Collects the figures of one checkpoint after the other."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._outlines: dict[str, TensorOutline] = {}
        self._rows: dict[str, list[TensorFigures]] = {}
        self._columns: dict[str, tuple[ColumnRecord | None, ColumnRecord | None]] = {}

    def add(self, point: Point, outlines: Sequence[TensorOutline], measured: Mapping[str, Measured]) -> None:
        """Add a checkpoint. The series keeps the tensors that all checkpoints have in the same shape."""
        known = {outline.name: outline for outline in outlines if outline.name in measured}
        if not self.points:
            self._outlines = known
        for name in list(self._outlines):
            if name not in known or known[name].shape != self._outlines[name].shape:
                del self._outlines[name]
                continue
            self._rows.setdefault(name, []).append(measured[name].figures)
            if (columns := measured[name].columns) is not None:
                first = self._columns.get(name, (None, None))[0]
                self._columns[name] = (first or columns, columns)
        self.points.append(point)

    def repeats(self, measured: Mapping[str, Measured]) -> bool:
        """Return whether figures show the same values and moments as those that were added last."""
        for name, each in measured.items():
            last = self._rows[name][-1] if name in self._rows else None
            if last is None or each.figures.still_fraction != 1:
                return False
            if any(not _equal(getattr(last, figure), getattr(each.figures, figure)) for figure in OF_MOMENTS):
                return False
        return True

    def build(self, ordered_by: str) -> Series:
        """Return the series of what was added."""
        tensors = []
        for name, outline in self._outlines.items():
            rows = [[getattr(row, figure) for figure in FIGURES] for row in self._rows[name]]
            values = np.array(rows, dtype=np.float64).T
            tensors.append(
                TensorSeries(
                    **asdict(outline),
                    is_copy=online_name(name, self._outlines) is not None,
                    figures=dict(zip(FIGURES, values, strict=True)),
                    columns=self._columns.get(name, (None, None)),
                )
            )
        return Series(tuple(self.points), tuple(tensors), ordered_by)


def _equal(one: float, other: float) -> bool:
    return one == other or (isnan(one) and isnan(other))


def outline_tensors(checkpoint: Checkpoint) -> list[TensorOutline]:
    """Return what does not change about the tensors of a checkpoint, each under the first of its names."""
    outlines = []
    for tensor in checkpoint.distinct_tensors:
        layer = checkpoint.layer_of[tensor.name]
        is_kept = tensor.is_buffer or tensor.name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        outlines.append(
            TensorOutline(
                name=tensor.name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                kind=layer.kind.value,
                layer=layer.name,
                is_statistic=is_kept or layer.kind.value == "buffer",
                is_output=layer.is_output,
                reads_layer=layer.previous is not None,
            )
        )
    return outlines


def compare_neighbours(earlier: Checkpoint, later: Checkpoint, measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """Return the figures of the later of two checkpoints with how far each tensor has moved from the earlier one.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    compared = dict(measured)
    for name, each in measured.items():
        before, after = earlier.find_tensor(name), later.find_tensor(name)
        if before is not None and after is not None:
            compared[name] = replace(each, figures=replace(each.figures, **asdict(measure_change(before, after))))
    return compared


def describe_point(checkpoint: Checkpoint) -> Point:
    """Return a checkpoint's place in a series: its step, its updates and its settings."""
    return Point(checkpoint.path, checkpoint.step, count_updates(checkpoint), collect_settings(checkpoint))


def count_updates(checkpoint: Checkpoint) -> int | None:
    """Return the number of gradient updates: the largest that an optimizer counts, else the file's own count."""
    counts = [each.step for optimizer in checkpoint.optimizers for each in optimizer.parameters if each.step]
    return max(counts, default=checkpoint.updates)


def collect_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the settings in a file that are plain values, and those of each optimizer, under its name."""
    settings = {
        name: value
        for name, value in checkpoint.hyperparameters.items()
        if isinstance(value, (bool, int, float, str)) and len(str(value)) <= 80
    }
    for optimizer in checkpoint.optimizers:
        if optimizer.kind:
            settings[f"{optimizer.name}.kind"] = optimizer.kind
        for number, group in enumerate(optimizer.groups[:8]):
            place = f"{optimizer.name}.{number}" if number else optimizer.name
            for name, value in group.options.items():
                values = enumerate(value) if isinstance(value, (tuple, list)) else [("", value)]
                for index, each in values:
                    if isinstance(each, (bool, int, float)):
                        settings[f"{place}.{name}{index}"] = each
    return settings
