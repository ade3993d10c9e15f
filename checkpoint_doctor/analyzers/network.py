"""Weights as a network: units cut off, heads at zero, symmetry and rank."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.analyzers._evidence.activations import ZERO_AT_ZERO, activation_of
from checkpoint_doctor.analyzers._evidence.judgement import is_zero, judge_zeros
from checkpoint_doctor.analyzers._evidence.normal_zeros import explain_zero_weight, is_fixed_transform
from checkpoint_doctor.analyzers._evidence.optimizer import Cause
from checkpoint_doctor.analyzers._evidence.recycling import find_renewed, recycle
from checkpoint_doctor.analyzers._evidence.sparsity import NOTICEABLE, is_pruned, scattered_zeros
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import OUTPUT_LIMIT, draw_uniform, fill
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.text import quantity

_UNITS = (Kind.LINEAR, Kind.CONV, Kind.ATTENTION, Kind.LSTM, Kind.GRU, Kind.RNN)


def _matrices(layer: Layer) -> Iterator[Tensor]:
    for role, tensor in layer.tensors.items():
        is_matrix = role.startswith("weight") and len(tensor.shape) > 1 and tensor.is_floating
        if is_matrix and not role.endswith("_mask") and not is_fixed_transform(tensor):
            yield tensor


@rule(
    "NET002",
    "disconnected-units",
    Severity.WARNING,
    on=Layer,
    fix=Safety.ON_REQUEST,
    part=("side",),
    worse=("units",),
    group_by=("side", "cause"),
)
def disconnected_units(layer: Layer, checkpoint: Checkpoint, *, pruned: float = 0.5) -> Iterator[Finding]:
    """Units have an incoming row, or an outgoing column, of exact zeros.

    Why it matters:
        A unit without incoming weights is a constant; one without outgoing weights is computed for nothing. Gradient
        descent leaves no exact zeros, so somebody cut the units off: pruning, a reset of "dead" neurons that stopped
        half way, a partial load.

    When it is normal:
        Structured pruning cuts units in most layers, and of a network whose single weights were pruned some units lose
        all of theirs (notes). The padding row of an embedding is zero, and so are rows that fill its table up; word
        vectors from elsewhere may lack words, which then deserve a look. Units recycled as in ReDo have zero outgoing
        columns until the next updates. Grouped and masked layers have zero blocks by design.

    What to do:
        Find what wrote the zeros. ``ckdoc fix --recycle`` draws zero incoming rows anew and sets the outgoing columns
        to zero where the units' output is certainly 0 (no bias, a known activation), so that the function stays the
        same and the units can learn again. Units with incoming weights alone come back with the next updates.

    References:
        Sokar et al. 2302.12902 (ReDo); in 111 published agents no weight is exactly 0.0.
    """
    if layer.kind is Kind.EMBEDDING:
        yield from _judge_embedding(layer)
        return
    if layer.kind not in _UNITS:
        return
    for tensor in _matrices(layer):
        statistics = tensor.statistics
        if is_zero(tensor):
            continue
        rows, columns = statistics.zero_rows.tolist(), statistics.zero_columns.tolist()
        if _is_tied_to_embedding(tensor, checkpoint):
            rows = []  # the embedding's own: padding, words without a vector
        # A first layer's zero columns are inputs that it ignores, not units; its inputs are another rule's subject.
        units_before = layer.previous is not None or layer.kind in (Kind.LSTM, Kind.GRU, Kind.RNN)
        if rows:
            judged, why = judge_zeros(tensor, checkpoint, layer, statistics.zero_rows)
            yield disconnected_units.finding(
                f"{quantity(len(rows), 'unit')} of {tensor.shape[0]:,} "
                f"{'has' if len(rows) == 1 else 'have'} no incoming weights: {why.sentence}",
                tensor,
                severity=_weigh(checkpoint, tensor, pruned),
                evidence={"units": rows, "of": tensor.shape[0], "side": "incoming", "cause": why.cause.value},
                repairs=_recycle_constant(layer, tensor, rows, checkpoint),
                advice=why.advice if judged else "",
            )
        if columns and units_before:
            yield disconnected_units.finding(
                f"{quantity(len(columns), 'unit')} of {tensor.shape[1]:,} before it "
                f"{'has' if len(columns) == 1 else 'have'} no outgoing weights here",
                tensor,
                severity=_weigh(checkpoint, tensor, pruned, renewed=_are_renewed(tensor, columns, checkpoint)),
                evidence={"units": columns, "of": tensor.shape[1], "side": "outgoing"},
            )


def _recycle_constant(layer: Layer, tensor: Tensor, rows: list[int], checkpoint: Checkpoint) -> list[Repair]:
    """Recycle units without incoming weights whose output is certainly 0: no bias, and an activation that keeps 0."""
    if tensor is not layer.weight or layer.transposed or activation_of(layer, checkpoint) not in ZERO_AT_ZERO:
        return []
    silent = rows if layer.bias is None else [row for row in rows if layer.bias.array[row] == 0]
    return recycle(layer, silent, checkpoint)


def _is_tied_to_embedding(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    return bool(tensor.storage) and any(
        tensor.is_tied_to(table)
        for layer in checkpoint.layers
        if layer.kind is Kind.EMBEDDING
        for table in layer.tensors.values()
    )


def _are_renewed(tensor: Tensor, columns: list[int], checkpoint: Checkpoint) -> bool:
    """True where the optimizer's moments show that units were recycled and not trained since."""
    name = checkpoint.online_tensors.get(tensor.name, tensor.name)
    moments = checkpoint.moments.get(name)
    renewed = None if moments is None else find_renewed(moments, checkpoint.optimizer_of[name], along_rows=False)
    return renewed is not None and bool(renewed[columns].all())


def _weigh(checkpoint: Checkpoint, tensor: Tensor, pruned: float, *, renewed: bool = False) -> Severity | None:
    if renewed or (scattered_zeros(tensor)[1] >= NOTICEABLE and is_pruned(checkpoint)):
        return Severity.NOTE
    weights = [each for layer in checkpoint.layers if layer.kind in _UNITS for each in _matrices(layer)]
    cut = sum(bool(len(each.statistics.zero_rows) or len(each.statistics.zero_columns)) for each in weights)
    is_cut_everywhere = len(weights) > 3 and cut > pruned * len(weights)
    return Severity.NOTE if is_cut_everywhere and tensor.statistics.zero_fraction < 0.95 else None


def _judge_embedding(layer: Layer) -> Iterator[Finding]:
    for tensor in _matrices(layer):
        rows = tensor.statistics.zero_rows.tolist()
        last = tensor.shape[0] - 1
        # The padding row, and rows that only fill the table up to a round number.
        while rows and rows[-1] == last:
            rows.pop()
            last -= 1
        if len(rows) == 1 and rows[0] < 4:
            rows.pop()
        if rows:
            yield disconnected_units.finding(
                f"{quantity(len(rows), 'row')} of {tensor.shape[0]:,} are exactly zero: words without a vector",
                tensor,
                severity=Severity.NOTE if len(rows) == 1 else None,
                evidence={"units": rows, "of": tensor.shape[0], "side": "incoming"},
            )


@rule("NET003", "zero-output-layer", Severity.WARNING, on=Layer, fix=Safety.SAFE, group_by=("cause", "updates"))
def zero_output_layer(layer: Layer, checkpoint: Checkpoint, *, limit: float = OUTPUT_LIMIT) -> Iterator[Finding]:
    """An output head has weights that are all exactly zero.

    Why it matters:
        The head's answer is the same for every input. A head that starts at zero does learn, from its first update
        on; one that is still zero after training was never reached by a gradient, or was overwritten.

    When it is normal:
        Before the first update, with zero-initialised heads (DiT, µP readouts, ControlNet, ARS).

    What to do:
        Follow the cause that the message names: is the head's output part of the loss, is it detached, is it passed to
        the optimizer? ``ckdoc fix`` draws the weights from uniform(−limit, limit) and sets the bias to 0.

    References:
        Lillicrap et al. 1509.02971 (last layers from uniform(±0.003)). Measured: a zero-initialised head has a gradient
        norm of 1.63 at its first step and brings the loss from 1.98 to 0.0125, so zero alone is no illness.
    """
    weight = layer.weight
    if not layer.is_output or weight is None or not weight.is_floating or not is_zero(weight):
        return
    severity, why = judge_zeros(weight, checkpoint, layer)
    if severity is None or (why.cause is not Cause.OVERWRITTEN and explain_zero_weight(weight)):
        return
    repairs = [Repair(weight.name, f"uniform(-{limit}, {limit})", draw_uniform(limit))]
    if layer.bias is not None and layer.bias.is_floating:
        repairs.append(Repair(layer.bias.name, "0", fill(0.0)))
    yield zero_output_layer.finding(
        f"all {weight.size:,} weights of this output layer are exactly zero: {why.sentence}",
        weight,
        severity=severity,
        evidence={
            "zero_fraction": 1.0,
            "cause": why.cause.value,
            "updates": why.updates,
            "bias_is_zero": is_zero(layer.bias),
        },
        repairs=repairs,
        advice=why.advice,
    )


@rule("NET004", "duplicate-units", Severity.WARNING, on=Layer, worse=("groups",))
def duplicate_units(layer: Layer) -> Iterator[Finding]:
    """Rows of a weight are identical to the last bit.

    Why it matters:
        Units that start equal receive equal gradients and stay equal: the layer is smaller than it looks. Random init
        never draws the same row twice, so rows were copied or the layer was initialised with a constant.

    When it is normal:
        Embedding rows of words that were added with one mean vector; repeated key and value heads in converted models.
        Rows of one or two inputs in half precision can coincide by chance and are not judged.

    What to do:
        Draw the copies anew, or add a little noise to them, and train on.

    References:
        Goodfellow, Bengio and Courville, Deep Learning, 8.4; Chen et al. 1511.05641 (Net2Net adds noise for this).
    """
    for tensor in _matrices(layer):
        statistics = tensor.statistics
        length = tensor.size // tensor.shape[0] if tensor.shape[0] else 0
        bits = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}.get(tensor.dtype, 3)
        if (
            layer.kind not in (*_UNITS, Kind.EMBEDDING)
            or statistics.minimum == statistics.maximum
            or length * bits < 40
        ):
            continue
        groups = [list(group) for group in statistics.duplicate_rows]
        if groups:
            copies = sum(len(group) - 1 for group in groups)
            yield duplicate_units.finding(
                f"{quantity(copies, 'row')} of {tensor.shape[0]:,} {'is a copy' if copies == 1 else 'are copies'} "
                f"of another (such as {groups[0][0]} and {groups[0][1]}): they compute the same",
                tensor,
                evidence={"groups": groups, "of": tensor.shape[0]},
            )


@rule("NET005", "rank-collapse", Severity.NOTE, on=Layer)
def rank_collapse(
    layer: Layer, *, share: float = 0.1, delta: float = 0.01, smallest: int = 16, largest: int = 512
) -> Iterator[Finding]:
    """The effective rank of a weight matrix is far below its size.

    Why it matters:
        A matrix of low effective rank passes on few independent features; in value-based agents a falling rank goes
        along with lost plasticity.

    When it is normal:
        Bottlenecks, low-rank adapters, and layers on few inputs. It is a weak signal on weights; the published one is
        about features and needs data.

    What to do:
        Look at several checkpoints: a rank that keeps falling is worth a look at learning rate and replay ratio.

    References:
        Kumar et al. 2010.14498 (srank with δ = 0.01). In 111 published agents srank/size of the weights is 0.70 to 1.0.
    """
    for tensor in _matrices(layer):
        rows = tensor.shape[0]
        columns = tensor.size // rows if rows else 0
        size = min(rows, columns)
        if layer.kind not in _UNITS or not smallest <= size <= largest or max(rows, columns) > 4 * largest:
            continue
        if tensor.statistics.nonfinite or is_zero(tensor):
            continue
        matrix = tensor.array.reshape(rows, columns).astype(np.float32)
        gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        # The participation ratio costs one product and bounds the rank that the singular values can show.
        participation = float(np.trace(gram)) ** 2 / max(float(np.einsum("ij,ij->", gram, gram)), 1e-30)
        if participation > share * size:
            continue
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
        rank = int(np.searchsorted(np.cumsum(values) / values.sum(), 1 - delta)) + 1
        if rank <= share * size:
            yield rank_collapse.finding(
                f"its effective rank is {rank} of {size} (99 % of the singular values' sum)",
                tensor,
                evidence={"effective_rank": rank, "size": size},
            )
