"""Parts without state that the trained network does without, as sizes, values and the order of the file show.

Whether a part was left out on purpose is not written in a file. What can be seen is whether trained layers need it: a
part that never ran, adds zeros, or has no trained layer behind it that could read it, harms nothing as it is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence

from checkpoint_doctor.builtin.analyzers._evidence.running_statistics import never_ran
from checkpoint_doctor.builtin.analyzers._evidence.widths import (
    first_reader,
    last_giver,
    may_feed,
    widths_given,
    widths_read,
)
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.layers import NORMS, Kind

_MOST = 64
"""Readers, twins and blocks that are looked at for one part; with more of them, nothing is said."""

_MOST_WIDTHS = 1024
"""Different numbers of features that linear layers read, up to which they are tried for a flattened convolution."""

Shapes = tuple[tuple[int, ...], ...]


class TrainedNetwork:
    """The layers that an optimizer trained, and what they can do without."""

    def __init__(self, checkpoint: Checkpoint, trained: Collection[Layer]) -> None:
        self.idle: set[Layer] = set()
        """Layers without state that the network does without, as was found so far."""
        self._checkpoint = checkpoint
        self._trained = trained
        self._places = {layer: place for place, layer in enumerate(checkpoint.layers)}
        ordered = self.in_order(trained)
        self._end = last_giver(ordered)
        self._given = {width for layer in ordered for width in widths_given(layer)}
        self._last_reader = {width: self._places[layer] for layer in ordered for width in widths_read(layer)}
        """The place of the last trained layer that reads so many features."""
        self._last_linear = {
            width: self._places[layer] for layer in ordered if layer.kind is Kind.LINEAR for width in widths_read(layer)
        }
        self._modules = {module for layer in ordered for module in _modules_around(layer)}
        self._table_rows = {_rows(layer) for layer in ordered if layer.kind is Kind.PARAMETER} - {0, 1}

    def in_order(self, layers: Iterable[Layer]) -> list[Layer]:
        """Return layers in the order of the file."""
        return sorted(layers, key=self._places.__getitem__)

    def explain_dispensable(self, part: Sequence[Layer]) -> str:
        """Return why the network does without a part, as a clause; empty where it may need it.

        ``part`` has the layers of the part in the order of the file. None of their tensors has state.
        """
        norms = [layer for layer in part if layer.kind is Kind.BATCH_NORM]
        if norms and all(map(never_ran, norms)):
            return "its running statistics show that it never ran, and its turn may come later"
        if self._is_last_of_its_kind(part):
            return "the same part of the blocks before was trained, and nothing reads that of the last one"
        has_end = self._end is not None and not any(may_feed(self._end, layer) for layer in part)
        if self._ends_in_zeros(part) and (has_end or not any(layer.is_output for layer in part)):
            return "it ends in zeros that it began with, so it adds nothing so far"
        last = last_giver(part)
        if last is not None and self._only_idle_layers_read(last, part):
            return "only parts that the network does without may read it"
        if has_end and (last is None or not self._is_read(last)):
            if self._reads_trained(part):
                return "another output was trained, and its turn may come later"
            if self._has_twin(part):
                return "a part of the same shapes was trained in its place, and its turn may come later"
        return ""

    def _is_read(self, last: Layer) -> bool:
        """True where sizes allow a trained layer behind a part to read it; a linear one may read it flattened."""
        given = widths_given(last)
        if last.kind is Kind.CONV and len(self._last_linear) > _MOST_WIDTHS:
            return True
        flattened = self._last_linear if last.kind is Kind.CONV else {}
        return self._reads_behind(given, last) or any(
            place > self._places[last] and any(read % width == 0 for width in given)
            for read, place in flattened.items()
        )

    def _reads_behind(self, widths: set[int], last: Layer) -> bool:
        return any(self._last_reader.get(width, -1) > self._places[last] for width in widths)

    def _only_idle_layers_read(self, last: Layer, part: Sequence[Layer]) -> bool:
        """True where there are possible readers behind a part, and the network does without all of them."""
        readers, inside = [], set(part)
        for width in widths_given(last):
            places = _readers_by_width(self._checkpoint).get(width, [])
            behind = bisect_right(places, self._places[last])
            readers += [self._checkpoint.layers[place] for place in places[behind : behind + _MOST + 1]]
        readers = [layer for layer in readers if layer not in inside]
        return 0 < len(readers) <= _MOST and self.idle.issuperset(readers) and not self._is_read(last)

    def _ends_in_zeros(self, part: Sequence[Layer]) -> bool:
        """True where a part's last layer is exactly zero; bare parameters count beside trained ones of as many rows."""
        last = next((layer for layer in reversed(part) if layer.kind not in NORMS), None)
        if last is None or not all(is_zero(tensor) for tensor in last.tensors.values() if not tensor.is_buffer):
            return False
        return last.kind is not Kind.PARAMETER or _rows(last) in self._table_rows

    def _reads_trained(self, part: Sequence[Layer]) -> bool:
        """True where a trained layer may give what a part reads, so that the part is another end of the network."""
        first = first_reader(part)
        return first is not None and bool(widths_read(first) & self._given)

    def _has_twin(self, part: Sequence[Layer]) -> bool:
        """True where trained layers before a part have its shapes, and no trained layer behind reads both side by side.

        Parts that give as many features as they read may follow one another, so they are no twins.
        """
        first, last = first_reader(part), last_giver(part)
        if first is None or last is None or widths_read(first) & widths_given(last):
            return False
        if self._reads_behind({2 * width for width in widths_given(last)}, last):
            return False
        shapes, layers = [_shapes(layer) for layer in part], self._checkpoint.layers
        places = [each for each in _places_by_shapes(self._checkpoint)[shapes[0]] if each < self._places[part[0]]]
        return any(
            [_shapes(layer) for layer in twin] == shapes and all(layer in self._trained for layer in twin)
            for twin in (layers[place : place + len(part)] for place in places[:_MOST])
        )

    def _is_last_of_its_kind(self, part: Sequence[Layer]) -> bool:
        """True for a part of the last block of a list whose counterparts in all other blocks were trained.

        The blocks share their code, and what the last one hands on to a next one, nothing reads. The rest of the last
        block must have been trained.
        """
        name = part[0].name
        for match in re.finditer(r"(?<=\.)(\d+)(?=\.)", name):
            block, start = name[: match.end()], name[: match.start()]
            numbers = _numbers(self._checkpoint)[start]
            if block not in self._modules or int(match[1]) != max(numbers) or not 1 < len(numbers) <= _MOST:
                continue
            if all(layer.name.startswith(f"{block}.") for layer in part) and all(
                self._checkpoint.layer_by_name.get(f"{start}{number}{layer.name[match.end() :]}") in self._trained
                for number in numbers - {int(match[1])}
                for layer in part
            ):
                return True
        return False


@found_once
def _readers_by_width(checkpoint: Checkpoint) -> dict[int, list[int]]:
    """Return the places of the layers that may read so many features, in the order of the file."""
    found: dict[int, list[int]] = {}
    for place, layer in enumerate(checkpoint.layers):
        for width in widths_read(layer):
            found.setdefault(width, []).append(place)
    return found


@found_once
def _places_by_shapes(checkpoint: Checkpoint) -> dict[Shapes, list[int]]:
    """Return the places of the layers whose tensors have these shapes."""
    found: dict[Shapes, list[int]] = {}
    for place, layer in enumerate(checkpoint.layers):
        found.setdefault(_shapes(layer), []).append(place)
    return found


@found_once
def _numbers(checkpoint: Checkpoint) -> dict[str, set[int]]:
    """Return the numbers of the modules of each list, by the name of the list with its dot."""
    found: dict[str, set[int]] = {}
    for layer in checkpoint.layers:
        for match in re.finditer(r"(?<=\.)(\d+)(?=\.)", layer.name):
            found.setdefault(layer.name[: match.start()], set()).add(int(match[1]))
    return found


def _modules_around(layer: Layer) -> list[str]:
    return [layer.name[: dot.start()] for dot in re.finditer(r"\.", layer.name)]


def _rows(layer: Layer) -> int:
    tensor = next(iter(layer.tensors.values()))
    return tensor.shape[0] if len(tensor.shape) > 1 else 0


def _shapes(layer: Layer) -> Shapes:
    return tuple(tensor.shape for tensor in layer.tensors.values() if not tensor.is_buffer)
