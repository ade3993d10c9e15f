"""Damaged and extreme values."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from checkpoint_doctor.analyzers._evidence.initial_values import redraw, redraw_nonfinite
from checkpoint_doctor.analyzers._evidence.moments import nonfinite_moments
from checkpoint_doctor.analyzers._evidence.normal_zeros import NORMS
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity

MATRICES = (Kind.LINEAR, Kind.CONV, Kind.EMBEDDING, Kind.LSTM, Kind.GRU, Kind.RNN, Kind.ATTENTION, Kind.LORA)
"""Layers whose weights are matrices (or kernels) that gradient descent learns entry by entry."""


@rule(
    "VAL001",
    "nonfinite-values",
    Severity.ERROR,
    on=Checkpoint,
    fix=Safety.UNSAFE,
    part=("optimizer", "moment", "parameter"),
    worse=("nan", "infinite"),
)
def nonfinite_values(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Weights, buffers or the optimizer's moments contain NaN or infinity.

    Why it matters:
        One such entry makes every output that depends on it NaN, and the next update spreads it over all the weights.
        Training that goes on from here only overwrites the last sound checkpoint.

    When it is normal:
        Attention masks hold minus infinity on purpose; such buffers are passed over.

    What to do:
        Go back to the last checkpoint that is finite and resume with a lower learning rate. A few NaN with the rest
        intact come from one infinite gradient (look at the input rows or the loss of that step); NaN in every entry
        come from a loss that was NaN. Check ``torch.isfinite(loss)`` before ``backward`` and before saving.
        ``ckdoc fix --unsafe`` draws the entries anew by the layer's own init rule; what they had learned is lost.

    References:
        Measured: one infinite gradient through ``clip_grad_norm_`` makes only its own entry NaN, one NaN gradient
        makes all of them NaN in one step. habitat-lab issue 2226; rl-baselines3-zoo issues 156 and 427.
    """
    for tensor in checkpoint.distinct_tensors:
        statistics = tensor.statistics
        if not statistics.nonfinite or _is_mask(tensor, checkpoint):
            continue
        place = [int(each) for each in np.unravel_index(statistics.first_nonfinite or 0, tensor.shape)]
        kinds = [
            f"{number:,} {word}"
            for number, word in ((statistics.nan, "NaN"), (statistics.infinite, "infinite"))
            if number
        ]
        if statistics.nan == statistics.count:
            cause = "every entry is NaN, as after a NaN loss"
        elif statistics.nonfinite <= max(4, statistics.count // 100):
            cause = "only a few, as after one infinite gradient or a damaged file"
        else:
            cause = f"{statistics.nonfinite / statistics.count:.1%} of the tensor"
        yield nonfinite_values.finding(
            f"{' and '.join(kinds)} of {statistics.count:,} values, the first at {place}: {cause}",
            tensor,
            evidence={
                "nan": statistics.nan,
                "infinite": statistics.infinite,
                "count": statistics.count,
                "first": place,
            },
            repairs=redraw_nonfinite(tensor, checkpoint.layer_of[tensor.name], checkpoint),
        )
    yield from nonfinite_moments(checkpoint, nonfinite_values)


def _is_mask(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    statistics = tensor.statistics
    only_infinite = not statistics.nan and (statistics.maximum is None or statistics.maximum <= 0)
    return only_infinite and checkpoint.layer_of[tensor.name].kind is Kind.BUFFER


@rule("VAL002", "exploded-values", Severity.WARNING, on=Tensor, worse=("largest",))
def exploded_values(
    tensor: Tensor,
    checkpoint: Checkpoint,
    *,
    gain: float = 200.0,
    weight: float = 100.0,
    vector: float = 1000.0,
    certain: float = 1e6,
) -> Iterator[Finding]:
    """Values are far larger than anything a trained layer holds.

    Why it matters:
        Weights that explode saturate what follows, and their gradients vanish or overflow. Single values beyond any
        scale point to a damaged file.

    When it is normal:
        Running statistics and other buffers have the scale of the data and are not judged. Some language models keep
        key biases and embedding outliers in the hundreds.

    What to do:
        Compare with an earlier checkpoint of the run: growth over steps is divergence (lower the learning rate, clip
        the gradients), a jump in one layer is an edit or a damaged file.

    References:
        Measured on 111 published agents: RMS(weight)·√fan-in is 0.58 or 1.41 at the start and at most 50 after
        training, hence ``gain``; no weight exceeds 60, hence ``weight``; no bias 5.1 (key biases of published language
        models reach several hundred, hence ``vector``). ``certain``: no trained value of any published model above
        1e6 is known to us.
    """
    layer, statistics = checkpoint.layer_of[tensor.name], tensor.statistics
    if not tensor.is_floating or layer.kind is Kind.BUFFER or not statistics.count or statistics.norm is None:
        return
    if tensor.name in (each.name for role, each in layer.tensors.items() if role.startswith("running_")):
        return
    is_matrix = layer.kind in MATRICES and len(tensor.shape) > 1
    scale = statistics.norm / sqrt(statistics.count) * sqrt(_fan_in(tensor, layer)) if is_matrix else 0.0
    absolute = weight if is_matrix else vector
    if statistics.absmax <= absolute and not (is_matrix and scale > gain):
        return
    message = f"values reach {statistics.absmax:.3g}"
    if is_matrix and scale > gain:
        message += f"; RMS times √fan-in is {scale:,.0f}, where trained layers stay below 50"
    yield exploded_values.finding(
        message,
        tensor,
        severity=Severity.ERROR if statistics.absmax > certain else None,
        evidence={"largest": statistics.absmax, "rms": statistics.norm / sqrt(statistics.count), "gain": scale},
    )


def _fan_in(tensor: Tensor, layer: Layer) -> int:
    """Return the number that the init rule divides by: inputs of a unit, or hidden units of a recurrent layer."""
    fan_in = tensor.size // tensor.shape[0]
    hidden = layer.tensors.get("weight_hh")
    return max(fan_in, hidden.shape[1]) if hidden is not None and len(hidden.shape) == 2 else fan_in


@rule("VAL003", "value-spike", Severity.WARNING, on=Tensor, worse=("places", "largest"))
def value_spike(
    tensor: Tensor, checkpoint: Checkpoint, *, ratio: float = 20.0, smallest: int = 32
) -> Iterator[Finding]:
    """A few entries are orders of magnitude larger than everything else in their tensor.

    Why it matters:
        Gradient descent moves entries of a layer by similar steps, so a lone giant is the mark of a flipped bit,
        a damaged download, or an edit by hand. It drowns the unit that it belongs to.

    When it is normal:
        Embeddings and language models have outlier dimensions, but these fill a column, not a single entry.

    What to do:
        Compare the file's hash with the original. If it is what was saved, look at an earlier checkpoint: one that
        lacks the spike tells when it came.

    References:
        Measured on published agents and networks: ordered by magnitude, no entry among the largest is more than 2.7
        times the next. A flipped exponent bit multiplies by 2, 4, 16, 256 or more; the two lowest stay below ``ratio``
        and among what training does.
    """
    layer, statistics = checkpoint.layer_of[tensor.name], tensor.statistics
    if layer.kind not in (*MATRICES, Kind.PARAMETER) or tensor.size < smallest or len(tensor.shape) < 2:
        return
    if statistics.norm is None or not tensor.is_floating:
        return
    # The largest of the others is at least their root mean square, so a spike stands out of that by the ratio (less
    # a tenth for spikes among the others); almost all tensors end here without a second look.
    others = max(statistics.norm**2 - statistics.absmax**2, 0.0) / statistics.count
    if statistics.nonfinite or statistics.absmax < 0.9 * ratio * sqrt(others):
        return
    magnitudes = np.abs(tensor.array.astype(np.float64)).reshape(-1)
    few = max(1, magnitudes.size // 10_000)
    ordered = np.sort(np.partition(magnitudes, magnitudes.size - few - 1)[-few - 1 :])
    jumps = np.flatnonzero(ordered[1:] > ratio * ordered[:-1])
    if not jumps.size or ordered[0] == 0:
        return
    spikes = np.flatnonzero(magnitudes > ordered[jumps[0]])
    places = [[int(axis) for axis in np.unravel_index(each, tensor.shape)] for each in spikes]
    yield value_spike.finding(
        f"{len(places)} of {tensor.size:,} values {'stands' if len(places) == 1 else 'stand'} "
        f"{ordered[-1] / ordered[jumps[0]]:,.0f} times above all others "
        f"(up to {statistics.absmax:.3g}, at {places[0]})",
        tensor,
        evidence={"places": places, "largest": statistics.absmax, "bulk": float(ordered[jumps[0]])},
    )


@rule("VAL004", "near-overflow", Severity.WARNING, on=Tensor, worse=("largest",))
def near_overflow(tensor: Tensor, *, limit: float = 60_000.0) -> Iterator[Finding]:
    """A float16 tensor holds values close to the largest that float16 can hold.

    Why it matters:
        65,504 is the end of float16. Values just below it were clipped or will overflow to infinity at the next
        update, or as soon as they are multiplied.

    When it is normal:
        Masks use the lowest float16 value on purpose; a minimum alone is not reported.

    What to do:
        Keep a float32 (or bfloat16) copy of the weights and lower the loss scale.

    References:
        IEEE 754 binary16.
    """
    maximum = tensor.statistics.maximum
    if tensor.dtype == "float16" and maximum is not None and maximum >= limit:
        yield near_overflow.finding(
            f"values reach {maximum:,.0f}, and float16 ends at 65,504", tensor, evidence={"largest": float(maximum)}
        )


@rule("VAL005", "constant-tensor", Severity.WARNING, on=Tensor, fix=Safety.UNSAFE, group_by=("value",))
def constant_tensor(tensor: Tensor, checkpoint: Checkpoint) -> Iterator[Finding]:
    """All entries of a weight matrix are the same non-zero number.

    Why it matters:
        Units with equal weights compute the same and receive the same gradient, so they stay equal for ever: the
        layer is as good as one unit. It comes from ``fill_`` or ``ones_`` in an init function.

    When it is normal:
        Averaging and blur kernels are constant by design and usually frozen; norm gains start at 1 and are not judged.

    What to do:
        Draw the weights from a random init rule (``kaiming_uniform_``, ``orthogonal_``) and train again; ``ckdoc fix
        --unsafe`` does so by the layer's own rule.

    References:
        Goodfellow, Bengio and Courville, Deep Learning, 8.4: parameters must break symmetry between units.
    """
    statistics, layer = tensor.statistics, checkpoint.layer_of[tensor.name]
    if layer.kind not in MATRICES or layer.kind in NORMS or len(tensor.shape) < 2 or tensor.size < 4:
        return
    if statistics.minimum is not None and statistics.minimum == statistics.maximum != 0 and not statistics.nonfinite:
        value = float(statistics.minimum)
        yield constant_tensor.finding(
            f"all {statistics.count:,} values are {value:.4g}: its units can never become different",
            tensor,
            evidence={"value": value},
            repairs=redraw(tensor, layer, checkpoint),
        )
