"""NaN and infinity: how they are described, and findings about them in the optimizers' moments."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, Tensor
from checkpoint_doctor.layers.init_rules import fill, fill_typical, where_not_finite
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety


def describe_nonfinite(tensor: Tensor, place: str = "") -> str:
    """Describe NaN and infinite values: ``3 NaN of 1,024 values, first NaN at [3, 4]``; ``place`` follows "values"."""
    statistics = tensor.statistics
    counts = ((statistics.nan, "NaN"), (statistics.infinite, "infinite"))
    kinds = " and ".join(f"{number:,} {word}" for number, word in counts if number)
    noun = "NaN" if not statistics.infinite else "infinity" if not statistics.nan else "of them"
    index = first_nonfinite_index(tensor)
    return f"{kinds} of {statistics.count:,} values{place}" + (f", first {noun} at {index}" if index else "")


def first_nonfinite_index(tensor: Tensor) -> list[int]:
    """Return the index of the first NaN or infinite value, one number for each axis; empty for a scalar."""
    return [int(axis) for axis in np.unravel_index(tensor.statistics.first_nonfinite or 0, tensor.shape)]


def nonfinite_moments(checkpoint: Checkpoint, rule: Rule) -> Iterator[Finding]:
    """Yield a finding of the given rule for every moment that makes the weights non-finite at the next update.

    An infinity in a second moment does not: it makes the steps of its entry zero (OPT007 reports it).
    """
    for optimizer in checkpoint.optimizers:
        for moments in optimizer.parameters:
            for key, tensor in moments.state.items():
                if tensor.is_floating and _is_nonfinite(moments, key, tensor):
                    yield _nonfinite_finding(checkpoint, rule, optimizer, moments, key, tensor)


def _is_nonfinite(moments: Moments, key: str, tensor: Tensor) -> bool:
    statistics = moments.statistics
    if statistics is not None and tensor is moments.first:
        return statistics.nonfinite_first > 0
    if statistics is not None and tensor is moments.second:
        return statistics.nonfinite_second > 0 and tensor.statistics.nan > 0
    return key != "step" and tensor.statistics.nonfinite > 0


def _nonfinite_finding(
    checkpoint: Checkpoint, rule: Rule, optimizer: Optimizer, moments: Moments, key: str, tensor: Tensor
) -> Finding:
    statistics = tensor.statistics
    subject = checkpoint.find_tensor(moments.tensor)
    owner = "" if subject else f" of parameter {moments.index}"
    return rule.finding(
        f"{describe_nonfinite(tensor, f' in {key}{owner} of {optimizer.name}')}: the next update makes the weights "
        f"non-finite too",
        subject,
        evidence={
            "optimizer": optimizer.name,
            "moment": key,
            "index": moments.index,
            "parameter": None if subject else f"parameter {moments.index}",
            "nan": statistics.nan,
            "infinite": statistics.infinite,
            "count": statistics.count,
            "first_index": first_nonfinite_index(tensor),
        },
        repairs=_replace_nonfinite(moments, tensor),
    )


def _replace_nonfinite(moments: Moments, tensor: Tensor) -> list[Repair]:
    if tensor is moments.first:
        return [Repair(tensor.name, "non-finite entries become 0", where_not_finite(fill(0.0)), Safety.UNSAFE)]
    if tensor is moments.second:
        words = "non-finite entries become the median of the others"
        return [Repair(tensor.name, words, fill_typical, Safety.UNSAFE)]
    return []
