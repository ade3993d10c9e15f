"""The bench's own models by name, and the decorator that adds one."""

from __future__ import annotations

from collections.abc import Callable

from tests.zoo import training
from tests.zoo.saving import Save, training_state
from tests.zoo.training import HealthyModel, Run

MODELS: dict[str, HealthyModel] = {}


def healthy(save: Save = training_state, suffix: str = ".pt") -> Callable[[Callable[[], Run]], Callable[[], Run]]:
    """Take a training function into the bench, under its own name."""
    return training.healthy(save, suffix, models=MODELS)
