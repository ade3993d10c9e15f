"""Which of the parts that an optimizer holds and never trained are left out on purpose, as the file shows.

A parameter without state was never part of a loss. That is an illness where trained layers lean on it; heads for later
tasks, experts that were never chosen, frozen backbones and the like are left out for a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from checkpoint_doctor.analyzers._zeros.by_design import explain_zero_weight
from checkpoint_doctor.analyzers._zeros.initial_draws import shows_training
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.layers import DENSE, NORMS, RECURRENT

_ALTERNATIVES = re.compile(r"(?i)(^|[._])(heads?|experts?|branch(es)?|towers?|adapters?|tasks?|domains?)([._]|$)")
"""Names of module lists whose members take turns."""

_VALUE = re.compile(r"(?i)critics?|values?(_net\w*)?|vf|target|teacher")
"""Components that a policy can do without: imitation trains no value network, and targets do not learn."""

_POOLER = re.compile(r"(^|[._])(pooler|seq_relationship)([._]|$)")
"""The head of BERT and its descendants for whole sequences, which masked language modelling does not use."""

MOST_SIBLINGS = 64
"""Modules of one list that are compared with another one of it."""


class TrainedLayers:
    """The layers of the tensors that an optimizer trained: at least one."""

    def __init__(self, checkpoint: Checkpoint, names: Iterable[str]) -> None:
        layers = {checkpoint.layer_of[name] for name in names}
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


def explain_unused(
    branch: str,
    names: Sequence[str],
    checkpoint: Checkpoint,
    trained: TrainedLayers,
) -> str:
    """Return why a branch may be untrained for a reason, as a clause; empty where nothing in the file says so.

    Args:
        branch: the name of the module, or of the only tensor.
        names: its tensors.
        checkpoint: the checkpoint.
        trained: the layers that the optimizer trained.
    """
    layers = list(dict.fromkeys(checkpoint.layer_of[name] for name in names))
    if all(_is_recurrent_weight_read_once(checkpoint.layer_of[name], name) for name in names):
        return "the backward direction makes one step from a zero state where only the last step is read"
    if len(names) == 1 and explain_zero_weight(checkpoint.by_name[names[0]]):
        return "a token or table that not every training uses"
    if not all(_was_never_stepped(name, checkpoint) for name in names):
        return ""
    if all(explain_zero_weight(checkpoint.by_name[name]) for name in names) or _POOLER.search(branch):
        return "not every training uses it"
    if _is_frozen_beginning(layers, trained):
        return "its values are not initial ones, and nothing before it was trained: frozen"
    if _VALUE.fullmatch(layers[0].component) and layers[0].component not in trained.components:
        return "the training so far did without it"
    if all(each.is_output for each in layers) and trained.has_output:
        return "another head was trained, and its turn may come later"
    module = layers[0].name if len(layers) == 1 else branch
    if any(_are_alternatives(module, layers, other, checkpoint) for other in trained.list_siblings(module)):
        return "another of its kind was trained, and its turn may come later"
    return ""


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
    return is_before and any(shown) and False not in shown


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
    others = _layers_by_module(checkpoint).get(other, [])
    shapes = [[tensor.shape for tensor in each.tensors.values() if not tensor.is_buffer] for each in layers]
    if shapes != [[tensor.shape for tensor in each.tensors.values() if not tensor.is_buffer] for each in others]:
        return False
    if _ALTERNATIVES.search(module.rpartition(".")[0]) or all(each.kind in NORMS for each in layers):
        return True
    first, last = (each.weight for each in (layers[0], layers[-1]))
    if first is None or last is None or len(first.shape) < 2 or len(last.shape) < 2:
        return False
    inputs, outputs = first.shape[layers[0].transposed is False], last.shape[layers[-1].transposed is True]
    return inputs != outputs
