"""Causes that come in with the data: constant inputs, values that are not finite, targets out of scale."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import (
    Named,
    any_reads_zeros,
    failing_training,
    layers_of,
    names_of,
    never_trained,
)
from checkpoint_doctor.builtin.causes._remedies import SCALE_INPUTS, SCALE_TARGETS
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import NORMS
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding, Severity

_STILL = 1e-4
"""A running variance that began at 1 falls below it in 88 batches without variance, with the momentum of 0.1."""


@cause("unscaled-inputs", Prognosis.POINTLESS)
def unscaled_inputs(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The inputs were not scaled, and the rest follows: features are far larger than 1.

    How we know:
        The gradient of a weight is its unit's gradient times the input, and that of the bias is the unit's gradient. So
        the optimizer's second moments of both give the size of every input feature.

    What else it could be:
        A learning rate that is too high also kills and saturates units, at inputs of an ordinary size.

    What to do:
        Bring each feature to mean 0 and standard deviation 1 with the statistics of the training data, and train anew:
        the units that large inputs have saturated do not come back by a repair.

    References:
        Rule INP001 and docs/signal-profile.md. Of 194 published agents, at least half of the units are dormant in 15 %
        of those with an input RMS below 10, and in 88 % of those between 100 and 1,000.
    """
    findings = symptoms.of("INP001", cause=("unscaled", "saturating"))
    if findings:
        has_effect = any(each.severity > Severity.NOTE for each in findings)
        yield unscaled_inputs.claim(
            findings,
            f"the inputs were not scaled: {findings[0].message}",
            consequences=[
                *failing_training(symptoms),
                *never_trained(symptoms),
                *symptoms.of("OPT006", cause="no gradient"),
                *symptoms.of("OPT007", "NET002", "NET006", "VAL003", "ZER002"),
            ],
            certainty=Certainty.PROVEN if has_effect else Certainty.POSSIBLE,
            subject=findings[0].subject,
            remedy=SCALE_INPUTS.line(checkpoint),
        )


@cause("constant-inputs", Prognosis.POINTLESS)
def constant_inputs(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Inputs never carried a signal: they were zero, or the same, in all of the training.

    How we know:
        The gradient of a weight is its unit's gradient times its input. Columns of a first layer whose second moments
        are exactly zero, while the layer's bias was trained, had inputs of zero whenever there was a gradient. An
        embedding of which a single row was ever trained has seen a single token.

    What else it could be:
        Inputs that a mask removes; one-hot features that never occurred.

    What to do:
        Look at these inputs in the data pipeline: a feature that is scaled to zero, a wrong column, an observation that
        is never filled, padding in the place of tokens.

    References:
        Rules INP001, NET006 and NET007.
    """
    for finding in symptoms.of("INP001", cause="constant"):
        yield constant_inputs.claim([finding], consequences=failing_training(symptoms))
    untouched = Named(never_trained(symptoms))
    # Where several layers read constants, the first explains what follows for the whole model, and the others nothing.
    small = list(symptoms.of("OPT005"))
    whole = [*never_trained(symptoms), *failing_training(symptoms)]
    for finding in symptoms.of("NET006"):
        consequences, small = [*untouched.about(names_of(finding)), *small], []
        if len(finding.evidence.get("inputs", ())) == finding.evidence.get("layer_inputs"):
            consequences, whole = [*consequences, *whole], []
        yield constant_inputs.claim([finding], consequences=consequences)
    failing = list(failing_training(symptoms))
    for finding in symptoms.of("NET007"):
        count, rows = finding.evidence.get("count"), finding.evidence.get("rows")
        if isinstance(count, int) and isinstance(rows, list) and count >= 8 and len(rows) == count - 1:
            yield constant_inputs.claim(
                [finding],
                f"only one row of {count:,} was ever trained: every input was the same token, such as padding",
                certainty=Certainty.LIKELY,
                consequences=failing,
            )
            failing = []
    untrained, still = symptoms.of("OPT001", cause="never trained"), _first_still_norm(checkpoint)
    if untrained and still is not None and any_reads_zeros(checkpoint):
        yield constant_inputs.claim(
            untrained,
            f"no weight received a gradient, and the running variance of {still.name}, the first of its kind, fell to "
            "zero: the inputs never varied",
            certainty=Certainty.LIKELY,
            consequences=[*never_trained(symptoms), *failing_training(symptoms)],
            subject=still.name,
        )


@cause("reward-scale", Prognosis.POINTLESS)
def reward_scale(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Targets or rewards are so large that the value side takes everything: gradients, clip and ε.

    How we know:
        Gradients are ten thousand times as large as in networks that learn; or one component of an agent makes no steps
        to speak of, because another one takes the whole clipped gradient.

    What else it could be:
        A loss that is summed over a batch or a sequence instead of averaged.

    What to do:
        Scale rewards, or targets, to a standard deviation of about 1.

    References:
        Rules OPT005 and OPT012. Andrychowicz et al. 2006.05990 on value normalisation.
    """
    starved = [each for each in symptoms.of("OPT005") if each.evidence.get("component")]
    proof = [*symptoms.of("OPT012"), *starved]
    if proof:
        yield reward_scale.claim(
            proof,
            consequences=[*failing_training(symptoms), *symptoms.of("OPT007")],
            certainty=Certainty.PROVEN if symptoms.of("OPT012") else Certainty.LIKELY,
            remedy=SCALE_TARGETS.line(checkpoint),
        )


@cause("inputs-switched-on", Prognosis.POINTLESS)
def inputs_switched_on(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Inputs that were constantly zero became active in the middle of a run: the input distribution shifted.

    How we know:
        The second moments of the inputs' weights were exactly zero at one check of a running training loop and are not
        at the next.

    What else it could be:
        Inputs that are rarely active by nature, such as one-hot classes.

    What to do:
        Normalise these inputs in a group of their own, let them be active from the beginning, or set their weights to
        zero when they begin.

    References:
        Rule GRD004.
    """
    findings = [each for each in symptoms.of("GRD004") if each.severity > Severity.NOTE]
    if findings:
        yield inputs_switched_on.claim(
            findings,
            consequences=symptoms.of("GRD003", "NET001", "INP001"),
            subject=str(findings[0].evidence["first_layer"]),
        )


@cause("nonfinite-data", Prognosis.CURED)
def nonfinite_data(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """NaN or infinity came in through the data and spoiled running statistics, while the weights are fine.

    How we know:
        Running means or variances are not finite, and every weight and every moment is. Statistics are updated by the
        forward pass, weights by the gradient: so a batch that was not finite passed, and no gradient of it was applied.

    What else it could be:
        An overflow inside the network in half precision, in a forward pass without a gradient, such as a validation.

    What to do:
        Find the batch: check images and features for NaN and infinity before they reach the network. ``ckdoc fix
        --unsafe`` replaces the statistics; better ones come from a pass over good data in training mode.

    References:
        Rules VAL001 and NRM003. PyTorch's ``BatchNorm2d`` on running statistics.
    """
    findings = [*symptoms.of("VAL001"), *symptoms.of("NRM003")]
    spoiled = [each for each in findings if _is_about_statistics(each, checkpoint)]
    if spoiled and all(_is_about_statistics(each, checkpoint) for each in symptoms.of("VAL001")):
        nonfinite = [each for each in spoiled if each.code == "VAL001"]
        if nonfinite:
            yield nonfinite_data.claim(
                nonfinite,
                "running statistics are not finite, and all weights are: values that are not finite came in with the "
                "data",
                consequences=spoiled,
            )


def _first_still_norm(checkpoint: Checkpoint) -> Layer | None:
    """Return the first layer with running statistics, if its variance fell to nearly zero: its inputs did not vary."""
    for layer in checkpoint.layers:
        variance = layer.tensors.get("running_var")
        if variance is not None:
            return layer if 0 <= (variance.statistics.maximum or 0) < _STILL else None
    return None


def _is_about_statistics(finding: Finding, checkpoint: Checkpoint) -> bool:
    if finding.evidence.get("moment") is not None or finding.tensor is None:
        return False
    return any(layer.kind in NORMS for layer in layers_of(finding, checkpoint)) and finding.tensor.endswith(
        ("running_mean", "running_var")
    )
