"""Weights as part of a network: disconnected units, zero output layers, low rank."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.activations import ZERO_AT_ZERO, activation_of
from checkpoint_doctor.builtin.analyzers._evidence.readers import zero_inputs, zero_units
from checkpoint_doctor.builtin.analyzers._evidence.replaced_moments import find_replaced
from checkpoint_doctor.builtin.analyzers._evidence.tables import is_table
from checkpoint_doctor.builtin.analyzers._repairs.recycling import recycle
from checkpoint_doctor.builtin.analyzers._zeros.by_design import explain_zero_weight, is_padded_head
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.builtin.analyzers._zeros.conditions import are_unseen_conditions
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero, judge_zeros
from checkpoint_doctor.builtin.analyzers._zeros.sparsity import (
    NOTICEABLE,
    are_pruned_units,
    are_removed,
    describe_sparsity,
    is_pruned,
    scattered_zeros,
)
from checkpoint_doctor.builtin.analyzers._zeros.waiting import WAITING, may_wait
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor, found_once
from checkpoint_doctor.layers import FEEDFORWARD, PROJECTIONS, RECURRENT, Kind
from checkpoint_doctor.layers.init_rules import OUTPUT_LIMIT, draw_uniform, fill
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.statistics.values import square
from checkpoint_doctor.text import quantity

_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


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
def disconnected_units(
    layer: Layer, checkpoint: Checkpoint, *, pruned: float = 0.5, few: float = 0.02
) -> Iterator[Finding]:
    """Units have an incoming row, or an outgoing column, of exact zeros.

    Why it matters:
        A unit without incoming weights is a constant; a unit without outgoing weights has no effect. Gradient descent
        leaves no exact zeros, so something else cut the units off: pruning, an incomplete reset of dead units, a
        partial load.

    When it is normal:
        Structured pruning cuts units off in most layers, and where single weights are pruned, some units lose all of
        theirs (notes). An embedding's padding row is zero, and so are rows that fill up its table or a head to a
        power of two; pretrained word vectors may lack words, which should be checked. Rows of a table that were never
        looked up, and outgoing columns of units that were never active, are still zero where the layer started at zero
        (notes), and so are units without incoming weights, bias and outgoing weights, which were removed, and units of
        unknown cause here and there whose biases live, as ``torch.nn.utils.prune`` leaves them. A few units of
        unknown cause are a note as well: weight decay takes the weights of a unit that died below the smallest number,
        and published models have one or two of these in a layer of hundreds. Units recycled
        as in ReDo have zero outgoing columns until the next updates. Grouped and masked layers have zero blocks.

    What to do:
        Find what wrote the zeros. Where the units' output is certain to be 0 (no bias, a known activation), ``ckdoc fix
        --recycle`` reinitialises zero incoming rows and sets the outgoing columns to zero, so that the network's
        function stays the same and the units can learn again. Units that only lack outgoing weights recover with the
        next updates.

    Options:
        pruned: The share of the file's weights with disconnected units above which the network counts as pruned, and
            each of them is a note: half of them, by convention.
        few: The share of a layer's units up to which units of unknown cause without incoming weights are a note; a
            published text recogniser has 2 of 240.

    References:
        Sokar et al. 2302.12902 (ReDo); in 111 published agents no weight is exactly 0.0.
    """
    if is_table(layer, checkpoint):
        yield from _judge_table(layer, checkpoint)
        return
    if layer.kind not in PROJECTIONS or (layer.kind is Kind.KERNEL and layer.unit_axis is None):
        return
    for tensor in layer.learned_weights:
        if not is_zero(tensor):
            yield from _find_without_inputs(layer, tensor, checkpoint, pruned, few)
            yield from _find_without_readers(layer, tensor, checkpoint, pruned)


def _find_without_inputs(
    layer: Layer, tensor: Tensor, checkpoint: Checkpoint, pruned: float, few: float
) -> Iterator[Finding]:
    units, count = zero_units(layer, tensor), tensor.shape[layer.unit_axis or 0]
    # Zero rows of a tied embedding are padding, or words without a vector.
    if not units or _is_tied_to_embedding(tensor, checkpoint) or is_padded_head(layer, tensor, units):
        return
    judged, why = judge_zeros(tensor, checkpoint, layer, None if layer.transposed else tensor.statistics.zero_rows)
    is_harmless = (
        are_removed(layer, units, checkpoint)
        or are_pruned_units(layer, units, why)
        or (why.cause is Cause.UNKNOWN and len(units) <= few * count)
        or (not layer.transposed and are_unseen_conditions(tensor, units, checkpoint))
    )
    yield disconnected_units.finding(
        f"{quantity(len(units), 'unit')} of {count:,} {'has' if len(units) == 1 else 'have'} no incoming "
        f"weights: {why.sentence}",
        tensor,
        severity=Severity.NOTE if is_harmless else _severity(layer, checkpoint, tensor, pruned, why),
        evidence={"units": units, "layer_units": count, "side": "incoming", "cause": why.cause.value},
        repairs=_recycle_constant(layer, tensor, units, checkpoint),
        advice=why.advice if judged else "",
    )


def _find_without_readers(layer: Layer, tensor: Tensor, checkpoint: Checkpoint, pruned: float) -> Iterator[Finding]:
    axis = layer.input_axis
    units, count = zero_inputs(layer, tensor), tensor.shape[1 if axis is None else axis]
    # What a first layer reads are inputs of the model and not units; NET006 is about them.
    if not units or (layer.previous is None and layer.kind not in RECURRENT):
        return
    why = explain_zeros(tensor, checkpoint, layer=layer)
    before = checkpoint.layer_by_name.get(layer.previous or "")
    is_harmless = (
        # The last layer of a branch may start at zero, and then keeps the columns of units that were never active.
        (layer.kind in FEEDFORWARD and not layer.followers and why.cause is not Cause.OVERWRITTEN)
        or _are_recycled(layer, tensor, units, checkpoint)
        or (before is not None and are_removed(before, units, checkpoint))
    )
    yield disconnected_units.finding(
        f"{quantity(len(units), 'unit')} of {count:,} that this layer reads "
        f"{'has' if len(units) == 1 else 'have'} no outgoing weights here",
        tensor,
        severity=Severity.NOTE if is_harmless else _severity(layer, checkpoint, tensor, pruned, why),
        evidence={"units": units, "layer_units": count, "side": "outgoing"},
    )


def _recycle_constant(layer: Layer, tensor: Tensor, rows: list[int], checkpoint: Checkpoint) -> list[Repair]:
    """Recycle units without incoming weights whose output is 0: no bias, and an activation that maps 0 to 0."""
    if tensor is not layer.weight or layer.transposed or activation_of(layer, checkpoint) not in ZERO_AT_ZERO:
        return []
    if layer.bias is not layer.unit_bias:
        return []
    zero_units = rows if layer.bias is None else [row for row in rows if layer.bias.array[row] == 0]
    return recycle(layer, zero_units, checkpoint)


def _is_tied_to_embedding(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    return bool(tensor.storage) and (tensor.storage, tensor.storage_range) in _places_of_embeddings(checkpoint)


@found_once
def _places_of_embeddings(checkpoint: Checkpoint) -> set[tuple[str, tuple[int, int]]]:
    return {
        (table.storage, table.storage_range)
        for layer in checkpoint.layers
        if layer.kind is Kind.EMBEDDING
        for table in layer.tensors.values()
    }


def _are_recycled(layer: Layer, tensor: Tensor, units: list[int], checkpoint: Checkpoint) -> bool:
    """True where the optimizer's moments show that units were recycled and not updated since."""
    if layer.kind is Kind.KERNEL:
        return False
    name = checkpoint.online_tensors.get(tensor.name, tensor.name)
    moments = checkpoint.moments.get(name)
    replaced = (
        None if moments is None else find_replaced(moments, checkpoint.optimizer_of[name], along_rows=layer.transposed)
    )
    return replaced is not None and bool(replaced[units].all())


def _severity(
    layer: Layer, checkpoint: Checkpoint, tensor: Tensor, pruned: float, why: ZeroEvidence
) -> Severity | None:
    """Return a note where most weights have zero units, or the tensor has scattered zeros that were made on purpose."""
    scattered = scattered_zeros(tensor)[1] >= NOTICEABLE
    if scattered and (is_pruned(checkpoint) or describe_sparsity(tensor, layer, checkpoint, why)):
        return Severity.NOTE
    weights, cut = _count_cut_weights(checkpoint)
    is_cut_everywhere = weights > 3 and cut > pruned * weights
    return Severity.NOTE if is_cut_everywhere and tensor.statistics.zero_fraction < 0.95 else None


@found_once
def _count_cut_weights(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the number of weights, and of those with a zero row or column."""
    weights = [each for layer in checkpoint.layers if layer.kind in PROJECTIONS for each in layer.learned_weights]
    return len(weights), sum(
        bool(len(each.statistics.zero_rows) or len(each.statistics.zero_columns)) for each in weights
    )


def _judge_table(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    for tensor in layer.learned_weights:
        rows = tensor.statistics.zero_rows.tolist()
        last = tensor.shape[0] - 1
        # Rows that fill the table up to a round number, then the padding row.
        while rows and rows[-1] == last:
            rows.pop()
            last -= 1
        # The padding row, alone or followed by the row of unknown words.
        if rows in ([0], [1], [2], [3], [0, 1]):
            rows.clear()
        if rows:
            why = explain_zeros(tensor, checkpoint, rows, layer=layer)
            # Tables of other things than words often start at zero: values of states, weights of hashed features.
            may_be_initial = layer.kind is not Kind.EMBEDDING or tensor.shape[1] == 1
            is_harmless = why.cause in (Cause.NEVER_TRAINED, Cause.STEP_0) or (
                why.cause is Cause.UNKNOWN and may_be_initial
            )
            yield disconnected_units.finding(
                f"{quantity(len(rows), 'row')} of {tensor.shape[0]:,} are exactly zero: "
                + _describe_rows(why, is_harmless),
                tensor,
                severity=Severity.NOTE if len(rows) == 1 or is_harmless else None,
                evidence={"units": rows, "layer_units": tensor.shape[0], "side": "incoming", "cause": why.cause.value},
            )


def _describe_rows(why: ZeroEvidence, is_harmless: bool) -> str:
    if is_harmless:
        return "rows never in use"
    return why.sentence if why.cause is Cause.OVERWRITTEN else "words without a vector"


@rule(
    "NET003",
    "zero-output-layer",
    Severity.WARNING,
    worst=Severity.ERROR,
    on=Layer,
    fix=Safety.SAFE,
    group_by=("cause", "updates"),
)
def zero_output_layer(layer: Layer, checkpoint: Checkpoint, *, limit: float = OUTPUT_LIMIT) -> Iterator[Finding]:
    """An output head has weights that are all exactly zero.

    Why it matters:
        The head's output is the same for every input. A head that is initialised to zero learns from its first update
        on. A head that is still zero after training never received a gradient, or was overwritten.

    When it is normal:
        Before the first update, with zero-initialised heads (DiT, µP readouts, ControlNet, ARS). Where no optimizer
        tells more, a zero head beside others is a note: its turn may come later. It is a warning where the layers that
        it alone reads were trained, and where it is the only head.

    What to do:
        Remove the cause that the message names: is the head's output part of the loss, is it detached, is the head
        passed to the optimizer? ``ckdoc fix`` draws the weights from uniform(−limit, limit) and sets the bias to 0.

    Options:
        limit: The half width of the uniform interval that ``ckdoc fix`` draws new weights from: that of DDPG's last
            layers.

    References:
        Lillicrap et al. 1509.02971 (last layers from uniform(±0.003)). Measured: a zero-initialised head has a gradient
        norm of 1.63 at its first step and reduces the loss from 1.98 to 0.0125, so zeros alone are no illness.
    """
    weight = layer.weight
    if not layer.is_output or weight is None or not weight.is_floating or not is_zero(weight):
        return
    severity, why = judge_zeros(weight, checkpoint, layer)
    if why.cause is Cause.NEVER_TRAINED and why.held and why.updates:
        # It took part in every update, and each of its gradients was exactly zero: it did not wait for its turn.
        severity = Severity.ERROR
    if severity is None or (why.cause is not Cause.OVERWRITTEN and explain_zero_weight(weight)):
        return
    waits = why.cause is Cause.UNKNOWN and may_wait(layer, checkpoint)
    repairs = [Repair(weight.name, f"uniform(-{limit}, {limit})", draw_uniform(limit))]
    if layer.bias is not None and layer.bias.is_floating:
        repairs.append(Repair(layer.bias.name, "0", fill(0.0)))
    yield zero_output_layer.finding(
        f"all {weight.size:,} weights of this output layer are exactly zero: {why.sentence}"
        + (f"; {WAITING}" if waits else ""),
        weight,
        severity=Severity.NOTE if waits else severity,
        evidence={
            "zero_fraction": 1.0,
            "cause": why.cause.value,
            "updates": why.updates,
            "bias_is_zero": is_zero(layer.bias),
        },
        repairs=repairs,
        advice=why.advice,
    )


@rule("NET005", "rank-collapse", Severity.NOTE, on=Layer)
def rank_collapse(
    layer: Layer, *, share: float = 0.1, delta: float = 0.01, smallest: int = 16, largest: int = 512
) -> Iterator[Finding]:
    """The effective rank of a weight matrix is far below its size.

    Why it matters:
        The outputs of a matrix of low effective rank have few independent features. In value-based agents, a falling
        rank coincides with lost plasticity.

    When it is normal:
        Bottlenecks, low-rank adapters, and layers with few inputs. The rank of weights is weak evidence; the published
        measure is about features and needs data.

    What to do:
        Compare several checkpoints. If the rank keeps falling, check learning rate and replay ratio.

    Options:
        share: The effective rank, as a share of the full rank, up to which it is reported; in 111 published agents it
            is 0.70 to 1.0.
        delta: The share of the singular values' sum that the effective rank leaves out; 0.01 in the paper.
        smallest: The shorter side of a weight from which it is judged; in narrower ones, a low rank is common.
        largest: The shorter side of a weight up to which it is judged, while the longer one has at most four times as
            many, to bound the time that singular values take.

    References:
        Kumar et al. 2010.14498 (srank with δ = 0.01).
    """
    if layer.kind not in PROJECTIONS:
        return
    for tensor in layer.learned_weights:
        rows, columns = tensor.matrix_shape
        size = min(rows, columns)
        if not smallest <= size <= largest or max(rows, columns) > 4 * largest:
            continue
        # Below the smallest normal number, too few digits are left for a rank.
        if tensor.statistics.nonfinite or tensor.statistics.absmax < _SMALLEST_NORMAL:
            continue
        rank = _effective_rank(tensor, delta, share * size)
        if rank is not None and rank <= share * size:
            yield rank_collapse.finding(
                f"its effective rank is {rank} of {size} (99 % of the singular values' sum)",
                tensor,
                evidence={"effective_rank": rank, "size": size},
            )


def _effective_rank(tensor: Tensor, delta: float, limit: float) -> int | None:
    """Return how many singular values make up 1 − δ of their sum; ``None`` where it is certain to exceed the limit."""
    # Relative to the largest, so that neither the cast nor the squares overflow.
    values = tensor.array.reshape(tensor.matrix_shape)
    wide = values if values.dtype == np.float64 else values.astype(np.float32)
    matrix = (wide / tensor.statistics.absmax).astype(np.float32)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    # The participation ratio needs one product, and it bounds the effective rank from below.
    participation = square(float(np.trace(gram))) / float(np.einsum("ij,ij->", gram, gram))
    if participation > limit:
        return None
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
    return int(np.searchsorted(np.cumsum(values) / values.sum(), 1 - delta)) + 1
