"""Which of an optimizer's tensors were never trained, grouped by the modules that hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from checkpoint_doctor.analyzers._evidence.training import was_trained
from checkpoint_doctor.analyzers._zeros.by_design import explain_zero_bias
from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, Tensor
from checkpoint_doctor.layers import Kind


def training_of_tensors(optimizer: Optimizer, checkpoint: Checkpoint) -> dict[str, bool | None]:
    """Return whether each tensor of an optimizer was trained, ``None`` where the file does not tell."""
    return {
        tensor.name: was_trained(tensor, checkpoint)
        for moments in optimizer.parameters
        if (tensor := checkpoint.by_name.get(moments.tensor or "")) is not None
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
