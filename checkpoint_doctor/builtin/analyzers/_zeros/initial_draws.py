"""Whether weights are still the random values that they were initialised with."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.cells import count_hidden
from checkpoint_doctor.builtin.analyzers._evidence.readers import input_weight
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor, found_once
from checkpoint_doctor.layers import DENSE, FEEDFORWARD, NORMS
from checkpoint_doctor.statistics.values import as_real, square

FEWEST_DRAWS = 128
"""Entries from which a weight's distribution tells an initialisation from training."""

STANDARD_ERRORS = 4.0
"""Distance from the expected moments of a distribution up to which they agree."""

EDGE = 0.16
"""Distance of a random matrix's largest singular value from its limit, as a share of it: at most 0.156 in 2,000 draws
of 8 to 512 rows and columns."""


def shows_training(layer: Layer) -> bool | None:
    """Tell from its values alone whether a layer was ever trained; ``None`` where they do not tell.

    It was not trained where its bias or its weights are all zero; where its weights still are orthogonal, uniform or
    normal draws as the usual initialisations make them, which updates change within a few steps; or where the gains of
    a norm are all the same number, which weight decay alone does not change.
    """
    gain = layer.weight
    if layer.kind in NORMS:
        return None if gain is None else gain.statistics.minimum != gain.statistics.maximum
    if is_zero(layer.bias):
        return False
    drawn = is_drawn(layer)
    return None if drawn is None else not drawn


def is_drawn(layer: Layer) -> bool | None:
    """Tell whether the weights of a layer are initial draws or zero; ``None`` where their values do not tell."""
    answers = [
        _is_drawn(tensor, layer)
        for role, tensor in layer.tensors.items()
        if role.startswith("weight")
        and len(tensor.shape) > 1
        and tensor.is_floating
        and not tensor.statistics.nonfinite
    ]
    if False in answers:
        return False
    return None if None in answers or not answers else True


def _is_drawn(tensor: Tensor, layer: Layer) -> bool | None:
    """Tell whether a weight is zero or an initial draw; ``None`` where it has too few entries to tell."""
    if is_zero(tensor):
        return True
    if tensor.size < FEWEST_DRAWS:
        return None
    default = sqrt(1 / (3 * (count_hidden(layer) or _fans(tensor)[0])))
    limits = (sqrt(3) * deviation for deviation in (*_usual_deviations(tensor), default))
    return _is_orthogonal(tensor) or any(_is_uniform(tensor, each) for each in limits) or _is_normal(tensor)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Return how many inputs an output has, and how many outputs an input has."""
    field = tensor.size // (tensor.shape[0] * tensor.shape[1])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _usual_deviations(tensor: Tensor) -> tuple[float, ...]:
    """Return the deviations that Kaiming, Xavier and LeCun initialisation give a weight of this shape."""
    inputs, outputs = _fans(tensor)
    return sqrt(2 / inputs), sqrt(2 / outputs), sqrt(2 / (inputs + outputs)), sqrt(1 / inputs)


def _rounding(tensor: Tensor) -> float:
    """Return by how much rounding to its type may have enlarged a value, as a share of it."""
    return _TOLERANCE.get(tensor.dtype, 0.0)


def is_drawn_by_default(layer: Layer) -> bool:
    """True for a layer whose weight and bias are uniform draws within ±1/√fan_in, PyTorch's default for both."""
    weight, bias = layer.weight, layer.bias
    if weight is None or bias is None or not _has_default_weight(layer):
        return False
    limit = 1 / sqrt(weight.size // weight.shape[0])
    return 0 < bias.statistics.absmax <= limit * (1 + _rounding(bias))


def _has_default_weight(layer: Layer) -> bool:
    weight = layer.weight
    if weight is None or len(weight.shape) < 2 or weight.size < FEWEST_DRAWS or layer.transposed:
        return False
    return _is_uniform(weight, 1 / sqrt(weight.size // weight.shape[0]))


def _is_uniform(tensor: Tensor, limit: float) -> bool:
    """True where all entries are within ±limit, the largest almost reaches it, and mean and variance agree.

    These may differ by four standard errors, √(1/3n) of the limit and √(4/45n) of its square; the largest of n draws is
    farther than ten n-ths from the limit once in 20,000 times.
    """
    statistics, draws = tensor.statistics, sqrt(tensor.size)
    if statistics.mean is None or statistics.std is None:
        return False
    mean, variance = statistics.mean / limit, square(statistics.std / limit)
    return bool(
        1 - 10 / tensor.size <= statistics.absmax / limit <= 1 + _rounding(tensor)
        and abs(mean) < STANDARD_ERRORS * sqrt(1 / 3) / draws
        and abs(variance - 1 / 3) < STANDARD_ERRORS * sqrt(4 / 45) / draws
    )


def _is_normal(tensor: Tensor) -> bool:
    """True for independent draws from a normal distribution with one of the usual deviations.

    They are 1, 0.02, 0.01, and what Kaiming, Xavier and LeCun initialisation give a weight of this shape. Mean,
    deviation and kurtosis may differ by four standard errors. Training often changes these little, but it adds a few
    strong directions, or it began at an orthogonal matrix: then the largest singular value is not σ(√rows + √columns).
    """
    statistics, draws = tensor.statistics, sqrt(tensor.size)
    rows, columns = tensor.shape[0], tensor.size // tensor.shape[0]
    if not statistics.std or statistics.mean is None or not 1 < min(rows, columns) <= max(rows, columns) <= 2048:
        return False
    usual = (1.0, 0.02, 0.01, *_usual_deviations(tensor))
    if not any(abs(statistics.std / each - 1) < STANDARD_ERRORS / (sqrt(2) * draws) for each in usual):
        return False
    if abs(statistics.mean) > STANDARD_ERRORS * statistics.std / draws:
        return False
    scaled = (as_real(tensor.array).reshape(rows, columns) - statistics.mean) / statistics.std
    if abs(float((scaled**4).mean()) - 3) > STANDARD_ERRORS * sqrt(24) / draws:
        return False
    largest = float(np.linalg.svd(scaled, compute_uv=False)[0]) / (sqrt(rows) + sqrt(columns))
    return abs(largest - 1) < EDGE


def is_drawn_by_kernel_default(layer: Layer) -> bool:
    """True where a kernel still is the initial draw of Keras or Flax, which start the bias beside it at zero.

    Keras draws uniformly within ±√(6/(fan-in + fan-out)) (``GlorotUniform``), Flax from a normal distribution that is
    cut off at two deviations, with a variance of 1/fan-in left (``lecun_normal``). A dense layer over several axes has
    its fan-in from the first of them, or from all but the last.
    """
    weight = input_weight(layer)
    if weight is None or len(weight.shape) < 2 or weight.size < FEWEST_DRAWS or not weight.is_kernel:
        return False
    field = weight.size // (weight.shape[-1] * weight.shape[-2])
    if _is_uniform(weight, sqrt(6 / (field * (weight.shape[-1] + weight.shape[-2])))):
        return True
    return any(_is_cut_off_normal(weight, sqrt(1 / fan_in)) for fan_in in {weight.fan_in, weight.shape[0]})


def _is_cut_off_normal(tensor: Tensor, deviation: float) -> bool:
    """True for draws from a normal distribution that is cut off at two of its deviations, with this deviation left.

    Cutting leaves 0.8796 of the deviation and a kurtosis of 2.37. The largest of n draws is farther than 88 n-ths of a
    deviation from the limit once in 20,000 times.
    """
    statistics, draws = tensor.statistics, sqrt(tensor.size)
    if statistics.mean is None or statistics.std is None:
        return False
    limit = 2 * deviation / 0.87962566
    return bool(
        1 - 44 / tensor.size <= statistics.absmax / limit <= 1 + _rounding(tensor)
        and abs(statistics.mean) < STANDARD_ERRORS * deviation / draws
        and abs(square(statistics.std / deviation) - 1) < STANDARD_ERRORS * sqrt(1.37) / draws
    )


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


def has_initial_norms_and_biases(checkpoint: Checkpoint) -> bool:
    """True where the gains of all norms are one number in each and all biases are zero: a network never trained.

    Training moves each gain by steps of its own. Norms of fewer than four units and files with a single norm say
    nothing, and neither do networks of PyTorch's default initialisation, which draws biases.
    """
    dense = [each for each in checkpoint.layers if each.kind in DENSE]
    if any(map(_has_default_weight, dense)) or not all(is_zero(each.bias) for each in dense if each.bias is not None):
        return False
    gains = [each.weight for each in checkpoint.layers if each.kind in NORMS and each.weight is not None]
    wide = [each.statistics for each in gains if each.size >= _FEWEST_GAINS]
    return len(wide) > 1 and all(each.minimum == each.maximum for each in wide)


def is_drawn_otherwise(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a layer of an untrained network whose weight was not drawn as PyTorch draws it by default.

    Code that draws the weight in its own way, as graph convolutions do, begins the bias at zero.
    """
    if layer.kind not in FEEDFORWARD or _has_default_weight(layer):
        return False
    return is_drawn(layer) is True and _has_initial_draws_alone(checkpoint)


@found_once
def _has_initial_draws_alone(checkpoint: Checkpoint) -> bool:
    """True where every weight that is large enough to tell still is an initial draw: a network never trained.

    There must be three of them, no norm whose gains differ, and no live bias beside a weight that was not drawn as
    PyTorch draws it.
    """
    drawn = 0
    for layer in checkpoint.layers:
        if layer.kind in NORMS and shows_training(layer):
            return False
        answer = is_drawn(layer) if layer.kind in DENSE else None
        has_own_draw = layer.kind in FEEDFORWARD and answer is True and not _has_default_weight(layer)
        if answer is False or (has_own_draw and layer.bias is not None and not is_zero(layer.bias)):
            return False
        drawn += bool(answer)
    return drawn >= _FEWEST_DRAWN


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
    return bool(
        abs(statistics.mean - 0.5) < 4 * 0.289 / draws and abs(square(statistics.std) - 1 / 12) < 4 * 0.0745 / draws
    )


_FEWEST_DRAWN = 3
"""Layers with an initial draw from which a network is taken for an untrained one."""

_FEWEST_GAINS = 4

_TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Error of an orthogonal matrix that was rounded to a type: about four times the distance between its numbers."""


def is_orthogonal(layer: Layer) -> bool:
    """True where the weight still is the orthogonal matrix of its initialisation, which one update would show."""
    weight = layer.weight
    return weight is not None and len(weight.shape) > 1 and weight.shape[0] > 1 and _is_orthogonal(weight)


def _is_orthogonal(tensor: Tensor, largest: int = 4096) -> bool:
    rows, columns = tensor.matrix_shape
    norms, tolerance = tensor.statistics.row_norms, _TOLERANCE.get(tensor.dtype)
    if tolerance is None or not 1 < min(rows, columns) <= largest or norms is None:
        return False
    if rows <= columns and norms.max() > norms.min() * (1 + max(1e-3, 2 * tolerance)):
        return False
    matrix = tensor.array.reshape(rows, columns)
    lines = matrix if rows <= columns else matrix.T
    # Eight lines rule out nearly every trained matrix; the product of all lines has cubic cost.
    return _has_orthogonal_lines(lines[:8], tolerance) and _has_orthogonal_lines(lines, tolerance)


def _has_orthogonal_lines(lines: NDArray, tolerance: float) -> bool:
    wide = as_real(lines)
    gram = wide @ wide.T
    scale = float(np.trace(gram)) / len(gram)
    return scale > 0 and bool(np.abs(gram - scale * np.eye(len(gram))).max() < tolerance * scale)
