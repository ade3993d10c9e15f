"""How bad a zero is, given what the optimizer testifies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from checkpoint_doctor.analyzers._evidence.normal_zeros import (
    NORMS,
    explain_zero_bias,
    is_drawn_by_transformers,
    is_drawn_orthogonally,
)
from checkpoint_doctor.analyzers._evidence.optimizer import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.analyzers._evidence.training import layer_was_trained
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import OUTPUT_LIMIT
from checkpoint_doctor.results.findings import Severity

RECURRENT = (Kind.LSTM, Kind.GRU, Kind.RNN)
"""Layers whose biases are gate biases."""


@dataclass(frozen=True)
class ZeroBias:
    """A bias that is exactly zero and should not be."""

    layer: Layer
    tensor: Tensor
    severity: Severity
    why: ZeroEvidence


def judge_zeros(
    tensor: Tensor,
    checkpoint: Checkpoint,
    layer: Layer,
    rows: Sequence[int] | np.ndarray | slice | None = None,
) -> tuple[Severity | None, ZeroEvidence]:
    """Return the severity of exact zeros and the why behind it; no severity where they are as they should be.

    Overwritten zeros are an error; never trained ones are an error where the layer's weights were not trained either,
    else a warning; what the file cannot tell is a warning; step 0 is silent.
    """
    why = explain_zeros(tensor, checkpoint, rows, layer=layer)
    if why.cause is Cause.STEP_0:
        return None, why
    if why.cause is Cause.OVERWRITTEN:
        return Severity.ERROR, why
    if why.cause is Cause.NEVER_TRAINED and why.held and layer_was_trained(layer, checkpoint) is False:
        return Severity.ERROR, why
    return Severity.WARNING, why


def find_zero_biases(checkpoint: Checkpoint) -> Iterator[ZeroBias]:
    """Yield the biases that are exactly zero though nothing excuses it, those of recurrent layers included."""
    fresh: bool | None = None
    for layer in checkpoint.distinct_layers:
        if layer.kind in NORMS or layer.kind in (Kind.BUFFER, Kind.PARAMETER, Kind.LORA):
            continue
        for tensor in layer.tensors.values():
            if not _is_zero_bias(tensor, layer):
                continue
            severity, why = judge_zeros(tensor, checkpoint, layer)
            if severity is None or (why.cause is not Cause.OVERWRITTEN and _is_normal(tensor, layer, checkpoint)):
                continue
            if why.cause is Cause.UNKNOWN:
                fresh = is_drawn_orthogonally(checkpoint) if fresh is None else fresh
                if fresh:
                    continue
            yield ZeroBias(layer, tensor, severity, why)


def is_zero(tensor: Tensor | None) -> bool:
    """True for a tensor that has entries, all of them exactly zero."""
    return tensor is not None and 0 < tensor.statistics.count == tensor.statistics.zeros


def _is_zero_bias(tensor: Tensor, layer: Layer) -> bool:
    is_bias = any(role.startswith("bias") and part is tensor for role, part in layer.tensors.items())
    if not (is_bias and tensor.is_floating and is_zero(tensor)):
        return False
    # Of an output layer that is zero throughout, one finding about the layer is enough; and the init rule by which it
    # is repaired gives it small weights and a bias of 0.
    return not (layer.is_output and layer.weight is not None and layer.weight.statistics.absmax <= OUTPUT_LIMIT)


def _is_normal(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> bool:
    if explain_zero_bias(tensor, layer, checkpoint) is not None:
        return True
    return is_drawn_by_transformers(layer)
