"""Exact zeros that grow from checkpoint to checkpoint, or are trained away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Series
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.change_points import FEWEST_POINTS, find_change_point

NOISE = 0.005
"""Standard deviation of a share of exact zeros: gradient descent leaves none, so any scatter is small."""

PRUNED = 0.5
"""Share of the matrices that get zeros together, from which it is rather pruning than a fault of one layer."""


@rule(
    "TRD001",
    "zeros-growing",
    Severity.WARNING,
    on=Series,
    worst=Severity.ERROR,
    worse=("zero_fraction",),
    group_by=("onset_path",),
)
def zeros_growing(series: Series, *, points: float = 10.0, points_of_error: float = 30.0) -> Iterator[Finding]:
    """Ever more values of a tensor are exactly zero.

    Why it matters:
        Gradient descent moves a value away from zero and never exactly back. Zeros that come during training were
        written: a bias that code resets at every save, units that were cut, a partial load. Growth by ``points``
        percentage points is a warning, by ``points_of_error`` an error.

    When it is normal:
        Under gradual pruning the zeros of most weight matrices grow together, which is a warning at most. Zeros that
        become fewer are zero initialisation being trained away (TRD010).

    What to do:
        Look for code that runs at the named checkpoint and writes zeros, such as ``bias.data.zero_()`` in a callback.

    Options:
        points: The rise of the share of zeros, in percentage points, that is a warning; gradient descent leaves none.
        points_of_error: The rise that is an error.

    References:
        docs/compare.md of this project, on when a change counts.
    """
    growths = ((tensor, _find_growth(tensor["zero_fraction"])) for tensor in series.trained)
    found = [(tensor, onset) for tensor, onset in growths if onset is not None]
    matrices = sum(tensor.is_matrix for tensor in series.trained)
    growing = sum(tensor.is_matrix for tensor, _ in found)
    for tensor, onset in found:
        zeros = tensor["zero_fraction"]
        before = float(np.nanmean(zeros[:onset]))
        risen = 100.0 * (float(zeros[-1]) - before)
        if risen < points:
            continue
        is_pruning = tensor.is_matrix and matrices > 1 and growing >= PRUNED * matrices
        severity = Severity.ERROR if risen >= points_of_error and not is_pruning else Severity.WARNING
        yield zeros_growing.finding(
            f"its exact zeros grow from {before:.1%} to {zeros[-1]:.1%}, beginning at {series.name_point(onset)}",
            tensor,
            severity=severity,
            evidence={**series.place(onset), "zero_fraction": float(zeros[-1]), "before": before},
            advice=(
                "Compare with the schedule of pruning, if there is one."
                if is_pruning
                else "Look for code that writes zeros into this tensor during training or at each save."
            ),
        )


def _find_growth(zeros: NDArray) -> int | None:
    """Return where zeros begin to grow for good; ``None`` where they do not."""
    if not np.isfinite(zeros).all():
        return None
    if len(zeros) >= FEWEST_POINTS:
        found = find_change_point(zeros.tolist(), noise=NOISE)
        return found.onset if found is not None and zeros[-1] > found.before else None
    # Two or three checkpoints: exact zeros do not come by chance.
    rising = np.flatnonzero(zeros > zeros[0])
    return int(rising[0]) if rising.size and zeros[-1] > zeros[0] else None


@rule("TRD010", "zeros-healing", Severity.NOTE, on=Series, group_by=())
def zeros_healing(series: Series, *, points: float = 10.0) -> Iterator[Finding]:
    """The zeros of a tensor become fewer: zero initialisation that is being trained away.

    Why it matters:
        Nothing is wrong. One checkpoint alone can look ill where a tensor starts at zero and has learned little yet;
        the series shows that it heals. It is said where the share of zeros fell by ``points`` percentage points.

    When it is normal:
        Always. Biases start at zero in most policies of Stable-Baselines3, and in many networks.

    What to do:
        Nothing.

    Options:
        points: The fall of the share of zeros, in percentage points, from which it is said.

    References:
        A published PPO run whose first bias has 30 % zeros at its first checkpoint and none at its seventh.
    """
    for tensor in series.trained:
        zeros = tensor["zero_fraction"]
        if not np.isfinite(zeros).all() or zeros[-1] > min(zeros.min(), 0.5 * zeros[0]):
            continue
        if 100.0 * (zeros[0] - zeros[-1]) >= points:
            healed = int(np.flatnonzero(zeros <= zeros[-1])[0])
            yield zeros_healing.finding(
                f"it heals: {zeros[0]:.1%} of its values were exactly zero at {series.name_point(0)}, and "
                f"{zeros[-1]:.1%} are since {series.name_point(healed)}",
                tensor,
                evidence={**series.place(healed), "zero_fraction": float(zeros[-1]), "before": float(zeros[0])},
            )
