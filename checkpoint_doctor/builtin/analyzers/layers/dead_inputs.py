"""Inputs that were zero all along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import input_activity, unit_activity
from checkpoint_doctor.builtin.analyzers._evidence.model_inputs import (
    possible_sources,
    reads_model_inputs,
)
from checkpoint_doctor.builtin.analyzers._zeros.conditions import began_at_no_change, runs_on_its_state
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import WITH_UNITS
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.moments import INACTIVE_RATIO


@rule("NET006", "dead-inputs", Severity.NOTE, worst=Severity.WARNING, on=Layer, worse=("inputs",))
def dead_inputs(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Input columns of a first layer never received a gradient: those inputs were zero all along, or masked.

    Why it matters:
        The weights of such an input are still the random initial ones. When the input becomes active (a feature that
        was constant, a mask that is removed), they add noise to every unit at once, and training can collapse.

    When it is normal:
        One-hot inputs that never occurred, padding, unused entries of an observation. It is a warning where all inputs
        were zero: the layer has learned a bias and nothing else. A weight that began at zero belongs to a condition
        that is not in use (FiLM), and a decoder may run on an encoder's state alone: notes.

    What to do:
        Check these inputs in the data: a constant zero, a feature scaled to zero, a mask that is always on. Remove
        them, or normalise the groups of features separately before they become active.

    References:
        The gradient of a weight is its unit's gradient times its input. So a second moment of exactly zero in a whole
        column means that the input was zero whenever there was a gradient.
    """
    columns = input_activity(layer, checkpoint, INACTIVE_RATIO) if layer.kind in WITH_UNITS else None
    if columns is None or not columns.never_active.any() or not reads_model_inputs(layer, checkpoint):
        return
    units = unit_activity(layer, checkpoint, INACTIVE_RATIO)
    if units is None or units.never_active.all():
        return
    sources = possible_sources(layer, columns.never_active.size, checkpoint)
    if any(_are_dead_units(columns.never_active, source, checkpoint) for source in sources):
        return
    inputs = np.flatnonzero(columns.never_active).tolist()
    after = f" in {columns.step:,} updates" if columns.step else ""
    if columns.never_active.all():
        message = f"all {len(inputs):,} inputs were always zero{after}: only the layer's bias received gradients"
    else:
        message = (
            f"{len(inputs):,} of {columns.never_active.size:,} inputs ({_ranges(inputs)}) were always zero{after}: "
            f"their weights never received a gradient"
        )
    is_condition = began_at_no_change(layer, checkpoint) or runs_on_its_state(layer, checkpoint)
    is_warning = columns.never_active.all() and not sources and not is_condition
    yield dead_inputs.finding(
        message,
        layer,
        severity=Severity.WARNING if is_warning else None,
        evidence={"inputs": inputs, "layer_inputs": columns.never_active.size, "updates": columns.step},
        advice="Look at what these inputs are: features of the data that are always zero, or outputs of another layer."
        if sources
        else "Check these inputs in the data: they were constantly zero, or masked. Their weights are untrained.",
    )


def _are_dead_units(never_active: NDArray, source: Layer, checkpoint: Checkpoint) -> bool:
    """True where the inputs without gradient are units of another layer that are inactive: NET001 is about these."""
    units = unit_activity(source, checkpoint, INACTIVE_RATIO)
    if units is None:
        return False
    repeats = never_active.size // max(units.inactive.size, 1)
    return bool(np.repeat(units.inactive, repeats)[never_active].all())


def _ranges(indices: Sequence[int]) -> str:
    """Format indices as ranges: ``3, 40–49``."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    shown = [f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts[:8]]
    return ", ".join(shown) + (" …" if len(parts) > 8 else "")
