"""Gains of normalisation layers: LayerNorm, RMSNorm, BatchNorm, GroupNorm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.running_statistics import never_ran
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero, judge_zeros
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor, found_once
from checkpoint_doctor.layers import NORMS, Kind
from checkpoint_doctor.layers.init_rules import NORM_GAIN, fill_zeros
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.statistics.values import as_real, median


@rule(
    "NRM001",
    "norm-gain-zeros",
    Severity.WARNING,
    worst=Severity.ERROR,
    on=Layer,
    fix=Safety.SAFE,
    worse=("zero_fraction", "units"),
    group_by=("cause",),
)
def norm_gain_zeros(layer: Layer, checkpoint: Checkpoint, *, error: float = 0.30) -> Iterator[Finding]:
    """Entries of a norm's gain are exactly zero.

    Why it matters:
        A gain of zero removes its feature for all layers behind it. A gain starts at 1, and gradient steps do not lead
        to exactly 0. So the zeros were written (a reset, a partial load, pruning), or weight decay shrank an unused
        BatchNorm channel.

    When it is normal:
        In RMSNorms that store the gain minus one (Gemma, Qwen3-Next). The last BatchNorm of a residual block starts at
        zero with ``zero_init_residual``. Networks pruned by network slimming have zeros in most of their BatchNorms,
        which is a note; so is a single one whose other gains a penalty has brought below a quarter. BatchNorm channels
        whose gain and bias both decayed to zero are dead; a share of them below ``error`` is a note. A BatchNorm that
        never saw a batch waits for its use: a note.

    What to do:
        Find what wrote the zeros. Exclude norms from pruning and weight decay. ``ckdoc fix`` sets the zero entries to
        1.0.

    Options:
        error: The share of zero gains from which it is an error, where the optimizer's moments prove that trained gains
            were overwritten; this project's experience.

    References:
        Ba et al. 1607.06450 and PyTorch's ``reset_parameters`` (gain 1, bias 0); Goyal et al. 1706.02677 (zero-init
        residual); Liu et al. 1708.06519 (network slimming).
    """
    gain = layer.weight
    if layer.kind not in NORMS or gain is None or not gain.is_floating or not gain.statistics.zeros:
        return
    if _is_zero_centred(layer, checkpoint) or (is_zero(gain) and _starts_residual_at_zero(layer, checkpoint)):
        return
    share = gain.statistics.zero_fraction
    judged, why = judge_zeros(gain, checkpoint, layer)
    if judged is None:
        return
    overwritten = why.cause is Cause.OVERWRITTEN
    slimmed = _is_slimmed(checkpoint)
    decayed = share < error and (_is_decayed(layer) or _shrinks_gradually(gain))
    is_harmless = _is_penalized(gain) or (not overwritten and (slimmed or decayed or never_ran(layer)))
    if layer.kind is Kind.BATCH_NORM and is_harmless:
        severity = Severity.NOTE
    else:
        severity = Severity.ERROR if overwritten and share >= error else Severity.WARNING
    units = [int(each) for each in np.flatnonzero(gain.array == 0)]
    yield norm_gain_zeros.finding(
        f"{share:.1%} of its gains ({len(units)} of {gain.size:,}) are exactly zero: "
        + ("as after network slimming" if slimmed else why.sentence),
        gain,
        severity=severity,
        evidence={"zero_fraction": round(share, 6), "units": units, "cause": why.cause.value},
        repairs=[Repair(gain.name, f"zero gains become {NORM_GAIN}", fill_zeros(NORM_GAIN))],
        advice=why.advice,
    )


def _is_zero_centred(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True where the gain is stored minus 1, as its own values show: those that are not zero are near 0, of both signs.

    A gain that is zero throughout shows nothing; it counts as zero-centred if the others of its kind are, or are zero.
    """
    gain = layer.weight
    if gain is None or layer.kind not in (Kind.RMS_NORM, Kind.LAYER_NORM):
        return False
    if not is_zero(gain):
        return _is_around_zero(gain)
    return _are_zero_centred(checkpoint, layer.kind)


@found_once
def _are_zero_centred(checkpoint: Checkpoint, kind: Kind) -> bool:
    gains = [each.weight for each in checkpoint.layers if each.kind is kind and each.weight is not None]
    others = [each for each in gains if not is_zero(each)]
    return len(gains) > 1 and all(map(_is_around_zero, others))


def _is_around_zero(gain: Tensor) -> bool:
    values = as_real(gain.array[gain.array != 0])
    return bool(values.size) and median(np.abs(values)) < 0.5 and bool((values < 0).any())


def _is_penalized(gain: Tensor, limit: float = 0.25) -> bool:
    """True where the median of the other gains is far below 1 too: a penalty shrinks all, and zeros are its end."""
    values = np.abs(as_real(gain.array[gain.array != 0]))
    return bool(values.size) and median(values) < limit


def _shrinks_gradually(gain: Tensor) -> bool:
    """True where gains lead down to the zero ones without a gap, as a penalty on gains leaves them."""
    values = np.abs(as_real(gain.array[gain.array != 0]))
    return bool(values.size) and float(values.min()) < 0.05 * median(values)


def _starts_residual_at_zero(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a zero BatchNorm that is the last of its block and the only zero one."""
    if layer.kind is not Kind.BATCH_NORM:
        return False
    siblings = _batch_norms_by_block(checkpoint).get(layer.name.rpartition(".")[0], [])
    return len(siblings) > 1 and siblings[-1] is layer and not any(is_zero(each.weight) for each in siblings[:-1])


@found_once
def _batch_norms_by_block(checkpoint: Checkpoint) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for layer in checkpoint.layers:
        if layer.kind is Kind.BATCH_NORM and "downsample" not in layer.name:
            found.setdefault(layer.name.rpartition(".")[0], []).append(layer)
    return found


@found_once
def _is_slimmed(checkpoint: Checkpoint) -> bool:
    norms = [each for each in checkpoint.layers if each.kind is Kind.BATCH_NORM and each.weight is not None]
    with_zeros = sum(each.weight.statistics.zeros > 0 for each in norms if each.weight is not None)
    return len(norms) >= 3 and with_zeros > len(norms) / 2


def _is_decayed(layer: Layer) -> bool:
    """True where the bias of each zero gain is almost zero: weight decay shrank both in an unused channel."""
    gain, bias = layer.weight, layer.bias
    if gain is None or bias is None or gain.shape != bias.shape:
        return False
    return bool((np.abs(bias.array[gain.array == 0]) < 1e-3).all())


@rule("NRM002", "norm-gain-drift", Severity.NOTE, on=Layer, worse=("largest", "negative"))
def norm_gain_drift(
    layer: Layer, checkpoint: Checkpoint, *, largest: float = 20.0, flipped: float = 0.25
) -> Iterator[Finding]:
    """Gains of a norm are far from 1, or many have changed sign.

    Why it matters:
        Large gains undo the normalisation and often grow together with a diverging loss. A changed sign inverts a
        feature; in stable training, this rarely happens to many features.

    When it is normal:
        Gains of final norms in language models, and of norms in front of small heads, reach tens. Zero-centred RMSNorms
        have gains of both signs by design and are not checked.

    What to do:
        Compare with earlier checkpoints. If gains keep growing, lower the learning rate of the norms.

    Options:
        largest: The magnitude of a gain above which it is reported; in 47 norms of published networks, gains lie
            between −1.4 and 2.2.
        flipped: The share of negative gains from which it is reported, in norms with 8 gains or more; a starting point.

    References:
        Ba et al. 1607.06450 and PyTorch's ``reset_parameters``: gains start at 1.
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


@rule("NRM004", "low-precision-stall", Severity.WARNING, on=Layer, group_by=("updates",))
def low_precision_stall(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """A half-precision gain is still exactly 1.0 although it received gradients.

    Why it matters:
        Near 1.0, bfloat16 numbers are 0.004 to 0.008 apart. Smaller updates than half of that are rounded away, so the
        gain never changes while other parameters are trained.

    When it is normal:
        Never beside an optimizer. A copy that was cast for inference has none and is not reported.

    What to do:
        Keep a float32 master copy of the weights (mixed precision rather than pure bfloat16), or use stochastic
        rounding.

    References:
        Measured: after 1,000 Adam steps in pure bfloat16 at learning rates 1e-4 and 1e-3, 64 of 64 gains are still
        exactly 1.0 while the bias changed; in float32 all gains changed.
    """
    gain = layer.weight
    if layer.kind not in NORMS or gain is None or gain.dtype not in ("bfloat16", "float16"):
        return
    moments = checkpoint.moments.get(gain.name)
    if gain.size and gain.statistics.minimum == gain.statistics.maximum == 1 and moments and moments.second:
        if is_zero(moments.second):
            return
        updates = f"{moments.step:,}" if moments.step else "many"
        yield low_precision_stall.finding(
            f"all {gain.size:,} gains are exactly 1.0 in {gain.dtype} although {updates} updates had a gradient: every "
            "update was rounded away",
            gain,
            evidence={"updates": moments.step},
        )
