"""How severe exact zeros are, given their cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from checkpoint_doctor.analyzers._evidence.training import layer_was_trained
from checkpoint_doctor.analyzers._zeros.causes import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.results.findings import Severity


def judge_zeros(
    tensor: Tensor,
    checkpoint: Checkpoint,
    layer: Layer,
    rows: Sequence[int] | np.ndarray | slice | None = None,
) -> tuple[Severity | None, ZeroEvidence]:
    """Return the severity of exact zeros and the evidence for it; no severity where they are initial values.

    Overwritten zeros are an error. Zeros that were never trained are an error where the layer's weights were not
    trained either, else a warning. Zeros of unknown cause are a warning. Before the first update there is no severity.
    """
    why = explain_zeros(tensor, checkpoint, rows, layer=layer)
    if why.cause is Cause.STEP_0:
        return None, why
    if why.cause is Cause.OVERWRITTEN:
        return Severity.ERROR, why
    if why.cause is Cause.NEVER_TRAINED and why.held and layer_was_trained(layer, checkpoint) is False:
        return Severity.ERROR, why
    return Severity.WARNING, why


def is_zero(tensor: Tensor | None) -> bool:
    """True for a tensor that has entries, all of them exactly zero."""
    return tensor is not None and 0 < tensor.statistics.count == tensor.statistics.zeros
