"""Which units of a layer still receive gradient, as the optimizer's moments tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from math import exp, inf, log

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.analyzers._evidence.moments import Memory, memory_of
from checkpoint_doctor.analyzers._evidence.recycling import find_renewed
from checkpoint_doctor.analyzers._evidence.training import untouched_level
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.statistics.values import median

NORMS = (Kind.LAYER_NORM, Kind.RMS_NORM, Kind.BATCH_NORM, Kind.GROUP_NORM)

_DEFAULT_DECAY = -log(0.9) + log(0.999) / 2
"""E-folds that |m|/√v loses in an update without gradient under Adam's default betas (0.9, 0.999)."""

_FAINT = 0.1
"""Median |m|/√v of a tensor's live lines below which all its gradients have shrunk lately, the live ones too: the limit
shrinks along. Published agents lie above (0.13 to 1.7); critics of TRPO, whose gradients fade, at 0.006 to 0.03."""

_FEWEST_UPDATES = 20
"""Batches after which a unit that has seen no gradient at all is worth a word."""

_STUCK = 1e-42
"""A first moment below this no longer shrinks: float32's last subnormal place times 0.9 rounds to itself."""


@dataclass(frozen=True)
class GradientActivity:
    """What is heard of each line (row, column or unit): one boolean or number per line."""

    never: NDArray
    """No gradient was ever recorded, since the optimizer was created."""
    silent: NDArray
    """No gradient is recorded now; includes ``never``."""
    since: NDArray
    """Estimated updates since the last gradient, for silent lines that once learned; NaN for all others."""
    step: int | None
    """Updates that the optimizer counted."""
    renewed: NDArray
    """Neither silent nor heard: a repair put new moments in the place of what was recorded."""

    @property
    def heard(self) -> NDArray:
        """Lines that a gradient is recorded for."""
        heard: NDArray = ~self.silent & ~self.renewed
        return heard

    @property
    def stopped(self) -> NDArray:
        """Lines that learned once and no longer do."""
        stopped: NDArray = self.silent & ~self.never
        return stopped

    def folded(self, shape: tuple[int, int], axis: int) -> GradientActivity:
        """Join lines that belong to one unit: it is silent where all of them are."""
        joined = self.since.reshape(shape)
        return GradientActivity(
            np.logical_and.reduce(self.never.reshape(shape), axis=axis),
            np.logical_and.reduce(self.silent.reshape(shape), axis=axis),
            # A unit stopped when the last of its lines did.
            np.fmin.reduce(joined, axis=axis),
            self.step,
            np.logical_or.reduce(self.renewed.reshape(shape), axis=axis),
        )

    def joined(self, other: GradientActivity) -> GradientActivity:
        """Join what two tensors say of the same units."""
        return GradientActivity(
            self.never & other.never,
            self.silent & other.silent,
            np.fmin(self.since, other.since),
            self.step if other.step is None else other.step,
            self.renewed | other.renewed,
        )


def unit_activity(layer: Layer, checkpoint: Checkpoint, ratio: float) -> GradientActivity | None:
    """Listen to the units of a linear, convolutional or recurrent layer; ``None`` where the file cannot tell.

    A unit's lines are its row in the weight and its entry in the bias; in a recurrent layer the rows of all its gates
    in all weights and biases. A unit is silent where every entry of them is.
    """
    heard = []
    for role, tensor in layer.tensors.items():
        if role.partition("_")[0] not in ("weight", "bias") or role == "weight_hr":
            continue
        activity = _hear_outputs(tensor, layer, checkpoint, ratio)
        if activity is None and role.startswith("weight"):
            return None
        if activity is not None:
            heard.append(activity)
    if not heard or any(each.silent.shape != heard[0].silent.shape for each in heard):
        return None
    return reduce(GradientActivity.joined, heard)


def input_activity(layer: Layer, checkpoint: Checkpoint, ratio: float) -> GradientActivity | None:
    """Listen to the inputs of a layer, through the weight that multiplies them; ``None`` where the file cannot tell."""
    weight = input_weight(layer)
    if weight is None or len(weight.shape) < 2:
        return None
    return _hear_lines(weight, checkpoint, ratio, along_rows=layer.transposed)


def readers_of(layer: Layer, checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers with weights that read this one's units, past norms in between."""
    readers: dict[str, Layer] = {}
    seen, waiting = {layer.name}, [*layer.followers] or [layer.following or ""]
    while waiting:
        name = waiting.pop(0)
        reader = checkpoint.layer_by_name.get(name)
        if reader is None or name in seen:
            continue
        seen.add(name)
        if reader.kind in NORMS:
            waiting += [*reader.followers] or [reader.following or ""]
        else:
            readers[name] = reader
    return list(readers.values())


def input_weight(layer: Layer) -> Tensor | None:
    """Return the weight whose columns are the layer's inputs."""
    return layer.tensors.get("weight_ih") or layer.weight


def _hear_outputs(tensor: Tensor, layer: Layer, checkpoint: Checkpoint, ratio: float) -> GradientActivity | None:
    activity = _hear_lines(tensor, checkpoint, ratio, along_rows=len(tensor.shape) < 2 or not layer.transposed)
    if activity is None or layer.kind not in (Kind.LSTM, Kind.GRU, Kind.RNN):
        return activity
    gates = {Kind.LSTM: 4, Kind.GRU: 3}.get(layer.kind, 1)
    if activity.silent.size % gates:
        return None
    return activity.folded((gates, activity.silent.size // gates), axis=0)


def _hear_lines(tensor: Tensor, checkpoint: Checkpoint, ratio: float, *, along_rows: bool) -> GradientActivity | None:
    moments = checkpoint.moments.get(tensor.name)
    statistics = moments.statistics if moments is not None else None
    if moments is None or statistics is None or statistics.nonfinite_first or statistics.nonfinite_second:
        return None
    lines = (statistics.row_first, statistics.row_second, statistics.row_ratio)
    if not along_rows:
        lines = (statistics.column_first, statistics.column_second, statistics.column_ratio)
    activity = _hear(*lines, moments, checkpoint.optimizer_of[tensor.name], ratio)
    renewed = find_renewed(moments, checkpoint.optimizer_of[tensor.name], along_rows=along_rows)
    if activity is None or renewed is None or not renewed.any():
        return activity
    since = np.where(renewed, np.nan, activity.since)
    return GradientActivity(activity.never & ~renewed, activity.silent & ~renewed, since, activity.step, renewed)


def _hear(
    first: NDArray | None,
    second: NDArray | None,
    pulse: NDArray | None,
    moments: Moments,
    optimizer: Optimizer,
    ratio: float,
) -> GradientActivity | None:
    memory = memory_of(moments, optimizer)
    record = first if second is None else second
    if memory is None or record is None or not record.size:
        return None
    level = 0.0 if second is None else untouched_level(moments, optimizer, of_root=True)
    if level is None:
        return None
    never: NDArray = record <= level
    quiet = -log(ratio) / _DEFAULT_DECAY
    silent, since, needed = never, np.full(never.shape, np.nan), 0.0
    for voice, decay in _voices(first, second, pulse, memory):
        limit = min(ratio, exp(-decay * quiet))
        heard = voice[voice >= limit]
        if voice is pulse and heard.size:
            limit *= min(1.0, median(heard) / _FAINT)
        silent = never | (voice < limit)
        since = _since(voice, first, second, ~silent, memory, decay)
        needed = -log(limit) / decay
    if moments.step is not None and moments.step < _FEWEST_UPDATES:
        return None
    # Half as many updates again as a unit that fell silent at the very start needs to be told from a live one.
    if moments.step is not None and moments.step < 1.5 * max(needed, quiet):
        silent = never
    since = np.minimum(since, inf if moments.step is None else moments.step)
    since = np.where(silent & ~never, since, np.nan)
    return GradientActivity(never, silent, since, moments.step, np.zeros(never.shape, dtype=bool))


def _voices(
    first: NDArray | None, second: NDArray | None, pulse: NDArray | None, memory: Memory
) -> Iterator[tuple[NDArray, float]]:
    """Yield the figure that fades when no gradient comes, relative to a live line, and its e-folds per update.

    Adam: |m|/√v. RMSprop (or Adam with β1 = 0): √v relative to the tensor's largest. Momentum: the buffer, likewise.
    Nothing for Adagrad, which forgets nothing.
    """
    if pulse is not None and memory.pulse is not None and memory.pulse > 0:
        yield pulse, memory.pulse
    elif second is not None and memory.second:
        yield second / max(float(second.max()), 1e-300), memory.second
    elif second is None and first is not None and memory.first not in (None, inf):
        assert memory.first is not None
        yield first / max(float(first.max()), 1e-300), memory.first


def _since(
    voice: NDArray, first: NDArray | None, second: NDArray | None, live: NDArray, memory: Memory, decay: float
) -> NDArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        updates: NDArray = np.log((median(voice[live]) if live.any() else 1.0) / voice) / decay
        if first is None or second is None or not memory.second or memory.first in (None, inf) or not live.any():
            return updates
        assert memory.first is not None
        by_first = np.log(median(first[live]) / first) / memory.first
        by_second = np.log(median(second[live]) / second) / memory.second
        # What has sunk to the last subnormal says only "at least so long ago"; the slower second moment goes on.
        return np.where(first > _STUCK, updates, np.fmax(by_first, by_second))
