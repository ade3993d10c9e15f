"""Copies: units and blocks of a network that are identical to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._repairs.initialization import initialization_of
from checkpoint_doctor.builtin.analyzers._zeros.conditions import are_unseen_conditions
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import DENSE, Kind
from checkpoint_doctor.layers.init_rules import at_lines
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.text import quantity

_FEWEST_ENTRIES = 16
"""Matrices with fewer entries may be equal by chance, or written by hand."""

Blocks = dict[str, dict[str, Tensor]]
"""Name of a block to its matrices, by their names inside the block."""


@rule("NET004", "duplicate-units", Severity.WARNING, on=Layer, fix=Safety.UNSAFE, worse=("groups",))
def duplicate_units(layer: Layer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """The weights of units are identical to the last bit.

    Why it matters:
        Units with equal weights receive equal gradients and stay equal, so the layer is effectively smaller. Random
        initialisation never gives the same row twice: rows were copied, or the layer was initialised with a constant.

    When it is normal:
        Embedding rows of new words that all got the mean vector; repeated key and value heads in converted models. A
        head that starts at zero keeps the rows of classes that are not in the data equal (a note), and so does the
        table of gains of a conditional norm. Filters that no
        optimizer holds, and kernels that are the same in every channel (a blur), are fixed and not checked; neither are
        rows of one or two inputs in half precision, which can be equal by chance.

    What to do:
        Reinitialise the copies, or add a little noise to them, and continue training. ``ckdoc fix --unsafe`` draws all
        but the first of equal rows anew, by the layer's init rule.

    References:
        Goodfellow, Bengio and Courville, Deep Learning, 8.4; Chen et al. 1511.05641 (Net2Net adds noise for this).
    """
    if layer.kind not in DENSE or layer.unit_axis is None:
        return
    lines = "columns" if layer.transposed else "rows"
    for tensor in layer.learned_weights:
        statistics = tensor.statistics
        equal = statistics.duplicate_columns if layer.transposed else statistics.duplicate_rows
        groups = [list(group) for group in equal]
        if not groups or not _should_have_distinct_units(layer, tensor) or _is_fixed(layer, tensor, groups, checkpoint):
            continue
        count = tensor.shape[layer.unit_axis]
        copies = sum(len(group) - 1 for group in groups)
        is_unseen = layer.is_output and copies < count - 1 and _have_equal_moments(layer, tensor, groups, checkpoint)
        if not layer.transposed and not is_unseen:
            is_unseen = are_unseen_conditions(tensor, [row for group in groups for row in group], checkpoint)
        yield duplicate_units.finding(
            f"{quantity(copies, lines[:-1])} of {count:,} {'is a copy' if copies == 1 else 'are copies'} "
            f"of another (such as {groups[0][0]} and {groups[0][1]}): these units compute the same"
            + (", as do classes that are not in the data" if is_unseen else ""),
            tensor,
            severity=Severity.NOTE if is_unseen else None,
            evidence={"groups": groups, lines: count},
            repairs=[] if is_unseen else _redraw_copies(tensor, layer, groups, checkpoint),
        )


def _redraw_copies(tensor: Tensor, layer: Layer, groups: list[list[int]], checkpoint: Checkpoint) -> list[Repair]:
    """Return the repair that draws all but the first of equal rows anew, so that their units can differ."""
    rule = initialization_of(tensor, layer, checkpoint)
    if rule is None or layer.unit_axis is None:
        return []
    copies = [row for group in groups for row in group[1:]]
    redraw = at_lines(copies, layer.unit_axis, rule.draw)
    return [Repair(tensor.name, f"copies reinitialised: {rule.words}", redraw, Safety.UNSAFE)]


def _is_fixed(layer: Layer, tensor: Tensor, groups: list[list[int]], checkpoint: Checkpoint) -> bool:
    """True for filters that are not learned: buffers, what no optimizer holds, one kernel for every channel."""
    is_depthwise = layer.kind in (Kind.CONV, Kind.KERNEL) and layer.bias is None and count_inputs(layer) == 1
    if tensor.is_buffer or (is_depthwise and any(len(group) == count_units(layer) for group in groups)):
        return True
    if tensor.name in checkpoint.online_tensors or any(each.unmatched for each in checkpoint.optimizers):
        return False
    return bool(checkpoint.moments) and tensor.name not in checkpoint.moments


def _have_equal_moments(layer: Layer, tensor: Tensor, groups: list[list[int]], checkpoint: Checkpoint) -> bool:
    """True where equal units received equal gradients; unknown without an optimizer, which counts as equal."""
    recorded = _recorded_lines(tensor, checkpoint, of_columns=layer.transposed)
    return recorded is None or all(len(set(recorded[group].tolist())) == 1 for group in groups)


def _should_have_distinct_units(layer: Layer, tensor: Tensor) -> bool:
    """True where random units cannot be equal by chance: not constant, and at least 40 random bits for each."""
    length = tensor.size // tensor.shape[layer.unit_axis or 0]
    bits = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}.get(tensor.dtype, 3)
    return tensor.statistics.minimum != tensor.statistics.maximum and length * bits >= 40


@rule("NET009", "copied-blocks", Severity.WARNING, on=Checkpoint, part=("blocks",))
def copied_blocks(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Two numbered blocks hold identical weights, though the optimizer trained them apart.

    Why it matters:
        Two blocks that receive different gradients never stay equal, so something copied one over the other after
        training: a loop that loads each block from the same source, a wrong index in a conversion. What the overwritten
        block had learned is lost.

    When it is normal:
        Networks that are deepened by repeating blocks are equal before they are trained further, and so are the blocks
        of ``torch.nn.TransformerEncoder``, which are made as copies. Both are silent until gradients are recorded.
        Where the file has no optimizer, nothing is reported.

    What to do:
        Take the block from another checkpoint of the run, and look at the code that wrote this one. To train on, reset
        the optimizer's state of the overwritten block.

    References:
        With different inputs, equal weights receive different gradients, and Adam's steps make them differ in the first
        update. Measured: no two blocks of 65 published checkpoints are equal.
    """
    if not checkpoint.moments:
        return
    for siblings in _numbered_blocks(checkpoint).values():
        first_of: dict[tuple[object, ...], str] = {}
        for name, matrices in siblings.items():
            key = tuple(
                (part, each.shape, each.statistics.norm, each.statistics.mean) for part, each in matrices.items()
            )
            first = first_of.setdefault(key, name)
            if first != name and _were_copied(siblings[first], matrices, checkpoint):
                yield copied_blocks.finding(
                    f"{name} is a copy of {first}: all {len(matrices)} matrices are identical to the last bit, but "
                    "their moments differ, so one was written over the other after training",
                    evidence={"blocks": [first, name], "tensors": [each.name for each in matrices.values()]},
                )


def _numbered_blocks(checkpoint: Checkpoint) -> dict[str, Blocks]:
    """Return the blocks ``h.0``, ``h.1`` … by what stands before the number."""
    found: dict[str, Blocks] = {}
    for layer in checkpoint.distinct_layers:
        path = layer.name.split(".")
        place = next((at for at, element in enumerate(path) if at and element.isdigit()), None)
        if layer.kind not in DENSE or place is None:
            continue
        before, block = ".".join(path[:place]), ".".join(path[: place + 1])
        for tensor in layer.learned_weights:
            found.setdefault(before, {}).setdefault(block, {})[tensor.name.removeprefix(block)] = tensor
    return found


def _were_copied(one: dict[str, Tensor], other: dict[str, Tensor], checkpoint: Checkpoint) -> bool:
    return all(
        _is_random(each) and _were_trained_apart(each, other[part], checkpoint) for part, each in one.items()
    ) and all(np.array_equal(each.array, other[part].array) for part, each in one.items())


def _is_random(tensor: Tensor) -> bool:
    """True where equal values cannot be a coincidence: not constant, and not a handful of numbers."""
    statistics = tensor.statistics
    return tensor.size >= _FEWEST_ENTRIES and not statistics.nonfinite and statistics.minimum != statistics.maximum


def _were_trained_apart(one: Tensor, other: Tensor, checkpoint: Checkpoint) -> bool:
    """True where both recorded gradients, and not the same ones."""
    if not (was_trained(one, checkpoint) and was_trained(other, checkpoint)):
        return False
    first, second = (_recorded_lines(each, checkpoint, of_columns=False) for each in (one, other))
    return first is not None and second is not None and not np.array_equal(first, second)


def _recorded_lines(tensor: Tensor, checkpoint: Checkpoint, *, of_columns: bool) -> NDArray | None:
    """Return the largest second moment of each line, or the largest first one where no second moment is kept."""
    moments = checkpoint.moments.get(tensor.name)
    if moments is None or moments.statistics is None:
        return None
    statistics = moments.statistics
    first, second = (
        (statistics.column_first, statistics.column_second)
        if of_columns
        else (statistics.row_first, statistics.row_second)
    )
    return first if second is None else second
