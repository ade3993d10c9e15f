"""Whether weights are still the random values that they were initialised with."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import FEEDFORWARD


def is_drawn_by_transformers(layer: Layer) -> bool:
    """True where mean and deviation of a layer's weight still are those of the transformers library's N(0, 0.02).

    transformers initialises biases to zero beside it; ``initializer_range`` is 0.02 in BERT, GPT-2 and their
    descendants (``_init_weights``). Mean and deviation may differ by four standard errors; a trained layer differs by
    more.
    """
    weight = layer.weight
    if weight is None or weight.size < 64:
        return False
    statistics = weight.statistics
    if statistics.std is None or statistics.mean is None:
        return False
    error = 0.02 / sqrt(2 * weight.size)
    return bool(abs(statistics.std - 0.02) < 4 * error and abs(statistics.mean) < 4 * 0.02 / sqrt(weight.size))


def is_drawn_orthogonally(checkpoint: Checkpoint) -> bool:
    """True where every weight matrix still is the orthogonal matrix of its initialisation: a network never trained.

    Policy gradient code initialises weights orthogonally and biases to zero (``torch.nn.init.orthogonal_``; Saxe et
    al., 1312.6120). Such a matrix is orthogonal to 1e-6 in float32; after one update, the error is a hundred times
    larger. If any matrix was trained, the network is not fresh.
    """
    weights = [each.weight for each in checkpoint.layers if each.kind in FEEDFORWARD and each.weight is not None]
    matrices = [each for each in weights if len(each.shape) > 1 and each.shape[0] > 1]
    return bool(matrices) and all(map(_is_orthogonal, matrices))


def is_drawn_uniformly(layer: Layer, gain: Tensor) -> bool:
    """True where a BatchNorm's gain still has the moments of U(0, 1), PyTorch's initialisation up to 1.1.

    The bias beside it must be exactly zero. Mean and variance may differ by four standard errors.
    """
    statistics = gain.statistics
    if not is_zero(layer.bias) or statistics.minimum is None or statistics.maximum is None:
        return False
    if statistics.mean is None or statistics.std is None or not 0 <= statistics.minimum <= statistics.maximum <= 1:
        return False
    draws = sqrt(gain.size)
    return bool(abs(statistics.mean - 0.5) < 4 * 0.289 / draws and abs(statistics.std**2 - 1 / 12) < 4 * 0.0745 / draws)


def _is_orthogonal(tensor: Tensor, tolerance: float = 1e-5, largest: int = 4096) -> bool:
    rows = tensor.shape[0]
    columns = tensor.size // rows
    norms = tensor.statistics.row_norms
    if tensor.dtype not in ("float32", "float64") or not 1 < min(rows, columns) <= largest or norms is None:
        return False
    if rows <= columns and norms.max() > norms.min() * (1 + 100 * tolerance):
        return False
    matrix = tensor.array.reshape(rows, columns)
    lines = matrix if rows <= columns else matrix.T
    # Eight lines rule out nearly every trained matrix; the product of all lines has cubic cost.
    return _has_orthogonal_lines(lines[:8], tolerance) and _has_orthogonal_lines(lines, tolerance)


def _has_orthogonal_lines(lines: NDArray, tolerance: float) -> bool:
    wide = lines.astype(np.float64)
    gram = wide @ wide.T
    scale = float(np.trace(gram)) / len(gram)
    return scale > 0 and bool(np.abs(gram - scale * np.eye(len(gram))).max() < tolerance * scale)
