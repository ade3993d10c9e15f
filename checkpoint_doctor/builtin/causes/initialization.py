"""Causes in the initial values: units that cannot differ, layers that cannot start, values that are too wide."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import (
    NEVER_TRAINED,
    OVERWRITTEN,
    any_reads_zeros,
    are_most_of_a_kind,
    has_gradient,
    is_fresh_part,
    layers_of,
    names_of,
    never_trained,
    rows_were_trained_apart,
    was_drawn_wide,
)
from checkpoint_doctor.builtin.causes._remedies import LOAD_ALL
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding, Severity


@cause("symmetric-units", Prognosis.CURED)
def symmetric_units(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Units began with equal weights, receive equal gradients, and stay equal for ever.

    How we know:
        Rows of a weight are identical to the last bit, or the whole matrix is one number, and the optimizer's second
        moments of these rows are equal too: their gradients were.

    What else it could be:
        Rows that were written over one another after training (``overwritten``), where the moments differ.

    What to do:
        Initialise the layer with random values. ``ckdoc fix --unsafe`` draws them anew; what the one distinct unit had
        learned is lost.

    References:
        Rules NET004 and VAL005. Goodfellow, Bengio and Courville, Deep Learning, section 8.4.
    """
    findings = [
        each
        for each in symptoms.of("NET004", "VAL005")
        if not any(rows_were_trained_apart(name, checkpoint, each) for name in names_of(each))
    ]
    if findings:
        are_recorded = all(
            any(rows_were_trained_apart(name, checkpoint, each) is False for name in names_of(each))
            for each in findings
        )
        yield symmetric_units.claim(
            findings,
            f"units of {', '.join(str(each.subject) for each in findings[:3])} are equal and receive equal gradients",
            consequences=symptoms.of("NET005", "NET001", "NET002"),
            certainty=Certainty.PROVEN if are_recorded else Certainty.LIKELY,
        )


@cause("zero-deadlock", Prognosis.CURED)
def zero_deadlock(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Two layers in a row began at zero, so that neither passes the other a gradient.

    How we know:
        A layer's weights are exactly zero, its second moments too, and the layer in front of it received no gradient
        either: a zero layer passes no gradient back, and a layer that reads zeros has none for its own weights. Its
        bias received one, so that the path to the loss is whole.

    What else it could be:
        A path that is detached from the loss, whose weights happen to be zero.

    What to do:
        At most one of two layers in a row may start at zero (a zero output layer over random layers learns). ``ckdoc
        fix`` draws the zero layers anew, and they learn from then on.

    References:
        Rules NET003 and ZER001. Measured: after the repair the loss fell from 0.567 to 0.111.
    """
    zero = [
        each
        for each in symptoms.of("NET003", "ZER001", cause="never trained")
        if _is_all_zero(each, checkpoint) and _is_reached(each, checkpoint)
    ]
    zero += [each for each in symptoms.of("OPT001", cause=NEVER_TRAINED) if _holds_zero_matrix(each, checkpoint)]
    factors = [
        tensor
        for layer in checkpoint.layers
        for role, tensor in layer.tensors.items()
        if role == "lora_A" and tensor.size
    ]
    if factors and all(tensor.statistics.zeros == tensor.statistics.count for tensor in factors):
        zero += symptoms.of("NET008")
    if zero:
        stuck = [*symptoms.of("OPT001", cause="never trained"), *never_trained(symptoms)]
        yield zero_deadlock.claim(
            zero,
            f"{', '.join(str(each.subject) for each in zero[:3])} began at zero and reads zeros: neither layer passes "
            "the other a gradient",
            consequences=[*stuck, *symptoms.of("NET001", "NET002", "NET006")],
            certainty=Certainty.PROVEN if stuck else Certainty.LIKELY,
            advice="Let only one of two layers in a row begin at zero: a zero output layer over random layers learns.",
        )


@cause("too-wide-init", Prognosis.RELIEVED)
def too_wide_init(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Weights began so large that the activations are saturated from the first step.

    How we know:
        The root mean square of a weight, times the root of its fan-in, is far above that of any trained layer, and the
        values still have the spread of random initial values, in all layers of the kind alike.

    What else it could be:
        A learning rate that made them grow (``learning-rate-too-high``), where the update ratio is large.

    What to do:
        Use the initialisation of the layer's activation (Xavier for tanh, Kaiming for ReLU), and orthogonal values for
        hidden-to-hidden weights.

    References:
        Rules RNN005 and VAL002. Glorot and Bengio 2010; He et al. 1502.01852.
    """
    large = symptoms.of("VAL002", "RNN005")
    if any(each.severity is Severity.ERROR for each in large):
        return  # beyond any initialisation
    wide = [
        each
        for each in large
        if any(
            was_drawn_wide(checkpoint.by_name[name], checkpoint) for name in names_of(each) & checkpoint.by_name.keys()
        )
    ]
    if wide and are_most_of_a_kind(wide, checkpoint):
        yield too_wide_init.claim(
            wide,
            f"{wide[0].subject} is larger than all updates together can have made it: it was drawn too wide, and the "
            "activation behind it is saturated",
            consequences=[*large, *symptoms.of("NET001", "NET005", "OPT008", "RNN003")],
        )


@cause("partial-load", Prognosis.POINTLESS)
def partial_load(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """A part of the weights is fresh under a trained rest: it was not loaded, or initialised again.

    How we know:
        Weights lie within their initial interval, or gains are exactly 1, while the optimizer's moments of the same
        tensors show that they were trained, and other tensors have left the interval.

    What else it could be:
        Values that a script wrote over trained ones (``overwritten``), where single vectors are concerned.

    What to do:
        Load with ``strict=True``, and look at the missing keys. A head that is new on purpose needs new moments too.

    References:
        Rule OPT010. PyTorch's ``Module.load_state_dict``.
    """
    for finding in symptoms.of("OPT010"):
        if is_fresh_part(finding, symptoms, checkpoint):
            yield partial_load.claim(
                [finding],
                consequences=symptoms.of(
                    "NET003", "NRM001", "RNN001", "RNN002", "ZER001", "ZER003", "ZER004", cause=OVERWRITTEN
                ),
                remedy=LOAD_ALL.line(checkpoint),
            )


def _is_all_zero(finding: Finding, checkpoint: Checkpoint) -> bool:
    tensors = [checkpoint.by_name[name] for name in names_of(finding) if name in checkpoint.by_name]
    return any(tensor.statistics.zeros == tensor.statistics.count for tensor in tensors)


def _holds_zero_matrix(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True for a part without a gradient whose matrix is exactly zero, where a layer behind it reads zeros."""
    weights = [layer.weight for layer in layers_of(finding, checkpoint) if layer.weight is not None]
    is_zero = any(weight.statistics.zeros == weight.statistics.count for weight in weights)
    return is_zero and any_reads_zeros(checkpoint)


def _is_reached(finding: Finding, checkpoint: Checkpoint) -> bool:
    """False where the layer's bias received no gradient either: then the gradient ends behind the layer."""
    biases = [layer.bias for layer in layers_of(finding, checkpoint) if layer.bias is not None]
    return all(has_gradient(bias.name, checkpoint) for bias in biases)
