"""What a log records: metrics that are always zero, and numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.courses import as_step, write_step
from checkpoint_doctor.checkpoint import TrainingLog
from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity


@rule("LOG001", "unrecorded-metric", Severity.ERROR, on=TrainingLog, part=("metric",))
def unrecorded_metric(log: TrainingLog, *, fewest: int = 5) -> Iterator[Finding]:
    """A gradient norm or a loss is exactly zero in every record, or its column is empty.

    Why it matters:
        A gradient that is exactly zero changes no weight, and a network whose losses change is trained. So the number
        that was logged is not the one that was meant: often the return value of ``clip_grad_norm_`` was thrown away, or
        gradients were read after ``zero_grad``. Nobody would see them explode.

    When it is normal:
        Where the network really is not trained, all losses are constant too. A table with three decimals shows norms
        below 0.0005 as 0.000. Losses of a part that is switched off are zero: of several losses, only one without a
        name of its own (``loss``, ``train_loss``) is an error, the others are a note. Rates, rewards and scores may be
        zero for a whole run.

    What to do:
        Log what ``clip_grad_norm_`` returns, which is the norm before clipping, after ``backward`` and before
        ``zero_grad``. Print norms with significant digits and not with decimals.

    Options:
        fewest: Records from which a column is judged.

    References:
        PyTorch, ``torch.nn.utils.clip_grad_norm_``: returns the total norm of the parameters' gradients.
    """
    for metric in log.of(Meaning.NORM, Meaning.LOSS):
        curve = metric.curve
        if curve.count == 0:
            if log.records >= fewest and metric.meaning is Meaning.NORM:
                yield unrecorded_metric.finding(
                    f"{metric.name} has a column and not one record",
                    severity=Severity.WARNING,
                    evidence={"metric": metric.name, "count": 0},
                    advice="Log it where it is computed, or remove the column.",
                )
            continue
        if curve.count < fewest or curve.nonfinite.any() or (curve.minima != 0).any() or (curve.maxima != 0).any():
            continue
        is_main = metric.meaning is Meaning.NORM or set(metric.words) <= {"loss", "train", "total", "training"}
        yield unrecorded_metric.finding(
            f"{metric.name} is exactly 0 in all {curve.count:,} records: it was not recorded",
            severity=None if is_main else Severity.NOTE,
            evidence={"metric": metric.name, "count": curve.count, "onset_step": as_step(curve.steps[0])},
            advice="Log the return value of clip_grad_norm_, before zero_grad."
            if metric.meaning is Meaning.NORM
            else "Log the loss that backward is called on.",
        )


@rule("LOG008", "nonfinite-metric", Severity.ERROR, on=TrainingLog, part=("metric",), worse=("nonfinite",))
def nonfinite_metric(log: TrainingLog) -> Iterator[Finding]:
    """A loss is NaN or infinite, and so is everything that is computed with it afterwards.

    Why it matters:
        A loss that is NaN makes every gradient NaN, and the next update every weight. From there on the run computes
        nothing, and the checkpoints that it saves are lost.

    When it is normal:
        With float16 and a loss scaler, single infinite gradient norms are steps that the scaler skips: they are a note.
        Rewards and lengths are NaN until the first episode ends, and an explained variance is where returns are
        constant. A loss that is NaN once and finite afterwards is a warning: its step was skipped, or it was the mean
        of nothing.

    What to do:
        Look for the first step with such a value, and at the batch, the learning rate and the divisions and logarithms
        of the loss there. Go on from the last checkpoint before it.

    References:
        PyTorch, ``torch.amp.GradScaler`` (skips steps with infinite gradients) and ``torch.autograd.detect_anomaly``.
    """
    for metric in log.of(Meaning.LOSS, Meaning.OBJECTIVE, Meaning.NORM, Meaning.REWARD, Meaning.LEARNING_RATE):
        curve = metric.curve
        bad = int(curve.nonfinite.sum())
        if bad == 0:
            continue
        where = int(np.argmax(curve.nonfinite > 0))
        stays = not np.isfinite(curve.lasts[-1]) and bool((curve.nonfinite == curve.counts)[where + 1 :].all())
        finite_before = where > 0 or curve.nonfinite[0] < curve.counts[0]
        if metric.meaning is Meaning.REWARD:
            if not (stays and finite_before):
                continue
            severity = Severity.WARNING
        elif metric.meaning is Meaning.NORM:
            severity = Severity.ERROR if stays and bad > 1 else Severity.NOTE
        else:
            severity = Severity.ERROR if stays else Severity.WARNING
        begun = (
            f"from {write_step(log, float(curve.steps[where]))} on"
            if stays and finite_before
            else (
                "in every record"
                if stays
                else f"in {quantity(bad, 'record')}, first at {write_step(log, float(curve.steps[where]))}"
            )
        )
        yield nonfinite_metric.finding(
            f"{metric.name} is {'NaN or infinite'} {begun}",
            severity=severity,
            evidence={
                "metric": metric.name,
                "nonfinite": bad,
                "count": curve.count,
                "onset_step": as_step(curve.steps[where]),
            },
            advice="Go on from the last checkpoint before it, and find out what made it so.",
        )
