"""Normalisation layers: LayerNorm, RMSNorm, BatchNorm, GroupNorm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.analyzers._evidence.judgement import is_zero, judge_zeros
from checkpoint_doctor.analyzers._evidence.normal_zeros import NORMS
from checkpoint_doctor.analyzers._evidence.optimizer import Cause
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import NORM_GAIN, fill_zeros
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity


@rule(
    "NRM001",
    "norm-gain-zeros",
    Severity.WARNING,
    on=Layer,
    fix=Safety.SAFE,
    worse=("zero_fraction", "units"),
    group_by=("cause",),
)
def norm_gain_zeros(layer: Layer, checkpoint: Checkpoint, *, error: float = 0.30) -> Iterator[Finding]:
    """Entries of a norm's gain are exactly zero.

    Why it matters:
        A gain of zero switches its feature off for everything that follows, whatever the weights before it learned. A
        gain starts at 1, and gradient steps do not land on exactly 0: the zeros were written (a reset, a partial load,
        pruning), or weight decay shrank a BatchNorm channel that nothing used.

    When it is normal:
        RMSNorms that store the gain minus one (Gemma, Qwen3-Next). The last BatchNorm of a residual block starts at
        zero with ``zero_init_residual``. Slimmed networks have zeros in most of their BatchNorms: a note. BatchNorm
        channels whose gain and bias both decayed to zero are dead channels: a note below ``error``.

    What to do:
        Find what wrote the zeros; exempt norms from pruning and weight decay. ``ckdoc fix`` sets the zero entries to
        1.0.

    References:
        Ba et al. 1607.06450 and PyTorch's ``reset_parameters`` (gain 1, bias 0); Goyal et al. 1706.02677 (zero-init
        residual); Liu et al. 1708.06519 (network slimming). The threshold is that of the field notes: critical above
        30 %.
    """
    gain = layer.weight
    if layer.kind not in NORMS or gain is None or not gain.is_floating or not gain.statistics.zeros:
        return
    if _is_zero_centred(layer, checkpoint) or (is_zero(gain) and _starts_residual_at_zero(layer, checkpoint)):
        return
    share = gain.statistics.zero_fraction
    severity, why = judge_zeros(gain, checkpoint, layer)
    overwritten = why.cause is Cause.OVERWRITTEN
    slimmed = _is_slimmed(checkpoint)
    if layer.kind is Kind.BATCH_NORM and not overwritten and (slimmed or (share < error and _is_decayed(layer))):
        severity = Severity.NOTE
    else:
        severity = Severity.ERROR if share >= error else Severity.WARNING
    units = [int(each) for each in np.flatnonzero(gain.array == 0)]
    yield norm_gain_zeros.finding(
        f"{share:.1%} of its gains ({len(units)} of {gain.size:,}) are exactly zero: "
        + ("as in a slimmed network" if slimmed else why.sentence),
        gain,
        severity=severity,
        evidence={"zero_fraction": round(share, 6), "units": units, "cause": why.cause.value},
        repairs=[Repair(gain.name, f"zero gains become {NORM_GAIN}", fill_zeros(NORM_GAIN))],
        advice=why.advice,
    )


def _is_zero_centred(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True where the gain is stored as its distance from 1, as every RMSNorm of such a model shows."""
    if layer.kind is not Kind.RMS_NORM:
        return False
    gains = [each.weight for each in checkpoint.layers if each.kind is Kind.RMS_NORM and each.weight is not None]
    return len(gains) > 1 and all(abs(gain.statistics.mean or 0.0) < 0.5 for gain in gains)


def _starts_residual_at_zero(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a BatchNorm that is the last of its block while its siblings are alive."""
    if layer.kind is not Kind.BATCH_NORM:
        return False
    block = layer.name.rpartition(".")[0]
    siblings = [
        each
        for each in checkpoint.layers
        if each.kind is Kind.BATCH_NORM and each.name.rpartition(".")[0] == block and "downsample" not in each.name
    ]
    return len(siblings) > 1 and siblings[-1] is layer and not any(is_zero(each.weight) for each in siblings[:-1])


def _is_slimmed(checkpoint: Checkpoint) -> bool:
    norms = [each for each in checkpoint.layers if each.kind is Kind.BATCH_NORM and each.weight is not None]
    thinned = sum(each.weight.statistics.zeros > 0 for each in norms if each.weight is not None)
    return len(norms) >= 3 and thinned > len(norms) / 2


def _is_decayed(layer: Layer) -> bool:
    """True where each zero gain has a bias next to zero: nothing used the channel, and decay shrank both."""
    gain, bias = layer.weight, layer.bias
    if gain is None or bias is None:
        return False
    return bool((np.abs(bias.array[gain.array == 0]) < 1e-3).all())


@rule("NRM002", "norm-gain-drift", Severity.NOTE, on=Layer, worse=("largest", "negative"))
def norm_gain_drift(
    layer: Layer, checkpoint: Checkpoint, *, largest: float = 20.0, flipped: float = 0.25
) -> Iterator[Finding]:
    """Gains of a norm are far from 1, or many have changed sign.

    Why it matters:
        Large gains undo the normalisation and often grow together with a diverging loss. A flipped sign inverts
        a feature, which a smooth run seldom does to many at once.

    When it is normal:
        Final norms of language models and norms in front of small heads reach tens. Zero-centred RMSNorms have both
        signs by construction and are not judged.

    What to do:
        Compare with earlier checkpoints; if gains keep growing, lower the learning rate of the norms.

    References:
        Starting points: measured on 47 norms of published networks, gains lie between −1.4 and 2.2.
    """
    gain = layer.weight
    if layer.kind not in NORMS or gain is None or gain.statistics.nonfinite or _is_zero_centred(layer, checkpoint):
        return
    negative = float((gain.array < 0).mean()) if gain.size else 0.0
    if gain.statistics.absmax > largest:
        yield norm_gain_drift.finding(
            f"gains reach {gain.statistics.absmax:.3g}; they start at 1",
            gain,
            evidence={"largest": gain.statistics.absmax},
        )
    elif negative >= flipped and gain.size >= 8:
        yield norm_gain_drift.finding(
            f"{negative:.0%} of the gains are negative; they start at 1", gain, evidence={"negative": negative}
        )


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
    """A BatchNorm's running statistics are impossible, or were never updated under trained weights.

    Why it matters:
        In evaluation mode the running statistics stand in for the batch's. A variance below zero gives NaN; statistics
        that are still 0 and 1 under trained weights give a network that works in training and fails in use.

    When it is normal:
        Before the first batch, and in a norm that the network never calls. A variance of exactly zero in some channels
        belongs to channels that are constant: a note.

    What to do:
        Run a few hundred batches in ``train()`` mode without gradient steps to estimate them again, and look for
        ``track_running_stats=False``, ``momentum=0`` or a norm that was always in ``eval()`` mode.

    References:
        Ioffe and Szegedy 1502.03167; ``torch.nn.BatchNorm2d`` (running mean 0, running variance 1, one count a batch;
        up to PyTorch 1.1 the gain was drawn from U(0, 1), pytorch issue 12259).
    """
    variance = layer.tensors.get("running_var")
    if variance is None or not variance.size:
        return
    statistics = variance.statistics
    if statistics.minimum is not None and statistics.minimum < 0:
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
            + ("" if everywhere else ": these channels never vary"),
            variance,
            severity=Severity.ERROR if everywhere else Severity.NOTE,
            evidence={"cause": "zero", "units": [int(each) for each in np.flatnonzero(variance.array == 0)]},
        )
    elif _never_counted(layer, variance) and _is_trained(layer, checkpoint):
        yield norm_statistics.finding(
            "the running statistics are still mean 0 and variance 1, though the layer's gain was trained",
            variance,
            evidence={"cause": "never updated"},
        )


def _never_counted(layer: Layer, variance: Tensor) -> bool:
    mean, count = layer.tensors.get("running_mean"), layer.tensors.get("num_batches_tracked")
    initial = variance.statistics.minimum == variance.statistics.maximum == 1 and is_zero(mean)
    return initial and (count is None or not count.statistics.maximum)


def _is_trained(layer: Layer, checkpoint: Checkpoint) -> bool:
    gain = layer.weight
    if gain is None or checkpoint.is_untrained:
        return False
    moved = not (gain.statistics.minimum == gain.statistics.maximum == 1) and not _is_drawn_uniformly(layer, gain)
    moments = checkpoint.moments.get(gain.name)
    return moved or bool(moments and moments.second and not is_zero(moments.second))


def _is_drawn_uniformly(layer: Layer, gain: Tensor) -> bool:
    """True where the gain still is the U(0, 1) that PyTorch drew up to 1.1, beside biases of exactly zero.

    The width of the accepted band is four standard errors of the mean and of the variance of as many draws.
    """
    statistics = gain.statistics
    if not is_zero(layer.tensors.get("bias")) or statistics.minimum is None or statistics.maximum is None:
        return False
    if statistics.mean is None or statistics.std is None or not 0 <= statistics.minimum <= statistics.maximum <= 1:
        return False
    draws = float(np.sqrt(gain.size))
    return bool(abs(statistics.mean - 0.5) < 4 * 0.289 / draws and abs(statistics.std**2 - 1 / 12) < 4 * 0.0745 / draws)


@rule("NRM004", "low-precision-stall", Severity.WARNING, on=Layer, group_by=("updates",))
def low_precision_stall(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """A half-precision gain is still exactly 1.0 though it did receive gradient.

    Why it matters:
        Next to 1.0 a bfloat16 has steps of 0.004 to 0.008. Updates below half of that round to nothing, so the gain
        never moves while everything around it trains.

    When it is normal:
        In a copy that was cast for inference the optimizer is missing and the rule stays silent.

    What to do:
        Keep a float32 master copy of the weights (mixed precision rather than pure bfloat16), or use stochastic
        rounding.

    References:
        Measured: after 1,000 Adam steps in pure bfloat16 at learning rates 1e-4 and 1e-3, 64 of 64 gains are still
        exactly 1.0 while the bias moved; in float32 all had moved.
    """
    gain = layer.weight
    if layer.kind not in NORMS or gain is None or gain.dtype not in ("bfloat16", "float16"):
        return
    moments = checkpoint.moments.get(gain.name)
    if gain.size and gain.statistics.minimum == gain.statistics.maximum == 1 and moments and moments.second:
        if is_zero(moments.second):
            return
        yield low_precision_stall.finding(
            f"all {gain.size} gains are exactly 1.0 in {gain.dtype}, though {moments.step or 'many'} updates brought "
            "gradient: every step was rounded away",
            gain,
            evidence={"updates": moments.step},
        )
