"""Whether a run makes progress: what was reached is lost again, nothing moves, a loss jumps or swings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.courses import (
    FEWEST,
    LARGEST_P,
    Course,
    as_step,
    course_of,
    write_step,
)
from checkpoint_doctor.checkpoint import Metric, TrainingLog
from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.trends import find_levels
from checkpoint_doctor.text import quantity

SAME = 10
"""Records from which a number that stays the same is no chance."""

LEARNED = 0.02
"""Part of where a loss began at which it has nothing left to fall."""

WINDOW = 128
"""Records before a spike that it is compared with (Chowdhery et al. 2204.02311 restart about as many before it)."""

BEYOND = 3.0
"""How many times as far as the largest of these a spike is from their median: single batches reach twice as far."""


PERFECT = (1.0, 100.0)
"""Accuracies that cannot become better."""

MOVED = 0.01
"""Part of where a loss began by which it must fall to have moved."""

HUGE = 10.0
"""How many times the largest record before it a spike is that does harm even where the level is back at once."""


@rule("LOG004", "regressing-metric", Severity.WARNING, on=TrainingLog, part=("metric",), worse=("lost",))
def regressing_metric(log: TrainingLog, *, lost: float = 0.5) -> Iterator[Finding]:
    """A reward or an accuracy had risen, and at least half of what was gained is lost again.

    Why it matters:
        What was learned is forgotten. The last checkpoint of such a run is worse than an earlier one.

    When it is normal:
        Rewards of agents scatter, and fall for a while: what counts is the level of the last tenth of the run, a best
        level in the first fifth was not learned, and one that no level beside it is near was luck. Where the task
        becomes harder during the run (a curriculum, a rising level), a score falls although nothing is lost.

    What to do:
        Go on from the checkpoint at the best point. Look at what changed after it: the learning rate, exploration, the
        data, the loss of the same head. Keep the best checkpoint besides the last.

    Options:
        lost: The part of what was gained that must be lost again. It must be a twentieth of the best value and six
            standard deviations of a level as well.

    References:
        McCloskey and Cohen 1989 (catastrophic interference). Of fewer than ten numbers, all must rise to the best one
        and all fall after it.
    """
    for metric in log.of(Meaning.REWARD, Meaning.ACCURACY):
        course = course_of(metric)
        if course is None:
            continue
        levels = course.levels.medians
        top = int(np.argmax(levels))
        best = float(levels[top])
        gain, drop = best - course.start, best - course.end
        if drop < max(lost * gain, 0.05 * abs(best), 6 * course.noise):
            continue
        # What was there before anything was learned counts where half of it is lost, and not where a run explores less
        # and less: its first greedy policies may well do worse than a random one.
        if metric.meaning is Meaning.REWARD and course.is_best_early and (drop < 0.5 * abs(best) or _explores(log)):
            continue
        if levels.size < 10:
            rising, falling = np.diff(levels)[:top], np.diff(levels)[top:]
            if top == 0 or falling.size < 2 or not ((rising > 0).all() and (falling < 0).all()):
                continue
        elif not (_is_reached(course, top, best, drop) and _stays_down(course, best, drop)):
            continue
        position = int(course.levels.starts[top])
        if not course.levels.is_exact:
            position = _last_good(course, best, drop)
        onset = course.step_at(position)
        where = f"after {write_step(log, onset)}"
        part = f", {drop / gain:.0%} of what it had gained" if gain > 0 else ""
        yield regressing_metric.finding(
            f"{metric.name} falls from {best:.4g} to {course.end:.4g} {where}{part}",
            evidence={
                "metric": metric.name,
                "onset_step": onset,
                "best": best,
                "after": course.end,
                "lost": drop / gain if gain > 0 else None,
            },
            advice="Go on from the checkpoint at the best point, and look at what changed after it.",
        )


def _explores(log: TrainingLog) -> bool:
    """Return whether random actions become fewer during the run, by the names of what is recorded."""
    return any({"exploration", "epsilon", "epsi", "eps"} & set(each.words) for each in log.of(Meaning.RATE))


def _is_reached(course: Course, top: int, best: float, drop: float) -> bool:
    """Return whether the best level is of several records, or one beside it is near it: single episodes have luck."""
    levels = course.levels.medians
    if np.append(course.levels.starts, course.values.size)[top + 1] - course.levels.starts[top] >= FEWEST:
        return True
    beside = np.concatenate([levels[max(top - 1, 0) : top], levels[top + 1 : top + 2]])
    return bool((beside >= best - drop / 2).any())


def _stays_down(course: Course, best: float, drop: float) -> bool:
    """Return whether the last two levels are below the middle between the best and the end."""
    return bool((course.levels.medians[-2:] < best - drop / 2).all())


def _last_good(course: Course, best: float, drop: float) -> int:
    """Return the last position at which the values, smoothed a little, were still about as good as they ever were."""
    width = max(1, course.values.size // 120)
    padded = np.pad(course.values, width, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1), axis=1)
    good = np.flatnonzero(smooth >= best - 0.15 * drop)
    # The best level may be that of a few records that no others are like.
    return int(good[-1]) if good.size else int(np.argmax(smooth))


@rule("LOG007", "stalled", Severity.WARNING, on=TrainingLog, part=("metric",))
def stalled(log: TrainingLog, *, share: float = 0.25) -> Iterator[Finding]:
    """A loss is the same number over and over, or never moved from where it began, or an accuracy did not.

    Why it matters:
        Losses of different batches differ. Where they do not, the network returns the same for every input, or is not
        trained any more: dead units, a learning rate of zero, a graph that was detached. A network that answers every
        input with the same class has the same accuracy in every evaluation, whatever its loss does meanwhile.

    When it is normal:
        A loss that has fallen to nearly nothing (a fiftieth of where it began) may show the same digits to the end.
        Rewards may stay at the best value that there is. A loss that scatters without falling may be that of a model
        that was trained before: it is a note. An accuracy that never changes is reported only where no loss fell by a
        hundredth either: then the run changed nothing that it measures.

    What to do:
        Look at the learning rate, at the gradients' norm, and at the checkpoint: `ckdoc scan` names units and tensors
        that receive no gradient.

    Options:
        share: The part of the run, and ten records at least, over which a number must stay the same.

    References:
        Lu et al. 1903.06733 (networks whose units have all died are constant).
    """
    for metric in log.of(Meaning.LOSS, Meaning.REWARD, Meaning.ACCURACY):
        course = course_of(metric, SAME)
        if course is None:
            continue
        if metric.meaning is Meaning.ACCURACY:
            found = _find_same_answers(metric, log)
        else:
            found = _find_constant(metric, course, share) or _find_unmoved(metric, course, log)
        if found is None:
            continue
        position, words, severity = found
        yield stalled.finding(
            f"{metric.name} {words.format(step=write_step(log, float(course.steps[position])))}",
            severity=severity,
            evidence={"metric": metric.name, "onset_step": course.step_at(position)},
            advice="Look at the learning rate and at the gradients' norm.",
        )


def _find_constant(metric: Metric, course: Course, share: float) -> tuple[int, str, Severity | None] | None:
    """Return from which value on all are the same, with words and severity; ``None`` where that is normal."""
    curve = metric.curve
    is_finite = np.isfinite(curve.means)
    low, high = curve.minima[is_finite], curve.maxima[is_finite]
    last = float(course.values[-1])
    tolerance = 1e-6 * abs(last)
    differs = np.flatnonzero((np.abs(low - last) > tolerance) | (np.abs(high - last) > tolerance))
    begin = int(differs[-1]) + 1 if differs.size else 0
    records = int(curve.counts[is_finite][begin:].sum())
    if records < SAME or course.values.size - begin < share * course.values.size or last == 0 == begin:
        return None
    if metric.meaning is Meaning.REWARD:
        # The best there is: it was reached, or was there from the beginning.
        if begin > 0 or records < 20:
            return None
        return 0, f"is {last:.4g} in all {records:,} records: nothing that the agent does changes it", Severity.NOTE
    if abs(last) <= LEARNED * abs(course.start):
        return None
    if begin == 0:
        return 0, f"is {last:.4g} in all {records:,} records", None
    return begin, f"is {last:.4g} in all records from {{step}} on", None


def _find_same_answers(metric: Metric, log: TrainingLog) -> tuple[int, str, Severity | None] | None:
    """Return words for an accuracy that is the same in every record, though it is not perfect, while no loss falls."""
    curve = metric.curve
    value = float(curve.minima.min())
    if curve.nonfinite.any() or curve.maxima.max() > value or value in PERFECT or log.is_of_agent:
        return None
    losses = [course for each in log.of(Meaning.LOSS) if (course := course_of(each, SAME)) is not None]
    if not losses or any(map(_falls, losses)):
        return None
    return 0, f"is {value:.4g} in all {quantity(curve.count, 'record')}, and no loss falls", None


def _falls(course: Course) -> bool:
    tau, p_value = course.trend
    return course.start - course.end > MOVED * abs(course.start) and tau < 0 and p_value <= LARGEST_P


def _find_unmoved(metric: Metric, course: Course, log: TrainingLog) -> tuple[int, str, Severity | None] | None:
    """Return words for a training loss that ends where it began, though it was recorded from the beginning."""
    if metric.is_held_out or log.is_of_agent or course.values.size < 20:
        return None
    if log.step_name and course.steps[0] > 0.05 * course.steps[-1]:
        return None
    levels = course.levels.medians
    tau, p_value = course.trend
    spread = float(np.ptp(levels))
    if abs(course.start) == 0 or (tau < 0 and p_value <= LARGEST_P):
        return None
    # Of twenty levels around the same one, the largest and the smallest are about four standard deviations apart.
    if spread > max(6 * course.noise, 0.01 * abs(course.start)):
        return None
    is_sure = course.noise < 0.005 * abs(course.start)
    words = f"never moved from {course.start:.4g} in {quantity(course.metric.curve.count, 'record')}"
    return 0, words, None if is_sure else Severity.NOTE


@rule("LOG005", "spike", Severity.WARNING, on=TrainingLog, part=("metric",), worse=("count",))
def spike(log: TrainingLog, *, sigmas: float = 6.0) -> Iterator[Finding]:
    """A loss or a gradient norm jumps far beyond all that the steps before it showed.

    Why it matters:
        One step with a huge gradient can undo thousands, and leaves second moments that hold back the steps after it.

    When it is normal:
        In reinforcement learning a first reward, or a new part of the environment, makes errors jump: there, and where
        the level is back within the next records, a spike is a note. Metrics that jump all the time have no level to
        jump from, and are not judged.

    What to do:
        Clip the gradients, lower the learning rate or β2, and skip batches whose loss is far off. Look at the data of
        that step.

    Options:
        sigmas: Standard deviations of the last 128 records by which a spike is above their median; it must be three
            times as far from it as the largest of them.

    References:
        Chowdhery et al. 2204.02311, 5.1 (spikes, restarted about 100 steps earlier with some batches skipped); Molybog
        et al. 2304.09871 (Adam's instability).
    """
    for metric in log.of(Meaning.LOSS, Meaning.NORM):
        course = course_of(metric)
        if course is None:
            continue
        is_finite = np.isfinite(metric.curve.means)
        found = _find_spikes(metric.curve.maxima[is_finite], sigmas)
        if not found or len(found) > 0.02 * course.values.size:
            continue
        first = found[0]
        height = float(metric.curve.maxima[is_finite][first])
        before = float(np.median(course.values[max(first - WINDOW, 0) : first]))
        after = course.values[first + 1 : first + 1 + max(5, course.values.size // 20)]
        recovers = after.size == 0 or float(np.median(after)) <= before + 0.1 * (height - before)
        level = float(np.abs(course.values[max(first - WINDOW, 0) : first]).max())
        is_huge = height >= HUGE * level and height >= 0.2 * abs(course.start)
        is_mild = log.is_of_agent or (recovers and not is_huge)
        step = course.step_at(first)
        yield spike.finding(
            f"{metric.name} jumps from {before:.4g} to {height:.4g} at {write_step(log, step)}"
            + (f", and {quantity(len(found) - 1, 'more time')}" if found[1:] else "")
            + (", and is back at once" if recovers else ", and stays up"),
            severity=Severity.NOTE if is_mild else None,
            evidence={
                "metric": metric.name,
                "onset_step": step,
                "before": before,
                "height": height,
                "count": len(found),
                "steps": [as_step(course.steps[each]) for each in found],
            },
            advice="Look at the batch of that step, clip the gradients or lower the learning rate.",
        )


def _find_spikes(values: np.ndarray, sigmas: float) -> list[int]:
    """Return the positions of values far above those before them; after one, the window begins anew behind it."""
    # At the beginning there is no level yet: only what dwarfs every record before it is told from chance.
    first = range(1, min(30, values.size))
    found = [each for each in first if values[each] > 2 * HUGE * np.abs(values[:each]).max() > 0][:1]
    begin = 0
    for position in range(values.size):
        before = values[max(position - WINDOW, begin) : position]
        if before.size < 30:
            continue
        middle, scatter = float(np.median(before)), float(before.std())
        reach = float(before.max()) - middle
        above = values[position] - middle
        if above > sigmas * scatter and above > BEYOND * reach and above > 0.5 * abs(middle) and reach > 0:
            found.append(position)
            begin = position + 1
    return found


@rule("LOG009", "oscillating-loss", Severity.WARNING, on=TrainingLog, part=("metric",))
def oscillating_loss(log: TrainingLog, *, swing: float = 1.0) -> Iterator[Finding]:
    """A training loss swings up and down by more than its own size and does not fall.

    Why it matters:
        Each update overshoots: the learning rate is too high for this loss, or the batches are too small for it.

    When it is normal:
        In reinforcement learning, and for losses of adversaries, which are not judged. Losses of single examples swing
        while their level falls.

    What to do:
        Divide the learning rate by three until the loss falls smoothly, or make the batch larger.

    Options:
        swing: Distance between the 10th and the 90th percentile of the second half of the run over its median.

    References:
        LeCun et al. 1998, Efficient BackProp, 4.6 (rates beyond twice the best one diverge).
    """
    if log.is_of_agent:
        return
    for metric in log.of(Meaning.LOSS):
        course = course_of(metric, 20)
        if course is None or metric.is_held_out:
            continue
        half = course.values[course.values.size // 2 :]
        middle = float(np.median(half))
        low, high = (float(each) for each in np.percentile(half, (10, 90)))
        first = float(np.median(course.values[: max(FEWEST, course.values.size // 4)]))
        if middle <= 0 or high - low < swing * middle or middle < 0.7 * first:
            continue
        yield oscillating_loss.finding(
            f"{metric.name} swings between {low:.4g} and {high:.4g} around {middle:.4g} in the second half of the run, "
            "and does not fall",
            evidence={
                "metric": metric.name,
                "onset_step": course.step_at(_find_swing(course.values)),
                "low": low,
                "high": high,
                "middle": middle,
            },
            advice="Lower the learning rate.",
        )


def _find_swing(values: np.ndarray) -> int:
    """Return the position from which neighbouring values differ at least half as much as in the second half."""
    swings = find_levels(np.abs(np.diff(values)))
    large = swings.medians >= 0.5 * float(np.median(swings.medians[swings.medians.size // 2 :]))
    calm = np.flatnonzero(~large[: large.size // 2])
    return int(swings.starts[int(calm[-1]) + 1]) if calm.size else 0
