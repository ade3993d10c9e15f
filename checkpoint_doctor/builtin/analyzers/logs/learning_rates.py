"""The learning rate that a log records: zero or negative for long, or of a size that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.courses import as_step, write_step
from checkpoint_doctor.checkpoint import Metric, TrainingLog
from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.checkpoint.setting_ranges import ANY, Evidence, Range, known_ranges
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

_OF_AGENTS = "train/learning_rate"
"""The name under which Stable-Baselines3 logs the rate; its logs have these besides."""
_BESIDE = frozenset({"time/total_timesteps", "time/fps", "rollout/ep_rew_mean"})


@rule("LOG010", "learning-rate-zero", Severity.WARNING, on=TrainingLog, part=("metric",))
def learning_rate_zero(log: TrainingLog, *, share: float = 0.1) -> Iterator[Finding]:
    """The learning rate is zero, or negative, for a good part of the run.

    Why it matters:
        With a rate of zero nothing is learned, however long the run goes on; with a negative one every update makes the
        loss larger. Schedules that were given too few steps end early, and a linear one goes on below zero.

    When it is normal:
        A warm-up begins at zero and a schedule ends at it: the first records and the last ones do not count. A table
        with few decimals shows small rates as zero.

    What to do:
        Give the schedule the number of steps that the run really has, or stop the run where the schedule ends.

    Options:
        share: The part of the run from which a rate of zero at its end is reported.

    References:
        Published agents with a negative rate at save: their run went beyond the number of steps that the schedule knew.
    """
    for metric in log.of(Meaning.LEARNING_RATE):
        curve = metric.curve
        if curve.count < 3:
            continue
        if (negative := np.flatnonzero(curve.minima < 0)).size:
            step = float(curve.steps[negative[0]])
            yield _report_rate(log, metric, f"is negative from {write_step(log, step)} on", step, 1.0)
            continue
        other = np.flatnonzero((curve.maxima != 0) | (curve.nonfinite > 0))
        begin = int(other[-1]) + 1 if other.size else 0
        records = float(curve.counts[begin:].sum())
        part = records / curve.count
        if records >= 3 and part >= share:
            step = float(curve.steps[begin])
            words = "is 0 in every record" if begin == 0 else f"is 0 from {write_step(log, step)} on"
            yield _report_rate(log, metric, f"{words}: {part:.0%} of the run changes nothing", step, part)


def _report_rate(log: TrainingLog, metric: Metric, words: str, step: float, part: float) -> Finding:
    return learning_rate_zero.finding(
        f"{metric.name} {words}",
        evidence={"metric": metric.name, "onset_step": as_step(step), "share": part},
        advice="Give the schedule the number of steps that the run has.",
    )


@rule("LOG011", "learning-rate-unusual", Severity.WARNING, on=TrainingLog, part=("metric",), worse=("learning_rate",))
def learning_rate_unusual(log: TrainingLog, *, highest: float = 100.0) -> Iterator[Finding]:
    """The learning rate is far outside of what anybody is known to train with.

    Why it matters:
        With a rate that is a thousand times too high nothing that was learned lasts, and with one that is far too low
        nothing is learned before the run ends. A digit too many in a configuration shows here first.

    When it is normal:
        A log does not say which optimizer it is of, and SGD, LARS and optimizers that scale their steps themselves take
        rates of 1 to 40: elsewhere than in logs of Stable-Baselines3 only what is above ``highest`` is reported. What a
        schedule lowers counts by its largest value. A column that holds the rate in another unit is named too: give it
        a meaning in ``[metrics]``.

    What to do:
        Look at the configuration of the run. For agents, begin with the default of the algorithm. Where your own runs
        show another range, set it: ``[ranges."*"]`` ``learning_rate = [1e-6, 0.05]``.

    Options:
        highest: The learning rate above which it is reported whatever the optimizer: about three times the largest that
            publications report (LARS, 37 for batches of 32,768).

    References:
        You et al. 1708.03888 (LARS); Merity et al. 1708.02182 (SGD at 30). Agents: the ranges that the algorithms of
        Stable-Baselines3 were tuned and searched in, all together: docs/settings.md.
    """
    for metric in log.of(Meaning.LEARNING_RATE):
        means = metric.curve.means
        if not np.isfinite(means).any():
            continue
        position = int(np.nanargmax(means))
        rate = float(means[position])
        known = _find_range(metric, log, highest)
        if rate <= 0 or known.holds(rate):
            continue
        is_high = rate > known.high
        beyond = np.flatnonzero(means > known.high) if is_high else np.flatnonzero(np.isfinite(means))
        step = float(metric.curve.steps[beyond[0]])
        words = (
            f"{known.kind.value} is {known.describe()}" if known.low > 0 else f"nothing above {known.high:g} is known"
        )
        yield learning_rate_unusual.finding(
            f"{metric.name} is {rate:.3g} at {write_step(log, float(metric.curve.steps[position]))}, unusually "
            f"{'high' if is_high else 'low'}; {words}",
            evidence={
                "metric": metric.name,
                "onset_step": as_step(step),
                "learning_rate": rate,
                "low": known.low,
                "high": known.high,
            },
            advice="Look at the configuration of the run: a digit too many, or another unit.",
        )


def _find_range(metric: Metric, log: TrainingLog, highest: float) -> Range:
    """Return the range that a rate is judged by: the user's own for all algorithms, or the widest that is known."""
    own = [each for each in log.ranges if each.setting == "learning_rate"]
    for each in own:
        if each.algorithm == ANY:
            return each
    if metric.name == _OF_AGENTS and not _BESIDE.isdisjoint(each.name for each in log.metrics):
        kinds = (Evidence.DEFAULT, Evidence.TUNED, Evidence.SEARCHED)
        known = [*own, *(each for each in known_ranges() if each.setting == "learning_rate" and each.kind in kinds)]
        low, high = min(each.low for each in known), max(each.high for each in known)
        return Range(ANY, "learning_rate", low, high, Evidence.TUNED, "all algorithms of Stable-Baselines3")
    return Range(ANY, "learning_rate", 0.0, max([highest, *(each.high for each in own)]), Evidence.LITERATURE, "")
