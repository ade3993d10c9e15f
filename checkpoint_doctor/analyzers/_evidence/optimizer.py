"""What the optimizer testifies: why zeros are zero, and what was ever trained.

People guess at the cause of a zero bias and guess wrong. The optimizer kept a record: a second moment of exactly zero
says that no gradient ever came, a non-zero one under a zero value says that something else wrote the zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from checkpoint_doctor.analyzers._evidence.training import rows_were_trained, untouched_level, was_left_out
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor
from checkpoint_doctor.statistics.moments import ZeroTally, tally_zeros


class Cause(Enum):
    """Why zeros are zero, as far as the file proves it."""

    STEP_0 = "step 0"
    """No optimizer has any state and no update was counted: this is how it was initialised."""
    NEVER_TRAINED = "never trained"
    """The second moment is exactly zero, or there is no state while neighbours have some."""
    OVERWRITTEN = "overwritten"
    """Exactly zero values under a non-zero second moment: something other than the optimizer wrote them."""
    UNKNOWN = "unknown"
    """The file does not tell."""


@dataclass(frozen=True)
class ZeroEvidence:
    """A cause with the words that say how we know and where to look."""

    cause: Cause
    updates: int | None
    """Updates counted for the tensor; ``None`` where no optimizer counts them."""
    sentence: str
    """What is proven, as a clause that can follow a colon: lower case, no full stop."""
    advice: str = ""
    """What to look at upstream, as full sentences; empty where nothing is known to be wrong."""
    held: bool = True
    """False where no optimizer in the file holds the tensor."""


_UNRECORDED = {"ARS": "ARS searches without gradients", "TRPO": "TRPO moves its policy without the optimizer"}

_OVERWRITTEN_ADVICE = (
    "Look for code that writes parameters after training: a reset or repair script, an initialisation applied again, "
    "pruning, or a load that filled in missing keys. A gradient step cannot bring a parameter back to exactly 0."
)
_LAYER_UNTRAINED_ADVICE = (
    "The weights of these units were never trained either, so the cause lies upstream: inputs so large that the "
    "activation is saturated (unnormalised observations), units dead from the start, a detached or frozen path, or a "
    "mask. New values will not last until that is changed."
)
_BIAS_ALONE_ADVICE = (
    "The weights of these units were trained, so the bias alone was left out: its gradient is zero by construction (a "
    "key bias in attention, a bias in front of a batch norm), it is frozen, or code that runs in every step resets "
    "its gradient."
)
_UNHELD_ADVICE = (
    "Pass it to the optimizer if it should learn: parameters created after the optimizer, or filtered out by "
    "requires_grad, are left as they were."
)


def explain_zeros(
    tensor: Tensor,
    checkpoint: Checkpoint,
    rows: Sequence[int] | np.ndarray | slice | None = None,
    *,
    layer: Layer | None = None,
) -> ZeroEvidence:
    """Say why the zeros of a tensor are zero, as far as the optimizer's record proves it.

    ``rows`` restricts the question to indices along the first axis (a gate's slice of a bias, a head's rows). Only
    entries that are exactly zero are asked about; where there is none, all selected entries are, and the answer is
    "never trained" or "unknown". ``layer`` is the tensor's layer, looked up where it is not given.
    """
    layer = layer or checkpoint.layer_of.get(tensor.name)
    if checkpoint.is_untrained:
        return ZeroEvidence(Cause.STEP_0, 0, "no update has been made yet, so this is how it was initialised")
    if not checkpoint.optimizers:
        reason = _UNRECORDED.get(checkpoint.algorithm or "", "the file holds no optimizer state")
        return ZeroEvidence(Cause.UNKNOWN, None, f"{reason}, so it cannot tell why", held=False)
    moments = checkpoint.moments.get(tensor.name)
    if moments is None or not moments.state:
        twin = checkpoint.by_name.get(checkpoint.online_tensors.get(tensor.name, ""))
        if twin is not None:
            return _explain_through(twin, checkpoint, rows)
    if moments is None:
        return _explain_unheld(tensor, checkpoint, layer)
    optimizer = checkpoint.optimizer_of[tensor.name]
    if not moments.state:
        return _explain_stateless(moments, optimizer, checkpoint, layer)
    return _explain_moments(tensor, moments, optimizer, checkpoint, layer, rows)


def _explain_through(
    twin: Tensor, checkpoint: Checkpoint, rows: Sequence[int] | np.ndarray | slice | None
) -> ZeroEvidence:
    heard = explain_zeros(twin, checkpoint, rows)
    return ZeroEvidence(
        heard.cause,
        None,
        f"it is the target copy of {twin.name}, and there {heard.sentence}",
        heard.advice,
        held=False,
    )


def _explain_unheld(tensor: Tensor, checkpoint: Checkpoint, layer: Layer | None) -> ZeroEvidence:
    unmatched = next((each.unmatched for each in checkpoint.optimizers if each.unmatched), "")
    if unmatched:
        return ZeroEvidence(
            Cause.UNKNOWN, None, f"the optimizer's state has no names to go by ({unmatched})", held=False
        )
    held = len({id(each) for each in checkpoint.moments.values()})
    sentence = f"no optimizer in the file holds it (they hold {held} other tensors)"
    component = layer.component if layer else ""
    neighbours = (
        each
        for each in checkpoint.layers
        if each.component == component and any(part.name in checkpoint.moments for part in each.tensors.values())
    )
    if not any(optimizer.has_state for optimizer in checkpoint.optimizers) or next(neighbours, None) is None:
        return ZeroEvidence(Cause.UNKNOWN, None, sentence, _UNHELD_ADVICE, held=False)
    return ZeroEvidence(Cause.NEVER_TRAINED, None, f"{sentence}, so nothing trained it", _UNHELD_ADVICE, held=False)


def _explain_stateless(
    moments: Moments, optimizer: Optimizer, checkpoint: Checkpoint, layer: Layer | None
) -> ZeroEvidence:
    stepped = [each for each in optimizer.parameters if each.state]
    if not stepped:
        if optimizer.kind == "SGD":
            return ZeroEvidence(Cause.UNKNOWN, None, "SGD without momentum keeps no record of gradients")
        if checkpoint.updates:
            sentence = (
                f"{checkpoint.updates:,} updates are counted but the optimizer's state is empty: it was made anew"
            )
            return ZeroEvidence(Cause.UNKNOWN, None, sentence)
        return ZeroEvidence(
            Cause.STEP_0, 0, f"{optimizer.name} has made no step yet, so this is how it was initialised"
        )
    if not was_left_out(moments, optimizer, checkpoint):
        return ZeroEvidence(Cause.UNKNOWN, None, f"{_UNRECORDED['TRPO']}, which therefore has no record of it")
    steps = max((each.step or 0 for each in stepped), default=0)
    count = f" in {steps:,} updates" if steps else ""
    sentence = (
        f"{optimizer.name} holds it but has no state for it, while {len(stepped)} of its {len(optimizer.parameters)} "
        f"parameters were stepped: no gradient ever reached it{count}"
    )
    return ZeroEvidence(Cause.NEVER_TRAINED, 0, sentence, _upstream(moments, checkpoint, layer))


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
            Cause.UNKNOWN, moments.step, "the second moment's start at 1.0 still covers small gradients"
        )
    tally = tally_zeros(tensor.values, record.values, selection, level)
    noun = "second moment" if moments.second is not None else "momentum"
    after = f" after {moments.step:,} updates" if moments.step else ""
    if tally.zeros > tally.zeros_untouched:
        return _overwritten(tally, noun, moments, optimizer)
    if tally.untouched == tally.selected or (tally.zeros and tally.zeros == tally.zeros_untouched):
        where = "its" if tally.zeros in (0, tally.selected) else "under the zeros its"
        start = "exactly zero" if level == 0 else "still what it was at the start"
        sentence = f"{where} {noun} is {start}{after}: no gradient ever reached it"
        idle = _idle_rows(tensor, record, selection, level)
        return ZeroEvidence(Cause.NEVER_TRAINED, moments.step, sentence, _upstream(moments, checkpoint, layer, idle))
    return ZeroEvidence(Cause.UNKNOWN, moments.step, f"its {noun} shows gradients{after}")


def _overwritten(tally: ZeroTally, noun: str, moments: Moments, optimizer: Optimizer) -> ZeroEvidence:
    group = optimizer.group_of(moments.index)
    if group and group.options.get("lr") == 0:
        sentence = f"gradients reached it, but {optimizer.name} has a learning rate of 0 and may never have moved it"
        return ZeroEvidence(Cause.UNKNOWN, moments.step, sentence, "Check whether the learning rate was 0 all along.")
    gradients = f"{moments.step:,} updates" if moments.step else "updates"
    part = ""
    if tally.zeros_untouched:
        part = f" under {tally.zeros - tally.zeros_untouched:,} of {tally.zeros:,} zeros"
    sentence = f"its {noun}{part} shows {gradients} with gradient: something overwrote it"
    return ZeroEvidence(Cause.OVERWRITTEN, moments.step, sentence, _OVERWRITTEN_ADVICE)


def _idle_rows(tensor: Tensor, record: Tensor, selection: np.ndarray | None, untouched: float) -> np.ndarray | None:
    """Return the entries of a vector that are zero and never received a gradient; ``None`` for matrices."""
    if len(tensor.shape) != 1:
        return None
    idle = np.flatnonzero((tensor.array == 0) & (np.abs(record.array) <= untouched))
    return idle if selection is None else np.intersect1d(idle, selection)


def _upstream(moments: Moments, checkpoint: Checkpoint, layer: Layer | None, rows: np.ndarray | None = None) -> str:
    if layer is None:
        return ""
    weights = [part for role, part in layer.tensors.items() if role.startswith("weight")]
    if any(part.name == moments.tensor for part in weights):
        return _LAYER_UNTRAINED_ADVICE
    if rows is None or layer.transposed or any(part.shape[0] <= max(rows, default=0) for part in weights):
        rows = None
    # A unit that is saturated or dead has no gradient in its bias and none in its row of the weights.
    trained = rows_were_trained(weights, checkpoint, slice(None) if rows is None or not rows.size else rows)
    if trained is None:
        return ""
    return _BIAS_ALONE_ADVICE if trained else _LAYER_UNTRAINED_ADVICE
