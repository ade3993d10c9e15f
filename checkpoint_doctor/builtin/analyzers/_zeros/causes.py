"""Why exact zeros are zero, as the optimizer's moments show.

A second moment of exactly zero means that the parameter never received a gradient. A second moment above zero beside a
value of exactly zero means that something other than the optimizer wrote the zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from msgspec import Struct

from checkpoint_doctor.builtin.analyzers._evidence.training import rows_were_trained, untouched_level, was_left_out
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor, found_once
from checkpoint_doctor.statistics.moments import ZeroTally, tally_zeros


class Cause(Enum):
    """Why zeros are zero, as far as the file shows it."""

    STEP_0 = "step 0"
    """No optimizer has any state and no update was counted: these are initial values."""
    NEVER_TRAINED = "never trained"
    """The second moment is exactly zero, or there is no state while other parameters have one."""
    OVERWRITTEN = "overwritten"
    """The values are exactly zero and the second moment is not: something other than the optimizer wrote them."""
    UNKNOWN = "unknown"
    """The file does not tell."""


class ZeroEvidence(Struct, frozen=True):
    """The cause of zeros, how it is known, and what to look at."""

    cause: Cause
    updates: int | None
    """Updates counted for the tensor; ``None`` where no optimizer counts them."""
    sentence: str
    """How the cause is known, as a clause that can follow a colon: lower case, no full stop."""
    advice: str = ""
    """What to look at, as full sentences; empty where nothing is known to be wrong."""
    held: bool = True
    """False where no optimizer in the file holds the tensor."""


_UNRECORDED = {"ARS": "ARS trains without gradients", "TRPO": "TRPO updates its policy without the optimizer"}
"""Algorithms whose optimizer state, if any, does not record the training of the policy."""

_OVERWRITTEN_ADVICE = (
    "Look for code that writes parameters after training: a reset or repair script, an initialisation applied again, "
    "pruning, or a load that filled in missing keys. A gradient step does not set a parameter to exactly 0."
)
_LAYER_UNTRAINED_ADVICE = (
    "The weights of these units were never trained. Look for inputs so large that the activation is saturated "
    "(unnormalised observations), units that are dead from the start, a detached or frozen path, or a mask. A repair "
    "will not last until that is changed."
)
_BIAS_ALONE_ADVICE = (
    "The weights of these units were trained, so only the bias was left out. Its gradient is zero by design (a key "
    "bias in attention, a bias in front of a batch norm), it is frozen, or code resets its gradient in every step."
)
_UNHELD_ADVICE = (
    "Pass it to the optimizer if it should learn. Parameters that are created after the optimizer, or filtered out by "
    "requires_grad, are never updated."
)


def explain_zeros(
    tensor: Tensor,
    checkpoint: Checkpoint,
    rows: Sequence[int] | np.ndarray | slice | None = None,
    *,
    layer: Layer | None = None,
) -> ZeroEvidence:
    """Return why the zeros of a tensor are zero, as far as the optimizer's moments show it.

    Args:
        tensor: the tensor. Where none of its entries is zero, the cause is "never trained" or "unknown" for all.
        checkpoint: the checkpoint that holds it.
        rows: only look at these indices along the first axis (a gate's rows of a bias, a head's rows).
        layer: the tensor's layer, looked up if it is not given.
    """
    layer = layer or checkpoint.layer_of.get(tensor.name)
    if checkpoint.is_untrained:
        return ZeroEvidence(Cause.STEP_0, 0, "no update was made yet, so this is its initial value")
    if not checkpoint.optimizers:
        reason = _UNRECORDED.get(checkpoint.algorithm or "", "the file holds no optimizer state")
        return ZeroEvidence(Cause.UNKNOWN, None, f"{reason}, so the cause is unknown", held=False)
    moments = checkpoint.moments.get(tensor.name)
    if moments is None or not moments.state:
        online = checkpoint.find_tensor(checkpoint.online_tensors.get(tensor.name))
        if online is not None:
            return _explain_target(online, checkpoint, rows)
    if moments is None:
        return _explain_unheld(tensor, checkpoint, layer)
    optimizer = checkpoint.optimizer_of[tensor.name]
    if not moments.state:
        return _explain_stateless(moments, optimizer, checkpoint, layer)
    return _explain_moments(tensor, moments, optimizer, checkpoint, layer, rows)


def _explain_target(
    online: Tensor, checkpoint: Checkpoint, rows: Sequence[int] | np.ndarray | slice | None
) -> ZeroEvidence:
    why = explain_zeros(online, checkpoint, rows)
    return ZeroEvidence(
        why.cause,
        None,
        f"it is the target network's copy of {online.name}, where {why.sentence}",
        why.advice,
        held=False,
    )


def _explain_unheld(tensor: Tensor, checkpoint: Checkpoint, layer: Layer | None) -> ZeroEvidence:
    unmatched = next((each.unmatched for each in checkpoint.optimizers if each.unmatched), "")
    if unmatched:
        return ZeroEvidence(
            Cause.UNKNOWN, None, f"the optimizer's state could not be matched to tensors ({unmatched})", held=False
        )
    held = _count_held(checkpoint)
    sentence = f"no optimizer in the file holds it (they hold {held} other tensors)"
    component = layer.component if layer else ""
    if component not in _trained_components(checkpoint):
        return ZeroEvidence(Cause.UNKNOWN, None, sentence, _UNHELD_ADVICE, held=False)
    return ZeroEvidence(Cause.NEVER_TRAINED, None, f"{sentence}, so it was never trained", _UNHELD_ADVICE, held=False)


@found_once
def _count_held(checkpoint: Checkpoint) -> int:
    return len({id(each) for each in checkpoint.moments.values()})


@found_once
def _trained_components(checkpoint: Checkpoint) -> set[str]:
    """Return the components with a layer that an optimizer holds; none where no optimizer has state."""
    if not any(optimizer.has_state for optimizer in checkpoint.optimizers):
        return set()
    return {
        layer.component
        for layer in checkpoint.layers
        if any(part.name in checkpoint.moments for part in layer.tensors.values())
    }


def _explain_stateless(
    moments: Moments, optimizer: Optimizer, checkpoint: Checkpoint, layer: Layer | None
) -> ZeroEvidence:
    updated = [each for each in optimizer.parameters if each.state]
    if not updated:
        if optimizer.kind == "SGD":
            return ZeroEvidence(Cause.UNKNOWN, None, "SGD without momentum keeps no record of gradients")
        if checkpoint.updates:
            sentence = (
                f"{checkpoint.updates:,} updates are counted but the optimizer's state is empty, so it was recreated"
            )
            return ZeroEvidence(Cause.UNKNOWN, None, sentence)
        return ZeroEvidence(Cause.STEP_0, 0, f"{optimizer.name} has made no update yet, so this is its initial value")
    if not was_left_out(moments, optimizer, checkpoint):
        return ZeroEvidence(Cause.UNKNOWN, None, f"{_UNRECORDED['TRPO']}, so there is no record of it")
    steps = max((each.step or 0 for each in updated), default=0)
    count = f" in {steps:,} updates" if steps else ""
    sentence = (
        f"{optimizer.name} holds it but has no state for it, while {len(updated)} of its {len(optimizer.parameters)} "
        f"parameters were updated, so it never received a gradient{count}"
    )
    return ZeroEvidence(Cause.NEVER_TRAINED, 0, sentence, _advise(moments, checkpoint, layer))


def _explain_moments(
    tensor: Tensor,
    moments: Moments,
    optimizer: Optimizer,
    checkpoint: Checkpoint,
    layer: Layer | None,
    rows: Sequence[int] | np.ndarray | slice | None,
) -> ZeroEvidence:
    record = moments.second or moments.first
    if record is None:
        return ZeroEvidence(
            Cause.UNKNOWN, moments.step, f"{optimizer.kind or optimizer.name} keeps no record of gradients"
        )
    if record.shape != tensor.shape:
        return ZeroEvidence(Cause.UNKNOWN, moments.step, "the optimizer's state does not have the tensor's shape")
    selection = None if rows is None else np.arange(tensor.shape[0] if tensor.shape else 1)[rows]
    level = untouched_level(moments, optimizer)
    if level is None:
        return ZeroEvidence(
            Cause.UNKNOWN, moments.step, "the second moment started at 1.0, which still hides small gradients"
        )
    tally = tally_zeros(tensor.values, record.values, selection, level)
    noun = "second moment" if moments.second is not None else "momentum"
    after = f" after {moments.step:,} updates" if moments.step else ""
    if tally.zeros > tally.zeros_untouched:
        return _overwritten(tally, noun, moments, optimizer)
    if tally.untouched == tally.selected or (tally.zeros and tally.zeros == tally.zeros_untouched):
        where = "its" if tally.zeros in (0, tally.selected) else "at the zeros, its"
        value = "exactly zero" if level == 0 else "still at its initial value"
        sentence = f"{where} {noun} is {value}{after}, so it never received a gradient"
        untrained = _untrained_zeros(tensor, record, selection, level)
        return ZeroEvidence(Cause.NEVER_TRAINED, moments.step, sentence, _advise(moments, checkpoint, layer, untrained))
    return ZeroEvidence(Cause.UNKNOWN, moments.step, f"its {noun} is not zero{after}, so it received gradients")


def _overwritten(tally: ZeroTally, noun: str, moments: Moments, optimizer: Optimizer) -> ZeroEvidence:
    group = optimizer.group_of(moments.index)
    # A schedule notes the rate that it began with, and ends at 0 as planned.
    if group and group.options.get("lr") == 0 and not group.options.get("initial_lr"):
        sentence = f"it received gradients, but {optimizer.name} has a learning rate of 0 and may never have updated it"
        return ZeroEvidence(Cause.UNKNOWN, moments.step, sentence, "Check whether the learning rate was 0 all along.")
    after = f" after {moments.step:,} updates" if moments.step else ""
    part = ""
    if tally.zeros_untouched:
        part = f" at {tally.zeros - tally.zeros_untouched:,} of {tally.zeros:,} zeros"
    sentence = f"its {noun} is not zero{part}{after}, so it was trained and then overwritten"
    return ZeroEvidence(Cause.OVERWRITTEN, moments.step, sentence, _OVERWRITTEN_ADVICE)


def _untrained_zeros(tensor: Tensor, record: Tensor, selection: np.ndarray | None, level: float) -> np.ndarray | None:
    """Return the indices of a vector's entries that are zero and never received a gradient; ``None`` for matrices."""
    if len(tensor.shape) != 1:
        return None
    untrained = np.flatnonzero((tensor.array == 0) & (np.abs(record.array) <= level))
    return untrained if selection is None else np.intersect1d(untrained, selection)


def _advise(moments: Moments, checkpoint: Checkpoint, layer: Layer | None, rows: np.ndarray | None = None) -> str:
    if layer is None:
        return ""
    weights = [part for role, part in layer.tensors.items() if role.startswith("weight")]
    if any(part.name == moments.tensor for part in weights):
        return _LAYER_UNTRAINED_ADVICE
    if rows is None or layer.transposed or any(part.shape[0] <= max(rows, default=0) for part in weights):
        rows = None
    # A saturated or dead unit has no gradient in its bias and none in its row of the weights either.
    trained = rows_were_trained(weights, checkpoint, slice(None) if rows is None or not rows.size else rows)
    if trained is None:
        return ""
    return _BIAS_ALONE_ADVICE if trained else _LAYER_UNTRAINED_ADVICE
