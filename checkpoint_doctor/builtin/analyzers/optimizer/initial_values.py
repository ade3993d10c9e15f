"""Tensors with initial values under trained moments: written over after training, or never loaded."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from statistics import median

import numpy as np
from msgspec import Struct

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import count_updates
from checkpoint_doctor.builtin.analyzers._evidence.initial_parameters import STILL, default_limit, sort_parameter
from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._evidence.unmoved_parameters import find_unmoved
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor
from checkpoint_doctor.checkpoint.optimizer_steps import relative_step
from checkpoint_doctor.layers import NORMS, WITH_UNITS
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS, as_real

_MOVED_GAIN = 1e-3
"""Distance from 1 of another norm's gains from which it is certain that gains moved in this run."""

_COMPARABLE = 0.1
"""Speed relative to the other norm's, down to which a gain must have moved along with it."""

_FEWEST_ENTRIES = 64

_MANY_ENTRIES = 1024
"""Entries from which a distribution tells a draw from trained values without help."""

_MOST_ROWS = 64
"""Rows that are compared with one another."""


class _Weight(Struct, frozen=True):
    """A weight matrix that the optimizer trained, and how far it is from PyTorch's initial distribution."""

    tensor: Tensor
    outside: float
    """Entries outside of the initial interval ±1/√fan_in."""
    reach: float
    """Entries that one unit of speed takes out of it: their number times the speed over the interval's width."""
    is_initial: bool
    """True where its values are distributed as PyTorch draws them."""


@rule("OPT010", "initial-values", Severity.WARNING, on=Optimizer, part=("optimizer",), worse=("tensors",))
def initial_values(
    optimizer: Optimizer, checkpoint: Checkpoint, *, expected: float = 10.0, least_updates: int = 50
) -> Iterator[Finding]:
    """Some tensors have the values of their initialisation, although the optimizer trained them as it did the others.

    Why it matters:
        Their moments prove that they were trained, so the values in this file are not the trained ones: a part of the
        weights was not loaded (``strict=False``, a renamed module, a new head), or was initialised again by code that
        runs after loading.

    When it is normal:
        Where all tensors are the initial ones, nothing-moved says so. A small head whose trained values are spread like
        a draw by chance is not reported where its rows depend on one another, as those of a softmax over two actions,
        or where its bias has left the initial interval.
        Tensors without a gradient, or whose steps are far smaller than those of the others, are not reported.

    What to do:
        Take the tensors from an earlier checkpoint. Look at what ``load_state_dict`` returns (missing and unexpected
        keys), and for a call of ``reset_parameters`` or ``apply(init_weights)`` after loading. A head that is new on
        purpose needs new moments as well: create the optimizer after the model is complete.

    Options:
        expected: The number of entries that should have left the initial interval by now where none has; from 10 on,
            chance explains it once in 20,000.
        least_updates: The number of updates from which tensors are judged; before, little has moved.

    References:
        PyTorch draws weights of linear, convolutional and recurrent layers from ±1/√fan_in (recurrent: ±1/√hidden);
        gains start at exactly 1. The entries that trained layers of the same optimizer have outside of that interval,
        in units of their speed (lr · RMS(m̂/√v̂)), give the number that this tensor should have outside.
    """
    if optimizer.mismatch or find_unmoved(optimizer, checkpoint) is not None:
        return
    names = [*_fresh_weights(optimizer, checkpoint, expected, least_updates)]
    names += [*_fresh_gains(optimizer, checkpoint, least_updates)]
    if not names:
        return
    steps = count_updates(optimizer) or checkpoint.updates or checkpoint.step or 0
    what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other tensor{'s' * (len(names) > 2)}"
    verb = "has" if len(names) == 1 else "have"
    yield initial_values.finding(
        f"{what} {verb} the values of the initialisation under moments of {steps:,} updates, while other tensors of "
        f"{optimizer.name} have moved",
        checkpoint.by_name[names[0]] if len(names) == 1 else None,
        evidence={"optimizer": optimizer.name, "tensors": names, "updates": steps},
        advice="Take them from an earlier checkpoint; look at what was not loaded, or initialised again.",
    )


def _fresh_weights(optimizer: Optimizer, checkpoint: Checkpoint, expected: float, least_updates: int) -> Iterator[str]:
    """Yield weights that are as drawn, where those that moved tell how many of their entries should not be."""
    weights = list(_weights(optimizer, checkpoint, least_updates))
    rates = [each.outside / each.reach for each in weights if each.outside]
    if rates:
        typical = median(rates)
        for each in weights:
            if each.is_initial and typical * each.reach >= expected and _has_independent_rows(each.tensor):
                yield each.tensor.name


def _has_independent_rows(tensor: Tensor) -> bool:
    """Return whether no two rows go together further than those of a draw do: six deviations of their cosine.

    The values of a small trained head may be distributed as a draw by chance. Its rows are not independent: a softmax
    over two actions moves them in opposite directions.
    """
    rows = as_real(next(tensor.values.blocks(BLOCK_ELEMENTS))).reshape(-1, tensor.size // tensor.shape[0])[:_MOST_ROWS]
    rows = rows / np.maximum(np.sqrt((rows * rows).sum(axis=1, keepdims=True)), np.finfo(np.float64).tiny)
    cosines = np.abs(rows @ rows.T)
    np.fill_diagonal(cosines, 0.0)
    return bool(cosines.max() <= 6.0 / sqrt(rows.shape[1]))


def _weights(optimizer: Optimizer, checkpoint: Checkpoint, least_updates: int) -> Iterator[_Weight]:
    for moments, tensor in _trained(optimizer, checkpoint, least_updates):
        layer = checkpoint.layer_of[tensor.name]
        limit = default_limit(layer) if layer.kind in WITH_UNITS and len(tensor.shape) > 1 else None
        speed = _speed(moments, optimizer)
        if limit is None or not speed or tensor.size < _FEWEST_ENTRIES:
            continue
        is_initial = bool(sort_parameter(tensor, layer).uniform) and not _has_trained_bias(tensor, layer, limit)
        outside = 0.0 if is_initial else _count_outside(tensor, limit * (1 + STILL))
        yield _Weight(tensor, outside, tensor.size * speed / limit, is_initial)


def _has_trained_bias(tensor: Tensor, layer: Layer, limit: float) -> bool:
    """True for a small weight beside a bias that left the initial interval: what draws a weight anew draws its bias."""
    if tensor.size >= _MANY_ENTRIES or layer.bias is None:
        return False
    return layer.bias.statistics.absmax > limit * (1 + STILL)


def _count_outside(tensor: Tensor, limit: float) -> float:
    """Return how many entries are beyond a limit on either side; of a large tensor, as its first block has them."""
    if tensor.statistics.absmax <= limit:
        return 0.0
    block = next(tensor.values.blocks(BLOCK_ELEMENTS))
    return float(np.count_nonzero(np.abs(block) > limit)) * tensor.size / block.size


def _fresh_gains(optimizer: Optimizer, checkpoint: Checkpoint, least_updates: int) -> Iterator[str]:
    """Yield gains that are exactly 1, where those of another norm have moved at a comparable speed."""
    still: list[tuple[str, float]] = []
    moved: list[float] = []
    for moments, tensor in _trained(optimizer, checkpoint, least_updates):
        layer, statistics = checkpoint.layer_of[tensor.name], tensor.statistics
        speed = _speed(moments, optimizer)
        if layer.kind not in NORMS or layer.weight is not tensor or not speed:
            continue
        low, high = statistics.minimum, statistics.maximum
        assert low is not None
        assert high is not None
        distance = max(abs(high - 1), abs(low - 1))
        if distance <= STILL:
            still.append((tensor.name, speed))
        elif distance >= _MOVED_GAIN:
            moved.append(speed)
    yield from (name for name, speed in still if moved and speed >= _COMPARABLE * median(moved))


def _trained(optimizer: Optimizer, checkpoint: Checkpoint, least_updates: int) -> Iterator[tuple[Moments, Tensor]]:
    for moments in optimizer.parameters:
        tensor = checkpoint.find_tensor(moments.tensor)
        if tensor is None or tensor.dtype not in ("float32", "float64") or tensor.statistics.nonfinite:
            continue
        steps = moments.step if moments.step is not None else checkpoint.step or 0
        if steps >= least_updates and was_trained(tensor, checkpoint):
            yield moments, tensor


def _speed(moments: Moments, optimizer: Optimizer) -> float:
    """Return how fast a parameter moves, comparable within one optimizer: the rate times the size of its steps."""
    group = optimizer.group_of(moments.index)
    rate = group.largest_learning_rate if group else 0.0
    step = relative_step(moments, optimizer)
    if step is None and moments.second is None and moments.first is not None and moments.first.statistics.norm:
        step = moments.first.statistics.norm / moments.first.size**0.5
    return rate * (1.0 if step is None else step)
