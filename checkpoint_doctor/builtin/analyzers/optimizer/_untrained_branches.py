"""Which of an optimizer's tensors were never trained, grouped by the modules that hold them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._zeros.by_design import explain_zero_bias
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor
from checkpoint_doctor.layers import DENSE, Kind


def training_of_tensors(optimizer: Optimizer, checkpoint: Checkpoint) -> dict[str, bool | None]:
    """Return whether each tensor of an optimizer was trained, ``None`` where the file does not tell.

    Where some of its parameters have no name, every tensor that no optimizer holds by name may be one of them.
    """
    unnamed = any(moments.tensor is None for moments in optimizer.parameters)
    unknown = [tensor.name for tensor in checkpoint.tensors if tensor.name not in checkpoint.moments] if unnamed else []
    return dict.fromkeys(unknown, None) | {
        tensor.name: was_trained(tensor, checkpoint)
        for moments in optimizer.parameters
        if (tensor := checkpoint.find_tensor(moments.tensor)) is not None
        and tensor.size
        and not _is_setting(tensor, moments, checkpoint)
    }


def untrained_branches(was_tensor_trained: Mapping[str, bool | None]) -> dict[str, list[str]]:
    """Group untrained tensors by the highest module in which nothing was trained."""
    other_modules = {
        prefix for name, trained in was_tensor_trained.items() if trained is not False for prefix in _prefixes(name)
    }
    branches: dict[str, list[str]] = {}
    for name, trained in was_tensor_trained.items():
        if trained is False:
            branch = next((prefix for prefix in _prefixes(name) if prefix not in other_modules), name)
            branches.setdefault(branch, []).append(name)
    return {branch if len(names) > 1 else names[0]: names for branch, names in branches.items()}


def find_left_out(optimizer: Optimizer, checkpoint: Checkpoint) -> list[str]:
    """Return tensors that no optimizer holds though it trains the rest: output heads, or all biases.

    Gradients pass through a head, so a head that stays as it was initialised is rarely meant. The optimizer must hold
    two thirds of the layers of the head's component, so that frozen models with a few trained layers are not meant, nor
    averaged copies of the model. Where two optimizers hold the same tensors, one of them was meant for a component that
    none holds.
    """
    if any(each.unmatched or each.mismatch for each in checkpoint.optimizers):
        return []
    layers = [layer for layer in checkpoint.distinct_layers if layer.kind in DENSE and layer.weight is not None]
    held = [layer for layer in layers if layer.weight and checkpoint.optimizer_of.get(layer.weight.name) is optimizer]
    coverage = _Coverage(layers, held)
    heads = [
        layer
        for layer in layers
        if layer.is_output
        and not any(tensor.name in checkpoint.moments for tensor in layer.tensors.values())
        and coverage.holds_most_around(layer)
    ]
    if not heads:
        heads = _layers_of_forgotten_component(layers, optimizer, checkpoint)
    if heads:
        return [tensor.name for layer in heads for tensor in layer.tensors.values()]
    biases = [layer.bias.name for layer in layers if layer.bias is not None]
    if len(held) == len(layers) and len(biases) > 1 and not any(name in checkpoint.moments for name in biases):
        return biases
    return []


def _layers_of_forgotten_component(
    layers: Sequence[Layer], optimizer: Optimizer, checkpoint: Checkpoint
) -> list[Layer]:
    """Return the layers of components without any optimizer, if this is the second optimizer over the same tensors."""
    held = {moments.tensor for moments in optimizer.parameters}
    same = [each for each in checkpoint.optimizers if held == {moments.tensor for moments in each.parameters}]
    if not held or len(same) < 2 or optimizer is not same[-1]:
        return []
    components = {
        layer.component for layer in layers if any(t.name in checkpoint.moments for t in layer.tensors.values())
    }
    forgotten = [layer for layer in layers if layer.component not in components]
    return [
        layer for layer in forgotten if not any(t.name in checkpoint.online_tensors for t in layer.tensors.values())
    ]


class _Coverage:
    """How many layers of each component an optimizer holds; the component ``""`` stands for all layers."""

    def __init__(self, layers: Sequence[Layer], held: Sequence[Layer]) -> None:
        self._all = Counter(layer.component for layer in layers if layer.component)
        self._all[""] = len(layers)
        self._held = Counter(layer.component for layer in held if layer.component)
        self._held[""] = len(held)
        self._components = {layer.name: layer.component for layer in held}

    def holds_most_around(self, head: Layer) -> bool:
        """Return whether it holds two thirds of the other layers of a head that it does not hold."""
        own, others = self._held[head.component], self._all[head.component] - 1
        is_before = head.previous is None or (
            head.previous in self._components and head.component in ("", self._components[head.previous])
        )
        return is_before and own > 1 and 3 * own >= 2 * others


def is_explained_elsewhere(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    """True for a bias whose gradient is zero by design, or that is zero and has a finding of its own."""
    layer = checkpoint.layer_of[tensor.name]
    if not any(role.startswith("bias") and part is tensor for role, part in layer.tensors.items()):
        return False
    is_zero = tensor.statistics.zeros == tensor.statistics.count
    return is_zero or explain_zero_bias(tensor, layer, checkpoint) is not None


def _is_setting(tensor: Tensor, moments: Moments, checkpoint: Checkpoint) -> bool:
    """True for a setting that is stored as a parameter without gradient, so that optimizers have no state for it."""
    if moments.state:
        return False
    is_bare_parameter = checkpoint.layer_of[tensor.name].kind is Kind.PARAMETER
    return not tensor.is_floating or (tensor.size == 1 and is_bare_parameter)


def _prefixes(name: str) -> list[str]:
    """Return the names of the modules that hold a tensor, the outermost first, and the tensor's own."""
    return [name[: match.start()] for match in re.finditer(r"[./]", name)] + [name]
