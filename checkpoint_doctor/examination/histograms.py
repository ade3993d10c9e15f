"""Histograms of the tensors that an examination's worst findings are about, for reports that draw them."""

from __future__ import annotations

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.results.findings import Finding, by_severity
from checkpoint_doctor.results.report import Examination

MOST_HISTOGRAMS = 12
"""Tensors of a checkpoint of which a histogram is counted: those of its worst findings."""

LARGEST_DRAWN = 1 << 26
"""Entries of a tensor beyond which its histogram is not counted: 67 million take 1.2 s of processor time (measured)."""


def count_histograms(examination: Examination, checkpoint: Checkpoint) -> Examination:
    """Return an examination with histograms of the tensors that its worst findings are about.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    ranked = sorted(examination.counted, key=by_severity)
    subjects = dict.fromkeys(name for each in ranked for name in _subject_tensors(each, checkpoint))
    tensors = {name: checkpoint.by_name[name] for name in subjects if name in checkpoint.by_name}
    drawable = [name for name, tensor in tensors.items() if _has_distribution(tensor)]
    drawn = {name: tensors[name].histogram for name in drawable[:MOST_HISTOGRAMS]}
    records = (replace(each, histogram=drawn.get(each.name)) for each in examination.tensors)
    return replace(examination, tensors=tuple(records))


def _has_distribution(tensor: Tensor) -> bool:
    """True where a histogram would show more than one number, and takes no longer than it is worth."""
    return tensor.size <= LARGEST_DRAWN and tensor.statistics.minimum != tensor.statistics.maximum


def _subject_tensors(finding: Finding, checkpoint: Checkpoint) -> list[str]:
    """Return the tensor that a finding is about, or the weight of the layer that it is about."""
    if finding.tensor is not None:
        return [finding.tensor]
    layer = checkpoint.layer_by_name.get(finding.layer or "")
    weight = (layer.weight or layer.tensors.get("weight_ih")) if layer else None
    return [weight.name] if weight else []
