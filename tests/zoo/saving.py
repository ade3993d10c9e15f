"""The ways in which people save a model and its optimizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from tests.zoo.training import Run

Save = Callable[["Run", Path], None]


def state_dict(run: Run, path: Path) -> None:
    """Save the weights alone, as PyTorch's documentation does."""
    torch.save(run.model.state_dict(), path)


def legacy_state_dict(run: Run, path: Path) -> None:
    """Save the weights alone, in the format before PyTorch 1.6."""
    torch.save(run.model.state_dict(), path, _use_new_zipfile_serialization=False)


def safetensors(run: Run, path: Path) -> None:
    """Save the weights alone, as a safetensors file."""
    save_file(run.model.state_dict(), path)


def training_state(run: Run, path: Path) -> None:
    """Save what a script needs to go on: model, optimizer and step."""
    torch.save(_training_state(run), path)


def legacy_training_state(run: Run, path: Path) -> None:
    """Save what a script needs to go on, in the format before PyTorch 1.6."""
    torch.save(_training_state(run), path, _use_new_zipfile_serialization=False)


def several_optimizers(*names: str) -> Save:
    """Return a way to save a model with several optimizers, each under its own name."""

    def save(run: Run, path: Path) -> None:
        states = {name: each.state_dict() for name, each in zip(names, run.optimizers, strict=True)}
        torch.save({"model": run.model.state_dict(), **states, "step": len(run.losses)}, path)

    return save


def lightning(run: Run, path: Path) -> None:
    """Save as Lightning's ``ModelCheckpoint`` does."""
    content = {
        "epoch": 1,
        "global_step": len(run.losses),
        "pytorch-lightning_version": "2.5.0",
        "state_dict": run.model.state_dict(),
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 1, "completed": 1}}}},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict() for optimizer in run.optimizers],
        "lr_schedulers": [],
    }
    torch.save(content, path)


def _training_state(run: Run) -> dict[str, object]:
    (optimizer,) = run.optimizers
    return {"model": run.model.state_dict(), "optimizer": optimizer.state_dict(), "step": len(run.losses)}
