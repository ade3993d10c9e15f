"""Small training loops of PyTorch with a monitor, which tests sabotage."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch

from checkpoint_doctor.callbacks.torch import Monitor

Sabotage = Callable[[int, torch.nn.Module, torch.optim.Optimizer], None]
"""Called with the step, from 1, after ``backward`` and before the clip."""


def build_network(inputs: int = 8) -> torch.nn.Sequential:
    """A network with a norm, rectified and squashed units."""
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 32), torch.nn.ReLU(), torch.nn.LayerNorm(32),
        torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2),
    )  # fmt: skip


def train(
    steps: int,
    *,
    sabotage: Sabotage | None = None,
    monitored: bool = True,
    clip: float | None = None,
    inputs: Callable[[int, torch.Tensor], torch.Tensor] = lambda step, batch: batch,
    loss_factor: Callable[[int], float] = lambda step: 1.0,
    network: torch.nn.Module | None = None,
    kind: type[torch.optim.Optimizer] = torch.optim.Adam,
    set_to_none: bool = True,
    **options: Any,
) -> tuple[torch.nn.Module, torch.optim.Optimizer, Monitor | None]:
    """Train on a linear target, with the same batches every time, until the monitor says stop."""
    torch.manual_seed(0)
    model = network or build_network()
    optimizer = kind(model.parameters(), lr=1e-3)
    options = {"check_every": 100, "stream": io.StringIO(), **options}
    monitor = Monitor(model, optimizer, **options) if monitored else None
    for step in range(1, steps + 1):
        batch = torch.randn(32, 8)
        target = torch.stack([batch.sum(1), batch[:, 0]], 1)
        loss = ((model(inputs(step, batch)) - target) ** 2).mean() * loss_factor(step)
        optimizer.zero_grad(set_to_none=set_to_none)
        loss.backward()
        if sabotage is not None:
            sabotage(step, model, optimizer)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if monitor is not None and monitor.should_stop:
            break
    return model, optimizer, monitor


def told(monitor: Monitor | None) -> list[str]:
    """What the monitor told, as words such as ``began overwritten``."""
    assert monitor is not None
    return [f"{each.what} {each.alert.title.rpartition(' ')[2]}" for each in monitor.news]
