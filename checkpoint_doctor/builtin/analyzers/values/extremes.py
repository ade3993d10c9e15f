"""Values that are far larger than trained ones, or than the others of their tensor, or near the end of their type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.cells import count_hidden
from checkpoint_doctor.builtin.analyzers._evidence.tables import holds_network
from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._zeros.sparsity import is_fixed
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import LEARNED_MATRICES, Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.largest import find_largest
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, as_real, square

_STATISTIC = re.compile(
    r"(^|[._])(mean|(?<!log_)std|var|variance|scale|shift|offset|minimum|maximum|min|max)s?$"
    r"|(^|[._])(scal(e|ing)|zero_point)(_\w+)?\.value$"
)
"""Names of vectors that describe data and are not learned, such as the scales of Brevitas, ``scaling_impl.value``."""

_STATE_OF_NORM = re.compile(r"running_|num_batches_tracked$")
"""Roles of the tensors in which norms keep statistics and count; some files store the count as a float."""

_TARGET_SCALE = 100.0
"""Factor beyond the limit for vectors from which an output's bias has the scale of its targets. A layer that something
multiplied by a thousand stays below it, since trained biases are at most 5."""

_TRUNCATION = 2.0
"""Where ``trunc_normal_`` of timm and of torch cut by default, in units of the values and not of their deviation."""

_DATA_RATIO = 100
"""Factor of the spike's ratio in files without a layer of a network. Of the flips of an exponent's bits, those that
multiply by 2 to 256 look like data."""

_FEWEST_CODES = 8
"""Different whole numbers from which they are codes, and no few entries that somebody wrote."""

_LARGEST_WITH_FRACTIONS = {"float64": 2.0**52, "float32": 2.0**23, "float16": 2.0**10, "bfloat16": 2.0**7}
"""Values from which a type holds whole numbers alone (IEEE 754: bits of the fraction)."""

_WIDE_RMS = 3.0
"""RMS of a weight above which it is not scaled by the code around it (equalised learning rates keep it near 1)."""


@rule("VAL002", "exploded-values", Severity.WARNING, worst=Severity.ERROR, on=Tensor, worse=("largest",))
def exploded_values(
    tensor: Tensor,
    checkpoint: Checkpoint,
    *,
    gain: float = 200.0,
    weight: float = 100.0,
    vector: float = 1000.0,
    wide: float = 60.0,
    certain: float = 1e6,
) -> Iterator[Finding]:
    """Values are far larger than in any trained layer.

    Why it matters:
        Exploded weights saturate the layers behind them, and their gradients vanish or overflow. Single extreme values
        suggest a damaged file.

    When it is normal:
        Running statistics, counters, codes (whole numbers), other buffers and what no optimizer holds have the scale of
        the data and are not checked. Neither are output layers whose bias has the scale of the targets (energies,
        prices), and tables of offsets. The RMS of an output layer may be large where its bias is as large: values of
        returns in the thousands. A weight that its optimizer holds and never gave a gradient was given, not trained,
        and a parameter of another name than weight or bias in a file without an optimizer may be a table of constants:
        notes. Key biases and embedding outliers of some language models reach several hundred.

    What to do:
        Compare with an earlier checkpoint of the run. Growth over steps is divergence: lower the learning rate, clip
        the gradients. A jump in one layer is an edit or a damaged file.

    Options:
        gain: The RMS of a weight times √fan-in above which it is reported; in 111 published agents it is 0.58 or 1.41
            initially and at most 50 after training.
        weight: The magnitude of an entry of a weight matrix above which it is reported; none of these agents exceeds
            60.
        vector: The magnitude of an entry of any other tensor above which it is reported; no bias of these agents
            exceeds 5.1, and key biases of published language models reach several hundred.
        wide: The RMS times √fan-in above which a weight with an RMS above 3 is reported; none of these agents and of
            340 healthy models has that. With an RMS of 1, a wide layer may be scaled in the code (equalised learning
            rates).
        certain: The magnitude above which it is an error; we know of no published model with a larger trained value.

    References:
        Measured on 111 published agents and 340 healthy models; the options have the figures.
    """
    layer, statistics = checkpoint.layer_of[tensor.name], tensor.statistics
    if not tensor.is_floating or layer.kind is Kind.BUFFER or not statistics.count or statistics.norm is None:
        return
    if any(each is tensor and _STATE_OF_NORM.match(role) for role, each in layer.tensors.items()):
        return
    if is_fixed(tensor, checkpoint) or _has_scale_of_data(tensor, layer, vector):
        return
    if layer.kind is Kind.PARAMETER and tensor.name not in checkpoint.moments and _holds_codes(tensor):
        return
    is_matrix = layer.kind in LEARNED_MATRICES and len(tensor.shape) > 1
    scale = statistics.norm / sqrt(statistics.count) * sqrt(_fan_in(tensor, layer)) if is_matrix else 0.0
    absolute = weight if is_matrix else vector
    # No activation follows an output layer, whose weights have the scale of the targets: returns of thousands.
    rms = statistics.norm / sqrt(statistics.count)
    is_wide = is_matrix and not layer.is_output and scale > wide and rms > _WIDE_RMS
    is_wide |= is_matrix and scale > gain and not _has_learned_scale(layer, rms)
    if statistics.absmax <= absolute and not is_wide:
        return
    message = f"values reach {statistics.absmax:,.4g}"
    if is_wide:
        message += f"; RMS times √fan-in is {scale:,.4g}, and below 50 in trained layers"
    yield exploded_values.finding(
        message,
        tensor,
        severity=Severity.ERROR if statistics.absmax > certain else _severity_of_constants(tensor, layer, checkpoint),
        evidence={"largest": statistics.absmax, "rms": statistics.norm / sqrt(statistics.count), "gain": scale},
    )


def _severity_of_constants(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> Severity | None:
    """Return a note for values that may have been given and not learned; ``None`` for all others."""
    if layer.kind is Kind.PARAMETER and tensor.size > 1 and not checkpoint.moments:
        return Severity.NOTE
    is_held = tensor.name in checkpoint.moments and not checkpoint.is_untrained
    return Severity.NOTE if is_held and was_trained(tensor, checkpoint) is False else None


def _holds_codes(tensor: Tensor) -> bool:
    """True for whole numbers in a floating type, such as the quantised copy of a weight; training makes none.

    The largest numbers of a type have no fractions, so a tensor with such numbers is no proof.
    """
    statistics = tensor.statistics
    if tensor.is_complex or statistics.nonfinite or statistics.absmax >= _LARGEST_WITH_FRACTIONS.get(tensor.dtype, 0.0):
        return False
    beginning = as_real(statistics.first_entries)
    if (beginning != np.floor(beginning)).any() or len(set(beginning.tolist())) < _FEWEST_CODES:
        return False
    return all((block == np.floor(block)).all() for block in map(as_real, tensor.values.blocks(BLOCK_ELEMENTS)))


def _has_learned_scale(layer: Layer, rms: float) -> bool:
    """True for an output layer whose bias has half the RMS of its weights: a bias starts near zero, so it learned that.

    Adaptive optimizers move weights and bias alike.
    """
    return layer.is_output and layer.bias is not None and layer.bias.statistics.absmax >= rms / 2


def _has_scale_of_data(tensor: Tensor, layer: Layer, vector: float) -> bool:
    """True for values in the unit of the data: an output layer whose bias shows the targets' size, or a statistic."""
    if layer.is_output and layer.bias is not None and layer.bias.statistics.absmax > _TARGET_SCALE * vector:
        return True
    if tensor.shape[1:] == (1,) and layer.bias is None:
        return True  # one number for each index: a table of offsets, such as the energies of atoms
    return len(tensor.shape) <= 1 and _STATISTIC.search(tensor.name) is not None


def _fan_in(tensor: Tensor, layer: Layer) -> int:
    """Return the fan-in of the init rule: inputs of a unit, or hidden units of a recurrent layer if these are more."""
    return max(tensor.fan_in, count_hidden(layer))


@rule("VAL003", "value-spike", Severity.WARNING, on=Tensor, worse=("indices", "largest"))
def value_spike(
    tensor: Tensor, checkpoint: Checkpoint, *, ratio: float = 10.0, smallest: int = 32
) -> Iterator[Finding]:
    """A few entries are orders of magnitude larger than all others in their tensor.

    Why it matters:
        Gradient descent changes the entries of a layer by similar steps. A single extreme entry is the sign of a
        flipped bit, a damaged download, or a manual edit. It dominates the output of its unit.

    When it is normal:
        Embeddings and language models have outlier dimensions, but these fill a column, not a single entry. Files that
        hold no layer of a network may hold data, such as counts: there a spike has a hundred times that ratio.

    What to do:
        Compare the file's hash with the original. If they are equal, look for the spike in earlier checkpoints to find
        out when it appeared.

    Options:
        ratio: How many times the next smaller entry an entry must have to be a spike; on published agents and networks,
            none has more than 2.7 times.
        smallest: The fewest entries of a tensor that is judged, so that there are others to compare with.

    References:
        A flipped exponent bit multiplies by 2, 4, 16, 256 or more; with a factor of 2 or 4, the value stays within
        the range of trained values. timm's ``trunc_normal_`` cuts at ±2 whatever the deviation, so one in 24 million
        draws is exactly 2; such values are not reported.
    """
    layer, statistics = checkpoint.layer_of[tensor.name], tensor.statistics
    if layer.kind not in LEARNED_MATRICES | {Kind.PARAMETER} or tensor.size < smallest or len(tensor.shape) < 2:
        return
    if layer.kind is Kind.PARAMETER and not holds_network(checkpoint):
        ratio *= _DATA_RATIO
    if not tensor.is_floating or statistics.nonfinite or not _may_have_spike(tensor, ratio):
        return
    largest = find_largest(tensor.values, max(1, tensor.size // 10_000) + 1, below=statistics.absmax / ratio)
    above = None if largest is None else _find_lowest_gap(largest.magnitudes, ratio)
    if largest is None or above is None:
        return
    if (largest.magnitudes[above:] == _TRUNCATION).all():
        return
    spikes, next_largest = np.sort(largest.positions[above:]), float(largest.magnitudes[above - 1])
    indices = [[int(axis) for axis in np.unravel_index(each, tensor.shape)] for each in spikes]
    yield value_spike.finding(
        f"{len(indices):,} of {tensor.size:,} values {'is' if len(indices) == 1 else 'are'} far larger than the "
        f"others (first at {indices[0]}): up to {statistics.absmax:,.4g}, "
        f"{statistics.absmax / next_largest:,.4g} times the largest of the others",
        tensor,
        evidence={"indices": indices, "largest": statistics.absmax, "next_largest": next_largest},
    )


def _may_have_spike(tensor: Tensor, ratio: float) -> bool:
    """Rule out almost all tensors without sorting their values.

    The largest of the other values is at least their root mean square, so a spike exceeds that by the ratio, less a
    tenth in case the others hold spikes too.
    """
    statistics = tensor.statistics
    if statistics.norm is None or not 0 < statistics.norm < inf:
        return False
    # Shares of the norm, since the squares of large values overflow.
    largest = statistics.absmax / statistics.norm
    return largest >= 0.9 * ratio * sqrt(max(1.0 - square(largest), 0.0) / statistics.count)


def _find_lowest_gap(rising: NDArray, ratio: float) -> int | None:
    """Return the position above the lowest gap of that ratio between neighbours; ``None`` where there is no gap."""
    gaps = np.flatnonzero(rising[1:] / ratio > rising[:-1])
    return int(gaps[0]) + 1 if gaps.size and rising[0] > 0 else None


@rule("VAL004", "near-overflow", Severity.WARNING, on=Tensor, worse=("largest",))
def near_overflow(tensor: Tensor, *, limit: float = 60_000.0) -> Iterator[Finding]:
    """A float16 tensor holds values close to the largest float16 number.

    Why it matters:
        The largest float16 number is 65,504. Values just below it were clipped, or they will overflow to infinity at
        the next update or multiplication.

    When it is normal:
        Masks hold the lowest float16 number on purpose; large negative values are not reported.

    What to do:
        Keep a float32 (or bfloat16) copy of the weights and lower the loss scale.

    Options:
        limit: The value from which it is reported, just below the largest float16 number (65,504).

    References:
        IEEE 754 binary16.
    """
    maximum = tensor.statistics.maximum
    if tensor.dtype == "float16" and maximum is not None and maximum >= limit:
        yield near_overflow.finding(
            f"values reach {maximum:,.0f}; the largest float16 number is 65,504",
            tensor,
            evidence={"largest": float(maximum)},
        )
