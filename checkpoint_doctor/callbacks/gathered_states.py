"""The state dicts of what ``fully_shard`` spreads over processes, gathered whole on one of them.

They are those of ``torch.distributed.checkpoint.state_dict`` with ``full_state_dict=True``, which it reads back. Its
own function for optimizers makes a step where one has no state yet; nothing is stepped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from checkpoint_doctor.callbacks.live_checkpoint import parameters_of
from checkpoint_doctor.callbacks.live_tensors import gather


def gather_model(model: torch.nn.Module, *, keep: bool) -> dict[str, Any]:
    """Return a model's state dict with whole tensors on the CPU. All processes must call this at the same time.

    Args:
        model: what is spread.
        keep: whether this process keeps it; others return an empty one and hold a single whole tensor at a time.
    """
    return _gather_all(model.state_dict(), keep)


def gather_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """Return an optimizer's state dict in the same way, with the parameters' names in the place of their numbers."""
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [named.get(id(parameter), str(place)) for place, parameter in enumerate(parameters_of(optimizer))]
    states = optimizer.state_dict()
    state = {names[place]: _gather_all(held, keep) for place, held in states["state"].items()}
    groups = [{**group, "params": [names[place] for place in group["params"]]} for group in states["param_groups"]]
    return {"state": state, "param_groups": groups} if keep else {}


def _gather_all(values: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    gathered = {}
    for name, value in values.items():
        whole = gather(value).detach().cpu() if isinstance(value, torch.Tensor) else value
        if keep:
            gathered[name] = whole
    return gathered
