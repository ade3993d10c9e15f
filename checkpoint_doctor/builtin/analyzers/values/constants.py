"""Matrices whose entries are all the same number."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.analyzers._repairs.initialization import reinitialise
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.layers import LEARNED_MATRICES
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity

_MAGNITUDES = ("weight_g", "parametrizations.weight.original0")
"""Names of the magnitudes of weight normalisation, which have the shape of a matrix with one column."""


@rule("VAL005", "constant-tensor", Severity.WARNING, on=Tensor, fix=Safety.UNSAFE, group_by=("value",))
def constant_tensor(tensor: Tensor, checkpoint: Checkpoint) -> Iterator[Finding]:
    """All entries of a weight matrix are the same non-zero number.

    Why it matters:
        Units with equal weights compute the same and receive the same gradient, so they stay equal: the layer is
        equivalent to a single unit. The usual reason is ``fill_`` or ``ones_`` in an init function.

    When it is normal:
        Averaging and blur kernels are constant by design and usually frozen. Norm gains start at 1 and are not checked,
        nor are the magnitudes of weight normalisation (``weight_g``), which DINO freezes at 1. Before the first update
        it is a note: outputs with targets of their own (DLinear), and deviations of noise (NoisyNet), part from each
        other as soon as they are trained.

    What to do:
        Initialise the weights at random (``kaiming_uniform_``, ``orthogonal_``) and train again. ``ckdoc fix --unsafe``
        reinitialises them by the layer's init rule.

    References:
        Goodfellow, Bengio and Courville, Deep Learning, 8.4: parameters must break symmetry between units.
    """
    statistics, layer = tensor.statistics, checkpoint.layer_of[tensor.name]
    if layer.kind not in LEARNED_MATRICES or len(tensor.shape) < 2 or tensor.size < 4:
        return
    if tensor.name.endswith(_MAGNITUDES):
        return
    if statistics.minimum is not None and statistics.minimum == statistics.maximum != 0 and not statistics.nonfinite:
        value, is_fresh = float(statistics.minimum), checkpoint.is_untrained
        yield constant_tensor.finding(
            f"all {statistics.count:,} values are {value:.4g}: its units "
            + (
                "begin equal, and part only where noise or their targets differ"
                if is_fresh
                else "stay equal during training"
            ),
            tensor,
            severity=Severity.NOTE if is_fresh else None,
            evidence={"value": value},
            repairs=reinitialise(tensor, layer, checkpoint),
        )
