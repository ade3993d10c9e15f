"""How tensors move from checkpoint to checkpoint: frozen, jumping all at once, written over one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Series, TensorSeries
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity

HALF_PRECISION = ("float16", "bfloat16", "float8")
"""Types of so few digits that small updates round to nothing."""

FINISHED = 0.05
"""Part of the largest move of a series below which the last moves are the end of a schedule."""

UNRELATED = 0.5
"""Part of its norm that a matrix moves at once where code wrote into much of it, while other layers moved as before:
√2 where it was drawn anew, 0.7 where half of its units were cut."""

RATIO_OF_UNRELATED = 2.5
"""How many times as far as ever before such a move must be. In the benchmark's healthy runs matrices moved at most 1.6
times as far as ever before, after their second interval."""

VECTOR_MOVE = 0.3
"""RMS of the move of a bias over 1/√fan-in (PyTorch draws biases from ±1/√fan-in, which is 0.58 of it) that counts."""

FINISHED_RATE = 0.3
"""Part of the largest learning rate that a schedule has come below before its end."""

STOPPED_WITHIN = 0.3
"""Part of the move before it from which on a last move is so short that the tensor stopped on the way."""

SMALLEST_VECTOR = 4
"""Entries of the smallest vector whose jumps count: of fewer, one gradient can move all."""


@rule("TRD003", "frozen-tensor", Severity.WARNING, on=Series, worse=("checkpoints",), group_by=("onset_path",))
def frozen_tensor(series: Series) -> Iterator[Finding]:
    """A tensor that moved before no longer changes by a single bit.

    Why it matters:
        What an optimizer trains changes at every update, be it in its last digit. A tensor that has moved and then
        keeps every bit is no longer trained: ``requires_grad`` was switched off, an optimizer was built anew without
        it, no gradient reaches it any more, or a learning rate is 0.

    When it is normal:
        Where layers are frozen on purpose for a later phase of the training. Tensors that never move in the whole
        series are a note, since they were frozen from the start. So is the end of a schedule whose learning rate has
        reached 0, a single number that may be clamped, and a tensor of half precision, in which small updates round to
        nothing. Target networks and averages are passed over: they wait for their next update.

    What to do:
        Compare the optimizer's parameter groups before and after the named checkpoint, and what was resumed or switched
        there. If the layer is to learn, give it back to the optimizer and ``requires_grad``.

    References:
        https://github.com/DLR-RM/stable-baselines3/issues/997 on finding out whether layers are trained at all.
    """
    tensors = [tensor for tensor in series.trained if np.isfinite(tensor["still_fraction"][1:]).all()]
    if len(series.points) < 3 or not tensors:
        return
    still = {tensor.name: tensor["still_fraction"][1:] == 1.0 for tensor in tensors}
    if len(tensors) > (never := sum(bool(each.all()) for each in still.values())) > 0:
        yield from _note_never_moved(series, tensors, still)
    onsets = {
        tensor.name: onset
        for tensor in tensors
        if (onset := _find_freeze(still[tensor.name], tensor.moves[1:])) is not None
    }
    for tensor in tensors:
        onset = onsets.get(tensor.name)
        # What is all zeros or NaN stays so, and other rules say it.
        if onset is None or tensor["zero_fraction"][-1] == 1.0 or tensor["nonfinite"][-1] > 0:
            continue
        stopped = [name for name, other in onsets.items() if other == onset]
        everything = len(stopped) == len(tensors) - never
        severity, why = _judge_freeze(tensor, onset, series, is_everything=everything)
        others = "like all other trained tensors" if everything else "while others move on"
        yield frozen_tensor.finding(
            f"it stopped moving by {series.name_point(onset)}, and no bit of it changes any more, {others}{why}",
            tensor,
            severity=severity,
            evidence={**series.place(onset), "checkpoints": len(series.points) - onset, "whole_network": everything},
            advice=(
                "Look at the learning rate and the optimizer's parameter groups from that checkpoint on."
                if everything
                else "See whether the optimizer still holds it and requires_grad is still set."
            ),
        )


def _note_never_moved(series: Series, tensors: list[TensorSeries], still: Mapping[str, NDArray]) -> Iterator[Finding]:
    never = [tensor for tensor in tensors if still[tensor.name].all()]
    yield frozen_tensor.finding(
        f"{quantity(len(never), 'tensor')} of {len(tensors):,} never changed in this series: frozen, maybe on purpose",
        never[0],
        severity=Severity.NOTE,
        evidence={**series.place(0), "tensors": [tensor.name for tensor in never], "whole_network": False},
    )


def _find_freeze(still: NDArray, moves: NDArray) -> int | None:
    """Return the position of the first checkpoint of those at the end that nothing changed for.

    It is the one before where most of the way to that one was without a move, too. ``None`` where the last checkpoint
    moved, where it never moved, or where it rested before and went on.
    """
    moved = np.flatnonzero(~still)
    if not moved.size or moved[-1] == len(still) - 1 or still[moved[0] : moved[-1]].any() or len(moved) < 2:
        return None
    last = int(moved[-1])
    stopped_within = moves[last] <= STOPPED_WITHIN * moves[last - 1]
    return last + 1 if stopped_within else last + 2


def _judge_freeze(tensor: TensorSeries, onset: int, series: Series, *, is_everything: bool) -> tuple[Severity, str]:
    if is_everything and _is_finished(tensor.moves, _list_rates(series)[:onset]):
        return Severity.NOTE, "; its moves had become small before, as at the end of a schedule"
    if tensor.dtype.startswith(HALF_PRECISION):
        return Severity.NOTE, f"; in {tensor.dtype}, small updates round to nothing"
    if tensor.size == 1:
        return Severity.NOTE, "; a single number may be clamped"
    return Severity.WARNING, ""


def _list_rates(series: Series) -> list[float]:
    """Return the learning rate of the first group of the first optimizer at each checkpoint; empty if not known."""
    name = next((name for name in series.points[0].settings if name.endswith(".lr")), "")
    rates = [point.settings.get(name) for point in series.points]
    return [float(rate) for rate in rates if isinstance(rate, int | float)] if None not in rates else []


def _is_finished(moves: NDArray, rates: Sequence[float]) -> bool:
    """Return whether a schedule had come to its end before nothing moved any more, by the rates or else the moves."""
    if rates and max(rates) > 0:
        return rates[-1] <= FINISHED_RATE * max(rates)
    moved = moves[moves > 0]
    return bool(len(moved) > 1 and moved[-1] <= FINISHED * moved.max() and moved[-2] <= 0.5 * moved.max())


@rule("TRD007", "update-norm-doubling", Severity.WARNING, on=Series, worse=("ratio",), group_by=("onset_path",))
def update_norm_doubling(series: Series, *, ratio: float = 6.0, share: float = 0.25) -> Iterator[Finding]:
    """The updates of most layers are suddenly many times as large as all before.

    Why it matters:
        Steps that grow all at once come before spikes of the loss and before divergence: a learning rate that was
        raised or lost its schedule in a resume, an optimizer whose second moments were reset or poisoned, targets that
        exploded.

    When it is normal:
        After a warm restart of the learning rate, which reaches the size that updates had before; so a move counts only
        where it is ``ratio`` times as far as the farthest before, in all and per update, and a ``share`` of the
        tensor's norm. In the healthy runs of the benchmark no matrix moved more than 1.6 times as far as ever before.

    What to do:
        Look at the learning rate in the named checkpoint and the one before, and at what was resumed there. Go back to
        the checkpoint before, and clip the norm of the gradients.

    Options:
        ratio: How many times as far as ever before a tensor must have moved; 1.6 at most in the healthy runs of the
            benchmark.
        share: The part of its norm that it must have moved at once.

    References:
        benchmarks/series.py of this project; https://github.com/DLR-RM/rl-baselines3-zoo/issues/322 on divergence.
    """
    jumps = find_jumps(series, ratio, share)
    for tensor, (onset, factor, part) in jumps.items():
        if factor >= ratio and part >= share and _is_common(series, jumps, onset):
            yield update_norm_doubling.finding(
                f"it moved {factor:.2g} times as far as ever before by {series.name_point(onset)}, as most layers did",
                tensor,
                evidence={**series.place(onset), "ratio": factor, "change": float(tensor["change"][onset])},
                advice="Compare the learning rate and the optimizer's state of this checkpoint with the one before.",
            )


@rule("TRD008", "rewritten-tensor", Severity.WARNING, on=Series, worse=("ratio",), group_by=("onset_path",))
def rewritten_tensor(series: Series, *, ratio: float = 6.0, share: float = 0.25) -> Iterator[Finding]:
    """A tensor jumped to other values between two checkpoints, while most of the network moved as before.

    Why it matters:
        Gradient descent moves a layer by steps of the same size as its neighbours'. One that jumps alone was written by
        code: drawn anew, reset, loaded from another file, or some of its units were set to constants. What it had
        learned is lost.

    When it is normal:
        Where layers are reset on purpose (resets against the loss of plasticity, recycled units, a new head for a new
        task). A move counts where it is ``ratio`` times as far as the farthest before, in all and per update, and a
        ``share`` of the tensor's norm.

    What to do:
        Look for code that runs between these two checkpoints: a second call of the initialisation, a partly loaded
        state dict, a reset in a callback.

    Options:
        ratio: How many times as far as ever before a tensor must have moved; 1.6 at most in the healthy runs of the
            benchmark. Of a matrix that moved by half of its norm, 2.5 times is enough.
        share: The part of its norm that a matrix must have moved at once, and twice that for a vector.

    References:
        benchmarks/series.py of this project.
    """
    jumps = find_jumps(series, ratio, share)
    for tensor, (onset, factor, _) in jumps.items():
        is_zero = tensor["zero_fraction"][onset] == 1.0
        if not is_zero and not _is_common(series, jumps, onset) and not _goes_on(tensor, onset):
            change = float(tensor["change"][onset])
            yield rewritten_tensor.finding(
                f"it moved {factor:.2g} times as far as ever before by {series.name_point(onset)}, and most of the "
                f"network did not: a difference of {change:.2g} times its norm",
                tensor,
                evidence={**series.place(onset), "ratio": factor, "change": change},
                advice="Look for code that writes into this layer: an initialisation, a reset, a partial load.",
            )


Jump = tuple[int, float, float]
"""The checkpoint of a jump, how many times as far as ever before it was, and what part of the tensor's norm."""


def find_jumps(series: Series, ratio: float, share: float) -> dict[TensorSeries, Jump]:
    """Return the tensors that once moved far farther than ever before, with their jumps."""
    scale = {tensor.layer: 1.0 / sqrt(prod(tensor.shape[1:]) or 1) for tensor in series.trained if tensor.is_matrix}
    found = {}
    for tensor in series.trained:
        if not tensor.is_matrix and tensor.size < SMALLEST_VECTOR:
            continue
        # A bias may be next to nothing, and then any move is far.
        least = 0.0 if tensor.is_matrix else VECTOR_MOVE * scale.get(tensor.layer, 1.0) * sqrt(tensor.size)
        if (jump := _find_jump(tensor, series.distances, ratio, share, least)) is not None:
            found[tensor] = jump
    return found


def _find_jump(tensor: TensorSeries, distances: NDArray, ratio: float, share: float, least: float) -> Jump | None:
    moves, norms = tensor.moves, tensor["norm"]
    rates = moves / np.where(distances > 0, distances, np.nan)
    for position in range(len(moves)):
        known = [each for each in range(position) if moves[each] > 0]
        if len(known) < 2 or not moves[position] > least:
            continue
        factor = moves[position] / moves[known].max()
        if np.isfinite(rates[[*known, position]]).all():
            factor = min(factor, rates[position] / rates[known].max())
        part = moves[position] / np.nanmax(norms[position - 1 : position + 1])
        is_another = tensor.is_matrix and part >= UNRELATED and factor >= RATIO_OF_UNRELATED
        if (factor >= ratio and part >= share) or is_another:
            return position, float(factor), float(part)
    return None


def _is_common(series: Series, jumps: Mapping[TensorSeries, Jump], onset: int) -> bool:
    """Return whether most layers jumped at a checkpoint or the one after it."""
    layers = {tensor.layer for tensor in series.trained if tensor.is_matrix}
    jumped = {tensor.layer for tensor, (place, *_) in jumps.items() if tensor.is_matrix and abs(place - onset) <= 1}
    return 2 * len(jumped) > len(layers)


def _goes_on(tensor: TensorSeries, onset: int) -> bool:
    """Return whether the tensor grew by a factor and goes on: that is growth, which has a rule of its own."""
    norms, change = tensor["norm"][onset - 1 :], tensor["change"][onset:]
    alignment = (norms[1:] / norms[:-1] - 1.0) / change
    return bool(norms[0] > 0 and np.all(alignment >= 0.9))
