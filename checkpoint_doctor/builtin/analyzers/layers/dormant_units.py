"""Units that receive no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.activations import RECTIFIERS, SQUASHERS, activation_of
from checkpoint_doctor.builtin.analyzers._evidence.algorithms import RELU_BY_DEFAULT
from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import GradientActivity, unit_activity
from checkpoint_doctor.builtin.analyzers._evidence.inactivity_causes import InactivityCauses, find_inactivity_causes
from checkpoint_doctor.builtin.analyzers._evidence.lifted_moments import has_lifted_moments
from checkpoint_doctor.builtin.analyzers._evidence.model_inputs import (
    measured_input_rms,
)
from checkpoint_doctor.builtin.analyzers._evidence.readers import input_weight
from checkpoint_doctor.builtin.analyzers._evidence.tables import may_be_table
from checkpoint_doctor.builtin.analyzers._repairs.recycling import recycle
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Optimizer, found_once
from checkpoint_doctor.layers import FEEDFORWARD, WITH_UNITS, Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.statistics.values import as_real, median
from checkpoint_doctor.text import estimate, quantity

_MOST_UPDATES = 1e15
"""The most updates that are spoken of: moments that do not decay tell of no end."""
_USUAL_SIZE = 2.0
"""Times the largest bias or row of the living units that those of dormant ones may have."""
_LEAST_SIZE = 0.1
"""Share of the living units' median that the median of the dormant ones has at least: rows set to zero have less."""
_LARGE_INPUTS = 10.0
"""RMS of a layer's inputs from which they may make its units dormant; the inputs of published agents lie below 6."""


@rule(
    "NET001",
    "dormant-units",
    Severity.NOTE,
    worst=Severity.ERROR,
    on=Layer,
    fix=Safety.ON_REQUEST,
    worse=("units", "dormant_fraction"),
)
def dormant_units(
    layer: Layer,
    checkpoint: Checkpoint,
    *,
    ratio: float = 1e-4,
    note: float = 0.10,
    warning: float = 0.50,
    error: float = 0.95,
) -> Iterator[Finding]:
    """Hidden units receive no gradient: they never learned, or have stopped learning.

    Why it matters:
        A dormant unit is lost capacity. It costs as much as any other unit and does not recover by itself. Where nearly
        all units of a layer are dormant, the layers before it cannot learn either. Networks lose plasticity this way
        under non-stationary targets, and scores may not show it for a long time.

    When it is normal:
        ReLU networks of off-policy agents usually have dormant units: in published DQN, DDPG and SAC agents that play
        well, 13 to 76 % are dormant, and TD3 with the defaults of Stable-Baselines3 has 90 % in one layer on Pendulum
        after 1,000 steps. Up to ``error`` that is a note for these algorithms, as long as weights and biases of the
        units are of the size of the others'. A unit that responds to rare inputs only may be dormant between two of
        them. Where no layer is known to read the units, those that never received a gradient may be masked outputs, or
        rows of a table that were never looked up: a note.

    What to do:
        Dead ReLUs: lower the learning rate or the replay ratio, put a layer norm before the activation, or use an
        activation with a gradient on both sides. Saturated units: normalise the inputs where they are large (INP001),
        else lower the learning rate. Whole layers: look for a detached or frozen path, or a saturated output. If you
        continue training, ``ckdoc fix --recycle`` makes dead units able to learn: it reinitialises their incoming
        weights and sets bias and outgoing weights to 0, so that the network's function stays the same.

    Options:
        ratio: A unit receives no gradient where |m|/√v is below this in all of its weights: 88 updates after its last
            gradient with Adam's defaults. For other betas the limit is scaled to the same number of updates.
        note: The share of dormant units from which a layer is reported; good agents have some in most layers.
        warning: The share from which it is a warning: half of the layer.
        error: The share from which it is an error, if the cause lies in this layer; single layers of good agents reach
            94 %. Units that saturated while they learned still pass on the sign of what they add up: all must be.

    References:
        Without new gradients, m decays by β1 and √v by √β2 in each update. RMSprop stores only v and momentum only m:
        they are compared with the largest in the layer. Measured on 20 published agents: 98 % of the reported units
        never fire in 4 to 10 real episodes. Dormant neurons: Sokar et al. 2302.12902; plasticity: Lyle et al.
        2303.01486.
    """
    if layer.is_output or layer.kind not in WITH_UNITS or _has_lifted_moments(layer, checkpoint):
        return
    activity = unit_activity(layer, checkpoint, ratio)
    if activity is None or activity.never_active.all() or not activity.inactive.any():
        return
    share = float(activity.inactive.mean())
    if share < note or not _is_training_recorded(layer, activity, checkpoint, ratio):
        return
    causes = find_inactivity_causes(layer, activity, checkpoint, ratio)
    is_expected = _may_be_unread(layer, activity) or _is_usual_off_policy(layer, activity, checkpoint)
    severity = Severity.WARNING if share >= warning and not is_expected else Severity.NOTE
    if share >= error and causes is not None and not causes.readers_are_inactive:
        # Where the readers are inactive too, the cause is not in this layer.
        severity = Severity.ERROR if _are_lost(activity, causes, error) else severity
    yield dormant_units.finding(
        _describe(layer, activity, causes, checkpoint),
        layer,
        severity=severity,
        evidence=_evidence(activity, causes),
        repairs=_recycle_dead(layer, causes, checkpoint),
        advice=_advise(layer, causes, checkpoint),
    )


def _are_lost(activity: GradientActivity, causes: InactivityCauses, share: float) -> bool:
    """True where a layer works no more, or never did. Saturated units that stopped learning still pass on signs."""
    if not causes.are_mostly_saturated or activity.inactive.all():
        return True
    return float(activity.never_active.mean()) >= share


def _may_be_unread(layer: Layer, activity: GradientActivity) -> bool:
    """True where idle units may be rows that were never looked up, or outputs that a mask leaves unread."""
    if layer.kind in FEEDFORWARD and not layer.followers and not activity.stopped.any():
        return True
    return may_be_table(layer)


def _is_usual_off_policy(layer: Layer, activity: GradientActivity, checkpoint: Checkpoint) -> bool:
    """True where dormant units of an off-policy agent have weights and biases like those of the living ones.

    Units that code or a huge gradient has killed have biases, or rows of weights, that no other unit has.
    """
    if checkpoint.algorithm not in RELU_BY_DEFAULT or activity.inactive.all() or layer.weight is None:
        return False
    sizes = [layer.weight.statistics.row_norms]
    if layer.bias is not None:
        sizes.append(np.abs(as_real(layer.bias.array)))
    units = activity.inactive.size
    known = [size for size in sizes if size is not None and size.size == units]
    return bool(known) and all(
        bool(size[activity.inactive].max() <= _USUAL_SIZE * size[~activity.inactive].max())
        and median(size[activity.inactive]) >= _LEAST_SIZE * median(size[~activity.inactive])
        for size in known
    )


def _has_lifted_moments(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True where one huge gradient lifted the second moments, so that |m|/√v is small in live units too (OPT007)."""
    weight = input_weight(layer)
    optimizer = checkpoint.optimizer_of.get(weight.name) if weight else None
    return optimizer is not None and has_lifted_moments(optimizer)


def _is_training_recorded(layer: Layer, activity: GradientActivity, checkpoint: Checkpoint, ratio: float) -> bool:
    """True where this layer, or another layer of the same optimizer, has units that receive gradients."""
    if not activity.inactive.all():
        return True
    weight = input_weight(layer)
    return weight is not None and checkpoint.optimizer_of[weight.name] in _recording_optimizers(checkpoint, ratio)


@found_once
def _recording_optimizers(checkpoint: Checkpoint, ratio: float) -> set[Optimizer]:
    """Return the optimizers with a layer whose units receive gradients."""
    found: set[Optimizer] = set()
    for layer in checkpoint.layers:
        weight = input_weight(layer)
        optimizer = checkpoint.optimizer_of.get(weight.name) if weight else None
        if optimizer is not None and optimizer not in found:
            activity = unit_activity(layer, checkpoint, ratio)
            if activity is not None and not activity.inactive.all():
                found.add(optimizer)
    return found


def _describe(layer: Layer, activity: GradientActivity, causes: InactivityCauses | None, checkpoint: Checkpoint) -> str:
    noun = "channels" if layer.kind is Kind.CONV else "units"
    never, stopped = int(activity.never_active.sum()), int(activity.stopped.sum())
    parts = []
    if never:
        parts.append(f"{never:,} never received one")
    if stopped:
        parts.append(f"{stopped:,} {'has' if stopped == 1 else 'have'} received none for {_updates_since(activity)}")
    inactive, units = int(activity.inactive.sum()), activity.inactive.size
    message = f"{inactive:,} of {units:,} {noun} receive no gradient ({inactive / units:.0%}): {', '.join(parts)}"
    if causes is None:
        return message
    if causes.readers_are_inactive:
        return f"{message}; the layers that read them receive none either, so the cause is closer to the output"
    counts = _count_causes(causes, activation_of(layer, checkpoint))
    return f"{message}; {', '.join(counts)}" if counts else message


def _count_causes(causes: InactivityCauses, activation: str | None) -> list[str]:
    """Return how many units have which cause, as phrases: ``41 dead ReLUs``."""
    dead = "dead ReLU" if activation in RECTIFIERS else ""
    saturated = "saturated" if activation in SQUASHERS else "with an output that passes no gradient back"
    counts = []
    if causes.dead.any():
        count = int(causes.dead.sum())
        counts.append(quantity(count, dead) if dead else f"{count:,} with an output of 0")
    if causes.saturated.any():
        counts.append(f"{int(causes.saturated.sum()):,} {saturated}")
    if causes.cut_off.any():
        counts.append(f"{int(causes.cut_off.sum()):,} cut off by zero outgoing weights")
    return counts


def _updates_since(activity: GradientActivity) -> str:
    """Say for how many updates the units have received no gradient: ``about 39–3,200 updates``."""
    since = activity.updates_since[activity.stopped]
    at_least = activity.at_least[activity.stopped]
    if at_least.any() and float(since[at_least].max()) >= float(since.max()):
        least = f"more than {_round_down(float(since[at_least].min())):,} updates"
        return least if at_least.all() else f"about {_round(float(since.min())):,} to {least}"
    low, high = _round(float(since.min())), _round(float(since.max()))
    limit = f" (at most the {activity.step:,} counted)" if activity.step and high >= _round(activity.step) else ""
    return f"about {low:,} updates{limit}" if low == high else f"about {low:,}–{high:,} updates{limit}"


def _round(updates: float) -> int:
    """Round to two digits, since the number is an estimate."""
    return int(float(f"{min(max(updates, 1.0), _MOST_UPDATES):.1e}"))


def _round_down(updates: float) -> int:
    """Round down to one digit, since the number is a lower bound."""
    updates = min(max(updates, 1.0), _MOST_UPDATES)
    size: int = 10 ** int(log10(updates))
    return int(updates) // size * size


def _evidence(activity: GradientActivity, causes: InactivityCauses | None) -> dict[str, object]:
    stopped = np.flatnonzero(activity.stopped)
    evidence: dict[str, object] = {
        "units": np.flatnonzero(activity.inactive).tolist(),
        "layer_units": activity.inactive.size,
        "dormant_fraction": float(activity.inactive.mean()),
        "never_learned": np.flatnonzero(activity.never_active).tolist(),
        "stopped": stopped.tolist(),
        "stopped_updates_ago": [_round(float(each)) for each in activity.updates_since[stopped]],
        "updates": activity.step,
    }
    if activity.at_least.any():
        evidence["at_least"] = [bool(each) for each in activity.at_least[stopped]]
    if causes is not None:
        evidence |= {
            "dead": np.flatnonzero(causes.dead).tolist(),
            "saturated": np.flatnonzero(causes.saturated).tolist(),
            "cut_off": np.flatnonzero(causes.cut_off).tolist(),
        }
    return evidence


def _advise(layer: Layer, causes: InactivityCauses | None, checkpoint: Checkpoint) -> str:
    if causes is None:
        return ""
    is_saturated = causes.are_mostly_saturated
    if not (is_saturated or causes.dead.any() or causes.readers_are_inactive):
        return ""
    size = measured_input_rms(layer, checkpoint)
    if size is not None and size >= _LARGE_INPUTS:
        how = "VecNormalize, or the mean and deviation of the data" if layer.previous is None else "a layer norm"
        effect = "saturates the activation" if is_saturated else "drives units to where they pass no gradient"
        return f"Normalise the inputs ({how}): they have an RMS of {estimate(size)}, which {effect}."
    if causes.readers_are_inactive:
        return (
            "Look at the layers behind this one: a saturated output (a squashed action at its limit), a constant loss, "
            "or a detached or frozen path."
        )
    if is_saturated and size is not None:
        return (
            f"The inputs do not look large (RMS {estimate(size)}), so the weights or biases are: lower the learning "
            f"rate, and check the initialisation."
        )
    if is_saturated:
        return "Normalise the inputs (VecNormalize, a layer norm) where they are large: the activation is saturated."
    if activation_of(layer, checkpoint) in RECTIFIERS:
        return (
            "Recycle them if you continue training. To keep more units from dying, lower the learning rate or the "
            "replay ratio, or put a layer norm before the activation."
        )
    return ""


def _recycle_dead(layer: Layer, causes: InactivityCauses | None, checkpoint: Checkpoint) -> list[Repair]:
    """Recycle the units whose output is 0. Not behind tanh, which outputs ±1 where it is saturated."""
    if causes is None or activation_of(layer, checkpoint) in SQUASHERS:
        return []
    return recycle(layer, np.flatnonzero(causes.dead).tolist(), checkpoint)
