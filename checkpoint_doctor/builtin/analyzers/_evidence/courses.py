"""The course of a metric: its levels over the run, where it is best, and which other metrics belong to it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint.metric_meanings import Meaning, without_split
from checkpoint_doctor.checkpoint.training_log import Metric, TrainingLog
from checkpoint_doctor.statistics.trends import Levels, find_levels, rank_trend

FEWEST = 5
"""Records from which a course is judged: the order of four numbers proves nothing at the level of 5 %."""

LARGEST_P = 0.05


class Course(Struct, frozen=True, eq=False, dict=True):
    """The finite numbers of a metric, and their levels."""

    metric: Metric
    values: NDArray
    steps: NDArray

    @cached_property
    def levels(self) -> Levels:
        """The levels of the numbers."""
        return find_levels(self.values)

    @property
    def start(self) -> float:
        """The level at the beginning."""
        return self.levels.start

    @property
    def end(self) -> float:
        """The level at the end."""
        return self.levels.end

    @property
    def noise(self) -> float:
        """Standard deviation of a level."""
        return self.levels.noise

    @cached_property
    def trend(self) -> tuple[float, float]:
        """Kendall's tau of the levels, and its p-value."""
        return rank_trend(self.levels.medians)

    @property
    def falls(self) -> bool:
        """True where it clearly falls, by a tenth of its level or more."""
        tau, p_value = self.trend
        return tau < 0 and p_value <= LARGEST_P and self.end <= self.start - 0.1 * abs(self.start) - 2 * self.noise

    @property
    def rises(self) -> bool:
        """True where it clearly rises, by a tenth of its level or more."""
        tau, p_value = self.trend
        return tau > 0 and p_value <= LARGEST_P and self.end >= self.start + 0.1 * abs(self.start) + 2 * self.noise

    @property
    def improves(self) -> bool:
        """True where a metric that should rise ends clearly higher than it began."""
        spread = float(np.ptp(self.levels.medians))
        return self.end > self.start + max(3 * self.noise, 0.1 * spread)

    @property
    def is_best_early(self) -> bool:
        """True where the best level is in the first fifth of the run: that of a reward is what was there, not learned.

        A random policy may do better than the first greedy ones, and a mean over the first few episodes scatters.
        """
        top = self.steps[self.levels.starts[int(np.argmax(self.levels.medians))]]
        return self.levels.medians.size >= 10 and bool(top - self.steps[0] < 0.2 * float(np.ptp(self.steps)))

    def step_at(self, position: int) -> float:
        """Return the step of a value, as a whole number where it is one."""
        return as_step(self.steps[min(max(position, 0), self.steps.size - 1)])

    def find_onset(self, first: int, last: int | None = None) -> int:
        """Return where the values between two positions leave their first level; the first position where they do not.

        The positions are those of values; the change is looked for by the test that a series of checkpoints is asked.
        Positive values that grow over an order of magnitude are compared by their logarithms, or the end of an
        exponential growth would hide its beginning.
        """
        from checkpoint_doctor.statistics.change_points import find_change_point

        part = self.values[first:last]
        if part.size and part.min() > 0 and part.max() > 10 * part.min():
            part = np.log(part)
        change = find_change_point(part.tolist()) if part.size >= FEWEST else None
        return first + change.onset if change is not None else first


def course_of(metric: Metric, fewest: int = FEWEST) -> Course | None:
    """Return the course of a metric, ``None`` where it has too few finite numbers."""
    curve = metric.curve
    is_finite = np.isfinite(curve.means)
    if int(is_finite.sum()) < fewest:
        return None
    return Course(metric, curve.means[is_finite], curve.steps[is_finite])


def as_step(step: float) -> float | int:
    """Return a step as an integer where it is one."""
    return int(step) if float(step).is_integer() else float(step)


def write_step(log: TrainingLog, step: float) -> str:
    """Return a step as a message names it: ``frame 165,000``, ``step 12.5``, ``record 40``."""
    name = (log.step_name.rpartition("/")[2] or "record").lower().strip("_").replace("_", " ")
    noun = {"total timesteps": "step", "global step": "step", "timesteps": "step", "steps": "step", "frames": "frame",
            "epochs": "epoch", "num timesteps": "step", "iterations": "iteration", "iter": "iteration",
            "updates": "update", "episodes": "episode"}.get(name, name)  # fmt: skip
    return f"{noun} {as_step(step):,}" if float(step).is_integer() else f"{noun} {step:,.4g}"


def siblings(metric: Metric, log: TrainingLog) -> list[Metric]:
    """Return the metrics of the same meaning that measure another head or part in the same way, by their names.

    Their words differ in exactly one place (``discrete_loss`` and ``continuous_loss``), or are one word each with the
    same ending (``dloss`` and ``closs``). Two measures of one thing on other data are no siblings.
    """
    own = without_split(metric.name)
    return [
        each
        for each in log.of(metric.meaning)
        if each is not metric
        and each.is_held_out == metric.is_held_out
        and _differ_in_one(own, without_split(each.name))
    ]


def _differ_in_one(own: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if len(own) != len(other) or not own:
        return False
    if len(own) == 1:
        return own != other and own[0][-4:] == other[0][-4:] and min(len(own[0]), len(other[0])) > 4
    return sum(left != right for left, right in zip(own, other, strict=True)) == 1


def find_rewards(log: TrainingLog) -> list[Course]:
    """Return the courses of what an agent is trained for."""
    courses = (course_of(each) for each in log.of(Meaning.REWARD, Meaning.ACCURACY))
    return [each for each in courses if each is not None]
