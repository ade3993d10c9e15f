"""Recurrent layers: the gates of LSTM and GRU, and recurrent weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.cells import Gate, find_gates, find_lines, gate_biases
from checkpoint_doctor.builtin.analyzers._evidence.training import rows_were_trained, was_trained
from checkpoint_doctor.builtin.analyzers._repairs.gates import reinitialise_bias
from checkpoint_doctor.builtin.analyzers._zeros.biases import ZeroBias, find_zero_biases
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero, judge_zeros
from checkpoint_doctor.builtin.analyzers._zeros.waiting import may_be_fixed
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import RECURRENT, SIGMOID_GATES
from checkpoint_doctor.layers.init_rules import BIAS_LIMIT, FORGET_BIAS, fill, within
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.statistics.values import as_real

_LARGEST_READ = 1 << 22
"""Entries of the largest weight whose columns are read again."""


@rule(
    "RNN001",
    "forget-gate-bias",
    Severity.WARNING,
    worst=Severity.ERROR,
    on=Layer,
    fix=Safety.SAFE,
    part=("gate",),
    group_by=("cause", "updates"),
)
def forget_gate_bias(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """The effective forget-gate bias of an LSTM is exactly zero.

    Why it matters:
        With a bias of zero, the forget gate is half closed at first: the cell keeps half of its state at each step, and
        gradients shrink a thousandfold through ten steps. Trained biases are never exactly zero, so this one was never
        trained, or it was reset.

    When it is normal:
        Before the first update, in code that sets all biases to zero. TensorFlow 1 stores zero and adds 1.0 when it
        computes the gate. Flax starts it at zero, and its cells are not judged. Without an optimizer in the file, it is
        a note where the layer's weights are initial draws and others are not: it is fixed, or not in use yet.

    What to do:
        Initialise the forget-gate bias to 1.0. ``ckdoc fix`` makes the effective bias exactly 1.0 (1.0 in ``bias_ih``,
        0.0 in ``bias_hh``).

    References:
        Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015. PyTorch draws both biases from
        uniform(±1/√hidden) and adds them.
    """
    gate = find_gates(layer, checkpoint).get("forget")
    bias = gate.effective_bias if gate is not None else None
    if gate is None or gate.is_apart or bias is None or bias.any():
        return
    biases, rows = gate.biases, gate.lines
    severity, why = judge_zeros(biases[0], checkpoint, layer, rows)
    if severity is None:
        return
    if why.cause is Cause.UNKNOWN and may_be_fixed(layer, checkpoint):
        severity = Severity.NOTE
    values = (FORGET_BIAS, 0.0)
    yield forget_gate_bias.finding(
        f"the forget-gate bias is exactly zero in all {gate.size:,} units: {why.sentence}",
        biases[0],
        severity=severity,
        evidence={
            "gate": "forget",
            "rows": [rows.start, rows.stop],
            "tensors": [each.name for each in biases],
            "cause": why.cause.value,
            "updates": why.updates,
        },
        repairs=[
            Repair(each.name, f"forget gate {value}", within(rows, fill(value)))
            for each, value in zip(biases, values, strict=False)
        ],
        advice=why.advice,
    )


@rule(
    "RNN002",
    "gate-bias-collapse",
    Severity.WARNING,
    worst=Severity.ERROR,
    on=Checkpoint,
    fix=Safety.SAFE,
    worse=("gates",),
    group_by=("cause", "updates"),
)
def gate_bias_collapse(checkpoint: Checkpoint, *, limit: float = BIAS_LIMIT) -> Iterator[Finding]:
    """All gate biases of a recurrent layer are exactly zero.

    Why it matters:
        PyTorch initialises gate biases at random, and training changes them. If all are exactly zero, an init loop set
        them to zero and the layer never learned, or code reset them.

    When it is normal:
        Before the first update, in code that sets all biases to zero.

    What to do:
        Remove the cause that the message names. ``ckdoc fix`` draws the biases from uniform(−limit, limit), and gives
        an LSTM's forget gate an effective bias of 1.0.

    Options:
        limit: The half width of the uniform interval that ``ckdoc fix`` draws new biases from; this project's
            convention.

    References:
        ``reset_parameters`` in ``torch.nn.RNNBase``: uniform(±1/√hidden) for weights and biases.
    """
    for each in find_zero_biases(checkpoint):
        if each.layer.kind not in RECURRENT or _has_other_bias(each):
            continue
        gates = list(find_lines(each.layer))
        yield gate_bias_collapse.finding(
            f"all {each.tensor.size:,} gate biases ({', '.join(gates) or 'hidden'}) are exactly zero: "
            f"{each.why.sentence}",
            each.tensor,
            severity=each.severity,
            evidence={
                "zero_fraction": 1.0,
                "gates": gates,
                "cause": each.why.cause.value,
                "updates": each.why.updates,
                "held_by_optimizer": each.why.held,
            },
            repairs=[reinitialise_bias(each.layer, each.tensor, limit)],
            advice=each.why.advice,
        )


def _has_other_bias(zero: ZeroBias) -> bool:
    """True where the layer's other bias is not zero, and nothing proves that this one was overwritten.

    PyTorch adds both biases, so one that is zero is redundant: libraries with a single bias are converted like that.
    """
    others = [each for each in gate_biases(zero.layer) if each is not zero.tensor]
    return zero.why.cause is not Cause.OVERWRITTEN and any(not is_zero(each) for each in others)


@rule("RNN003", "gate-saturation", Severity.WARNING, on=Layer, part=("gate",), worse=("units",))
def gate_saturation(
    layer: Layer, checkpoint: Checkpoint, *, limit: float = 15.0, share: float = 0.25
) -> Iterator[Finding]:
    """Gate biases are so large that the gate is saturated.

    Why it matters:
        A sigmoid at ±15 differs from 0 or 1 by 3e-7: the gate stays open or closed for any input, and it receives
        almost no gradient.

    When it is normal:
        Chrono initialisation sets forget biases up to the logarithm of the longest dependency: 9 for 10,000 steps.

    What to do:
        Lower the learning rate of the recurrent layer, or clip its gradients. Reinitialise the gate biases.

    Options:
        limit: The magnitude of a bias above which its gate is saturated; float32 sigmoid(17) rounds to 1.0, and chrono
            initialisation stays below 10.
        share: The share of saturated units of a gate from which it is reported; a starting point.

    References:
        Tallec and Ollivier 1804.11188 (chrono initialisation).
    """
    for name, gate in find_gates(layer, checkpoint).items():
        bias = gate.effective_bias if name in SIGMOID_GATES else None
        if bias is None:
            continue
        saturated = np.flatnonzero(np.abs(bias) > limit)
        if saturated.size and saturated.size >= share * gate.size:
            yield gate_saturation.finding(
                f"{saturated.size:,} of {gate.size:,} {name}-gate biases exceed ±{limit:g} "
                f"(up to {np.abs(bias).max():.3g}): the gate is saturated",
                gate.biases[0],
                evidence={"gate": name, "units": [int(each) for each in saturated]},
            )


@rule("RNN004", "dead-gate", Severity.ERROR, on=Layer, part=("gate",), group_by=("gate", "cause"))
def dead_gate(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """All weights of one gate are exactly zero, or one gate was never trained while the others were.

    Why it matters:
        A gate without weights does not depend on its inputs, so the layer cannot control its state with it.

    When it is normal:
        Never in a trained layer. Initialisation with zeros, as for ARS, affects all gates and not one.

    What to do:
        Look for code that slices gates wrongly (PyTorch's order is input, forget, cell, output in an LSTM and reset,
        update, new in a GRU), or for a detached path.

    References:
        ``torch.nn.LSTM`` and ``torch.nn.GRU`` for the order of rows.
    """
    gates = {name: gate for name, gate in find_gates(layer, checkpoint).items() if gate.has_recurrence}
    zero = [name for name, gate in gates.items() if gate.has_zero_weights]
    for name in zero if len(zero) < len(gates) else ():
        yield dead_gate.finding(
            f"all weights of the {name} gate are exactly zero",
            gates[name].weights[1],
            evidence={"gate": name, **_lines(gates[name])},
        )
    recurrent = [gate.weights[1] for gate in gates.values()]
    if all(was_trained(weight, checkpoint) is False for weight in recurrent):
        return  # one step from a zero state: the recurrence was never used, and the forget gate had nothing to forget
    was_gate_trained = {
        name: rows_were_trained(gate.weights, checkpoint, gate.lines, of_columns=gate.by_columns)
        for name, gate in gates.items()
    }
    if True not in was_gate_trained.values():
        return
    for name, trained in was_gate_trained.items():
        if trained is False and name not in zero:
            lines = _lines(gates[name])
            yield dead_gate.finding(
                f"the {name} gate was never trained while others were: its {next(iter(lines))} never received a "
                "gradient",
                gates[name].weights[1],
                evidence={"gate": name, "cause": "never trained", **lines},
            )


def _lines(gate: Gate) -> dict[str, list[int]]:
    return {"columns" if gate.by_columns else "rows": [gate.lines.start, gate.lines.stop]}


@rule("RNN005", "recurrent-norm", Severity.WARNING, on=Layer, part=("gate",))
def recurrent_norm(
    layer: Layer, checkpoint: Checkpoint, *, largest: float = 50.0, smallest: float = 1e-3
) -> Iterator[Finding]:
    """The hidden-to-hidden weights of a gate have a collapsed or exploded spectral radius.

    Why it matters:
        The spectral radius is the factor by which the recurrence shrinks or grows a state at each step. Near zero, the
        gate ignores the state; far above one, it saturates within a step.

    When it is normal:
        In 75 gates of published networks, the radius is 0.13 to 5.5. Gates limit the effect of a larger one.

    What to do:
        Initialise the recurrent weights with an orthogonal matrix, and clip gradients.

    Options:
        largest: The spectral radius above which it has exploded; in 75 gates of published networks it is 5.5 or less.
        smallest: The spectral radius below which it has collapsed; in 75 gates of published networks it is 0.13 or
            more.

    References:
        Pascanu, Mikolov and Bengio 1211.5063; Saxe et al. 1312.6120.
    """
    for name, gate in find_gates(layer, checkpoint).items():
        weight = gate.weights[-1]
        radius = _extreme_radius(weight, gate, largest, smallest) if gate.has_recurrence else None
        if radius is not None:
            yield recurrent_norm.finding(
                f"the {name} gate's hidden-to-hidden weights have a spectral radius of {radius:.3g}",
                weight,
                evidence={"gate": name, "spectral_radius": radius},
            )


def _extreme_radius(weight: Tensor, gate: Gate, largest: float, smallest: float) -> float | None:
    """Return the spectral radius of a gate's block of a weight; ``None`` where it is neither large nor small."""
    statistics = weight.statistics
    if statistics.nonfinite or not weight.size or statistics.row_norms is None:
        return None
    if gate.by_columns and weight.size > _LARGEST_READ:
        return None
    # Norms of rows were measured with the rest; columns are read again.
    entries = weight.array[:, gate.lines] if gate.by_columns else statistics.row_norms[gate.lines]
    with np.errstate(over="ignore"):
        frobenius = float(np.linalg.norm(as_real(entries)))
    # The Frobenius norm bounds the radius from above, and ordinary weights have no tiny one: few need eigenvalues.
    is_square = gate.size == weight.shape[0 if gate.by_columns else 1]
    if smallest * 100 <= frobenius <= largest or frobenius == 0 or not is_square:
        return None
    square = as_real(weight.array[:, gate.lines] if gate.by_columns else weight.array[gate.lines])
    radius = float(np.abs(np.linalg.eigvals(square)).max())
    return radius if radius > largest or radius < smallest else None
