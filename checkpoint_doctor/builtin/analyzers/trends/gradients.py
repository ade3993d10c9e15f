"""Where gradients stop, and where they begin: dormant units, vanished first moments, inputs that wake up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Series, TensorSeries
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.change_points import ChangePoint, find_change_point

NOISE = 0.01
"""Standard deviation of a share of vanished moments that comes and goes by itself: 0.002 in the healthy runs."""

HALF = 0.5
"""Share of a layer from which its dormant units are a warning however slowly they grew (NET001)."""

FEWEST_BEFORE = 2
"""Checkpoints before a growth at once: in the first updates, units of healthy agents fall asleep quickly."""

SMALLEST_BEYOND = 0.05
"""Rise of the share of entries that no dormant unit explains; units that are nearly dormant make it 0.03 in healthy
runs."""

WHOLE = 0.99
"""Share from which the moments of a whole tensor have vanished."""


@rule("TRD004", "dormant-units-growing", Severity.WARNING, on=Series, worse=("dormant_fraction",))
def dormant_units_growing(series: Series, *, points: float = 20.0) -> Iterator[Finding]:
    """Ever more units of a layer receive no gradient.

    Why it matters:
        A unit without gradient does not learn any more, and the layer is smaller than it looks. It counts where the
        share rose by ``points`` percentage points.

    When it is normal:
        Units of ReLU layers fall asleep slowly in reinforcement learning; published agents play well with 13 to 76 % of
        them dormant. So a slow growth is a note up to half of the layer, and a growth at once is a warning.

    What to do:
        Look at what happened at the named checkpoint: a learning rate, a change of the data, a large update. Recycle
        the units (``ckdoc fix --recycle``) if the training is to go on.

    Options:
        points: The rise of the share of dormant units, in percentage points, from which it is reported; chosen, above
            what the healthy runs of the benchmark show.

    References:
        Sokar et al., The dormant neuron phenomenon in deep reinforcement learning, 2302.12902.
    """
    for tensor in series.trained:
        share = tensor["dormant_fraction"]
        found = _find_rise(share, points / 100.0)
        if found is None:
            continue
        steps = np.diff(share)
        at_once = found.onset >= FEWEST_BEFORE and float(steps[found.onset - 1 :].max()) >= points / 100.0
        yield dormant_units_growing.finding(
            f"its units without gradient grow from {found.before:.1%} to {share[-1]:.1%}, beginning at "
            f"{series.name_point(found.onset)}",
            tensor,
            severity=Severity.WARNING if at_once or share[-1] >= HALF else Severity.NOTE,
            evidence={**series.place(found.onset), "dormant_fraction": float(share[-1]), "before": found.before},
            advice="Look at the learning rate, the data and the updates around that checkpoint.",
        )


@rule(
    "TRD005",
    "gradient-vanishing",
    Severity.WARNING,
    on=Series,
    worst=Severity.ERROR,
    worse=("vanished_fraction",),
)
def gradient_vanishing(series: Series, *, points: float = 10.0, points_of_error: float = 30.0) -> Iterator[Finding]:
    """Ever more entries of a weight receive no gradient: their first moments vanish.

    Why it matters:
        An entry whose first moment has vanished (|m|/√v below 1e-4, which are 88 updates without gradient with Adam's
        default betas) is no longer trained. A share that rises by ``points`` percentage points is a warning, by
        ``points_of_error`` an error: a part of the inputs carries nothing any more, or the layer's outputs do not
        matter to the loss.

    When it is normal:
        Entries of dormant units are counted by TRD004 and not here, unless others vanish with them. Where the moments
        of all tensors vanish at once, the loss itself gave no gradient (rewards that are sparse), which is a note.

    What to do:
        Look at the inputs of the named columns: are they constant, masked, or of another scale since the named
        checkpoint? Normalise groups of features of different scales by themselves.

    Options:
        points: The rise of the share of vanished entries, in percentage points, that is a warning; the share is below 1
            % in the healthy runs of the benchmark.
        points_of_error: The rise that is an error.

    References:
        docs/signal-profile.md of this project.
    """
    known = [tensor for tensor in series.trained if np.isfinite(tensor["vanished_fraction"]).all()]
    rising = {
        tensor: found
        for tensor in known
        if (found := _find_rise(tensor["vanished_fraction"], points / 100.0)) is not None
    }
    for tensor, found in rising.items():
        share = tensor["vanished_fraction"]
        beyond, risen = _rise_beyond_units(tensor, found.onset), float(share[-1]) - found.before
        if not tensor.is_matrix or not (beyond >= SMALLEST_BEYOND or share[-1] >= WHOLE):
            continue
        everywhere = len(known) > 1 and len(rising) == len(known)
        columns = _new_columns(tensor)
        is_proven = share[-1] >= WHOLE or beyond >= HALF * risen or (bool(columns) and not tensor.reads_layer)
        severity = Severity.ERROR if is_proven and 100.0 * risen >= points_of_error else Severity.WARNING
        where = f", with {_name_columns(columns, tensor)} as a whole" if columns else ""
        yield gradient_vanishing.finding(
            f"its entries without gradient grow from {found.before:.1%} to {share[-1]:.1%}, beginning at "
            f"{series.name_point(found.onset)}{where}",
            tensor,
            severity=Severity.NOTE if everywhere else severity,
            evidence={
                **series.place(found.onset),
                "vanished_fraction": float(share[-1]),
                "before": found.before,
                "fractions": [round(float(each), 4) for each in share],
                "columns": columns,
            },
            advice="Look at these inputs around that checkpoint: their scale, whether they are constant or masked.",
        )


@rule("TRD009", "waking-inputs", Severity.WARNING, on=Series, worse=("columns",))
def waking_inputs(series: Series, *, points: float = 5.0) -> Iterator[Finding]:
    """Inputs that carried no signal become active late in the training.

    Why it matters:
        The weights of an input that was always zero are still those of the initialisation. When it wakes up, they add
        noise to a layer that had learned to do without it, and the distribution of what follows shifts: gradients
        vanish or explode. It counts where ``points`` percent of the columns wake up at once.

    When it is normal:
        In the first checkpoints, while rare categories and tokens come by for the first time. So the inputs must have
        been without gradient in two checkpoints, and as many in each of them.

    What to do:
        Find out why these inputs were constant before. Normalise them by themselves, scale down their initial weights,
        or lower the learning rate where they wake up.

    Options:
        points: The share of the inputs, in percent, that must wake up at one checkpoint; chosen, so that rare
            categories that come one by one are passed over.

    References:
        docs/signal-profile.md of this project.
    """
    for tensor in series.trained:
        if not tensor.is_matrix:
            continue
        asleep = tensor["untouched_columns"]
        if not np.isfinite(asleep).all():
            asleep = tensor["still_columns"]
        onset = _find_awakening(asleep, points / 100.0)
        if onset is None:
            continue
        first, last = tensor.columns
        columns = (
            [] if first is None or last is None else sorted({*map(int, first.untouched)} - {*map(int, last.untouched)})
        )
        count = round(float(asleep[onset - 1] - asleep[onset]) * tensor.shape[1])
        yield waking_inputs.finding(
            f"{count:,} of its {tensor.shape[1]:,} inputs receive their first gradient at {series.name_point(onset)}",
            tensor,
            evidence={**series.place(onset), "inputs": count, "columns": columns},
            advice="Normalise these inputs by themselves, and look at what they were before.",
        )


def _find_rise(share: NDArray, least: float) -> ChangePoint | None:
    """Return where a share begins to rise, if its last value is as far above the values before."""
    if not np.isfinite(share).all():
        return None
    found = find_change_point(share.tolist(), noise=NOISE)
    return found if found is not None and share[-1] - found.before >= least else None


def _rise_beyond_units(tensor: TensorSeries, onset: int) -> float:
    """Return how much the share rises of what dormant units of this layer or the one before do not explain."""
    scattered = tensor["scattered_fraction"]
    return float(scattered[onset:].mean() - scattered[:onset].mean())


def _new_columns(tensor: TensorSeries) -> list[int]:
    first, last = tensor.columns
    if first is None or last is None:
        return []
    return sorted({*map(int, last.vanished)} - {*map(int, first.vanished)})


def _name_columns(columns: Sequence[int], tensor: TensorSeries) -> str:
    low, high = columns[0], columns[-1]
    if len(columns) == 1:
        return f"input column {low}"
    if high - low + 1 == len(columns):
        return f"the input columns {low} to {high} of {tensor.shape[1]}"
    return f"{len(columns)} input columns from {low} to {high} of {tensor.shape[1]}"


def _find_awakening(asleep: NDArray, least: float) -> int | None:
    """Return the checkpoint at which columns wake up that slept in all before; ``None`` where none do."""
    known = np.flatnonzero(np.isfinite(asleep))
    if not known.size:
        return None
    begin = known[0]
    changed = np.flatnonzero(asleep[begin:] != asleep[begin])
    if not changed.size:
        return None
    onset = int(begin + changed[0])
    dropped = asleep[begin] - asleep[onset]
    is_part = least <= asleep[begin] < 1.0
    return onset if onset - begin >= 2 and is_part and dropped >= least else None
