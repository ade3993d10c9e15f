"""A run that is going on: a series that grows by one checkpoint after the other, as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.series import Point, Series
from checkpoint_doctor.checkpoint.series_builder import (
    SeriesBuilder,
    TensorOutline,
    compare_neighbours,
    describe_point,
    outline_tensors,
)
from checkpoint_doctor.checkpoint.series_figures import Measured, measure_point
from checkpoint_doctor.errors import UnreadableCheckpoint

LONGEST = 50
"""Checkpoints that are kept: what begins now is seen against those before it, and memory does not grow with a run."""


class OngoingRun:
    """The figures of a run's last checkpoints, and the last checkpoint itself."""

    def __init__(self) -> None:
        self._points: deque[tuple[Point, Sequence[TensorOutline], Mapping[str, Measured]]] = deque(maxlen=LONGEST)
        self._last: Checkpoint | None = None

    def add(self, checkpoint: Checkpoint) -> Series:
        """Add a checkpoint, measured before, and return the series that ends with it.

        A step that is not beyond the last one begins the series anew: the run was resumed from an earlier checkpoint.

        Raises:
            UnreadableCheckpoint: the bytes of a tensor cannot be read.
        """
        point, measured = describe_point(checkpoint), measure_point(checkpoint)
        if self._points and not _is_later(point, self._points[-1][0]):
            self._points.clear()
            self._last = None
        if self._last is not None and self._last.path != checkpoint.path:
            measured = self._compare(self._last, checkpoint, measured)
        self._points.append((point, outline_tensors(checkpoint), measured))
        self._last = checkpoint
        builder = SeriesBuilder()
        for each in self._points:
            builder.add(*each)
        return builder.build("the order in which they came")

    @staticmethod
    def _compare(earlier: Checkpoint, later: Checkpoint, measured: dict[str, Measured]) -> dict[str, Measured]:
        try:
            return compare_neighbours(earlier, later, measured)
        except UnreadableCheckpoint:  # the earlier one may have been deleted or overwritten since
            return measured


def _is_later(point: Point, other: Point) -> bool:
    return point.step is None or other.step is None or point.step > other.step
