"""Which of the parts that an optimizer holds and never trained are left out on purpose, as the file shows.

A parameter without state was never part of a loss. That is an illness where trained layers lean on it; heads for later
tasks, experts that were never chosen, frozen backbones and the like are left out for a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.builtin.analyzers._zeros.by_design import explain_zero_weight
from checkpoint_doctor.builtin.analyzers._zeros.conditions import began_at_no_change, runs_on_its_state
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import shows_training
from checkpoint_doctor.builtin.analyzers.optimizer._dispensable_parts import TrainedNetwork
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.layers import DENSE, NORMS, RECURRENT

_ALTERNATIVES = re.compile(r"(?i)(^|[._])(heads?|experts?|branch(es)?|towers?|adapters?|tasks?|domains?)([._]|$)")
"""Names of module lists whose members take turns."""

_TAKES_TURNS = re.compile(r"(?i)(^|[._])experts?([._]|$)")
"""Names of module lists of which a router chooses: those that it did not choose have gradients of exactly zero."""

_VALUE = re.compile(r"(?i)critics?|values?(_net\w*)?|vf|target|teacher")
"""Components that a policy can do without: imitation trains no value network, and targets do not learn."""

_DEVIATION = re.compile(r"(?i)(^|[._])(actor_)?log_?std$")
"""A policy's spread of actions, as a parameter of its own."""

_POOLER = re.compile(r"(^|[._])(pooler|seq_relationship)([._]|$)")
"""The head of BERT and its descendants for whole sequences, which masked language modelling does not use."""

MOST_SIBLINGS = 64
"""Modules of one list that are compared with another one of it."""


class TrainedLayers:
    """The layers of the tensors that an optimizer trained: at least one."""

    def __init__(self, checkpoint: Checkpoint, names: Iterable[str]) -> None:
        self.layers = layers = {checkpoint.layer_of[name] for name in names}
        self.components = {each.component for each in layers}
        self.has_output = any(each.is_output for each in layers)
        self._places = {layer: place for place, layer in enumerate(checkpoint.layers)}
        self._first = min(self._places[each] for each in layers)
        self._top: dict[str, set[str]] = {}
        """Names with a dot in none, by the name without its digits."""
        self._below: dict[str, set[str]] = {}
        """Labels directly in a module, by the module."""
        for name in {module for each in layers for module in _modules_of(each.name)}:
            parent, dot, label = name.rpartition(".")
            if dot:
                self._below.setdefault(parent, set()).add(label)
        for each in layers:
            self._top.setdefault(re.sub(r"\d+", "", each.name), set()).add(each.name)

    def is_before_all(self, layer: Layer) -> bool:
        """Return whether a layer comes before all of them in the file."""
        return self._places[layer] < self._first

    def list_siblings(self, module: str) -> list[str]:
        """Return the trained modules of the same list or dictionary, or with another number; of many, the first."""
        parent, dot, label = module.rpartition(".")
        if not dot:
            return sorted(self._top.get(re.sub(r"\d+", "", module), set()) - {module})[:MOST_SIBLINGS]
        return [f"{parent}.{each}" for each in sorted(self._below.get(parent, set()) - {label})[:MOST_SIBLINGS]]


FROZEN = "its values are not initial ones, and nothing before it was trained: frozen"
"""Why a backbone has no state; it does not wait for its turn."""


def explain_unused(
    branches: Mapping[str, Sequence[str]], checkpoint: Checkpoint, trained: TrainedLayers
) -> dict[str, str]:
    """Return why branches may be untrained for a reason, as clauses; empty where nothing in the file says so.

    Args:
        branches: the tensors of each branch, by the name of its module or of its only tensor.
        checkpoint: the checkpoint.
        trained: the layers that the optimizer trained.
    """
    network = TrainedNetwork(checkpoint, trained.layers)
    reasons: dict[str, str] = {}
    # What reads a part stands behind it as a rule, so that the last ones are explained first.
    for branch, names in reversed(list(branches.items())):
        layers = network.in_order({checkpoint.layer_of[name] for name in names})
        reason = _explain_branch(branch, names, layers, checkpoint, trained)
        # What an agent's networks are there for is known, and none of them waits.
        is_whole = trained.layers.isdisjoint(layers) and all(_was_never_stepped(name, checkpoint) for name in names)
        if not reason and is_whole and checkpoint.algorithm is None:
            reason = network.explain_dispensable(layers)
        if reason and reason is not FROZEN:
            network.idle.update(layers)
        reasons[branch] = reason
    return reasons


def all_candidates_were_trained(checkpoint: Checkpoint) -> bool:
    """Tell whether no layer that no optimizer holds by name has initial values, adapters aside.

    What has no state then is frozen after a training before, or a second adapter.
    """
    candidates = [
        layer
        for layer in checkpoint.distinct_layers
        if layer.kind in DENSE | NORMS and not any(each.name in checkpoint.moments for each in layer.tensors.values())
    ]
    shown = [answer for layer in candidates if (answer := shows_training(layer)) is not None]
    return any(shown) and 4 * shown.count(False) <= len(shown)


def _explain_branch(
    branch: str, names: Sequence[str], layers: Sequence[Layer], checkpoint: Checkpoint, trained: TrainedLayers
) -> str:
    if all(_is_recurrent_weight_read_once(checkpoint.layer_of[name], name) for name in names):
        return "the backward direction makes one step from a zero state where only the last step is read"
    if len(names) == 1 and (reason := _explain_tensor(names[0], layers[0], checkpoint)):
        return reason
    module = layers[0].name if len(layers) == 1 else branch
    if not all(_was_never_stepped(name, checkpoint) for name in names):
        is_listed = len(names) > 1 and _TAKES_TURNS.search(module.rpartition(".")[0])
        if is_listed and any(_have_equal_shapes(layers, each, checkpoint) for each in trained.list_siblings(module)):
            return "another of its kind was trained, and this one was never chosen"
        return ""
    if all(explain_zero_weight(checkpoint.by_name[name]) for name in names) or _POOLER.search(branch):
        return "not every training uses it"
    if _is_frozen_beginning(layers, trained):
        return FROZEN
    if _VALUE.fullmatch(layers[0].component) and layers[0].component not in trained.components:
        return "the training so far did without it"
    if all(_DEVIATION.search(each.name) for each in layers) and _trains_no_value(checkpoint, trained):
        return "imitation trains neither values nor the spread of actions"
    if all(each.is_output for each in layers) and trained.has_output:
        return "another head was trained, and its turn may come later"
    if any(_are_alternatives(module, layers, other, checkpoint) for other in trained.list_siblings(module)):
        return "another of its kind was trained, and its turn may come later"
    return ""


def _explain_tensor(name: str, layer: Layer, checkpoint: Checkpoint) -> str:
    """Return why a tensor may be untrained while the rest of its layer was trained."""
    if explain_zero_weight(checkpoint.by_name[name]):
        return "a token or table that not every training uses"
    if began_at_no_change(layer, checkpoint):
        return "it began at zero and its inputs were always zero: a condition that is not in use so far"
    if checkpoint.by_name[name] is layer.tensors.get("weight_ih") and runs_on_its_state(layer, checkpoint):
        return "its inputs were always zero, and it runs on the state that another layer hands over"
    return ""


@found_once
def _values_of(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the components that estimate values."""
    return frozenset(layer.component for layer in checkpoint.layers if _VALUE.fullmatch(layer.component))


def _trains_no_value(checkpoint: Checkpoint, trained: TrainedLayers) -> bool:
    """True for a policy beside a value network that was not trained either."""
    values = _values_of(checkpoint)
    return bool(values) and trained.components.isdisjoint(values)


def _was_never_stepped(name: str, checkpoint: Checkpoint) -> bool:
    """True without state, or with one that was made at construction and never stepped, as Adagrad's."""
    moments = checkpoint.moments[name]
    return not moments.state or moments.step == 0


def _is_recurrent_weight_read_once(layer: Layer, name: str) -> bool:
    weight = layer.tensors.get("weight_hh")
    return layer.kind in RECURRENT and layer.name.endswith("_reverse") and weight is not None and weight.name == name


def _is_frozen_beginning(layers: Sequence[Layer], trained: TrainedLayers) -> bool:
    """True for layers with trained values that no trained layer comes before, in the order of the file."""
    shown = [shows_training(layer) for layer in layers if layer.kind in DENSE | NORMS]
    is_before = all(trained.is_before_all(each) for each in layers)
    # A trained layer may look like a draw by chance, and hardly a fresh one as if it were trained.
    return is_before and any(shown) and shown.count(True) >= shown.count(False)


@found_once
def _layers_by_module(checkpoint: Checkpoint) -> dict[str, list[Layer]]:
    """Return the layers in every module, at any depth, and by their own names."""
    found: dict[str, list[Layer]] = {}
    for layer in checkpoint.layers:
        for module in _modules_of(layer.name):
            found.setdefault(module, []).append(layer)
    return found


def _modules_of(name: str) -> list[str]:
    """Return the paths of the modules that a layer is in, the outermost first, and its own name."""
    return [name[: dot.start()] for dot in re.finditer(r"\.", name)] + [name]


def _are_alternatives(module: str, layers: Sequence[Layer], other: str, checkpoint: Checkpoint) -> bool:
    """True for modules of equal shapes that cannot follow one another, or whose list is named for alternatives."""
    if not _have_equal_shapes(layers, other, checkpoint):
        return False
    if _ALTERNATIVES.search(module.rpartition(".")[0]) or all(each.kind in NORMS for each in layers):
        return True
    inputs, outputs = count_inputs(layers[0]), count_units(layers[-1])
    return inputs != outputs and min(inputs, outputs) > 0


def _have_equal_shapes(layers: Sequence[Layer], other: str, checkpoint: Checkpoint) -> bool:
    others = _layers_by_module(checkpoint).get(other, [])
    shapes = [[tensor.shape for tensor in each.tensors.values() if not tensor.is_buffer] for each in layers]
    return shapes == [[tensor.shape for tensor in each.tensors.values() if not tensor.is_buffer] for each in others]
