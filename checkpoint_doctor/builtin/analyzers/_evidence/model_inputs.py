"""Layers that read the model's inputs, as names and shapes show them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import isqrt

from checkpoint_doctor.builtin.analyzers._evidence.cells import count_hidden
from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.layers import RECURRENT, WITH_UNITS, Kind, is_target

MOST_SOURCES = 256
"""Layers that are looked at as the source of another one."""


def reads_model_inputs(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Return whether a layer may be a first one: its inputs are not the units of a layer that is known."""
    if layer.previous is not None:
        return False
    with_units = _layers_with_units(checkpoint)
    if layer.is_output and with_units not in ([], [layer]):
        return False  # an output head whose source is not known
    return "features_extractor" in layer.name or not _has_extractor(checkpoint)


@found_once
def _layers_with_units(checkpoint: Checkpoint) -> list[Layer]:
    return [layer for layer in checkpoint.layers if layer.kind in WITH_UNITS]


@found_once
def _has_extractor(checkpoint: Checkpoint) -> bool:
    return any("features_extractor" in layer.name for layer in _layers_with_units(checkpoint))


def possible_sources(layer: Layer, inputs: int, checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers before this one whose units may be its inputs, by their number; of many, the nearest."""
    places = _places(checkpoint)
    before: list[Layer] = []
    for units, layers in _sources_by_units(checkpoint).get(layer.component, {}).items():
        if inputs % units == 0:
            end = bisect_left(layers, places[layer], key=places.__getitem__)
            before += layers[max(0, end - MOST_SOURCES) : end]
    return sorted(before, key=places.__getitem__)[-MOST_SOURCES:]


@found_once
def _places(checkpoint: Checkpoint) -> dict[Layer, int]:
    return {layer: place for place, layer in enumerate(checkpoint.layers)}


@found_once
def _sources_by_units(checkpoint: Checkpoint) -> dict[str, dict[int, list[Layer]]]:
    """Return the layers whose units another layer may read, in file order, by component and number of units."""
    found: dict[str, dict[int, list[Layer]]] = {}
    for layer in _layers_with_units(checkpoint):
        units = count_units(layer)
        if not layer.is_output and units > 1:
            found.setdefault(layer.component, {}).setdefault(units, []).append(layer)
    return found


@found_once
def find_first_layers(checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers that are certain to read the model's inputs, in file order; those of target networks left out.

    Nothing before them may be their source: no layer or embedding with as many outputs as they have inputs, and none
    with fewer whose reader is not known, since their outputs may be joined. In Stable-Baselines3 files, only layers of
    their component count.
    """
    first: list[Layer] = []
    before = _Before()
    for layer in checkpoint.distinct_layers:
        scope = layer.component if checkpoint.format == "sb3" else ""
        inputs = count_inputs(layer)
        if (
            layer.kind in WITH_UNITS
            and layer.previous is None
            and inputs
            and not before.may_feed(inputs, scope)
            and reads_model_inputs(layer, checkpoint)
            and not is_target(layer.name)
        ):
            first.append(layer)
        outputs = _count_outputs(layer)
        if outputs > 1 and not (scope and layer.is_output) and not is_target(layer.name):
            before.add(outputs, bool(layer.followers), scope)
    return first


class _Before:
    """What the layers before another one may feed it. Only layers of the same scope are fed."""

    def __init__(self) -> None:
        self._outputs: dict[str, set[int]] = {}
        self._fewest_unread: dict[str, int] = {}

    def add(self, outputs: int, has_reader: bool, scope: str) -> None:
        """Add a layer."""
        self._outputs.setdefault(scope, set()).add(outputs)
        if not has_reader:
            self._fewest_unread[scope] = min(outputs, self._fewest_unread.get(scope, outputs))

    def may_feed(self, inputs: int, scope: str) -> bool:
        """Return whether they may be all of a layer's inputs, or, joined with others, some of them."""
        if self._fewest_unread.get(scope, inputs) < inputs:
            return True
        outputs = self._outputs.get(scope, set())
        if len(outputs) < isqrt(inputs):
            return any(inputs % each == 0 for each in outputs)
        divisors = (each for each in range(1, isqrt(inputs) + 1) if inputs % each == 0)
        return any(each in outputs or inputs // each in outputs for each in divisors)


def group_by_inputs(first: Sequence[Layer], checkpoint: Checkpoint) -> list[list[Layer]]:
    """Return first layers in groups that read the same inputs, each in file order.

    They have as many inputs. The critics of Stable-Baselines3 read the actor's observations, followed by the action.
    """
    groups: list[list[Layer]] = []
    for layer in sorted(first, key=lambda each: -count_inputs(each)):
        # Other formats than SB3's only join equal numbers of inputs, which are beside each other.
        candidates = groups if checkpoint.format == "sb3" else groups[-len(Kind) :]
        group = next((each for each in candidates if _read_the_same(each[0], layer, checkpoint)), None)
        if group is None:
            groups.append([layer])
        else:
            group.append(layer)
    order = {layer: place for place, layer in enumerate(first)}
    return [sorted(group, key=order.__getitem__) for group in groups]


def _read_the_same(one: Layer, other: Layer, checkpoint: Checkpoint) -> bool:
    if one.kind is not other.kind:
        return False
    is_critic_and_actor = checkpoint.format == "sb3" and (one.component, other.component) == ("critic", "actor")
    return count_inputs(one) == count_inputs(other) or is_critic_and_actor


def measured_input_rms(layer: Layer, checkpoint: Checkpoint) -> float | None:
    """Return the RMS of a layer's inputs, as its own moments show it or those of a layer that reads the same inputs."""
    known = checkpoint.signals[layer.name].input_rms
    if known is not None:
        return known
    return _input_rms_by_first_layer(checkpoint).get(layer)


@found_once
def _input_rms_by_first_layer(checkpoint: Checkpoint) -> dict[Layer, float | None]:
    found: dict[Layer, float | None] = {}
    for group in group_by_inputs(find_first_layers(checkpoint), checkpoint):
        sizes = [size for each in group if (size := checkpoint.signals[each.name].input_rms) is not None]
        found |= dict.fromkeys(group, max(sizes, default=None))
    return found


def _count_outputs(layer: Layer) -> int:
    """Return how many features a layer outputs; 0 where it is none that has any."""
    if layer.kind in RECURRENT:
        projection = layer.tensors.get("weight_hr")
        return count_hidden(layer) if projection is None else projection.shape[0]
    if layer.kind is Kind.EMBEDDING and layer.tensors:
        return next(iter(layer.tensors.values())).shape[-1]
    return count_units(layer)
