"""Parts without state that the trained network does without, as sizes, values and the order of the file show.

Whether a part was left out on purpose is not written in a file. What can be seen is whether trained layers need it: a
part that never ran, adds zeros, or has no trained layer behind it that could read it, harms nothing as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from checkpoint_doctor.analyzers._evidence.running_statistics import never_ran
from checkpoint_doctor.analyzers._evidence.widths import (
    first_reader,
    last_giver,
    may_feed,
    possible_readers,
    widths_given,
    widths_read,
)
from checkpoint_doctor.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import NORMS, Kind


def explain_dispensable(part: Sequence[Layer], checkpoint: Checkpoint, trained: set[Layer], idle: set[Layer]) -> str:
    """Return why the trained network does without a part, as a clause; empty where it may need it.

    Args:
        part: the layers of the part, in the order of the file. None of its tensors has state.
        checkpoint: the checkpoint.
        trained: the layers that were trained.
        idle: layers without state that the network does without, as was found before.
    """
    norms = [layer for layer in part if layer.kind is Kind.BATCH_NORM]
    if norms and all(map(never_ran, norms)):
        return "its running statistics show that it never ran, and its turn may come later"
    if _is_last_of_its_kind(part, checkpoint, trained):
        return "the same part of the blocks before was trained, and nothing reads that of the last one"
    has_end = _has_end_of_its_own(part, checkpoint, trained)
    if _ends_in_zeros(part, trained) and (has_end or not any(layer.is_output for layer in part)):
        return "it ends in zeros that it began with, so it adds nothing so far"
    readers = possible_readers(part, checkpoint)
    if readers and all(layer in idle for layer in readers):
        return "only parts that the network does without may read it"
    if has_end and not any(layer in trained for layer in readers):
        if _reads_trained(part, trained):
            return "another output was trained, and its turn may come later"
        if _has_twin(part, checkpoint, trained):
            return "a part of the same shapes was trained in its place, and its turn may come later"
    return ""


def _has_end_of_its_own(part: Sequence[Layer], checkpoint: Checkpoint, trained: set[Layer]) -> bool:
    """True where the last trained layer is an output, since no layer of the part may read it."""
    end = last_giver(layer for layer in checkpoint.layers if layer in trained)
    return end is not None and not any(may_feed(end, layer) for layer in part)


def _ends_in_zeros(part: Sequence[Layer], trained: set[Layer]) -> bool:
    """True where the part's last layer is exactly zero; bare parameters count beside trained ones with as many rows."""
    last = next((layer for layer in reversed(part) if layer.kind not in NORMS), None)
    if last is None or not all(is_zero(tensor) for tensor in last.tensors.values() if not tensor.is_buffer):
        return False
    return last.kind is not Kind.PARAMETER or any(
        other.kind is Kind.PARAMETER and 1 < _rows(other) == _rows(last) for other in trained
    )


def _rows(layer: Layer) -> int:
    tensor = next(iter(layer.tensors.values()))
    return tensor.shape[0] if len(tensor.shape) > 1 else 0


def _reads_trained(part: Sequence[Layer], trained: set[Layer]) -> bool:
    """True where a trained layer may give what the part reads, so that the part is another end of the network."""
    first = first_reader(part)
    return first is not None and any(may_feed(layer, first) for layer in trained)


def _has_twin(part: Sequence[Layer], checkpoint: Checkpoint, trained: set[Layer]) -> bool:
    """True where trained layers before the part have its shapes, and no trained layer behind reads both side by side.

    Parts that give as many features as they read may follow one another, so they are no twins.
    """
    first, last = first_reader(part), last_giver(part)
    if first is None or last is None or widths_read(first) & widths_given(last):
        return False
    side_by_side = {2 * width for width in widths_given(last)}
    behind = checkpoint.layers[checkpoint.layers.index(last) + 1 :]
    if any(widths_read(layer) & side_by_side for layer in behind if layer in trained):
        return False
    before = [layer for layer in checkpoint.layers[: checkpoint.layers.index(first)] if layer in trained]
    shapes = list(map(_shapes, part))
    return any(list(map(_shapes, before[at : at + len(part)])) == shapes for at in range(len(before)))


def _shapes(layer: Layer) -> list[tuple[int, ...]]:
    return [tensor.shape for tensor in layer.tensors.values() if not tensor.is_buffer]


def _is_last_of_its_kind(part: Sequence[Layer], checkpoint: Checkpoint, trained: set[Layer]) -> bool:
    """True for a part of the last block of a list whose counterparts in all other blocks were trained.

    The blocks share their code, and what the last one hands on to a next one, nothing reads. The rest of the last block
    must have been trained.
    """
    return any(
        is_last and bool(counterparts) and all(each in trained for each in counterparts)
        for is_last, counterparts in _counterparts(part, checkpoint, trained)
    )


def _counterparts(
    part: Sequence[Layer], checkpoint: Checkpoint, trained: set[Layer]
) -> Iterator[tuple[bool, list[Layer | None]]]:
    """Yield, for each numbered list around a part, whether it is in the last block, and its layers in the others."""
    name = part[0].name
    for match in re.finditer(r"(?<=\.)(\d+)(?=\.)", name):
        block, number = name[: match.end()], int(match[1])
        inside = [layer for layer in checkpoint.layers if layer.name.startswith(f"{block}.")]
        if not all(layer.name.startswith(f"{block}.") for layer in part) or not any(each in trained for each in inside):
            continue
        numbers = {
            int(found[1])
            for layer in checkpoint.layers
            if (found := re.match(rf"{re.escape(name[: match.start()])}(\d+)\.", layer.name))
        }
        others = [
            checkpoint.layer_by_name.get(f"{name[: match.start()]}{other}{layer.name[match.end() :]}")
            for other in numbers - {number}
            for layer in part
        ]
        yield number == max(numbers), others
