"""Running statistics of batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import is_drawn_uniformly
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity


@rule(
    "NRM003",
    "norm-statistics",
    Severity.ERROR,
    on=Layer,
    part=("cause",),
    worse=("negative", "units"),
    group_by=("cause",),
)
def norm_statistics(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """A BatchNorm's running statistics are impossible, or were never updated while the weights were trained.

    Why it matters:
        In evaluation mode, the running statistics replace the batch's statistics. A negative variance gives NaN.
        Statistics that are still 0 and 1 beside trained weights give a network that works in training mode only.

    When it is normal:
        Before the first batch, and in a norm that the network never calls. Exporters to ONNX take the statistics into
        the gain and the bias, and write 0 and 1 in their place. A variance of exactly zero in some channels means that
        these channels are constant, which is a note.

    What to do:
        Estimate them again: run a few hundred batches in ``train()`` mode without gradient steps. Look for
        ``track_running_stats=False``, ``momentum=0``, or a norm that was always in ``eval()`` mode.

    References:
        Ioffe and Szegedy 1502.03167; ``torch.nn.BatchNorm2d`` (running mean 0, running variance 1, one count per batch;
        up to PyTorch 1.1 the gain was drawn from U(0, 1), pytorch issue 12259).
    """
    variance = layer.tensors.get("running_var")
    if variance is None or not variance.size:
        return
    statistics = variance.statistics
    if statistics.minimum is not None and statistics.minimum < 0:
        with np.errstate(invalid="ignore"):
            negative = int((variance.array < 0).sum())
        yield norm_statistics.finding(
            f"the running variance is negative in {negative} of {statistics.count} channels "
            f"(down to {statistics.minimum:.3g})",
            variance,
            evidence={"cause": "negative", "negative": negative, "minimum": float(statistics.minimum)},
        )
    elif statistics.zeros:
        everywhere = statistics.zeros == statistics.count
        yield norm_statistics.finding(
            f"the running variance is exactly zero in {statistics.zeros} of {statistics.count} channels"
            + ("" if everywhere else ": these channels are constant"),
            variance,
            severity=Severity.ERROR if everywhere else Severity.NOTE,
            evidence={"cause": "zero", "units": [int(each) for each in np.flatnonzero(variance.array == 0)]},
        )
    elif statistics.minimum == statistics.maximum == 1 and is_zero(layer.tensors.get("running_mean")):
        yield from _judge_initial_statistics(layer, variance, checkpoint)


def _judge_initial_statistics(layer: Layer, variance: Tensor, checkpoint: Checkpoint) -> Iterator[Finding]:
    counter, gain = layer.tensors.get("num_batches_tracked"), layer.weight
    batches = int(counter.statistics.maximum or 0) if counter is not None else 0
    trained = None if gain is None else was_trained(gain, checkpoint)
    if batches:
        yield norm_statistics.finding(
            f"the running statistics are still mean 0 and variance 1 after {batches:,} batches: their momentum is 0",
            variance,
            severity=Severity.ERROR if trained else Severity.WARNING,
            evidence={"cause": "momentum 0", "batches": batches},
        )
    elif trained or (trained is None and gain is not None and _is_changed(layer, gain) and not _are_folded(checkpoint)):
        yield norm_statistics.finding(
            "the running statistics are still mean 0 and variance 1, though the layer's gain was trained",
            variance,
            severity=Severity.ERROR if trained else Severity.WARNING,
            evidence={"cause": "never updated"},
        )


def _are_folded(checkpoint: Checkpoint) -> bool:
    """True where an exporter may have taken the statistics into the gain and the bias, as keras2onnx does."""
    return checkpoint.format == "onnx"


def _is_changed(layer: Layer, gain: Tensor) -> bool:
    """True where a gain is none of the usual initial values: 1, 0, U(0, 1), or DCGAN's N(1, 0.02)."""
    statistics = gain.statistics
    if statistics.minimum == statistics.maximum or statistics.mean is None or statistics.std is None:
        return False
    is_dcgan = abs(statistics.mean - 1) < 0.02 and abs(statistics.std - 0.02) < 4 * 0.02 / sqrt(2 * gain.size)
    return not is_dcgan and not is_drawn_uniformly(layer, gain)
