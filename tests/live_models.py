"""Live torch models with known histories, and what a checkpoint of them would say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.statistics.values import InMemory


def as_tensor(name: str, values: torch.Tensor) -> Tensor:
    array = values.detach().clone().numpy()
    return Tensor(name, tuple(array.shape), str(values.dtype).removeprefix("torch."), InMemory(np.asarray(array)))


def checkpoint_of(model: nn.Module, *optimizers: torch.optim.Optimizer, **fields: Any) -> Checkpoint:
    """Return what a checkpoint of a live model says; parameters get their names by object identity."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return Checkpoint(
        path="live",
        format=fields.pop("format", "torch"),
        tensors=tuple(as_tensor(name, values) for name, values in model.state_dict().items()),
        optimizers=tuple(_read(optimizer, names, order) for order, optimizer in enumerate(optimizers)),
        **fields,
    )


def _read(optimizer: torch.optim.Optimizer, names: dict[int, str], order: int) -> Optimizer:
    parameters, groups = [], []
    for group in optimizer.param_groups:
        indices = []
        for parameter in group["params"]:
            state = dict(optimizer.state.get(parameter, {}))
            step = state.pop("step", None)
            moments = {key: as_tensor(key, value) for key, value in state.items() if value is not None}
            indices.append(len(parameters))
            step = None if step is None else int(step)
            parameters.append(Moments(len(parameters), names.get(id(parameter)), step, moments))
        groups.append(ParameterGroup({key: value for key, value in group.items() if key != "params"}, tuple(indices)))
    name = "optimizer" if order == 0 else f"optimizer_{order}"
    return Optimizer(name, type(optimizer).__name__, tuple(groups), tuple(parameters))


torch.set_num_threads(1)  # of such small models a second thread only makes more of the machine busy

OUTPUTS = 8


def batches(inputs: int, seed: int = 0, size: int = 32) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield endless batches of a noisy task: the noise keeps gradients coming when the task is learned."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(inputs, OUTPUTS, generator=random)
    while True:
        x = torch.randn(size, inputs, generator=random)
        yield x, torch.sin(x @ directions) + 0.3 * torch.randn(size, OUTPUTS, generator=random)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Iterator[tuple[torch.Tensor, torch.Tensor]],
    updates: int,
    *,
    events: dict[int, Callable[[], None]] | None = None,
) -> None:
    """Train by mean squared error; ``events`` happen before the update of their number."""
    for update in range(updates):
        if events and update in events:
            with torch.no_grad():
                events[update]()
        x, y = next(data)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
