"""Units and inputs that receive no gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from checkpoint_doctor.analyzers._evidence.activations import RECTIFIERS, SQUASHERS, activation_of
from checkpoint_doctor.analyzers._evidence.downstream import Downstream, explain_inactivity
from checkpoint_doctor.analyzers._evidence.recycling import recycle
from checkpoint_doctor.analyzers._evidence.units import GradientActivity, input_activity, input_weight, unit_activity
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity

_WITH_UNITS = (Kind.LINEAR, Kind.CONV, Kind.LSTM, Kind.GRU, Kind.RNN)


@rule("NET001", "dormant-units", Severity.NOTE, on=Layer, fix=Safety.ON_REQUEST, worse=("units", "dormant_fraction"))
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
        A silent unit is lost capacity. It costs as much as the others and will not come back by itself; where nearly
        all of a layer is silent, what lies before it cannot learn either. It is how networks lose plasticity under
        non-stationary targets, and scores hide it for a long time.

    When it is normal:
        ReLU networks of off-policy agents lose units as a rule: published DQN, DDPG and SAC agents that play well have
        13 to 76 % of them silent. A unit that answers to rare inputs only may be silent between two of them.

    What to do:
        Dead ReLUs: lower the learning rate or the replay ratio, put a layer norm before the activation, or use an
        activation with a gradient on both sides. Saturated units: normalise the inputs. Whole layers: look for a
        detached or frozen path, or a saturated output. Where training goes on, ``ckdoc fix --recycle`` lets dead units
        learn again: incoming weights drawn anew, bias and outgoing weights 0, so that the function stays the same.

    References:
        A gradient that does not come again leaves m to decay by β1 and √v by √β2 per update, so |m|/√v falls below
        ``ratio`` = 1e-4 after 88 updates at Adam's defaults; other betas are scaled to the same count. RMSprop keeps
        only v and momentum only m: they are compared with the layer's largest. Measured on 20 published agents: 98 %
        of the flagged units never fire in 4 to 10 real episodes. The shares ``note``, ``warning`` and ``error``: single
        layers of good agents reach 94 %. Dormant neurons: Sokar et al. 2302.12902; plasticity: Lyle et al. 2303.01486.
    """
    if layer.is_output or layer.kind not in _WITH_UNITS:
        return
    activity = unit_activity(layer, checkpoint, ratio)
    if activity is None or activity.never.all() or not activity.silent.any():
        return
    if activity.silent.mean() < note or not _is_alive_elsewhere(layer, activity, checkpoint, ratio):
        return
    downstream = explain_inactivity(layer, activity, checkpoint, ratio)
    share = float(activity.silent.mean())
    severity = Severity.WARNING if share >= warning else Severity.NOTE
    if share >= error and downstream is not None and not downstream.readers_are_silent:
        # With a reader alive, the layer is the block; with all of them silent too, look further down.
        severity = Severity.ERROR
    yield dormant_units.finding(
        _describe(layer, activity, downstream, checkpoint),
        layer,
        severity=severity,
        evidence=_evidence(activity, downstream),
        repairs=_recycle_dead(layer, downstream, checkpoint),
        advice=_advise(activity, downstream, checkpoint, layer),
    )


@rule("NET006", "dead-inputs", Severity.NOTE, on=Layer, worse=("inputs",))
def dead_inputs(layer: Layer, checkpoint: Checkpoint, *, ratio: float = 1e-4) -> Iterator[Finding]:
    """Input columns of a first layer never received a gradient: those inputs were zero all along, or masked.

    Why it matters:
        The weights behind such an input are still the random ones of the start. On the day the input becomes active
        (a feature that was constant, a mask that is lifted) they add noise to every unit at once, and gradients that
        fit the old distribution break down.

    When it is normal:
        One-hot inputs that never occurred, padding, spare slots of an observation.

    What to do:
        Check the named inputs in the data: a constant zero, a feature that is scaled away, a mask that is always on.
        Leave them out, or normalise the groups of features separately before they become active.

    References:
        The gradient of a weight is its unit's gradient times its input, so a second moment of exactly zero down a whole
        column says that the input was zero whenever a gradient came. ``ratio`` only serves to tell whether the layer's
        units learn at all.
    """
    if layer.kind not in _WITH_UNITS or not _reads_the_input(layer, checkpoint):
        return
    columns, units = input_activity(layer, checkpoint, ratio), unit_activity(layer, checkpoint, ratio)
    if columns is None or units is None or not columns.never.any() or units.never.all() or columns.never.all():
        return
    inputs = np.flatnonzero(columns.never).tolist()
    after = f" in {columns.step:,} updates" if columns.step else ""
    yield dead_inputs.finding(
        f"{len(inputs):,} of {columns.never.size:,} inputs ({_ranges(inputs)}) never carried a signal{after}: "
        f"no gradient ever reached their weights",
        layer,
        evidence={"inputs": inputs, "layer_inputs": columns.never.size, "updates": columns.step},
        advice="Look at these inputs in the data: they were constantly zero or masked. Their weights are untrained.",
    )


def _reads_the_input(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a first layer: nothing before it that its inputs could be the units of."""
    if layer.previous is not None:
        return False
    others = [other for other in checkpoint.layers if other is not layer and other.kind in _WITH_UNITS]
    if layer.is_output and others:
        return False  # a head whose source the names do not tell
    extractors = any("features_extractor" in other.name for other in others)
    return not extractors or "features_extractor" in layer.name


def _is_alive_elsewhere(layer: Layer, activity: GradientActivity, checkpoint: Checkpoint, ratio: float) -> bool:
    """True where something under the same optimizer still learns, so that silence means something."""
    if not activity.silent.all():
        return True
    weight = input_weight(layer)
    optimizer = checkpoint.optimizer_of[weight.name] if weight else None
    for other in checkpoint.layers:
        theirs = input_weight(other)
        if other is layer or theirs is None or checkpoint.optimizer_of.get(theirs.name) is not optimizer:
            continue
        heard = unit_activity(other, checkpoint, ratio)
        if heard is not None and not heard.silent.all():
            return True
    return False


def _describe(layer: Layer, activity: GradientActivity, downstream: Downstream | None, checkpoint: Checkpoint) -> str:
    noun = "channels" if layer.kind is Kind.CONV else "units"
    parts = []
    if activity.never.any():
        parts.append(f"{int(activity.never.sum()):,} never learned")
    if activity.stopped.any():
        parts.append(f"{int(activity.stopped.sum()):,} stopped {_when(activity)}")
    silent, units = int(activity.silent.sum()), activity.silent.size
    message = f"{silent:,} of {units:,} {noun} receive no gradient ({silent / units:.0%}): {', '.join(parts)}"
    if downstream is None:
        return message
    if downstream.readers_are_silent:
        return f"{message}; what reads them receives none either, so the cause lies behind it"
    activation = activation_of(layer, checkpoint)
    dead = "by dead ReLUs" if activation in RECTIFIERS else "with an output of 0"
    stuck = "by saturation" if activation in SQUASHERS else "with an output that passes no gradient back"
    kinds = ((downstream.dead, dead), (downstream.saturated, stuck), (downstream.cut_off, "cut off by zero weights"))
    told = [f"{int(which.sum()):,} {word}" for which, word in kinds if which.any()]
    return f"{message}; {', '.join(told)}" if told else message


def _when(activity: GradientActivity) -> str:
    since = activity.since[activity.stopped]
    low, high = _round(float(since.min())), _round(float(since.max()))
    limit = f" (at most the {activity.step:,} counted)" if activity.step and high >= _round(activity.step) else ""
    return f"about {low:,} updates ago{limit}" if low == high else f"about {low:,} to {high:,} updates ago{limit}"


def _round(updates: float) -> int:
    """Round to two digits: it is an estimate."""
    return int(float(f"{max(updates, 1.0):.1e}"))


def _evidence(activity: GradientActivity, downstream: Downstream | None) -> dict[str, object]:
    stopped = np.flatnonzero(activity.stopped)
    evidence: dict[str, object] = {
        "units": np.flatnonzero(activity.silent).tolist(),
        "layer_units": activity.silent.size,
        "dormant_fraction": float(activity.silent.mean()),
        "never_learned": np.flatnonzero(activity.never).tolist(),
        "stopped": stopped.tolist(),
        "stopped_updates_ago": [_round(float(each)) for each in activity.since[stopped]],
        "updates": activity.step,
    }
    if downstream is not None:
        evidence |= {
            "dead": np.flatnonzero(downstream.dead).tolist(),
            "saturated": np.flatnonzero(downstream.saturated).tolist(),
            "cut_off": np.flatnonzero(downstream.cut_off).tolist(),
        }
    return evidence


def _advise(activity: GradientActivity, downstream: Downstream | None, checkpoint: Checkpoint, layer: Layer) -> str:
    if downstream is None:
        return ""
    if downstream.readers_are_silent:
        return (
            "Look behind this layer: an output that is saturated (a squashed action at its limit), a loss that is "
            "constant, or a path that is detached or frozen."
        )
    if downstream.saturated.sum() > downstream.dead.sum():
        return "Normalise the inputs (VecNormalize, a layer norm): the activation is driven to its flat ends."
    if downstream.dead.any() and activation_of(layer, checkpoint) in RECTIFIERS:
        return (
            "Recycle them if you train on, and keep new ones from dying: a lower learning rate or replay ratio, a "
            "layer norm before the activation."
        )
    return ""


def _recycle_dead(layer: Layer, downstream: Downstream | None, checkpoint: Checkpoint) -> list[Repair]:
    """Recycle the units whose output is 0: nothing of it reaches readers that learn. A tanh at its end gives ±1."""
    if downstream is None or activation_of(layer, checkpoint) in SQUASHERS:
        return []
    return recycle(layer, np.flatnonzero(downstream.dead).tolist(), checkpoint)


def _ranges(indices: Sequence[int]) -> str:
    """Print indices as ranges: ``3, 40–49``."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    shown = [f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts[:8]]
    return ", ".join(shown) + (" …" if len(parts) > 8 else "")
