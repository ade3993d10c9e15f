"""Whether scattered zeros follow a deliberate pattern: pruning, masks, structured sparsity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.readers import zero_channels, zero_inputs, zero_units
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor, found_once
from checkpoint_doctor.layers import PROJECTIONS
from checkpoint_doctor.layers.fixed_transforms import is_fixed_transform
from checkpoint_doctor.statistics.values import as_real, distinct, median

PRUNED_SHARE = 0.5
"""Share of a model's large weights with scattered zeros from which the model counts as pruned. A fault affects one
layer; pruning affects most of them."""

NOTICEABLE = 0.05
"""Share of scattered zeros from which a weight counts as pruned."""


FEW_SMALL = 0.0625
"""Share of the other weights below a quarter of their median, below which small weights were pruned. It is 13.4 % of a
normal distribution, 12.5 % of a uniform one, more of heavier tails, and zeros at random places do not change it. This
is half of the least, since weights that are trained on after pruning spread a little."""

MANY_TINY = 0.10
"""Share of the other weights below a twentieth of their median, above which a penalty shrank them towards zero. It is
2.7 % of a normal distribution and 3.4 % of a Laplace distribution."""

FEWEST = 64
"""Weights that are not zero, from which their distribution shows a pattern."""

MOST_LEVELS = 16
"""Distinct magnitudes up to which values lie on a grid: 4-bit integers have 8, or 16 with a zero point."""

_FEWEST_PRUNED = 4
"""Zero rows from which it shows whether they are one run."""

SAMPLE = 1 << 16
"""Entries in which distinct magnitudes are counted."""


def scattered_zeros(tensor: Tensor) -> tuple[int, float]:
    """Return number and share of exact zeros that lie neither in a zero row nor in a zero column."""
    statistics = tensor.statistics
    if statistics.zeros == 0 or len(tensor.shape) < 2 or not tensor.size:
        return 0, 0.0
    rows, columns = tensor.shape[-2:] if tensor.is_kernel else tensor.shape[:2]
    depth = tensor.size // (rows * columns)
    zero_rows = len(zero_channels(tensor) if tensor.is_kernel else statistics.zero_rows)
    zero_columns = len(statistics.zero_columns)
    structured = (zero_rows * columns + zero_columns * (rows - zero_rows)) * depth
    remaining = tensor.size - structured
    scattered = statistics.zeros - structured
    return scattered, scattered / remaining if remaining else 0.0


def describe_sparsity(tensor: Tensor, layer: Layer, checkpoint: Checkpoint, why: ZeroEvidence) -> str:
    """Name the deliberate pattern that the zeros of a weight follow; empty where they follow none."""
    if "weight_mask" in layer.tensors or f"{tensor.name}_mask" in checkpoint.by_name:
        return "the file holds a pruning mask for it"
    if is_pruned(checkpoint):
        return "most of the model's weights have scattered zeros, as after pruning"
    if why.cause is Cause.NEVER_TRAINED:
        return "the zero entries never received a gradient while the others did: a fixed mask"
    if is_fixed_transform(tensor.name):
        return "by its name it is a transform that is computed and not learned"
    if is_fixed(tensor, checkpoint):
        return "no optimizer holds it while they hold others: it is fixed"
    if tensor.size > 1 << 26:
        return ""
    array = tensor.array
    nonzero = (array != 0).reshape(tensor.matrix_shape)
    return (
        _name_pattern(nonzero.T if tensor.is_kernel else nonzero)
        or _name_distribution(np.abs(as_real(array[array != 0])), tensor)
        or _name_mask(array == 0, checkpoint)
    )


def is_fixed(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    """True for a tensor that no optimizer holds, in a file whose optimizers hold others and name all they hold."""
    if tensor.name in checkpoint.moments or not checkpoint.moments:
        return False
    return not any(optimizer.unmatched or optimizer.mismatch for optimizer in checkpoint.optimizers)


def _name_distribution(magnitudes: NDArray, tensor: Tensor) -> str:
    """Name the way in which non-zero magnitudes (flat) show that the zeros were made on purpose."""
    if tensor.statistics.nonfinite or magnitudes.size < FEWEST:
        return ""
    levels = distinct(magnitudes[:SAMPLE])
    if len(levels) <= MOST_LEVELS:
        return f"its other weights have {len(levels)} distinct magnitudes: a grid"
    if (tensor.statistics.minimum or 0) >= 0 or (tensor.statistics.maximum or 0) <= 0:
        return "its other weights all have one sign: clamped at zero"
    typical = median(magnitudes)
    if np.count_nonzero(magnitudes < 0.25 * typical) < FEW_SMALL * magnitudes.size:
        return "few of its other weights are small: pruned by magnitude"
    if np.count_nonzero(magnitudes < 0.05 * typical) > MANY_TINY * magnitudes.size:
        return "its other weights lead down to zero: shrunk by an L1 penalty"
    return ""


def _name_mask(zero: NDArray, checkpoint: Checkpoint) -> str:
    name = _masks(checkpoint).get(_digest(zero))
    return f"its zeros are those of {name}: a mask" if name else ""


@found_once
def _masks(checkpoint: Checkpoint) -> dict[tuple[object, ...], str]:
    """Return the names of the tensors of zeros and ones, by their shapes and the digests of their zeros."""
    return {
        _digest(tensor.array == 0): tensor.name
        for tensor in reversed(checkpoint.distinct_tensors)
        if (tensor.statistics.minimum, tensor.statistics.maximum) == (0, 1)
    }


def _digest(zero: NDArray) -> tuple[object, ...]:
    import hashlib

    return zero.shape, hashlib.blake2b(np.packbits(zero).tobytes(), digest_size=16).digest()


@found_once
def is_pruned(checkpoint: Checkpoint) -> bool:
    """True where zeros are scattered over most of a model's weights, as after pruning."""
    weights = [
        tensor
        for layer in checkpoint.layers
        if layer.kind in PROJECTIONS
        for role, tensor in layer.tensors.items()
        if role.startswith("weight") and len(tensor.shape) > 1 and tensor.size >= 64
    ]
    pruned = sum(scattered_zeros(weight)[1] >= NOTICEABLE for weight in weights)
    return pruned >= 2 and pruned >= PRUNED_SHARE * len(weights)


def _name_pattern(nonzero: NDArray) -> str:
    per_row = nonzero.sum(axis=1)
    if per_row.max() == 1:
        return "each row has one non-zero entry: a selection or one-hot matrix"
    rows, columns = nonzero.shape
    if rows == columns and (
        not nonzero[np.triu_indices(rows, 1)].any() or not nonzero[np.tril_indices(rows, -1)].any()
    ):
        return "a triangular matrix"
    if columns % 4 == 0 and (nonzero.reshape(rows, -1, 4).sum(axis=2) <= 2).all():
        return "at most two of every four entries are non-zero: 2:4 structured sparsity"
    unique = np.unique(nonzero, axis=0)
    if rows >= 8 and len(unique) <= max(2, rows // 8):
        return "many rows have zeros at the same positions: a masked or grouped layer"
    order = nonzero[np.argsort(per_row, kind="stable")]
    if len(unique) < rows and rows >= 8 and not (order[:-1] & ~order[1:]).any():
        return "each row's non-zero inputs include those of the row before: an autoregressive mask"
    return ""


def are_removed(layer: Layer, units: list[int], checkpoint: Checkpoint) -> bool:
    """Tell whether units have neither incoming weights nor a bias nor outgoing weights: they were pruned as a whole."""
    weight, bias = layer.weight, layer.bias
    readers = [checkpoint.layer_by_name[name] for name in layer.followers]
    if weight is None or not readers or bias is not layer.unit_bias:
        return False
    if not set(units) <= set(zero_units(layer, weight)) or (bias is not None and bias.array[units].any()):
        return False
    return all(
        reader.weight is not None and set(units) <= set(zero_inputs(reader, reader.weight)) for reader in readers
    )


def are_pruned_units(layer: Layer, rows: Sequence[int], why: ZeroEvidence) -> bool:
    """Tell whether zero rows of unknown cause look like units that were pruned by the size of their weights.

    ``torch.nn.utils.prune.ln_structured`` removes them wherever they are and leaves their biases. Code that resets
    units sets the biases too, and a slice or a torn write is one run of rows.
    """
    if why.cause is not Cause.UNKNOWN or layer.unit_bias is None or len(rows) < _FEWEST_PRUNED:
        return False
    is_one_run = rows[-1] - rows[0] == len(rows) - 1
    return not is_one_run and bool(layer.unit_bias.array[list(rows)].all())
