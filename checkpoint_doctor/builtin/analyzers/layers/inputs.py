"""The model's inputs: how large they were, as the moments of the layers that read them show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import unit_activity
from checkpoint_doctor.builtin.analyzers._evidence.lifted_moments import has_lifted_moments
from checkpoint_doctor.builtin.analyzers._evidence.model_inputs import find_first_layers, group_by_inputs
from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, input_weight
from checkpoint_doctor.checkpoint import Checkpoint, Layer, LayerSignal
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import estimate, quantity, shown

_TANH_LIMIT = 9.0
"""Size of a sum from which tanh is ±1 in float32."""
_CERTAINLY_ONE = 1e-4
"""Distance from 1 of what a layer read, below which its inputs were ±1 all the time."""
_LISTED = 4
"""Features that a message lists one by one."""


@rule(
    "INP001",
    "input-scale",
    Severity.NOTE,
    worst=Severity.ERROR,
    on=Checkpoint,
    part=("cause", "layer"),
    worse=("input_rms",),
)
def input_scale(
    checkpoint: Checkpoint,
    *,
    note: float = 10.0,
    warning: float = 100.0,
    alone: float = 1000.0,
    dormant: float = 0.5,
    ratio: float = 1e-4,
) -> Iterator[Finding]:
    """The model's inputs were not scaled: features are far larger than 1, or never changed.

    Why it matters:
        Initialisations and learning rates are made for inputs of about 1. Large inputs saturate tanh and sigmoid units
        and kill ReLUs, which then pass no gradient on, and a feature that is a thousand times larger than the others
        hides them. Inputs that never change carry no signal, so that the layer only learns a second bias.

    When it is normal:
        Single features up to some tens, such as speeds in physics simulations. Raw pixels up to 255 are often used and
        slow training down. A feature that is constant on purpose is not reported as long as others change.

    What to do:
        Bring each feature to mean 0 and standard deviation 1 with statistics of the training data, and store these with
        the model. Stable-Baselines3: wrap the environment in ``VecNormalize``, and save its statistics. Images: divide
        pixels by 255. Then train anew: repairs of the saturated units do not last while the inputs stay as they are.

    Options:
        note: The RMS of the largest feature from which inputs are reported. Inputs of published agents of the RL Zoo
            have an RMS of 0.1 to 5.8 (features up to 12).
        warning: The RMS from which it is a warning where units are dormant as well. Of 194 agents of 81 repositories,
            at least half of the units are dormant in 15 % of those below 10, and in 88 % of those between 100 and
            1,000.
        alone: The RMS from which it is a warning in any case, since the moments reach back 1,000 updates only.
        dormant: The share of dormant units, among those that read the inputs, that a warning below ``alone`` needs.
        ratio: A unit is dormant where |m|/√v is below this in all of its weights; the same as in NET001.

    References:
        The gradient of a weight is its unit's gradient times the input, and that of the bias is the unit's gradient.
        So the ratio of their second moments is the mean square of the input; docs/signal-profile.md has the measured
        errors. It is an error where no unit of a first layer is ever below the limit of tanh. All inputs constant:
        every column's second moments are those of the bias times one number.
    """
    yield from _saturating_inputs(checkpoint)
    for layers in _groups(checkpoint):
        known = [layer for layer in layers if checkpoint.signals[layer.name].input_rms is not None]
        layer = max(known, key=lambda each: _overall(checkpoint.signals[each.name]))
        signal = checkpoint.signals[layer.name]
        largest = _largest(signal)
        evidence = {
            "layer": known[0].name,
            "layers": [each.name for each in layers],
            "layer_inputs": count_inputs(layer),
            "input_rms": signal.input_rms,
        }
        if _is_constant(signal):
            yield input_scale.finding(
                f"all {quantity(count_inputs(layer), 'input')} were one constant each in the last updates: the weights "
                f"that read them are no more than a second bias",
                known[0],
                severity=Severity.WARNING,
                evidence={"cause": "constant", **evidence},
                advice="Check the data: the same input every time, such as an observation that is not updated.",
            )
        if largest < note:
            continue
        share, worst = max((_dormant_fraction(each, checkpoint, ratio), each.name) for each in layers)
        has_effect = largest >= warning and share >= dormant
        yield input_scale.finding(
            _describe(layer, signal, note)
            + (f"; {share:.0%} of the units of {shown(worst)} are dormant" if share else ""),
            known[0],
            severity=Severity.WARNING if has_effect or largest >= alone else Severity.NOTE,
            evidence={"cause": "unscaled", **evidence, **_feature_evidence(signal, note), "dormant_fraction": share},
            advice=_advise(layer, checkpoint),
        )


def _saturating_inputs(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield a finding where first layers received no gradient, and what reads them always read ±1.

    All units are then at the limit of tanh. A unit gets there where its weights times the inputs exceed
    ``_TANH_LIMIT``, so the smallest row of weights tells how large the inputs must have been.
    """
    least: dict[str, float] = {}
    for layer in find_first_layers(checkpoint):
        weight, follower = layer.weight, layer.following
        moments = checkpoint.moments.get(weight.name) if weight is not None else None
        second = moments.second if moments is not None else None
        if weight is None or follower is None or second is None or second.statistics.absmax > 0 or not weight.size:
            continue
        read = checkpoint.signals[follower].feature_rms
        norms = weight.statistics.row_norms
        if read is None or norms is None or not read.size or np.abs(read - 1.0).max() > _CERTAINLY_ONE:
            continue
        smallest = float(norms.min())
        least[layer.name] = _TANH_LIMIT / smallest / (weight.size // weight.shape[0]) ** 0.5 if smallest else 0.0
    if least:
        size = max(least.values())
        names = f"{shown(next(iter(least)))}" + (f" and {len(least) - 1} more" if len(least) > 1 else "")
        yield input_scale.finding(
            f"every unit of {names} is saturated: what reads them always read ±1, and no gradient passed. With these "
            f"weights, the inputs had an RMS of {estimate(size)} or more",
            checkpoint.layer_by_name[next(iter(least))],
            severity=Severity.ERROR,
            evidence={"cause": "saturating", "layer": next(iter(least)), "layers": list(least), "input_rms": size},
            advice=_advise(checkpoint.layer_by_name[next(iter(least))], checkpoint),
        )


def _groups(checkpoint: Checkpoint) -> Iterator[list[Layer]]:
    """Yield the first layers that read the same inputs, where it is known for one of them how large these were."""
    usable = [layer for layer in find_first_layers(checkpoint) if not _has_lifted_moments(layer, checkpoint)]
    for group in group_by_inputs(usable, checkpoint):
        if any(checkpoint.signals[layer.name].input_rms is not None for layer in group):
            yield group


def _has_lifted_moments(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True where one huge gradient lifted the second moments (OPT007), which then show that batch's inputs alone."""
    weight = input_weight(layer)
    optimizer = checkpoint.optimizer_of.get(weight.name) if weight else None
    return optimizer is not None and has_lifted_moments(optimizer)


def _overall(signal: LayerSignal) -> float:
    """Return the RMS of all features, which must be known."""
    assert signal.input_rms is not None
    return signal.input_rms


def _largest(signal: LayerSignal) -> float:
    """Return the RMS of the largest feature, of all of them where single ones are not known."""
    overall = _overall(signal)
    return overall if signal.feature_rms is None else float(signal.feature_rms.max(initial=overall))


def _is_constant(signal: LayerSignal) -> bool:
    """True where no feature ever changed, and not all were 0 (NET006 reports those)."""
    if signal.constant_features is None or signal.feature_rms is None:
        return False
    unchanged = signal.constant_features | (signal.feature_rms == 0)
    return bool(unchanged.all() and signal.constant_features.any())


def _dormant_fraction(layer: Layer, checkpoint: Checkpoint, ratio: float) -> float:
    activity = unit_activity(layer, checkpoint, ratio)
    return 0.0 if activity is None else float(activity.inactive.mean())


def _feature_evidence(signal: LayerSignal, note: float) -> dict[str, object]:
    if signal.feature_rms is None:
        return {}
    large = np.flatnonzero(signal.feature_rms >= note)
    return {"features": large.tolist(), "feature_rms": [float(f"{each:.3g}") for each in signal.feature_rms[large]]}


def _describe(layer: Layer, signal: LayerSignal, note: float) -> str:
    """Name the large features and their sizes: ``feature 3 has an RMS of 64,000, the other 5 have 0.2 to 4``."""
    sizes = signal.feature_rms
    if sizes is None or layer.kind is Kind.CONV or (large := sizes >= note).all():
        within = "" if sizes is None or layer.kind is Kind.CONV else f" ({_range(sizes)} each)"
        return f"inputs have an RMS of {estimate(_overall(signal))}{within} and should be near 1"
    order = np.flatnonzero(large)
    order = order[np.argsort(-sizes[order], kind="stable")]
    named = [f"feature {index} has an RMS of {estimate(sizes[index])}" for index in order[:_LISTED]]
    if len(order) > _LISTED:
        named = [f"{len(order):,} features have an RMS of {_range(sizes[order])}, the largest is feature {order[0]}"]
    others = sizes[~large & (sizes > 0)]
    rest = (
        f"; the other {len(others):,} {'has' if len(others) == 1 else 'have'} {_range(others)}" if len(others) else ""
    )
    return f"{', '.join(named)}{rest}"


def _range(sizes: NDArray) -> str:
    low, high = estimate(float(sizes.min())), estimate(float(sizes.max()))
    return low if low == high else f"{low} to {high}"


def _advise(layer: Layer, checkpoint: Checkpoint) -> str:
    if layer.kind is Kind.CONV:
        return "Divide pixels by 255, or standardise each channel."
    if checkpoint.format == "sb3":
        return (
            "Wrap the environment: env = VecNormalize(env), save its statistics beside the model with "
            'env.save("vecnormalize.pkl"), and train anew.'
        )
    return (
        "Standardise each feature with the mean and standard deviation of the training data, or put a normalisation in "
        "front, and train anew."
    )
