"""Zeros and bias collapse."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.analyzers._evidence.gates import renew_bias
from checkpoint_doctor.analyzers._evidence.initial_values import redraw
from checkpoint_doctor.analyzers._evidence.judgement import RECURRENT, ZeroBias, find_zero_biases, is_zero, judge_zeros
from checkpoint_doctor.analyzers._evidence.normal_zeros import explain_zero_weight
from checkpoint_doctor.analyzers._evidence.sparsity import describe_sparsity, scattered_zeros
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import BIAS_LIMIT
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity

_DENSE = (Kind.LINEAR, Kind.CONV, Kind.LSTM, Kind.GRU, Kind.RNN, Kind.ATTENTION, Kind.EMBEDDING)


@rule("ZER001", "zero-weights", Severity.ERROR, on=Layer, fix=Safety.UNSAFE, group_by=("cause", "updates"))
def zero_weights(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """A whole weight matrix is exactly zero.

    Why it matters:
        Its layer passes nothing on, and between two such layers no gradient flows at all.

    When it is normal:
        Layers that start a branch at zero on purpose: LoRA's second factor, ControlNet's zero convolutions, adaLN-Zero,
        ReZero, zero-initialised readouts. ARS starts from zero. Output heads are judged by NET003.

    What to do:
        Look for code that writes the layer (reset, pruning, a load that filled in missing keys). ``ckdoc fix --unsafe``
        draws it anew; what it had learned is lost either way.

    References:
        Hu et al. 2106.09685; Zhang et al. 2302.05543; Peebles and Xie 2212.09748. In 111 published agents not one
        weight is exactly 0.0 after training.
    """
    for role, tensor in layer.tensors.items():
        if layer.kind not in _DENSE or not role.startswith(("weight", "q_", "k_", "v_")) or len(tensor.shape) < 2:
            continue
        if not tensor.is_floating or not is_zero(tensor) or (layer.is_output and role == "weight"):
            continue
        severity, why = judge_zeros(tensor, checkpoint, layer)
        overwritten = severity is Severity.ERROR
        if severity is None or (not overwritten and explain_zero_weight(tensor)):
            continue
        yield zero_weights.finding(
            f"{_all_of_them(tensor.size, 'weight', 'weights')} exactly zero: {why.sentence}",
            tensor,
            evidence={"zero_fraction": 1.0, "cause": why.cause.value, "updates": why.updates},
            repairs=redraw(tensor, layer, checkpoint),
            advice=why.advice,
        )


@rule("ZER002", "partial-zeros", Severity.WARNING, on=Layer, worse=("zero_fraction", "zeros"))
def partial_zeros(
    layer: Layer, checkpoint: Checkpoint, *, warning: float = 0.10, error: float = 0.30
) -> Iterator[Finding]:
    """Exact zeros are scattered over a weight that should be dense.

    Why it matters:
        Gradient descent does not produce exact zeros. Scattered ones were written: a mask applied once and forgotten, a
        partial load, an underflow in a cast to half precision.

    When it is normal:
        Pruned and sparse networks (recognised by masks beside the weight, by 2:4 groups, or by zeros in most of the
        layers), masked convolutions, triangular and one-hot matrices: these are a note that says so.

    What to do:
        If nobody pruned this network, find what wrote the zeros. Entries that the optimizer still trains recover.

    References:
        Starting points from the field notes that this project grew from (warn above 10 %, critical above 30 %); in 111
        published agents there are none.
    """
    for role, tensor in layer.tensors.items():
        if layer.kind not in _DENSE or not role.startswith("weight") or len(tensor.shape) < 2 or not tensor.is_floating:
            continue
        zeros, fraction = scattered_zeros(tensor)
        if fraction < warning or tensor.size < 16 or is_zero(tensor):
            continue
        pattern = describe_sparsity(tensor, layer, checkpoint)
        _, why = judge_zeros(tensor, checkpoint, layer)
        severity = Severity.NOTE if pattern else Severity.ERROR if fraction >= error else Severity.WARNING
        yield partial_zeros.finding(
            f"{fraction:.1%} of its weights ({zeros:,} of {tensor.size:,}) are exactly zero: "
            + (pattern or why.sentence),
            tensor,
            severity=severity,
            evidence={
                "zero_fraction": round(fraction, 6),
                "zeros": zeros,
                "pattern": pattern,
                "cause": why.cause.value,
            },
        )


@rule("ZER003", "zero-bias", Severity.WARNING, on=Checkpoint, fix=Safety.SAFE, group_by=("cause", "updates"))
def zero_bias(checkpoint: Checkpoint, *, limit: float = BIAS_LIMIT) -> Iterator[Finding]:
    """A bias is exactly zero after training.

    Why it matters:
        A trained bias is never exactly zero. It was never trained (no gradient reached it, it is frozen, it is not in
        the optimizer), or something wrote zeros over what it had learned. The optimizer's second moment tells which:
        overwritten is an error; never trained is an error where the layer's weights were not trained either, and
        a warning where they were; without an optimizer in the file it is a warning.

    When it is normal:
        Before the first update, where biases start at zero (SB3's on-policy algorithms). Norm biases, key biases of
        attention, biases in front of a BatchNorm, fresh transformers, networks whose every matrix still is the
        orthogonal one that was drawn. Clipping and learning rates cannot zero a bias.

    What to do:
        Follow the cause that the message names: normalise saturated inputs, unfreeze or pass the layer to the
        optimizer, remove the code that resets. ``ckdoc fix`` draws the bias from uniform(−limit, limit), which breaks
        the zeros but does not cure the cause.

    References:
        Measured: Adam with clipping at learning rates up to 0.1 leaves 0 of 4,801 parameters exactly zero, and a second
        moment above zero. 2302.08626 and 2006.16362 on key biases; ``reset_parameters`` in PyTorch for defaults. The
        interval is this project's convention.
    """
    for each in find_zero_biases(checkpoint):
        if each.layer.kind in RECURRENT:
            continue
        yield zero_bias.finding(
            f"{_all_of_them(each.tensor.size, 'bias', 'biases')} exactly zero: {each.why.sentence}",
            each.tensor,
            severity=each.severity,
            evidence={
                "zero_fraction": 1.0,
                "cause": each.why.cause.value,
                "updates": each.why.updates,
                "held_by_optimizer": each.why.held,
            },
            repairs=[renew_bias(each.layer, each.tensor, limit)],
            advice=each.why.advice,
        )


@rule(
    "ZER004",
    "bias-collapse",
    Severity.WARNING,
    on=Checkpoint,
    fix=Safety.SAFE,
    worse=("biases", "zeros", "zero_fraction", "layers", "tensors"),
)
def bias_collapse(checkpoint: Checkpoint, *, share: float = 0.5, fewest: int = 3) -> Iterator[Finding]:
    """Most biases of a component are exactly zero while its weights are alive.

    Why it matters:
        One zero bias is an accident; all of them are a pattern with one cause: an init loop that zeroed every bias of
        layers that then never learned, or code that reset them after training. One finding names the pattern; ZER003
        and the RNN rules name the members.

    When it is normal:
        As for ZER003: before the first update, and for biases that receive no gradient by construction.

    What to do:
        Look at the cause first. If the second moments are not zero, search for the reset; if they are, search for what
        keeps gradients away. Repairing the biases alone does not last.

    References:
        The case that named this illness: 28 biases, 9,408 of 2,303,200 parameters (0.4 %), all weights alive.
    """
    ill = list(find_zero_biases(checkpoint))
    biases = [
        (layer, tensor)
        for layer in checkpoint.distinct_layers
        if layer.kind in _DENSE
        for role, tensor in layer.tensors.items()
        if role.startswith("bias")
    ]
    collapsed: list[ZeroBias] = []
    for component in dict.fromkeys(each.layer.component for each in ill):
        members = [each for each in ill if each.layer.component == component]
        if len(members) > share * sum(layer.component == component for layer, _ in biases):
            collapsed += members
    alive = [each for each in collapsed if each.layer.weight is None or not is_zero(each.layer.weight)]
    if len(alive) < fewest:
        return
    worst = max(alive, key=lambda each: each.severity)
    zeros = sum(each.tensor.size for each in alive)
    parameters = sum(tensor.size for tensor in checkpoint.distinct_tensors)
    yield bias_collapse.finding(
        f"{len(alive)} of {len(biases)} biases are exactly zero ({zeros:,} of {parameters:,} parameters, "
        f"{zeros / parameters:.1%}) while the weights are alive: {worst.why.sentence}",
        checkpoint,
        severity=worst.severity,
        evidence={
            "biases": len(alive),
            "of": len(biases),
            "zeros": zeros,
            "parameters": parameters,
            "zero_fraction": zeros / parameters,
            "cause": worst.why.cause.value,
            "layers": list(dict.fromkeys(each.layer.name for each in alive)),
            "tensors": [each.tensor.name for each in alive],
        },
        repairs=[renew_bias(each.layer, each.tensor, BIAS_LIMIT) for each in alive],
        advice=worst.why.advice,
    )


def _all_of_them(count: int, noun: str, nouns: str) -> str:
    return f"its only {noun} is" if count == 1 else f"all {count:,} {nouns} are"
