"""Causes in the optimizer's state: poisoned or foreign moments, a state begun anew, too few bits."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import (
    about,
    failing_training,
    has_left_initial_interval,
    has_overflowed,
    names_of,
)
from checkpoint_doctor.builtin.causes._remedies import MIXED_PRECISION, NEW_STATE, OLD_STATE, REFUSE_NONFINITE
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding


@cause("poisoned-moments", Prognosis.CURED)
def poisoned_moments(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """One huge gradient has frozen Adam: the weights are fine, and the second moments are not.

    How we know:
        Second moments are infinite under finite weights, or those of all tensors are far above what the first moments
        show of the gradients: every step is divided by the root of a number that no gradient made but one.

    What else it could be:
        Dead or saturated units also have small first moments, but not in all tensors at once.

    What to do:
        Continue with a new optimizer state, and clip gradients. ``ckdoc fix`` replaces infinite entries.

    References:
        Rule OPT007. Measured: with the saved state the loss stayed at 1.1, with a fresh one it fell from 1.20 to 0.14.
    """
    findings = symptoms.of("OPT007")
    has_exploded = any(finding.severity.label == "error" for finding in symptoms.of("VAL002"))
    if findings and not has_exploded:
        yield poisoned_moments.claim(
            findings,
            consequences=symptoms.of("NET001", "OPT004", "OPT005", "OPT008"),
            remedy=NEW_STATE.line(checkpoint, str(findings[0].evidence.get("optimizer"))),
        )


@cause("nonfinite-gradient", Prognosis.CURED)
def nonfinite_gradient(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """NaN or infinity came in through a gradient: the weights and their moments are spoiled.

    How we know:
        A weight is not finite, and so are the optimizer's moments of the same weight: the gradient that spoiled one
        spoiled the other. In a running training loop the gradient itself is seen.

    What else it could be:
        A damaged file, where the moments of the spoiled values are fine.

    What to do:
        Go back to a checkpoint before. Clip gradients, look for a division by zero, a logarithm of zero, an overflow in
        half precision, and for NaN in the data (``torch.autograd.set_detect_anomaly(True)`` names the operation).

    References:
        Rules VAL001 and GRD001.
    """
    moments = [each for each in symptoms.of("VAL001") if each.evidence.get("moment") is not None]
    for finding in symptoms.of("GRD001"):
        yield nonfinite_gradient.claim(
            [finding],
            consequences=[*symptoms.of("VAL001", "OPT007", "NRM003"), *failing_training(symptoms)],
            subject=str(finding.evidence["optimizer"]),
            remedy=REFUSE_NONFINITE.line(checkpoint),
        )
    if symptoms.of("GRD001"):
        return
    if moments:
        yield nonfinite_gradient.claim(
            moments,
            "a gradient that was not finite has spoiled weights and moments alike",
            consequences=[*symptoms.of("VAL001", "OPT007", "NRM003"), *failing_training(symptoms)],
            evidence={
                "tensors": sorted({name for each in moments for name in names_of(each)} & checkpoint.by_name.keys())
            },
            remedy=REFUSE_NONFINITE.line(checkpoint),
        )
    else:
        spoiled = [each for each in symptoms.of("VAL001") if _is_learned_and_all_nan(each, checkpoint)]
        if spoiled:
            yield nonfinite_gradient.claim(
                spoiled,
                "whole tensors are NaN, as after a loss of NaN",
                consequences=symptoms.of("VAL001", "NRM003"),
                certainty=Certainty.LIKELY,
            )


@cause("low-precision", Prognosis.POINTLESS)
def low_precision(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Half precision has too few bits: values overflow, gradients underflow, or updates are lost in rounding.

    How we know:
        Half-precision values are at the end of their range, or still exactly initial although they received gradients,
        or the loss scaler is at its minimum.

    What else it could be:
        A learning rate that is too low for any precision.

    What to do:
        Keep a float32 copy of the weights in the optimizer (automatic mixed precision), or use bfloat16.

    References:
        Rules NRM004, VAL004, OPT009, OPT011 and RES005. Micikevicius et al. 1710.03740.
    """
    halves = [
        each
        for each in symptoms.of("OPT009")
        if any(
            checkpoint.by_name[name].dtype in ("float16", "bfloat16")
            for name in names_of(each) & checkpoint.by_name.keys()
        )
    ]
    scaled = () if symptoms.of("OPT006") else symptoms.of("RES005")
    proof = [*scaled, *symptoms.of("NRM004", "OPT011", "VAL004"), *halves, *_underflowing(symptoms, checkpoint)]
    proof += [each for each in symptoms.of("VAL001") if has_overflowed(each, checkpoint)]
    if proof:
        yield low_precision.claim(
            proof,
            consequences=symptoms.of("OPT005", "OPT008", "OPT006", "RES002"),
            remedy=MIXED_PRECISION.line(checkpoint),
        )


@cause("optimizer-reset", Prognosis.POINTLESS)
def optimizer_reset(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The optimizer was begun anew: its moments are younger than the model.

    How we know:
        The moments count fewer updates than the file, or are missing although the weights have left their initial
        interval.

    What else it could be:
        A fine-tuning that begins with a new optimizer on purpose.

    What to do:
        When resuming, load the optimizer's state too.

    References:
        Rules OPT006 and RES002. Stable-Baselines3 issues 868, 1256, 1916 and 2113.
    """
    lost = symptoms.of("OPT006", cause="empty state") if has_left_initial_interval(checkpoint) else ()
    for finding in (*symptoms.of("RES002"), *lost):
        yield optimizer_reset.claim(
            [finding],
            certainty=Certainty.LIKELY,
            consequences=symptoms.of("OPT008"),
            remedy=OLD_STATE.line(checkpoint),
        )


@cause("optimizer-of-another-model", Prognosis.POINTLESS)
def optimizer_of_another_model(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The moments in the file belong to something else than the model beside them.

    How we know:
        The number or the shapes of the moments contradict the model's parameters.

    What else it could be:
        An optimizer that stores its state in shapes of its own, which the rule leaves aside where it knows it.

    What to do:
        Save the optimizer that trained this model, or begin with a new one.

    References:
        Rule OPT002.
    """
    for finding in symptoms.of("OPT002"):
        yield optimizer_of_another_model.claim([finding], consequences=about(symptoms.of("OPT001"), names_of(finding)))


def _underflowing(symptoms: Symptoms, checkpoint: Checkpoint) -> list[Finding]:
    """Return findings about optimizers that received no gradient at all, and hold float16 parameters alone."""
    found = []
    for finding in symptoms.of("OPT006", cause="no gradient"):
        held = [checkpoint.by_name[name] for name in names_of(finding) & checkpoint.by_name.keys()]
        if held and all(tensor.dtype == "float16" for tensor in held):
            found.append(finding)
    return found


def _is_learned_and_all_nan(finding: Finding, checkpoint: Checkpoint) -> bool:
    tensor = checkpoint.find_tensor(finding.tensor)
    is_statistic = finding.tensor is not None and finding.tensor.endswith(("running_mean", "running_var"))
    return tensor is not None and not is_statistic and tensor.statistics.nan == tensor.statistics.count
