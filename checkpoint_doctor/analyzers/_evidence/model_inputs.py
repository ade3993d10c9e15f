"""Layers that read the model's inputs, as names and shapes show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint_doctor.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import RECURRENT, WITH_UNITS, Kind, is_target


def reads_model_inputs(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Return whether a layer may be a first one: its inputs are not the units of a layer that is known."""
    if layer.previous is not None:
        return False
    others = [other for other in checkpoint.layers if other is not layer and other.kind in WITH_UNITS]
    if layer.is_output and others:
        return False  # an output head whose source is not known
    has_extractor = any("features_extractor" in other.name for other in others)
    return not has_extractor or "features_extractor" in layer.name


def possible_sources(layer: Layer, inputs: int, checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers before this one whose units may be its inputs, by their number."""
    before = checkpoint.layers[: checkpoint.layers.index(layer)]
    same = [each for each in before if each.kind in WITH_UNITS and each.component == layer.component]
    return [each for each in same if not each.is_output and (units := count_units(each)) > 1 and inputs % units == 0]


def find_first_layers(checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers that are certain to read the model's inputs, in file order; those of target networks left out.

    Nothing before them may be their source: no layer or embedding with as many outputs as they have inputs, and none
    with fewer whose reader is not known, since their outputs may be joined. In Stable-Baselines3 files, only layers of
    their component count.
    """
    first: list[Layer] = []
    before: set[_Source] = set()
    for layer in checkpoint.distinct_layers:
        scope = layer.component if checkpoint.format == "sb3" else ""
        inputs = count_inputs(layer)
        if (
            layer.kind in WITH_UNITS
            and layer.previous is None
            and inputs
            and not any(source.may_feed(inputs, scope) for source in before)
            and reads_model_inputs(layer, checkpoint)
            and not is_target(layer.name)
        ):
            first.append(layer)
        outputs = _count_outputs(layer)
        if outputs > 1 and not (scope and layer.is_output) and not is_target(layer.name):
            before.add(_Source(outputs, bool(layer.followers), scope))
    return first


@dataclass(frozen=True)
class _Source:
    """What layers before another one may feed it."""

    outputs: int
    has_reader: bool
    scope: str
    """Only layers of the same scope are fed."""

    def may_feed(self, inputs: int, scope: str) -> bool:
        """Return whether they may be all of a layer's inputs, or, joined with others, some of them."""
        is_all = inputs % self.outputs == 0
        return self.scope == scope and (is_all or (self.outputs < inputs and not self.has_reader))


def group_by_inputs(first: Sequence[Layer], checkpoint: Checkpoint) -> list[list[Layer]]:
    """Return first layers in groups that read the same inputs, each in file order.

    They have as many inputs. The critics of Stable-Baselines3 read the actor's observations, followed by the action.
    """
    groups: list[list[Layer]] = []
    for layer in sorted(first, key=lambda each: -count_inputs(each)):
        group = next((each for each in groups if _read_the_same(each[0], layer, checkpoint)), None)
        if group is None:
            groups.append([layer])
        else:
            group.append(layer)
    return [sorted(group, key=first.index) for group in groups]


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
    for group in group_by_inputs(find_first_layers(checkpoint), checkpoint):
        sizes = [checkpoint.signals[each.name].input_rms for each in group]
        if layer in group:
            return max((size for size in sizes if size is not None), default=None)
    return None


def _count_outputs(layer: Layer) -> int:
    """Return how many features a layer outputs; 0 where it is none that has any."""
    if layer.kind in RECURRENT:
        hidden = layer.tensors.get("weight_hr") or layer.tensors.get("weight_hh")
        return 0 if hidden is None else hidden.shape[0 if "weight_hr" in layer.tensors else 1]
    if layer.kind is Kind.EMBEDDING and layer.tensors:
        return next(iter(layer.tensors.values())).shape[-1]
    return count_units(layer)
