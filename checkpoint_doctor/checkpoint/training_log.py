"""A training log: the metrics that a run recorded, each as a curve over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint.contents import Skipped
from checkpoint_doctor.checkpoint.metric_meanings import Meaning, find_meaning, is_held_out, split_words
from checkpoint_doctor.checkpoint.setting_ranges import Range
from checkpoint_doctor.statistics.curves import Curve, CurveBuilder

STEP_NAMES = (
    "time/total_timesteps", "total_timesteps", "global_step", "_step", "num_timesteps", "timesteps", "step", "steps",
    "frame", "frames", "iteration", "iterations", "iter", "update", "updates", "epoch", "epochs", "episode", "episodes",
)  # fmt: skip
"""Columns that count a run's progress, in lower case, the finest first."""


class Metric(Struct, frozen=True, eq=False, dict=True):
    """One column of a log."""

    name: str
    """The column's name in the log."""
    meaning: Meaning
    """What it measures, by its name or by the configuration."""
    recorded: Curve
    """All that was recorded, in the order of the log."""

    @cached_property
    def curve(self) -> Curve:
        """What the run recorded that came to the log's end; see ``Curve.continued``."""
        return self.recorded.continued

    @property
    def is_held_out(self) -> bool:
        """True where it was measured on data that the model is not trained with, by its name."""
        return is_held_out(self.name)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of its name in lower case."""
        return split_words(self.name)


class TrainingLog(Struct, frozen=True, eq=False, dict=True):
    """A training log that was read."""

    path: str
    """Where it was read from."""
    kind: str
    """What wrote it, as far as it shows: ``sb3 progress``, ``keras``, ``csv`` …"""
    metrics: tuple[Metric, ...]
    """In the order of the log; text columns are left out."""
    step_name: str = ""
    """The column that counts the run's progress; empty where records are numbered."""
    records: int = 0
    """Lines, or events, that were read."""
    skipped: tuple[Skipped, ...] = ()
    """What could not be read, and why."""
    ranges: tuple[Range, ...] = ()
    """The user's own ranges of settings."""

    @cached_property
    def judged(self) -> tuple[Metric, ...]:
        """The metrics that tell about training: neither steps nor times."""
        return tuple(each for each in self.metrics if each.meaning not in (Meaning.STEP, Meaning.TIME))

    def of(self, *meanings: Meaning) -> tuple[Metric, ...]:
        """Return the metrics of some meanings, in the order of the log."""
        return tuple(each for each in self.metrics if each.meaning in meanings)

    @cached_property
    def first_step(self) -> float:
        """The smallest step that the run recorded."""
        return min((float(each.curve.steps[0]) for each in self.metrics if each.curve.steps.size), default=0.0)

    @cached_property
    def last_step(self) -> float:
        """The last step that the run recorded."""
        return max((float(each.curve.last_steps[-1]) for each in self.metrics if each.curve.steps.size), default=0.0)

    @cached_property
    def is_of_agent(self) -> bool:
        """True for a log of reinforcement learning: it records rewards."""
        return bool(self.of(Meaning.REWARD))


class LogBuilder:
    """Takes what a reader finds in a log, block by block, and builds the training log in bounded memory."""

    def __init__(self, path: str, meanings: Mapping[str, Meaning] | None = None) -> None:
        self.path = path
        self.kind = ""
        self.step_name = ""
        self.records = 0
        self.skipped: list[Skipped] = []
        self._meanings = meanings or {}
        self._curves: dict[str, CurveBuilder] = {}
        self._last_step = np.nan

    def choose_step(self, names: Sequence[str]) -> None:
        """Choose the column that counts the run's progress among the names of a table."""
        by_name = {name.lower(): name for name in reversed(names)}
        self.step_name = next((by_name[each] for each in STEP_NAMES if each in by_name), "")

    def add_rows(self, names: Sequence[str], values: NDArray, recorded: NDArray, steps: NDArray | None = None) -> None:
        """Take rows of a table.

        Args:
            names: of the columns.
            values: numbers, of shape (rows, columns).
            recorded: True where a cell holds a number, of the same shape; NaN is a number.
            steps: the step of each row, if no column counts them.
        """
        rows = len(values)
        if steps is None:
            steps = self._steps_of(names, values, recorded)
        self.records += rows
        for column, name in enumerate(names):
            if recorded[:, column].any():
                self.add_points(name, steps[recorded[:, column]], values[recorded[:, column], column])
            else:
                self._curves.setdefault(name, CurveBuilder())

    def add_points(self, name: str, steps: NDArray, values: NDArray) -> None:
        """Take numbers of one metric and their steps."""
        builder = self._curves.setdefault(name, CurveBuilder())
        with np.errstate(all="ignore"):
            builder.add(steps, values)

    def _steps_of(self, names: Sequence[str], values: NDArray, recorded: NDArray) -> NDArray:
        """Return the step of each row; a row without one has that of the row before."""
        if self.step_name not in names:
            return np.arange(self.records, self.records + len(values), dtype=np.float64)
        column = list(names).index(self.step_name)
        steps = values[:, column].astype(np.float64)
        is_known = recorded[:, column] & np.isfinite(steps)
        latest = np.maximum.accumulate(np.where(is_known, np.arange(len(steps)), -1))
        filled = np.where(latest >= 0, steps[latest], 0.0 if np.isnan(self._last_step) else self._last_step)
        if len(filled):
            self._last_step = filled[-1]
        return filled

    def build(self) -> TrainingLog:
        """Return the log of all that was taken. Columns that never held a number have no records."""
        metrics = (
            Metric(name, find_meaning(name, self._meanings), builder.finish()) for name, builder in self._curves.items()
        )
        return TrainingLog(self.path, self.kind, tuple(metrics), self.step_name, self.records, tuple(self.skipped))
