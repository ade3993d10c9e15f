"""NaN and infinity in weights, buffers and moments."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.nonfinite import (
    describe_nonfinite,
    first_nonfinite_index,
    nonfinite_moments,
)
from checkpoint_doctor.builtin.analyzers._evidence.tables import holds_network
from checkpoint_doctor.builtin.analyzers._repairs.initialization import reinitialise_nonfinite
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity

_EXTREME = re.compile(r"(^|[._])(min|max|minimum|maximum|lowest|highest|best)(_?vals?|_?values?)?$")
"""Names of the smallest or largest value seen so far."""


@rule(
    "VAL001",
    "nonfinite-values",
    Severity.ERROR,
    on=Checkpoint,
    fix=Safety.UNSAFE,
    part=("optimizer", "moment", "parameter"),
    worse=("nan", "infinite"),
)
def nonfinite_values(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Weights, buffers or the optimizer's moments contain NaN or infinity.

    Why it matters:
        One such entry makes every output that depends on it NaN, and the next update makes all weights NaN. If training
        continues, it overwrites the last finite checkpoint.

    When it is normal:
        Attention masks hold minus infinity on purpose; such buffers are not reported. A file without any layer of a
        network and without an optimizer may hold data, where some NaN are what was not measured: a warning.

    What to do:
        Go back to the last finite checkpoint and resume with a lower learning rate. A few NaN among finite values come
        from one infinite gradient: check the input or the loss of that step. NaN in every entry come from a loss that
        was NaN: check ``torch.isfinite(loss)`` before ``backward`` and before saving. ``ckdoc fix --unsafe``
        reinitialises the entries by the layer's init rule; what they had learned is lost.

    References:
        Measured: one infinite gradient through ``clip_grad_norm_`` makes only its own entry NaN, one NaN gradient
        makes all of them NaN in one step. habitat-lab issue 2226; rl-baselines3-zoo issues 156 and 427.
    """
    for tensor in checkpoint.distinct_tensors:
        statistics = tensor.statistics
        if not statistics.nonfinite or _is_mask(tensor, checkpoint):
            continue
        yield nonfinite_values.finding(
            f"{describe_nonfinite(tensor)}: {_explain_count(tensor)}",
            tensor,
            severity=None if holds_network(checkpoint) or statistics.nan == statistics.count else Severity.WARNING,
            evidence={
                "nan": statistics.nan,
                "infinite": statistics.infinite,
                "count": statistics.count,
                "first_index": first_nonfinite_index(tensor),
            },
            repairs=reinitialise_nonfinite(tensor, checkpoint.layer_of[tensor.name], checkpoint),
        )
    yield from nonfinite_moments(checkpoint, nonfinite_values)


def _explain_count(tensor: Tensor) -> str:
    statistics = tensor.statistics
    if statistics.nan == statistics.count:
        return "every entry is NaN, as after a NaN loss"
    if statistics.nonfinite <= max(4, statistics.count // 100):
        return "only a few, as after one infinite gradient or in a damaged file"
    return f"{statistics.nonfinite / statistics.count:.1%} of the tensor"


def _is_mask(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    """True for a buffer that holds infinity on purpose: an attention mask, or an extreme before its first value.

    Quantisation observers and metrics start their smallest value at +inf and their largest at -inf.
    """
    if (
        tensor.is_complex
        or tensor.statistics.nan
        or checkpoint.layer_of[tensor.name].kind not in (Kind.BUFFER, Kind.PARAMETER)
    ):
        return False
    if tensor.name in checkpoint.moments or len(tensor.shape) > 1:
        is_below_zero = (tensor.statistics.maximum or 0) <= 0 and not np.isposinf(tensor.array).any()
        return is_below_zero and checkpoint.layer_of[tensor.name].kind is Kind.BUFFER
    infinite = tensor.array[np.isinf(tensor.array)]
    one_sign = bool((infinite > 0).all() or (infinite < 0).all())
    return one_sign and (infinite.size == tensor.size or _EXTREME.search(tensor.name) is not None)
