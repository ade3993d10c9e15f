"""Small networks and how they are trained. A fault in the training loop is one field of a training, replaced."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from benchmarks.sabotage_kinds.pairs import Content
from tests.zoo.sequences import LanguageModel, LastStep, TransformerEncoder
from tests.zoo.tasks import CLASSES, Batches, chains, clusters, gratings, most_frequent_group, moving_averages
from tests.zoo.tasks import smooth_functions as functions
from tests.zoo.vectors import perceptron

Hook = Callable[[nn.Module, Optimizer, int], None]
"""Is given the model, its optimizer and the number of the update."""


def do_nothing(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    """Stand for a hook where none is needed."""


def call(model: nn.Module, x: Tensor) -> Tensor:
    """Compute a model's output as it is defined."""
    return model(x)


def adam(model: nn.Module, lr: float = 2e-3, **settings: float) -> Optimizer:
    """Return Adam over all parameters."""
    return torch.optim.Adam(model.parameters(), lr=lr, **settings)


def token_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Compare the predictions for every place of a sequence with its tokens."""
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


@dataclass(frozen=True)
class Training:
    """A model, its task and its loop. Two trainings that are equal are run once."""

    build: Callable[[], nn.Module]
    batches: Callable[[], Batches]
    loss: Callable[[Tensor, Tensor], Tensor] = functional.mse_loss
    optimizer: Callable[[nn.Module], Optimizer] = adam
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    steps: int = 300
    forward: Callable[[nn.Module, Tensor], Tensor] = call
    before_step: Hook = do_nothing
    after_step: Hook = do_nothing
    seed: int = 0

    def initial(self) -> nn.Module:
        """Return the model before its first update."""
        torch.manual_seed(self.seed)
        return self.build()

    def content(self) -> Content:
        """Train, and return a checkpoint's content that may be changed."""
        return deepcopy(_train(self))


@cache
def _train(training: Training) -> Content:
    model = training.initial()
    batches, optimizer = training.batches(), training.optimizer(model)
    schedule = training.schedule and training.schedule(optimizer)
    for number in range(training.steps):
        x, y = batches()
        optimizer.zero_grad()
        training.loss(training.forward(model, x), y).backward()
        training.before_step(model, optimizer, number)
        optimizer.step()
        if schedule:
            schedule.step()
        training.after_step(model, optimizer, number)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": training.steps}
    return {**content, "scheduler": schedule.state_dict()} if schedule else content


def build_cnn(momentum: float = 0.1) -> nn.Sequential:
    """Return two convolutions with batch normalisation and a linear head: [batch, 1, 12, 12] to [batch, classes]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)),
    )


def decayed_and_others(model: nn.Module, lr: float = 2e-3) -> Optimizer:
    """Return AdamW with weight decay on matrices alone, as language models are trained."""
    matrices = [each for each in model.parameters() if each.ndim > 1]
    vectors = [each for each in model.parameters() if each.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


REGRESSION = Training(lambda: perceptron(nn.ReLU, 16, 64, 64, 4), lambda: functions(16, 4))
TANH = Training(lambda: perceptron(nn.Tanh, 16, 64, 64, 4), lambda: functions(16, 4))
CLASSIFICATION = Training(
    lambda: perceptron(nn.ReLU, 12, 48, 48, CLASSES), lambda: clusters(12), functional.cross_entropy
)
IMAGES = Training(build_cnn, gratings, functional.cross_entropy, steps=150)
RECURRENT = Training(lambda: LastStep(nn.LSTM(6, 32, batch_first=True), 3), lambda: moving_averages(6, 3), steps=150)
ENCODER = Training(TransformerEncoder, most_frequent_group, functional.cross_entropy, steps=150)
LANGUAGE = Training(LanguageModel, chains, token_cross_entropy, decayed_and_others, steps=150)
