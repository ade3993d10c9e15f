"""Biases that are exactly zero and should not be."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from checkpoint_doctor.builtin.analyzers._zeros.by_design import explain_zero_bias
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import (
    has_initial_norms_and_biases,
    is_drawn_by_kernel_default,
    is_drawn_by_transformers,
    is_drawn_orthogonally,
    is_drawn_otherwise,
)
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero, judge_zeros
from checkpoint_doctor.builtin.analyzers._zeros.waiting import excuse_zero_bias
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import DENSE
from checkpoint_doctor.layers.init_rules import OUTPUT_LIMIT
from checkpoint_doctor.results.findings import Severity


class ZeroBias(Struct, frozen=True):
    """A bias that is exactly zero and should not be."""

    layer: Layer
    tensor: Tensor
    severity: Severity
    why: ZeroEvidence
    reason: str = ""
    """Why it may be zero though nothing proves it, as a clause; empty for more than a note."""


def find_zero_biases(checkpoint: Checkpoint) -> Iterator[ZeroBias]:
    """Yield the biases that are exactly zero without a known reason, those of recurrent layers included."""
    is_fresh: bool | None = None
    for layer in checkpoint.distinct_layers:
        if layer.kind not in DENSE:
            continue
        for tensor in layer.tensors.values():
            if not _is_zero_bias(tensor, layer):
                continue
            severity, why = judge_zeros(tensor, checkpoint, layer)
            if severity is None or (why.cause is not Cause.OVERWRITTEN and _is_normal(tensor, layer, checkpoint)):
                continue
            if why.cause is Cause.UNKNOWN:
                if is_fresh is None:
                    is_fresh = is_drawn_orthogonally(checkpoint) or has_initial_norms_and_biases(checkpoint)
                if is_fresh or is_drawn_otherwise(layer, checkpoint) or is_zero(layer.weight):
                    continue  # a zero weight has a finding of its own
            reason = "" if why.cause is Cause.OVERWRITTEN else excuse_zero_bias(layer, why, checkpoint)
            yield ZeroBias(layer, tensor, Severity.NOTE if reason else severity, why, reason)


def _is_zero_bias(tensor: Tensor, layer: Layer) -> bool:
    is_bias = any(role.startswith("bias") and part is tensor for role, part in layer.tensors.items())
    if not (is_bias and tensor.is_floating and is_zero(tensor)):
        return False
    # A zero output layer has a finding of its own, and its repair gives it small weights and a bias of 0.
    return not (layer.is_output and layer.weight is not None and layer.weight.statistics.absmax <= OUTPUT_LIMIT)


def _is_normal(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> bool:
    return (
        explain_zero_bias(tensor, layer, checkpoint) is not None
        or is_drawn_by_transformers(layer)
        or is_drawn_by_kernel_default(layer)
    )
