"""Rows of a weight that never had their turn: outputs, tokens and hidden states that nothing used."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import unit_activity
from checkpoint_doctor.builtin.analyzers._evidence.training import untouched_level
from checkpoint_doctor.builtin.analyzers._zeros.by_design import is_padded_head
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import FEEDFORWARD, RECURRENT, Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity

_FEWEST_UPDATES = 20
"""Updates (batches) in which a row that is in use should have received a gradient."""

_POSITIONS = re.compile(r"(?i)(^|[._])(wpe|pos(ition(s|al)?)?)([._]|$)|pos(ition(al)?)?_?emb")
"""Tables of positions, which are as long as the longest sequence that the model allows."""

_HEAD_ADVICE = (
    "Check that the loss uses these outputs: a mask that is always on, targets that never have these classes, or an "
    "index that selects some of the outputs."
)
_EMBEDDING_ADVICE = (
    "Check the data: does it hold these indices at all? A tokenizer that maps everything to one token, and padding "
    "alone, look like this."
)
_RECURRENT_ADVICE = "Check whether the hidden state is masked, sliced or reset between the steps."


@rule("NET007", "unused-rows", Severity.NOTE, worst=Severity.WARNING, on=Layer, part=("tensor",), worse=("rows",))
def unused_rows(
    layer: Layer,
    checkpoint: Checkpoint,
    *,
    ratio: float = 1e-7,
    head: float = 0.25,
    recurrent: float = 0.5,
    embedding: float = 0.75,
    vocabulary: int = 1024,
) -> Iterator[Finding]:
    """Rows of a head or an embedding, or hidden states of a recurrent layer, received no gradient; others did.

    Why it matters:
        These rows still have their initial values. An action, class or token that was never in use behaves at random
        when it is used for the first time. Where most rows are unused, the loss, the data or a mask is usually wrong.

    When it is normal:
        Words follow Zipf's law, so rare ones may not have been in the data yet; tables of more than ``vocabulary`` rows
        and tables of positions are at most a note. Padding is not reported. Actions can be masked on purpose.

    What to do:
        Head: check that the loss uses all outputs, and that the data holds all classes. Embedding: check which indices
        the data holds. Recurrent layer: check whether a part of the hidden state is masked or reset between steps.

    Options:
        ratio: A row received no gradient where its √v is at most this share of the largest row's. Absent classes still
            receive far larger ones through the softmax; actions that are masked by lowering their logits have 2e-9 to
            3e-8.
        head: The share of unused rows of a head from which it is a warning; a starting point.
        recurrent: The share of unused hidden states of a recurrent layer from which it is a warning; a starting point.
        embedding: The share of unused rows of an embedding from which it is a warning; a starting point.
        vocabulary: The most rows of an embedding that can be a warning; larger ones hold words, of which many are rare.

    References:
        The gradient of a row is its output's gradient times the inputs. Zipf, Human Behavior and the Principle of
        Least Effort, 1949.
    """
    if layer.kind is Kind.EMBEDDING:
        yield from _judge_embedding(layer, checkpoint, ratio, embedding, vocabulary)
    elif layer.kind in FEEDFORWARD and layer.is_output and not layer.transposed and layer.weight is not None:
        unused = _without_gradient(layer.weight, checkpoint, ratio, of_columns=False)
        if unused is not None and len(unused) > 1:
            rows = np.flatnonzero(unused).tolist()
            zero_rows = layer.weight.statistics.zero_rows.tolist()
            is_padding = rows == zero_rows and is_padded_head(layer, layer.weight, rows)
            severity = Severity.WARNING if len(rows) >= head * len(unused) and not is_padding else Severity.NOTE
            yield from _report(layer.weight, rows, len(unused), "output", severity, checkpoint, _HEAD_ADVICE)
    elif layer.kind in RECURRENT:
        yield from _judge_recurrent(layer, checkpoint, ratio, recurrent)


def _judge_embedding(
    layer: Layer, checkpoint: Checkpoint, ratio: float, share: float, vocabulary: int
) -> Iterator[Finding]:
    for tensor in layer.tensors.values():
        unused = _without_gradient(tensor, checkpoint, ratio, of_columns=False)
        if unused is None:
            continue
        rows = np.flatnonzero(unused).tolist()
        if len(rows) == 1:
            continue  # the padding row
        is_small = 16 < len(unused) <= vocabulary and not _POSITIONS.search(tensor.name)
        severity = Severity.WARNING if is_small and len(rows) >= share * len(unused) else Severity.NOTE
        if len(rows) < 0.1 * len(unused):
            continue
        yield from _report(tensor, rows, len(unused), "row", severity, checkpoint, _EMBEDDING_ADVICE)


def _judge_recurrent(layer: Layer, checkpoint: Checkpoint, ratio: float, share: float) -> Iterator[Finding]:
    weight = layer.tensors.get("weight_hh")
    units = unit_activity(layer, checkpoint, 1e-4)
    if weight is None or units is None:
        return
    unused = _without_gradient(weight, checkpoint, ratio, of_columns=not layer.transposed)
    if unused is None or len(unused) != len(units.inactive):
        return
    # Units that do not learn either are dormant, and have a finding of their own.
    states = np.flatnonzero(unused & ~units.inactive).tolist()
    severity = Severity.WARNING if len(states) >= share * len(unused) else Severity.NOTE
    yield from _report(weight, states, len(unused), "hidden state", severity, checkpoint, _RECURRENT_ADVICE)


def _without_gradient(tensor: Tensor, checkpoint: Checkpoint, ratio: float, *, of_columns: bool) -> NDArray | None:
    """Return which rows (or columns) of a matrix received no gradient; ``None`` where none did, or it is unknown."""
    moments = checkpoint.moments.get(tensor.name)
    statistics = moments.statistics if moments is not None else None
    if moments is None or statistics is None or statistics.nonfinite_second or len(tensor.shape) < 2:
        return None
    level = untouched_level(moments, checkpoint.optimizer_of[tensor.name], of_root=True)
    largest = statistics.column_second if of_columns else statistics.row_second
    if largest is None or level is None or not largest.size or (moments.step or 0) < _FEWEST_UPDATES:
        return None
    unused: NDArray = largest <= max(level, ratio * float(largest.max()))
    return None if unused.all() else unused


def _first_of(lines: list[int]) -> str:
    """List the first indices: ``2, 3, 7 …``."""
    return ", ".join(map(str, lines[:6])) + (" …" if len(lines) > 6 else "")


def _report(
    tensor: Tensor, lines: list[int], count: int, noun: str, severity: Severity, checkpoint: Checkpoint, advice: str
) -> Iterator[Finding]:
    if not lines:
        return
    updates = checkpoint.moments[tensor.name].step
    yield unused_rows.finding(
        f"{len(lines):,} of {quantity(count, noun)} ({_first_of(lines)}) "
        f"received no gradient in {updates:,} updates, and the others did",
        tensor,
        severity=severity,
        evidence={"tensor": tensor.name, "rows": lines, "count": count, "updates": updates},
        advice=advice if severity is Severity.WARNING else "",
    )
