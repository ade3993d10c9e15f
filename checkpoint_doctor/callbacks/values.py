"""The figures of a check for a logger."""

from __future__ import annotations

from math import sqrt

import numpy as np

from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination
from checkpoint_doctor.statistics.values import BLOCK_ELEMENTS

DORMANT = "dormant-units"


def summarize(checkpoint: Checkpoint, examination: Examination) -> dict[str, float | str]:
    """Return the totals of a check, and its worst layer."""
    entries = sum(tensor.size for tensor in examination.tensors)
    zeros = sum(tensor.zeros or 0 for tensor in examination.tensors)
    values: dict[str, float | str] = {
        "doctor/zero_fraction": zeros / entries if entries else 0.0,
        "doctor/nonfinite": float(sum(tensor.nonfinite or 0 for tensor in examination.tensors)),
        "doctor/dormant_units": float(sum(map(_count_dormant, examination.findings))),
        "doctor/errors": float(sum(each.severity is Severity.ERROR for each in examination.alerts)),
        "doctor/warnings": float(sum(each.severity is Severity.WARNING for each in examination.alerts)),
    }
    norms = [each.norm for each in checkpoint.gradients if each.norm is not None]
    if norms:
        values["doctor/grad_norm"] = sqrt(sum(norm * norm for norm in norms))
        latest = [tensor for each in checkpoint.gradients for tensor in each.latest.values()]
        size = sum(tensor.size for tensor in latest)
        if size:
            values["doctor/zero_gradients"] = sum(map(_count_zeros, latest)) / size
    values["doctor/worst_layer"] = _find_worst_layer(examination) or "none"
    return values


def summarize_layers(checkpoint: Checkpoint, examination: Examination) -> dict[str, float]:
    """Return the figures of each layer.

    These are its zeros and dormant units, and of its latest gradient the norm, the shares of exact zeros and of numbers
    too small for full precision, and how many inputs had a gradient of zero in every unit.
    """
    values: dict[str, float] = {}
    sizes: dict[str, list[int]] = {}
    for record in examination.tensors:
        counts = sizes.setdefault(record.layer, [0, 0])
        counts[0] += record.zeros or 0
        counts[1] += record.size
    values.update({f"doctor/zero_fraction/{name}": zeros / max(size, 1) for name, (zeros, size) in sizes.items()})
    for finding in examination.findings:
        if finding.name == DORMANT and finding.layer is not None:
            values[f"doctor/dormant_units/{finding.layer}"] = float(_count_dormant(finding))
    for layer, gradients in _group_gradients(checkpoint).items():
        measured = [(tensor.statistics, factor) for tensor, factor in gradients]
        count = max(sum(each.count for each, _ in measured), 1)
        values[f"doctor/grad_norm/{layer}"] = sqrt(sum(((each.norm or 0.0) / factor) ** 2 for each, factor in measured))
        values[f"doctor/zero_gradients/{layer}"] = sum(each.zeros for each, _ in measured) / count
        values[f"doctor/vanished_gradients/{layer}"] = sum(each.subnormals for each, _ in measured) / count
        values[f"doctor/silent_inputs/{layer}"] = float(max(len(each.zero_columns) for each, _ in measured))
    return values


def _group_gradients(checkpoint: Checkpoint) -> dict[str, list[tuple[Tensor, float]]]:
    """Return the latest gradients of each layer, with what clipping multiplied them by."""
    found: dict[str, list[tuple[Tensor, float]]] = {}
    for each in checkpoint.gradients:
        for name, tensor in each.latest.items():
            layer = checkpoint.layer_of[name].name if name in checkpoint.layer_of else name
            found.setdefault(layer, []).append((tensor, each.clip_factor))
    return found


def _count_zeros(tensor: Tensor) -> int:
    """Count exact zeros alone: a gradient is measured in full only where somebody asks for more."""
    blocks = tensor.values.blocks(BLOCK_ELEMENTS)
    return sum(int(block.size - np.count_nonzero(block)) for block in blocks)


def _count_dormant(finding: Finding) -> int:
    units = finding.evidence.get("units")
    return len(units) if finding.name == DORMANT and isinstance(units, (list, tuple)) else 0


def _find_worst_layer(examination: Examination) -> str:
    """Return the layer of the worst alert; without alerts the one with the largest share of zeros, if it has any."""
    for alert in examination.alerts:
        subject = alert.subject or ""
        layer = next((each.layer for each in examination.tensors if subject in (each.layer, each.name)), "")
        if alert.severity > Severity.NOTE and layer:
            return layer
    worst = max(examination.tensors, key=lambda each: (each.zeros or 0) / max(each.size, 1), default=None)
    return worst.layer if worst is not None and worst.zeros else ""
