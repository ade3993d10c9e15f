"""The scale of weights: values that have vanished, values on a coarse grid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import log10, sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.checkpoint.optimizer_steps import largest_relative_step, relative_step
from checkpoint_doctor.layers import DENSE
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, as_real, distinct
from checkpoint_doctor.text import quantity

_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)

_SAMPLE = 1024
"""Values at the beginning of a tensor that rule out a grid for nearly all tensors."""

_FEWEST_MAGNITUDES = 5
"""Fewer magnitudes than these are a binary or ternary weight, a mask, or a constant."""

_QUANTIZED = re.compile(r"(?i)quant|observer|zero_point|codebook|packed|(^|[._])(scales|weight_scale(_inv)?)$")
"""Names of what a quantised layer holds beside its weight."""


@rule("VAL006", "vanished-values", Severity.WARNING, worst=Severity.ERROR, on=Checkpoint, group_by=("denormal",))
def vanished_values(
    checkpoint: Checkpoint, *, gain: float = 1e-6, rms: float = 1e-8, steps: float = 0.01
) -> Iterator[Finding]:
    """Weights are far smaller than in any trained layer, so that the layer passes nothing on.

    Why it matters:
        A layer multiplies its inputs by its weights. With weights of 1e-15 its output is its bias, whatever it reads,
        and the gradients of the layers before it vanish in the same way. Below 1.2e-38 (denormal numbers), float32
        also loses digits, and many devices compute with 0 instead.

    When it is normal:
        Branches and heads that start at exactly zero are not reported, nor are gains, biases and adapters. Strong
        weight decay drives the weights of a part that receives no gradient towards zero.

    What to do:
        Compare with an earlier checkpoint. If all weights shrank together, look for a weight decay that is far too
        strong, a scale that was applied twice, or a conversion that mixed up exponents. If one branch did, look for
        what keeps gradients from it, and leave it out or reinitialise it.

    Options:
        gain: The RMS of a weight times √fan-in below which it has vanished, together with ``rms``: four orders of
            magnitude below the smallest of 496 matrices of 65 published checkpoints, 0.043.
        rms: The RMS below which it has vanished, together with ``gain``: five orders of magnitude below the smallest of
            these matrices, 0.0076, the action head of an agent that starts at a gain of 0.01.
        steps: The size of a weight, as a share of its last update (learning rate times the size of Adam's step), below
            which something shrank it afterwards; a weight is at least about as large as one update.

    References:
        Measured on 496 matrices of 65 published checkpoints. IEEE 754: the smallest normal number of float32 and
        bfloat16 is 1.2e-38.
    """
    weights = [each for each in _network_weights(checkpoint) if each.statistics.absmax > 0]
    vanished = [each for each in weights if _is_vanished(each, gain, rms)]
    if len(vanished) == len(weights) > 1:
        largest = max(map(_rms, vanished))
        yield vanished_values.finding(
            f"all {len(vanished):,} weight matrices have vanished: their RMS is {largest:.2g} or less, and 0.0076 or "
            "more in trained layers, so the network's output does not depend on its input",
            severity=Severity.ERROR,
            evidence={
                "tensors": [each.name for each in vanished],
                "rms": largest,
                "denormal": all(map(_is_denormal, vanished)),
            },
        )
    elif not checkpoint.is_untrained:
        for tensor in vanished:
            yield _report_vanished(tensor, checkpoint)
        yield from _smaller_than_their_steps([each for each in weights if each not in vanished], checkpoint, steps)


def _smaller_than_their_steps(weights: Sequence[Tensor], checkpoint: Checkpoint, steps: float) -> Iterator[Finding]:
    """Yield a finding for each weight that is far smaller than its last update alone must have made it."""
    for tensor in weights:
        optimizer = checkpoint.optimizer_of.get(tensor.name)
        if optimizer is None or not optimizer.takes_adam_steps or tensor.statistics.nonfinite:
            continue
        moments = checkpoint.moments[tensor.name]
        group = optimizer.group_of(moments.index)
        # The bound costs nothing; the step itself reads the moments once more.
        rate = abs(group.learning_rate) if group is not None else 0.0
        if _rms(tensor) >= steps * rate * (largest_relative_step(moments, optimizer) or 0.0):
            continue
        relative = relative_step(moments, optimizer)
        if relative is not None and _rms(tensor) < steps * (step := rate * relative):
            yield vanished_values.finding(
                f"its RMS is {_rms(tensor):.2g}, but its last update alone changed it by {step:.2g}: something shrank "
                "it after training",
                tensor,
                evidence={"rms": _rms(tensor), "step": step, "denormal": False, "trained": True},
            )


def _is_vanished(tensor: Tensor, gain: float, rms: float) -> bool:
    if tensor.statistics.nonfinite:
        return False
    return _rms(tensor) < rms and _rms(tensor) * sqrt(tensor.fan_in) < gain


def _report_vanished(tensor: Tensor, checkpoint: Checkpoint) -> Finding:
    is_denormal, is_trained = _is_denormal(tensor), was_trained(tensor, checkpoint)
    message = f"its values have vanished: their RMS is {_rms(tensor):.2g}, and 0.0076 or more in trained layers"
    if is_denormal:
        message += "; all of them are denormal numbers"
    if is_trained:
        message += ", though the optimizer recorded gradients"
    return vanished_values.finding(
        message,
        tensor,
        severity=Severity.ERROR if is_denormal and is_trained else Severity.WARNING,
        evidence={"rms": _rms(tensor), "denormal": is_denormal, "trained": is_trained},
    )


def _rms(tensor: Tensor) -> float:
    statistics = tensor.statistics
    # In float32, squares below 1e-45 are 0, so the norm of a large vanished tensor may be.
    return statistics.norm / sqrt(statistics.count) if statistics.norm else statistics.absmax


def _is_denormal(tensor: Tensor) -> bool:
    return tensor.dtype != "float16" and 0 < tensor.statistics.absmax < _SMALLEST_NORMAL


@rule("VAL007", "gridded-values", Severity.NOTE, worst=Severity.WARNING, on=Checkpoint, worse=("tensors",))
def gridded_values(checkpoint: Checkpoint, *, steps: float = 256.0, smallest: int = 64) -> Iterator[Finding]:
    """All values of a weight are multiples of a coarse decimal step, such as 0.01.

    Why it matters:
        Training does not leave weights on a decimal grid. They were rounded when they were exported as text, or they
        are the integers of a quantised model whose scale was lost. Rounding this coarse costs accuracy, and lost scales
        make the network useless.

    When it is normal:
        Quantised models; where integer types, names or buffers say so, nothing is reported. Binary and ternary weights
        and fixed-point ones (multiples of a power of two) are not reported either, nor are weights written by hand.

    What to do:
        Export the weights as binary (safetensors), or with nine significant digits. If they are integers, multiply each
        layer by its scale.

    Options:
        steps: The RMS of the values, in steps of the grid, below which it is reported; a grid of RMS/256 rounds as
            coarsely as bfloat16, which keeps 8 significant bits.
        smallest: The fewest entries of a weight that is judged; smaller ones are often written by hand.

    References:
        Nine digits identify every float32 (IEEE 754, 5.12.2).
    """
    weights = [each for each in _network_weights(checkpoint) if each.size >= smallest]
    grids = {each.name: grid for each in weights if (grid := _find_grid(each, steps)) is not None}
    if not grids or _says_quantized(checkpoint):
        return
    for each in weights:
        # Few magnitudes alone may be a ternary weight; on the grid of the others, they were rounded with them.
        if each.name not in grids and _has_grid_of(each, max(grids.values())):
            grids[each.name] = max(grids.values())
    is_everywhere = len(grids) == len(weights) > 1
    coarsest, finest = max(grids.values()), min(grids.values())
    step = f"{coarsest:g}" if coarsest == finest else f"{finest:g} to {coarsest:g}"
    subject = f"all {len(grids):,} weight matrices" if is_everywhere else f"{len(grids):,} of {len(weights):,} matrices"
    first = next(iter(grids))
    yield gridded_values.finding(
        f"the values of {subject} are multiples of {step}, and nothing in the file says that they are quantised"
        if len(grids) > 1
        else f"all its values are multiples of {step}, and nothing in the file says that they are quantised",
        checkpoint.by_name[first] if len(grids) == 1 else None,
        severity=Severity.WARNING if is_everywhere else None,
        evidence={"tensors": list(grids), "grids": list(grids.values()), "matrices": len(weights)},
        advice=f"Look at how they were exported, and what {quantity(len(grids), 'scale')} they lost."
        if coarsest >= 1
        else "Look at how they were exported: as text with few digits?",
    )


def _find_grid(tensor: Tensor, steps: float) -> float | None:
    """Return the coarsest power of ten of which all values are multiples, ``None`` where there is none."""
    precision = _find_precision(tensor)
    if precision is None:
        return None
    lowest = int(np.ceil(log10(_rms(tensor) / steps)))
    # What lies on a coarser grid lies on the finest too. Nearly no tensor does, so that nearly none is read again.
    if not _is_on(np.abs(as_real(tensor.statistics.first_entries)), 10.0**lowest, precision):
        return None
    sample = as_real(next(tensor.values.blocks(_SAMPLE)))
    magnitudes = distinct(np.abs(sample[sample != 0]))
    if magnitudes.size < _FEWEST_MAGNITUDES:
        return None
    highest = int(np.floor(log10(magnitudes[0]) + 1e-6))
    for exponent in range(highest, lowest - 1, -1):
        grid = 10.0**exponent
        if not _is_on(magnitudes, grid, precision):
            continue
        # Fixed-point weights are multiples of a power of two; 1/8 is a multiple of 0.001 too.
        if exponent < 0 and _is_on(magnitudes, 2.0 ** np.ceil(np.log2(grid)), precision):
            return None
        blocks = (np.abs(as_real(block)) for block in tensor.values.blocks(BLOCK_ELEMENTS))
        return grid if all(_is_on(block, grid, precision) for block in blocks) else None
    return None


def _has_grid_of(tensor: Tensor, grid: float) -> bool:
    precision = _find_precision(tensor)
    blocks = (np.abs(as_real(block)) for block in tensor.values.blocks(BLOCK_ELEMENTS))
    return precision is not None and all(_is_on(block, grid, precision) for block in blocks)


def _find_precision(tensor: Tensor) -> float | None:
    """Return the distance from 1 to the next number of a tensor's type; ``None`` where its values show no grid."""
    if tensor.dtype not in ("float32", "float64") or tensor.statistics.nonfinite or not 1e-30 < _rms(tensor) < 1e30:
        return None
    return float(np.finfo(np.dtype(tensor.dtype)).eps)


def _is_on(magnitudes: NDArray, grid: float, precision: float) -> bool:
    multiples = magnitudes / grid
    return bool((np.abs(multiples - np.round(multiples)) <= 2 * precision * np.maximum(multiples, 1.0)).all())


def _says_quantized(checkpoint: Checkpoint) -> bool:
    if any("quant" in key for key in (*checkpoint.hyperparameters, *checkpoint.metadata)):
        return True
    return any(
        _QUANTIZED.search(tensor.name) or (len(tensor.shape) > 1 and tensor.dtype.startswith(("q", "int8", "uint8")))
        for tensor in checkpoint.tensors
    )


def _network_weights(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Yield the matrices and kernels of a network's layers, each once; adapters, norms and buffers are left out."""
    for layer in checkpoint.distinct_layers:
        if layer.kind in DENSE:
            yield from layer.learned_weights
