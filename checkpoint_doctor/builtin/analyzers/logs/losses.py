"""Losses that rise: beside another one that falls, apart from each other, or on data that was held out."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.courses import (
    Course,
    course_of,
    find_rewards,
    siblings,
    write_step,
)
from checkpoint_doctor.checkpoint import Metric, TrainingLog
from checkpoint_doctor.checkpoint.metric_meanings import Meaning, without_split
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity


@rule("LOG002", "rising-loss", Severity.WARNING, on=TrainingLog, part=("metric",), worse=("rise",))
def rising_loss(
    log: TrainingLog, *, rise: float = 0.3, rise_of_head: float = 0.5, explosion: float = 100.0
) -> Iterator[Finding]:
    """A loss rises and stays up, although it is what training makes smaller.

    Why it matters:
        Something works against the optimizer: a learning rate that is too high, targets that run away, data that
        changed, or another loss that pulls the shared layers its own way.

    When it is normal:
        In reinforcement learning the scale of a loss follows the returns: that of a value network, and of a DQN, rises
        while the agent improves. There, a loss is reported where another head's falls at the same time, where rewards
        have become worse, or where it has grown without end and rewards have not; one that comes back from below zero
        has a policy's in it, and is no error that grows. Losses of policies, of adversaries and of regularisers are
        relative to something that moves, and are not judged. A slight rise at the end of a long fall is none.

    What to do:
        Look at what changed at the onset: the learning rate, the data, the weight of another loss. Lower the learning
        rate, clip the gradients, or give the head its own.

    Options:
        rise: By what part of its lowest level a loss must end above it. It must be six standard deviations of a level
            as well, and a tenth of what the loss had fallen or half the usual level of the first half.
        rise_of_head: The same for a loss beside another head's that falls; the trend must be clear (Kendall, p ≤ 0.05).
        explosion: How many times the level of the first half an agent's loss must reach to have grown without end.

    References:
        Mann 1945 and Kendall (the trend); Fujimoto et al. 1802.09477 and van Hasselt et al. 1812.02648 (values that
        diverge).
    """
    courses = {each.name: course for each in log.of(Meaning.LOSS) if (course := course_of(each)) is not None}
    rewards = find_rewards(log)
    for course in courses.values():
        metric = course.metric
        falling = [
            other for each in siblings(metric, log) if (other := courses.get(each.name)) is not None and other.falls
        ]
        if falling and course.rises and _growth(course.start, course.end) >= rise_of_head:
            yield _report_rise(log, course, course.start, 0, falling[0])
            continue
        low = int(np.argmin(course.levels.medians))
        lowest = float(course.levels.medians[low])
        if not _stays_up(course, low, lowest, rise):
            continue
        if log.is_of_agent and (abs(course.end) <= -lowest or not _is_harmful(course, rewards, explosion)):
            continue
        if metric.is_held_out and _has_training_twin(metric, log):
            continue  # LOG006 compares the two
        yield _report_rise(log, course, lowest, low, None)


def _growth(before: float, after: float) -> float:
    return (after - before) / abs(before) if before else float("inf") if after > 0 else 0.0


def _stays_up(course: Course, low: int, lowest: float, rise: float) -> bool:
    levels = course.levels.medians
    gained, fell = course.end - lowest, course.start - lowest
    usual = float(np.median(levels[: levels.size // 2]))
    if gained <= 0 or _growth(lowest, course.end) < rise or gained < 6 * course.noise:
        return False
    if gained < 0.1 * fell and course.end < 0.5 * usual:
        return False
    after = levels[low:]
    if levels.size < 10:  # of few numbers each must be above the one before, or the order proves nothing
        return after.size >= 5 and bool((np.diff(after) > 0).all())
    is_below = np.flatnonzero(after < lowest + gained / 2)
    return bool(is_below[-1] < after.size - 2)


def _is_harmful(course: Course, rewards: list[Course], explosion: float) -> bool:
    """Return whether an agent's loss that rises does harm: rewards became worse, or it grows without end."""
    trained = [each for each in rewards if each.metric.meaning is Meaning.REWARD] or rewards
    if any(each.improves for each in trained):
        return False
    if any(_lost(each) for each in trained):
        return True
    levels = course.levels.medians
    half = float(np.median(levels[: levels.size // 2]))
    return half > 0 and course.end >= explosion * half and course.end >= 0.5 * float(levels.max())


def _lost(reward: Course) -> bool:
    levels = reward.levels.medians
    best = float(levels.max())
    if reward.is_best_early:
        return False
    return best - reward.end > max(6 * reward.noise, 0.5 * float(np.ptp(levels)), 0.05 * abs(best))


def _first_level_above(course: Course, low: int) -> int:
    """Return the position of the first level from which all are above the lowest by more than its noise."""
    is_above = course.levels.medians[low:] > course.levels.medians[low] + 2 * course.noise
    below = np.flatnonzero(~is_above)
    return int(course.levels.starts[min(low + int(below[-1]) + 1, course.levels.starts.size - 1)])


def _report_rise(log: TrainingLog, course: Course, before: float, low: int, sibling: Course | None) -> Finding:
    start = int(course.levels.starts[low])
    position = start if course.levels.is_exact else min(course.find_onset(start), _first_level_above(course, low))
    onset = course.step_at(position)
    growth = _growth(before, course.end)
    percent = f" (+{growth:.0%})" if isfinite(growth) and growth < 100 else ""
    beside = ""
    if sibling is not None:
        fall = _growth(sibling.start, sibling.end)
        beside = f", while {sibling.metric.name} falls from {sibling.start:.4g} to {sibling.end:.4g} ({fall:.0%})"
    return rising_loss.finding(
        f"{course.metric.name} rises from {before:.4g} to {course.end:.4g}{percent} "
        f"from {write_step(log, onset)} on{beside}",
        evidence={
            "metric": course.metric.name,
            "onset_step": onset,
            "before": before,
            "after": course.end,
            "rise": growth if isfinite(growth) else None,
            "sibling": sibling.metric.name if sibling else None,
        },
        advice="Look at what changed there: the learning rate, the data, the weight of another loss.",
    )


@rule("LOG003", "diverging-heads", Severity.WARNING, on=TrainingLog, part=("metric", "sibling"))
def diverging_heads(log: TrainingLog, *, apart: float = 1.5) -> Iterator[Finding]:
    """Two heads of one network move apart: the loss of one rises while that of the other falls.

    Why it matters:
        Heads on shared layers compete for them. Where one gets all the gradient, the other one forgets, and the mean of
        both, which is often all that is looked at, may even fall.

    When it is normal:
        Losses with weights that are changed on purpose during the run. Policy and value loss are no such pair, nor are
        those of adversaries, nor a reconstruction beside its regulariser.

    What to do:
        Compare the gradients of both heads in the shared layers. Balance the weights of the losses, or detach one head
        from the shared layers and see whether it learns alone.

    Options:
        apart: By what factor the ratio of both losses must have grown; both trends must be clear (Kendall, p ≤ 0.05).

    References:
        Yu et al. 2001.06782 (conflicting gradients); Chen et al. 1711.02257 (GradNorm).
    """
    courses = {each.name: course for each in log.of(Meaning.LOSS) if (course := course_of(each)) is not None}
    for rising in courses.values():
        if not rising.rises:
            continue
        for each in siblings(rising.metric, log):
            falling = courses.get(each.name)
            if falling is None or not falling.falls:
                continue
            if min(rising.start, falling.start, falling.end) <= 0:
                continue
            before, after = rising.start / falling.start, rising.end / falling.end
            if after < apart * before:
                continue
            onset = _onset_of_ratio(rising, falling)
            yield diverging_heads.finding(
                f"{rising.metric.name} and {falling.metric.name} move apart: their ratio grows from {before:.2g} to "
                f"{after:.2g} from {write_step(log, onset)} on",
                evidence={
                    "metric": rising.metric.name,
                    "sibling": falling.metric.name,
                    "onset_step": onset,
                    "before": before,
                    "after": after,
                },
                advice="Balance the weights of the two losses, and compare their gradients in the shared layers.",
            )
            break


def _onset_of_ratio(rising: Course, falling: Course) -> float:
    if rising.levels.is_exact or rising.values.size != falling.values.size:
        return rising.step_at(0) if rising.levels.is_exact else rising.step_at(rising.find_onset(0))
    from checkpoint_doctor.statistics.change_points import find_change_point

    with np.errstate(all="ignore"):
        change = find_change_point((rising.values / falling.values).tolist())
    return rising.step_at(change.onset if change is not None else 0)


@rule("LOG006", "overfit", Severity.WARNING, on=TrainingLog, part=("metric",), worse=("rise",))
def overfit(log: TrainingLog, *, rise: float = 0.15) -> Iterator[Finding]:
    """The loss on held-out data rises while the one on training data goes on falling.

    Why it matters:
        From the onset on the model learns its training data by heart. What is saved at the end is worse than what was
        saved at the lowest point.

    When it is normal:
        Where only the best checkpoint is kept. Cross-entropy may rise while accuracy on the same data still improves:
        the model is more sure of itself, also where it is wrong; that is a note.

    What to do:
        Stop at the lowest point, or use more data, augmentation, dropout or weight decay.

    Options:
        rise: By what part of its lowest level the loss must end above it, and a quarter of what it had fallen and
            six standard deviations of a level as well, and the lowest level a fifth of the run ago.

    References:
        Prechelt 1998, Early Stopping: but when? (generalization loss); Guo et al. 1706.04599 on loss and accuracy.
    """
    for metric in log.of(Meaning.LOSS):
        if not metric.is_held_out:
            continue
        course = course_of(metric)
        twin = next((each for each in _training_twins(metric, log) if course_of(each) is not None), None)
        trained = course_of(twin) if twin is not None else None
        if course is None or trained is None:
            continue
        levels = course.levels
        low = int(np.argmin(levels.medians))
        lowest = float(levels.medians[low])
        gained, fell = course.end - lowest, course.start - lowest
        if _growth(lowest, course.end) < rise or gained < 6 * course.noise or gained < 0.25 * fell:
            continue
        position = int(levels.starts[low])
        if course.steps[-1] - course.steps[position] < 0.2 * np.ptp(course.steps):
            continue
        if levels.medians.size < 10 and not (
            levels.medians[low:].size >= 3 and (np.diff(levels.medians[low:]) > 0).all()
        ):
            continue
        if not _goes_on_falling(trained, float(course.steps[position])):
            continue
        improving = [
            each
            for each in log.of(Meaning.ACCURACY)
            if each.is_held_out and (score := course_of(each)) is not None and _still_best(score)
        ]
        onset = course.step_at(position)
        yield overfit.finding(
            f"{metric.name} rises from {lowest:.4g} to {course.end:.4g} from {write_step(log, onset)} on, while "
            f"{trained.metric.name} falls to {trained.end:.4g}"
            + (f"; {improving[0].name} still improves" if improving else ""),
            severity=Severity.NOTE if improving else None,
            evidence={
                "metric": metric.name,
                "onset_step": onset,
                "lowest": lowest,
                "after": course.end,
                "rise": _growth(lowest, course.end),
                "training": trained.metric.name,
            },
            advice="Stop at the lowest point, or regularise more.",
        )


def _goes_on_falling(trained: Course, step: float) -> bool:
    """Return whether a loss ends below its level around a step, and near the lowest that it ever was."""
    around = np.abs(trained.steps - step) <= 0.05 * np.ptp(trained.steps)
    then = float(np.median(trained.values[around])) if around.any() else trained.start
    lowest = float(trained.levels.medians.min())
    return trained.end < then - 2 * trained.noise and trained.end <= lowest + max(0.1 * (then - lowest), trained.noise)


def _still_best(score: Course) -> bool:
    levels = score.levels.medians
    return float(levels[-1]) >= float(levels.max()) - max(score.noise, 1e-3 * abs(float(levels.max())))


def _training_twins(metric: Metric, log: TrainingLog) -> list[Metric]:
    own = without_split(metric.name)
    return [each for each in log.of(Meaning.LOSS) if not each.is_held_out and without_split(each.name) == own]


def _has_training_twin(metric: Metric, log: TrainingLog) -> bool:
    return bool(_training_twins(metric, log))
