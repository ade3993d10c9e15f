"""How severe exact zeros are, given their cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.training import layer_was_trained
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.results.findings import Severity


def judge_zeros(
    tensor: Tensor,
    checkpoint: Checkpoint,
    layer: Layer,
    rows: Sequence[int] | np.ndarray | slice | None = None,
) -> tuple[Severity | None, ZeroEvidence]:
    """Return the severity of exact zeros and the evidence for it; no severity where they are initial values.

    Overwritten zeros are an error. Zeros that never received a gradient are a warning beside weights of the layer that
    did; where the whole layer was never trained they are the initial values of a part that is unused, frozen or
    detached, which OPT001 reports once for the whole part. Zeros of unknown cause are a warning.
    """
    why = explain_zeros(tensor, checkpoint, rows, layer=layer)
    if why.cause is Cause.STEP_0 or is_initial(why, layer, checkpoint):
        return None, why
    return Severity.ERROR if why.cause is Cause.OVERWRITTEN else Severity.WARNING, why


def is_initial(why: ZeroEvidence, layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for zeros in a layer that was never trained at all: held and never reached, or in no optimizer."""
    return why.cause is Cause.NEVER_TRAINED and layer_was_trained(layer, checkpoint) is not True


def is_zero(tensor: Tensor | None) -> bool:
    """True for a tensor that has entries, all of them exactly zero."""
    return tensor is not None and 0 < tensor.statistics.count == tensor.statistics.zeros
