"""The files that are made of one healthy model: with its optimizers, without them, before training, and converted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.zoo.saving import safetensors, several_optimizers, state_dict, training_state
from tests.zoo.training import HealthyModel, Run

FRESH = "fresh"
"""The variant from before the first update."""

State = dict[str, Tensor]


def make_variants(model: HealthyModel, folder: Path) -> list[Path]:
    """Return the files of a model, each named after its variant; train the model where they are not there yet.

    Raises:
        NotTrained: its loss has not clearly fallen.
    """
    ready = folder / model.name
    if not ready.exists():
        unfinished = folder / f".{os.getpid()}-{model.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_variants(model, unfinished)
        unfinished.rename(ready)
    return sorted(ready.iterdir())


def write_variants(model: HealthyModel, folder: Path) -> None:
    """Train a model and write its files into a folder."""
    run = model.run()
    model.save(run, folder / f"saved{model.suffix}")
    if run.optimizers and model.save is not training_state:
        save_training(run, folder / "resumable.pt")
    if model.save is not state_dict:
        state_dict(run, folder / "weights.pth")
    state = {name: value for name, value in run.model.state_dict().items() if isinstance(value, Tensor)}
    if model.save is not safetensors:
        save_file(without_aliases(state), folder / "weights.safetensors")
    for dtype in (torch.float16, torch.bfloat16):
        converted = convert(state, dtype)
        # A value beyond the type's range becomes infinite, and such a file is ill.
        if count_finite(converted) == count_finite(state):
            torch.save(converted, folder / f"{str(dtype).removeprefix('torch.')}.pth")
    if run.beginning is not None and run.beginning.optimizers:
        save_training(run.beginning, folder / f"{FRESH}.pt")


def save_training(run: Run, path: Path) -> None:
    """Save a model with all its optimizers in the plainest way."""
    if len(run.optimizers) == 1:
        training_state(run, path)
    else:
        several_optimizers(*(f"optimizer_{number}" for number in range(len(run.optimizers))))(run, path)


def convert(state: State, dtype: torch.dtype) -> State:
    """Return a state dict with its floating-point values rounded to a type; tied tensors stay tied."""
    converted: dict[object, Tensor] = {}
    for name, key in _storages(state):
        value = state[name]
        converted.setdefault(key, value.to(dtype) if value.is_floating_point() else value)
    return {name: converted[key] for name, key in _storages(state)}


def without_aliases(state: State) -> State:
    """Return a state dict that holds tied tensors once, under their first name, as safetensors wants it."""
    first: dict[object, str] = {}
    for name, key in _storages(state):
        first.setdefault(key, name)
    return {name: state[name].clone().contiguous() for name in first.values()}


def count_finite(state: State) -> int:
    """Return how many of all values are finite."""
    return sum(int(value.isfinite().sum()) for value in state.values())


def _storages(state: State) -> Iterator[tuple[str, object]]:
    for name, value in state.items():
        yield name, (value.data_ptr(), value.shape, value.stride()) if value.numel() else name
