"""The signal profile: how large each layer's inputs, gradients and updates were, as the optimizer's moments show."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import exp, inf, isfinite, prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint.layers import Layer
from checkpoint_doctor.checkpoint.moment_decay import decay_rates_of, second_moment_correction
from checkpoint_doctor.checkpoint.optimizers import Moments, Optimizer
from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.layers import PROJECTIONS, RECURRENT, Kind
from checkpoint_doctor.layers.attention import is_key_bias
from checkpoint_doctor.statistics import signal
from checkpoint_doctor.statistics.values import as_real, square

if TYPE_CHECKING:
    from checkpoint_doctor.checkpoint.checkpoint import Checkpoint

FEWEST_UPDATES = 20
"""Updates below which the moments are a mean of too few gradients (docs/signal-profile.md has the measured errors)."""

LARGEST_CERTAIN = 1e4
"""Input RMS above which a bias may have no gradient but rounding errors. float32 rounds to 6e-8 of what is summed, and
biases whose gradient vanishes by construction read 7e4 to 1e8 in published files. Larger readings are given only where
the first moments show that the bias has a gradient."""

LARGEST_POSSIBLE = 1e5
"""The same where there are no first moments to tell."""

LARGEST_DECAY_SHARE = 0.5
"""Share of second moments from which weight decay inside the gradient (L2) blurs the reading. Below it, L2
makes the reading at most a factor of √2 too large."""

LARGEST_READ = 1 << 22
"""Entries of the largest weight whose second moments are read again for its single features."""


class LayerSignal(Struct, frozen=True, eq=False, dict=True):
    """What the moments of one layer show about the signals that flowed through it in the last 1/(1-β2) updates."""

    reason: str = ""
    """Why ``input_rms`` is not known, in words; empty where it is."""
    input_rms: float | None = None
    """Root mean square of the layer's inputs, over all features. A high value is certain within a factor of 4, a low
    value is none: where inputs have mean zero and gradients keep their sign over a batch, they cancel."""
    hidden_rms: float | None = None
    """Root mean square of the hidden state that a recurrent layer reads."""
    gradient_rms: float | None = None
    """Root mean square over the units of the gradient of the batch's loss with respect to their output (before the
    activation), after clipping; summed over positions and time steps."""
    update_ratio: float | None = None
    """The next step of the layer's weight (in a recurrent layer ``weight_ih``) over the weight, by their norms."""
    read_features: Callable[[], _Features | None] = lambda: None
    """Reads the second moments again, for the features; use ``feature_rms`` and ``constant_features``."""

    @cached_property
    def _features(self) -> _Features | None:
        return self.read_features()

    @property
    def feature_rms(self) -> NDArray | None:
        """Root mean square of each input feature (of a convolution: input channel); ``None`` where it is not known.

        Read at the first access. Weights of more than 4 million entries are not read again.
        """
        return None if self._features is None else self._features.rms

    @property
    def constant_features(self) -> NDArray | None:
        """Which input features were one number other than 0 in all of these updates; ``None`` where it is not known."""
        return None if self._features is None else self._features.constant


class _Features(Struct, frozen=True, eq=False):
    rms: NDArray
    constant: NDArray


def read_signal(layer: Layer, checkpoint: Checkpoint) -> LayerSignal:
    """Return a layer's part of the signal profile."""
    weight = layer.tensors.get("weight_ih") or layer.weight
    if layer.kind not in PROJECTIONS or weight is None or len(weight.shape) < 2 or not weight.size:
        return LayerSignal("it does not multiply inputs by a matrix or kernel")
    ratio = update_ratio(weight, checkpoint)
    bias = layer.tensors.get("bias_ih") or layer.bias
    reason = _why_unknown(layer, weight, bias, checkpoint)
    if reason or bias is None:
        return LayerSignal(reason, update_ratio=ratio)
    squares, entries = _row_squares(bias, checkpoint), _row_squares(weight, checkpoint)
    optimizer = checkpoint.optimizer_of[bias.name]
    correction = second_moment_correction(checkpoint.moments[bias.name], optimizer)
    gradient = signal.gradient_rms(squares, correction) if correction else None
    if layer.transposed:
        # Rows are inputs there: all units count.
        inputs = sqrt(float(entries.sum()) / (prod(weight.shape) // squares.size * float(squares.sum())))
    else:
        inputs = signal.input_rms(entries, squares, prod(weight.shape[1:])) or 0.0
    if inputs > LARGEST_CERTAIN and not _has_gradient_for_its_bias(layer, weight, bias, inputs, checkpoint):
        reason = "its bias has no gradient, or next to none beside that of its weight"
        return LayerSignal(reason, gradient_rms=gradient, update_ratio=ratio)
    return LayerSignal(
        input_rms=inputs,
        hidden_rms=_read_hidden(layer, checkpoint),
        gradient_rms=gradient,
        update_ratio=ratio,
        read_features=lambda: _read_features(layer, weight, squares, checkpoint),
    )


def update_ratio(tensor: Tensor, checkpoint: Checkpoint) -> float | None:
    """Return the norm of a tensor's next step over its own norm, as its learning rate and moments show.

    ``None`` for steps that depend on more than that: optimizers that scale their steps themselves, factored moments,
    plain SGD. RMSprop keeps no first moment; its step is taken to be the learning rate in every entry.
    """
    moments = checkpoint.moments.get(tensor.name)
    optimizer = checkpoint.optimizer_of.get(tensor.name)
    statistics = moments.statistics if moments is not None else None
    if moments is None or optimizer is None or statistics is None or not tensor.statistics.norm:
        return None
    group, correction = optimizer.group_of(moments.index), second_moment_correction(moments, optimizer)
    rates = decay_rates_of(moments, optimizer)
    if group is None or not correction or rates is None or statistics.nonfinite_first or statistics.nonfinite_second:
        return None
    size = tensor.statistics.norm / sqrt(tensor.size)
    if "square_avg" in moments.state and optimizer.kind == "RMSprop" and not group.options.get("momentum"):
        return abs(group.learning_rate) * sqrt(1.0 - statistics.untouched / max(statistics.count, 1)) / size
    if not optimizer.takes_adam_steps or not rates.first or not moments.step:
        return None
    first = 1.0 if rates.first == inf else 1.0 - exp(-rates.first * moments.step)
    step = signal.relative_step(statistics, (first, correction), group.number("eps"))
    return abs(group.learning_rate) * step / size


def _why_unknown(layer: Layer, weight: Tensor, bias: Tensor | None, checkpoint: Checkpoint) -> str:
    """Return why the moments do not show the size of a layer's inputs, ``""`` where they do."""
    moments = checkpoint.moments.get(weight.name)
    if moments is None:
        return "no optimizer in the file holds it"
    if not moments.state:
        return "its optimizer has no state for it"
    optimizer = checkpoint.optimizer_of[weight.name]
    if reason := _why_moments_are_not_squares(moments, weight, optimizer):
        return reason
    if not moments.step:
        return "its updates were not counted"
    if bias is None:
        return "it has no bias, whose moments would show the size of its gradient"
    held = checkpoint.moments.get(bias.name)
    if held is None or not held.state:
        return "its bias is not trained"
    if held.step != moments.step or checkpoint.optimizer_of[bias.name] is not optimizer:
        return "its weight and its bias were not trained together"
    if moments.step < FEWEST_UPDATES:
        return f"fewer than {FEWEST_UPDATES} updates were made"
    if second_moment_correction(moments, optimizer) is None:
        return "the rest of its optimizer's initial second moment is still in it"
    if layer.transposed and (layer.kind is Kind.CONV or len(weight.shape) > 2):
        return "a transposed convolution's bias has more positions than its kernel"
    if _is_lost_in_what_follows(layer, bias, checkpoint):
        return "what follows takes the gradient of its bias away"
    if bias.shape != weight.shape[1 if layer.transposed else 0 :][:1]:
        return "its bias has another number of units than its weight"
    return _why_moments_are_not_squares(held, bias, optimizer) or _why_values_are_no_use(weight, bias, checkpoint)


def _why_moments_are_not_squares(moments: Moments, tensor: Tensor, optimizer: Optimizer) -> str:
    if moments.second is None or not {"exp_avg_sq", "square_avg"} & moments.state.keys():
        return f"{optimizer.kind or 'its optimizer'} keeps no running mean of squared gradients"
    if moments.second.shape != tensor.shape or moments.statistics is None:
        return "its optimizer keeps squared gradients in another shape"
    return ""


def _why_values_are_no_use(weight: Tensor, bias: Tensor, checkpoint: Checkpoint) -> str:
    for tensor in (weight, bias):
        statistics = checkpoint.moments[tensor.name].statistics
        if statistics is None or statistics.row_squares is None:
            return "its optimizer keeps no running mean of squared gradients"
        if statistics.nonfinite_second:
            return "its second moments are not all finite"
        with np.errstate(over="ignore"):
            if not isfinite(statistics.row_squares.sum()):
                return "its second moments are too large to be added up"
    squares = _row_squares(bias, checkpoint)
    if not signal.find_live_units(squares).any():
        return "none of its units received a gradient lately"
    inputs = weight.size // squares.size
    if any(_weight_decay_share(each, inputs, checkpoint) > LARGEST_DECAY_SHARE for each in (weight, bias)):
        return "weight decay inside its gradient is larger than the gradient"
    return ""


def _is_lost_in_what_follows(layer: Layer, bias: Tensor, checkpoint: Checkpoint) -> bool:
    """True where a shift of all outputs of a unit changes nothing: before a batch norm, or in an attention's keys.

    A group norm may have one channel per group (an instance norm), which takes the mean of each channel away.
    """
    follower = checkpoint.layer_by_name.get(layer.following or "")
    is_normalized = follower is not None and follower.kind in (Kind.BATCH_NORM, Kind.GROUP_NORM)
    return is_normalized or is_key_bias(bias.name)


def _has_gradient_for_its_bias(
    layer: Layer, weight: Tensor, bias: Tensor, inputs: float, checkpoint: Checkpoint
) -> bool:
    """True where the gradient of a layer's bias is more than rounding: that of its largest feature goes with it."""
    if layer.kind in RECURRENT:
        return True
    means, squares = checkpoint.moments[weight.name].first, checkpoint.moments[weight.name].second
    bias_means = checkpoint.moments[bias.name].first
    if means is None or squares is None or bias_means is None or weight.size > LARGEST_READ:
        return inputs <= LARGEST_POSSIBLE
    mean, square = (array.T if layer.transposed else array for array in (means.array, squares.array))
    return signal.goes_with_bias(mean, square, bias_means.array, _row_squares(bias, checkpoint))


def _weight_decay_share(tensor: Tensor, inputs: int, checkpoint: Checkpoint) -> float:
    """Return how much of a tensor's second moments is L2's, which adds λ · w to the gradient; 0.0 where it is not.

    The weights may have been as large as at the start (PyTorch draws from ±1/√inputs) when the gradients were squared.
    """
    moments, optimizer = checkpoint.moments[tensor.name], checkpoint.optimizer_of[tensor.name]
    group = optimizer.group_of(moments.index)
    options = group.options if group else {}
    decay = options.get("weight_decay")
    if not isinstance(decay, (int, float)) or optimizer.kind == "AdamW" or options.get("decoupled_weight_decay"):
        return 0.0
    correction, statistics = second_moment_correction(moments, optimizer), moments.statistics
    if not decay or not correction or statistics is None or not statistics.total:
        return 0.0
    squares = max(square(tensor.statistics.norm or 0.0), tensor.size / (3.0 * inputs))
    return square(decay) * squares / (statistics.total / correction)


def _read_hidden(layer: Layer, checkpoint: Checkpoint) -> float | None:
    """Return the RMS of a recurrent layer's hidden state, from the hidden-to-hidden weight and its bias."""
    weight = layer.tensors.get("weight_hh")
    bias = layer.tensors.get("bias_hh") or layer.tensors.get("bias_ih") or layer.bias
    if layer.transposed or layer.kind not in RECURRENT or weight is None or bias is None:
        return None
    if _why_unknown(layer, weight, bias, checkpoint):
        return None
    rows, squares = _row_squares(weight, checkpoint), _row_squares(bias, checkpoint)
    return signal.input_rms(rows, squares, weight.shape[1])


def _read_features(layer: Layer, weight: Tensor, bias: NDArray, checkpoint: Checkpoint) -> _Features | None:
    second = checkpoint.moments[weight.name].second
    if second is None or weight.size > LARGEST_READ:
        return None
    array = np.abs(as_real(second.array))
    squares = signal.feature_squares(array.T if layer.transposed else array, bias)
    if squares is None:
        return None
    return _Features(signal.feature_rms(squares, bias), signal.find_constant_features(squares, bias))


def _row_squares(tensor: Tensor, checkpoint: Checkpoint) -> NDArray:
    statistics = checkpoint.moments[tensor.name].statistics
    assert statistics is not None
    assert statistics.row_squares is not None
    return statistics.row_squares
