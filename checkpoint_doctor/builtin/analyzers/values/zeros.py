"""Exact zeros in weights and biases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from checkpoint_doctor.builtin.analyzers._repairs.gates import reinitialise_bias
from checkpoint_doctor.builtin.analyzers._repairs.initialization import reinitialise
from checkpoint_doctor.builtin.analyzers._zeros.biases import ZeroBias, find_zero_biases
from checkpoint_doctor.builtin.analyzers._zeros.by_design import explain_zero_weight
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero, judge_zeros
from checkpoint_doctor.builtin.analyzers._zeros.sparsity import describe_sparsity, scattered_zeros
from checkpoint_doctor.builtin.analyzers._zeros.waiting import WAITING, may_wait
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import DENSE, RECURRENT
from checkpoint_doctor.layers.init_rules import BIAS_LIMIT
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity


@rule("ZER001", "zero-weights", Severity.ERROR, on=Layer, fix=Safety.UNSAFE, group_by=("cause", "updates"))
def zero_weights(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """A whole weight matrix is exactly zero.

    Why it matters:
        The layer's output does not depend on its input, and between two such layers no gradient flows.

    When it is normal:
        In layers that start at zero by design: LoRA's second factor, ControlNet's zero convolutions, adaLN-Zero,
        ReZero, zero-initialised readouts, and in ARS. Where no optimizer tells more, a zero weight at the end of a
        branch is a note as long as nothing shows that the branch was ever in use. It is a warning inside a chain, where
        the layers behind it see a constant; where the layers before it were trained, since no gradient passes through a
        zero weight; and where it may be the only head. NET003 is about output heads.

    What to do:
        Look for code that writes the layer: a reset, pruning, a load that filled in missing keys. ``ckdoc fix
        --unsafe`` reinitialises it; what it had learned is lost in any case.

    References:
        Hu et al. 2106.09685; Zhang et al. 2302.05543; Peebles and Xie 2212.09748. In 111 published agents not one
        weight is exactly 0.0 after training.
    """
    for role, tensor in layer.tensors.items():
        if layer.kind not in DENSE or not role.startswith(("weight", "q_", "k_", "v_")) or len(tensor.shape) < 2:
            continue
        if not tensor.is_floating or not is_zero(tensor) or (layer.is_output and role == "weight"):
            continue
        severity, why = judge_zeros(tensor, checkpoint, layer)
        if severity is None or (severity is not Severity.ERROR and explain_zero_weight(tensor)):
            continue
        waits = why.cause is Cause.UNKNOWN and may_wait(layer, checkpoint)
        yield zero_weights.finding(
            f"{_all_of_them(tensor.size, 'weight', 'weights')} exactly zero: {why.sentence}"
            + (f"; {WAITING}" if waits else ""),
            tensor,
            severity=Severity.NOTE if waits else severity,
            evidence={"zero_fraction": 1.0, "cause": why.cause.value, "updates": why.updates},
            repairs=reinitialise(tensor, layer, checkpoint),
            advice=why.advice,
        )


@rule("ZER002", "partial-zeros", Severity.WARNING, worst=Severity.ERROR, on=Layer, worse=("zero_fraction", "zeros"))
def partial_zeros(
    layer: Layer, checkpoint: Checkpoint, *, warning: float = 0.10, error: float = 0.30
) -> Iterator[Finding]:
    """Exact zeros are scattered over a weight that should be dense.

    Why it matters:
        Gradient descent does not produce exact zeros. Something else wrote them: a mask that was applied once, a
        partial load, or an underflow in a cast to half precision.

    When it is normal:
        Pruned and sparse networks (recognised by masks in the file, by 2:4 groups, by zeros in most of the layers, or
        by the distribution of the other weights), weights on a grid, weights clamped to one sign, masked convolutions,
        triangular and one-hot matrices, weights that no optimizer holds. These are notes that name the pattern.

    What to do:
        If the network was not pruned, find what wrote the zeros. Entries that are still trained recover.

    Options:
        warning: The share of zeros from which it is reported; this project's experience.
        error: The share of zeros from which it is an error, where the optimizer's moments prove that trained values
            were overwritten; this project's experience.

    References:
        In 111 published agents there are no scattered zeros.
    """
    for role, tensor in layer.tensors.items():
        if layer.kind not in DENSE or not role.startswith("weight") or len(tensor.shape) < 2 or not tensor.is_floating:
            continue
        zeros, fraction = scattered_zeros(tensor)
        if fraction < warning or tensor.size < 16 or is_zero(tensor):
            continue
        judged, why = judge_zeros(tensor, checkpoint, layer)
        if judged is None:
            continue
        pattern = describe_sparsity(tensor, layer, checkpoint, why)
        is_proven = why.cause is Cause.OVERWRITTEN and fraction >= error
        severity = Severity.NOTE if pattern else Severity.ERROR if is_proven else Severity.WARNING
        yield partial_zeros.finding(
            f"{fraction:.1%} of its weights ({zeros:,} of {tensor.size:,}) are exactly zero: {pattern or why.sentence}",
            tensor,
            severity=severity,
            evidence={
                "zero_fraction": round(fraction, 6),
                "zeros": zeros,
                "pattern": pattern,
                "cause": why.cause.value,
            },
        )


@rule(
    "ZER003",
    "zero-bias",
    Severity.WARNING,
    worst=Severity.ERROR,
    on=Checkpoint,
    fix=Safety.SAFE,
    group_by=("cause", "updates"),
)
def zero_bias(checkpoint: Checkpoint, *, limit: float = BIAS_LIMIT) -> Iterator[Finding]:
    """A bias is exactly zero after training.

    Why it matters:
        A trained bias is never exactly zero. Either it was never trained (it received no gradient, it is frozen, it is
        not in the optimizer), or something overwrote it with zeros. The optimizer's second moment shows which.
        Overwritten is an error. Never trained is a warning where the layer's weights were trained; where they were not,
        the zeros are initial values, and OPT001 reports the whole part. Without an optimizer in the file, it is a
        warning where layers that train together with this one have live biases, and a note where nothing shows that
        this part was trained: it is fixed, or waits for its turn.

    When it is normal:
        Before the first update, where biases start at zero (SB3's on-policy algorithms). Norm biases, key biases of
        attention, biases in front of a BatchNorm, untrained transformers, layers of Keras and Flax whose kernels still
        are initial draws, and networks whose matrices all still are their orthogonal initial values, or whose norms
        all have one number as their gain while all biases are zero. Networks trained without biases, the bias of a
        single output, which losses that compare outputs do not see, and ONNX files, to which exporters add a bias of
        zeros where a layer has none, are notes.
        Gradient clipping and learning rates do not make a bias zero.

    What to do:
        Remove the cause that the message names: normalise inputs that saturate units, unfreeze the layer or pass it to
        the optimizer, remove code that resets it. ``ckdoc fix`` draws the bias from uniform(−limit, limit), which
        replaces the zeros but does not remove the cause.

    Options:
        limit: The half width of the uniform interval that ``ckdoc fix`` draws new biases from; this project's
            convention.

    References:
        Measured: after Adam with clipping and learning rates up to 0.1, 0 of 4,801 parameters are exactly zero, and
        all second moments are above zero. Key biases: 2302.08626 and 2006.16362. Defaults: ``reset_parameters`` in
        PyTorch.
    """
    for each in find_zero_biases(checkpoint):
        if each.layer.kind in RECURRENT:
            continue
        yield zero_bias.finding(
            f"{_all_of_them(each.tensor.size, 'bias', 'biases')} exactly zero: {each.why.sentence}"
            + (f"; {each.reason}" if each.reason else ""),
            each.tensor,
            severity=each.severity,
            evidence={
                "zero_fraction": 1.0,
                "cause": each.why.cause.value,
                "updates": each.why.updates,
                "held_by_optimizer": each.why.held,
            },
            repairs=[reinitialise_bias(each.layer, each.tensor, limit)],
            advice=each.why.advice,
        )


@rule(
    "ZER004",
    "bias-collapse",
    Severity.WARNING,
    worst=Severity.ERROR,
    on=Checkpoint,
    fix=Safety.SAFE,
    worse=("biases", "zeros", "zero_fraction", "layers", "tensors"),
)
def bias_collapse(checkpoint: Checkpoint, *, share: float = 0.5, fewest: int = 3) -> Iterator[Finding]:
    """Most biases of a component are exactly zero while its weights are not.

    Why it matters:
        Zeros in most biases have one common cause: an init loop set every bias to zero and the layers never learned, or
        code reset the biases after training. This finding is about all of them; ZER003 and the RNN rules report each
        bias.

    When it is normal:
        As for ZER003: before the first update, and for biases that receive no gradient by construction.

    What to do:
        Find the cause first. If the second moments are not zero, look for code that resets biases. If they are zero,
        find out why no gradient is received. Repairing the biases alone does not last. The finding is an error where
        the optimizer holds all these biases and its moments show the cause.

    Options:
        share: The share of a component's biases above which they have collapsed: half of them.
        fewest: The fewest zero biases in all that are a collapse; one or two are reported by themselves (ZER003).

    References:
        The case that this rule was written for: 28 zero biases, 9,408 of 2,303,200 parameters (0.4 %), and no weight
        matrix that is zero.
    """
    biases = Counter(
        layer.component
        for layer in checkpoint.distinct_layers
        if layer.kind in DENSE
        for role in layer.tensors
        if role.startswith("bias")
    )
    zero_biases = [each for each in find_zero_biases(checkpoint) if each.severity > Severity.NOTE]
    collapsed = list(_collapsed_biases(zero_biases, biases, share))
    if len(collapsed) < fewest:
        return
    worst = max(collapsed, key=lambda each: each.severity)
    # Target networks are copies: what happened to them is known from their online network.
    learned = [each for each in collapsed if each.tensor.name not in checkpoint.online_tensors]
    is_proven = all(each.why.held and each.why.cause is not Cause.UNKNOWN for each in learned) and bool(learned)
    zeros = sum(each.tensor.size for each in collapsed)
    parameters = sum(tensor.size for tensor in checkpoint.distinct_tensors)
    yield bias_collapse.finding(
        f"{len(collapsed)} of {biases.total()} biases are exactly zero ({zeros:,} of {parameters:,} parameters, "
        f"{zeros / parameters:.1%}) while the weights are not: {worst.why.sentence}",
        checkpoint,
        severity=Severity.ERROR if is_proven else worst.severity,
        evidence={
            "biases": len(collapsed),
            "biases_in_all": biases.total(),
            "zeros": zeros,
            "parameters": parameters,
            "zero_fraction": zeros / parameters,
            "cause": worst.why.cause.value,
            "layers": list(dict.fromkeys(each.layer.name for each in collapsed)),
            "tensors": [each.tensor.name for each in collapsed],
        },
        repairs=[reinitialise_bias(each.layer, each.tensor, BIAS_LIMIT) for each in collapsed],
        advice=worst.why.advice,
    )


def _collapsed_biases(zero_biases: Sequence[ZeroBias], biases: Mapping[str, int], share: float) -> Iterator[ZeroBias]:
    """Yield the zero biases of components where more than that share of biases is zero, by component.

    Biases of layers whose weight is zero too are left out. ``biases`` counts the biases of each component.
    """
    for component, zeros in Counter(each.layer.component for each in zero_biases).items():
        if zeros > share * biases[component]:
            for each in zero_biases:
                if each.layer.component == component and not is_zero(each.layer.weight):
                    yield each


def _all_of_them(count: int, noun: str, nouns: str) -> str:
    return f"its only {noun} is" if count == 1 else f"all {count:,} {nouns} are"
