"""A model and its optimizers in memory, as the checkpoint that ``torch.save`` would write of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from msgspec import Struct, field

from checkpoint_doctor.callbacks.live_tensors import gather, present
from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, ParameterGroup, Skipped, Tensor
from checkpoint_doctor.checkpoint.optimizer_kinds import infer_kind

MOST_IN_A_SETTING = 64
"""Entries of a list in a parameter group that are kept."""


class LiveModel(Struct, eq=False):
    """What a training loop trains. It is asked anew at every check, since tensors are replaced now and then."""

    model: torch.nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer] = field(default_factory=dict)
    """The optimizers by the names that reports call them."""
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Learned tensors outside of the model, by name."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the model's tensors under the names of its state dict, in its order."""
        state = self.model.state_dict(keep_vars=True)
        return {**{name: each for name, each in state.items() if isinstance(each, torch.Tensor)}, **self.others}

    def buffers(self) -> frozenset[str]:
        """Return the names of the buffers."""
        return frozenset(name for name, _ in self.model.named_buffers(remove_duplicate=False))

    def states(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the optimizers' tensors under the names that they have in a checkpoint."""
        for name, optimizer in self.optimizers.items():
            for index, parameter in enumerate(parameters_of(optimizer)):
                for key, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, torch.Tensor) and key != "step":
                        yield f"{name}/state/{index}/{key}", value

    def describe(self, path: str, *, format: str = "torch", **facts: Any) -> Checkpoint:
        """Return all of it as a checkpoint: views of live memory, so that what it says holds until the next update.

        Args:
            path: what reports call it.
            format: the loader that would open it if it were saved.
            facts: further fields of ``Checkpoint``, such as ``step``.
        """
        live, buffers = self.tensors(), self.buffers()
        names: dict[int, str] = {}
        for name, tensor in live.items():
            names.setdefault(id(tensor), name)
        shown = [present(name, gather(tensor), is_buffer=name in buffers) for name, tensor in live.items()]
        optimizers = tuple(_describe_optimizer(name, each, names) for name, each in self.optimizers.items())
        return Checkpoint(
            path=path,
            format=format,
            tensors=tuple(each for each in shown if isinstance(each, Tensor)),
            optimizers=optimizers,
            skipped=tuple(each for each in shown if isinstance(each, Skipped)),
            **facts,
        ).with_shared_statistics()


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters that an optimizer holds, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _describe_optimizer(name: str, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> Optimizer:
    groups: list[ParameterGroup] = []
    parameters: list[Moments] = []
    for group in optimizer.param_groups:
        first = len(parameters)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            place = f"{name}/state/{len(parameters)}"
            parameters.append(_describe_moments(place, len(parameters), names.get(id(parameter)), state, group))
        options = {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
        groups.append(ParameterGroup(options, tuple(range(first, len(parameters)))))
    unknown = sum(each.tensor is None for each in parameters)
    why = f"{unknown:,} of its {len(parameters):,} parameters are not in the model" if unknown else ""
    return Optimizer(name, infer_kind(parameters, groups), tuple(groups), tuple(parameters), why)


def _describe_moments(
    place: str, index: int, tensor: str | None, state: Mapping[str, Any], group: Mapping[str, Any]
) -> Moments:
    shown = {
        str(key): present(f"{place}/{key}", gather(value))
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key != "step"
    }
    step = _number(state.get("step", group.get("step") if state else None))
    counted = int(step) if isinstance(step, (int, float)) and not isinstance(step, bool) else None
    return Moments(index, tensor, counted, {key: each for key, each in shown.items() if isinstance(each, Tensor)})


def _number(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_meta:
        return gather(value).item()
    return value


def _plain(value: Any) -> Any:
    """Return a setting of a parameter group as loaders do: plain values, and the type's name for all else."""
    value = _number(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= MOST_IN_A_SETTING:
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(each) for each in value]
    return type(value).__name__
