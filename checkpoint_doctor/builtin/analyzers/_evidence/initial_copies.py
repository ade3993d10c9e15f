"""Whether a copy of a network is still the initial one, while the network itself has moved."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.initial_parameters import combine, default_limit, sort_parameter
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.statistics.values import as_real

_AVERAGE = re.compile(
    r"(?i)(?:^|(?<=[._/]))(?:(?:\w+_)?(?:ema|polyak|averaged?|swa|shadow)(?:_\w+)?|encoder_k|key_encoder|momentum_encoder)(?=[._/])"
)

_SLOWEST = 0.999
"""Decay of an average that follows slowly. With less, hardly anybody trains for a few hundred updates."""

_FEWEST_OUTSIDE = 10
"""Entries that such an average must have taken out of the initial interval before their absence proves anything."""


def name_of_average(name: str) -> str:
    """Return the name of the moving average or momentum encoder that a tensor belongs to; empty for all others."""
    match = _AVERAGE.search(name)
    return name[: match.end()] if match else ""


def is_still_initial(pairs: Sequence[tuple[Tensor, Tensor]], checkpoint: Checkpoint, updates: int) -> bool:
    """Return whether all tensors of a copy are as initialised, and those of the network that it should follow are not.

    ``pairs`` are tensors of the copy with those of the network, ``updates`` the number of the network's updates.
    """
    outside = 0.0
    share = 1.0 - _SLOWEST**updates
    copies, originals = [], []
    for one, other in pairs:
        layer = checkpoint.layer_of[other.name]
        copies.append(sort_parameter(one, layer, like=other))
        originals.append(sort_parameter(other, layer))
        outside += _count_outside(one, other, share, checkpoint)
    copy, online = combine(copies), combine(originals)
    if not copy.are_certain(by_zero_biases=True):
        return False
    has_left = len(copy.exact) > len(online.exact) or len(copy.zero) > len(online.zero)
    return has_left or outside >= _FEWEST_OUTSIDE


def _count_outside(one: Tensor, other: Tensor, share: float, checkpoint: Checkpoint) -> int:
    """Return how many entries would be outside of the initial interval, had the copy followed by a share of the way."""
    limit = default_limit(checkpoint.layer_of[other.name])
    if limit is None or len(one.shape) < 2 or one.statistics.nonfinite or other.statistics.nonfinite:
        return 0
    copy, online = as_real(one.array), as_real(other.array)
    return int((np.abs(copy + share * (online - copy)) > limit * (1 + 1e-6)).sum())
