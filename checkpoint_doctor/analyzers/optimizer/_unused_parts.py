"""Which of the parts that an optimizer holds and never trained are left out on purpose, as the file shows.

A parameter without state was never part of a loss. That is an illness where trained layers lean on it; heads for later
tasks, experts that were never chosen, frozen backbones and the like are left out for a reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from checkpoint_doctor.analyzers._zeros.by_design import explain_zero_weight
from checkpoint_doctor.analyzers._zeros.initial_draws import shows_training
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import DENSE, NORMS, RECURRENT

_ALTERNATIVES = re.compile(r"(?i)(^|[._])(heads?|experts?|branch(es)?|towers?|adapters?|tasks?|domains?)([._]|$)")
"""Names of module lists whose members take turns."""

_VALUE = re.compile(r"(?i)critics?|values?(_net\w*)?|vf|target|teacher")
"""Components that a policy can do without: imitation trains no value network, and targets do not learn."""

_POOLER = re.compile(r"(^|[._])(pooler|seq_relationship)([._]|$)")
"""The head of BERT and its descendants for whole sequences, which masked language modelling does not use."""


def explain_unused(
    branch: str,
    names: Sequence[str],
    checkpoint: Checkpoint,
    was_tensor_trained: Mapping[str, bool | None],
) -> str:
    """Return why a branch may be untrained for a reason, as a clause; empty where nothing in the file says so.

    Args:
        branch: the name of the module, or of the only tensor.
        names: its tensors.
        checkpoint: the checkpoint.
        was_tensor_trained: which of the optimizer's tensors were trained.
    """
    layers = list(dict.fromkeys(checkpoint.layer_of[name] for name in names))
    if all(_is_recurrent_weight_read_once(checkpoint.layer_of[name], name) for name in names):
        return "the backward direction makes one step from a zero state where only the last step is read"
    if len(names) == 1 and explain_zero_weight(checkpoint.by_name[names[0]]):
        return "a token or table that not every training uses"
    if not all(_was_never_stepped(name, checkpoint) for name in names):
        return ""
    trained = {checkpoint.layer_of[name] for name, each in was_tensor_trained.items() if each}
    if all(explain_zero_weight(checkpoint.by_name[name]) for name in names) or _POOLER.search(branch):
        return "not every training uses it"
    if _is_frozen_beginning(layers, trained, checkpoint):
        return "its values are not initial ones, and nothing before it was trained: frozen"
    if _VALUE.fullmatch(layers[0].component) and all(each.component != layers[0].component for each in trained):
        return "the training so far did without it"
    if all(each.is_output for each in layers) and any(each.is_output for each in trained):
        return "another head was trained, and its turn may come later"
    module = layers[0].name if len(layers) == 1 else branch
    if any(_are_alternatives(module, layers, other, checkpoint) for other in _siblings(module, checkpoint, trained)):
        return "another of its kind was trained, and its turn may come later"
    return ""


def _was_never_stepped(name: str, checkpoint: Checkpoint) -> bool:
    """True without state, or with one that was made at construction and never stepped, as Adagrad's."""
    moments = checkpoint.moments[name]
    return not moments.state or moments.step == 0


def _is_recurrent_weight_read_once(layer: Layer, name: str) -> bool:
    weight = layer.tensors.get("weight_hh")
    return layer.kind in RECURRENT and layer.name.endswith("_reverse") and weight is not None and weight.name == name


def _is_frozen_beginning(layers: Sequence[Layer], trained: set[Layer], checkpoint: Checkpoint) -> bool:
    """True for layers with trained values that no trained layer comes before, in the order of the file."""
    order = {layer: place for place, layer in enumerate(checkpoint.layers)}
    shown = [shows_training(layer) for layer in layers if layer.kind in DENSE | NORMS]
    is_before = max(order[each] for each in layers) < min(order[each] for each in trained)
    return is_before and any(shown) and False not in shown


def _siblings(module: str, checkpoint: Checkpoint, trained: set[Layer]) -> list[str]:
    """Return the modules of the same list or dictionary, or with another number, in which something was trained."""
    parent, dot, _ = module.rpartition(".")
    if not dot:
        stem = re.sub(r"\d+", "", module)
        return sorted(each.name for each in trained if each.name != module and re.sub(r"\d+", "", each.name) == stem)
    below = [layer.name.removeprefix(f"{parent}.") for layer in trained if layer.name.startswith(f"{parent}.")]
    labels = {name.partition(".")[0] for name in below}
    return [f"{parent}.{label}" for label in sorted(labels) if f"{parent}.{label}" != module]


def _are_alternatives(module: str, layers: Sequence[Layer], other: str, checkpoint: Checkpoint) -> bool:
    """True for modules of equal shapes that cannot follow one another, or whose list is named for alternatives."""
    others = [each for each in checkpoint.layers if each.name == other or each.name.startswith(f"{other}.")]
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
