"""How a model gets into the zoo: it is trained until its loss has clearly fallen, and saved."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.zoo.saving import Save

torch.set_num_threads(1)  # of such small models a second thread only makes more of the machine busy

LEARNED = 0.5
"""The share of its first loss below which a model's last loss must be."""


@dataclass(frozen=True)
class Run:
    """A model that was trained, by which optimizers, and how its loss fell."""

    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    losses: list[float]
    """One positive number for each update that falls as the model learns."""
    beginning: Run | None = None
    """A copy of the model and its optimizers from before the first update, where the training function keeps one."""

    @property
    def remaining_loss(self) -> float:
        """The mean loss of the last 20 updates as a share of the mean loss of the first three."""
        return fmean(self.losses[-20:]) / fmean(self.losses[:3])


class NotTrained(Exception):
    """A model that should be healthy has not learned its task."""


@dataclass(frozen=True)
class HealthyModel:
    """One architecture of the zoo: how it is trained, and how it is saved."""

    name: str
    train: Callable[[], Run]
    save: Save
    suffix: str

    def checkpoint(self, folder: Path) -> Path:
        """Return the checkpoint in the folder; train the model where it is not there yet.

        Several processes may ask at once: each writes under a name of its own first.

        Raises:
            NotTrained: the loss has not clearly fallen, so the model would prove nothing.
        """
        path = folder / f"{self.name}{self.suffix}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{os.getpid()}-{path.name}"
            self.save(self.run(), unfinished)
            unfinished.replace(path)
        return path

    def run(self, seed: int = 0) -> Run:
        """Train the model, the same way for the same seed, and leave the global generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            run = self.train()
        if not run.remaining_loss < LEARNED:
            raise NotTrained(f"{self.name} keeps {run.remaining_loss:.0%} of its first loss")
        return run


ZOO: dict[str, HealthyModel] = {}
"""All models by name, filled by the decorator below."""


def healthy(
    save: Save, suffix: str = ".pt", *, models: dict[str, HealthyModel] = ZOO
) -> Callable[[Callable[[], Run]], Callable[[], Run]]:
    """Take a training function into the zoo, or into other models, under its own name."""

    def add(train: Callable[[], Run]) -> Callable[[], Run]:
        models[train.__name__] = HealthyModel(train.__name__, train, save, suffix)
        return train

    return add


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    steps: int,
    *,
    largest_norm: float | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> Run:
    """Minimise a loss that draws its own batches; gradients are clipped to a norm where one is given."""
    beginning = before_training(model, optimizer)
    losses = [update(model, optimizer, loss, largest_norm, after_step) for _ in range(steps)]
    return Run(model, (optimizer,), losses, beginning)


def before_training(model: nn.Module, *optimizers: Optimizer) -> Run:
    """Return a copy of a model and of optimizers that hold its parameters."""
    model, optimizers = copy.deepcopy((model, optimizers))
    return Run(model, optimizers, [])


def update(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    largest_norm: float | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Make one step of gradient descent and return the loss before it."""
    value = loss()
    optimizer.zero_grad()
    value.backward()
    if largest_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), largest_norm)
    optimizer.step()
    after_step()
    return value.item()
