"""What a run needs to go on: schedules, counters, loss scales and the right object under every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from checkpoint_doctor import Severity, open_checkpoint
from checkpoint_doctor.builtin.analyzers.resuming.resuming import (
    loss_scale_collapsed,
    moments_out_of_step,
    wrong_object,
)
from checkpoint_doctor.builtin.analyzers.resuming.schedules import schedule_mismatch
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of


def run(
    updates: int = 300,
    *,
    schedule: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    prefix: str = "net",
    kind: str = "Adam",
    **settings: Any,
) -> Checkpoint:
    """Return a run whose optimizer has made so many updates at a learning rate of 1e-3."""
    random = np.random.default_rng(0)
    tensors = tensors or {
        f"{prefix}.weight": random.normal(0, 0.1, (8, 8)).astype(np.float32),
        f"{prefix}.bias": random.uniform(-0.3, 0.3, 8).astype(np.float32),
    }
    moments = {
        name: {"step": updates, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-4)}
        for name, each in tensors.items()
    }
    parts = settings.pop("parts", [])
    if schedule is not None:
        parts = [*parts, Part("scheduler", Content.SCHEDULER, schedule)]
    return build_checkpoint(tensors, optimizer=moments, optimizer_kind=kind, parts=parts, **settings)


@pytest.mark.parametrize(
    ("schedule", "counters", "words"),
    [
        ({"last_epoch": 300, "_last_lr": [1e-3], "T_max": 400}, {"step": 300}, ""),
        (
            {"last_epoch": 300, "_last_lr": [5e-4], "T_max": 400},
            {"step": 300},
            "has set a learning rate of 0.0005, but",
        ),
        ({"last_epoch": 300, "_last_lr": [5e-4, 1e-3]}, {"step": 300}, ""),
        ({"last_epoch": 7, "_last_lr": [1e-3]}, {"step": 300}, "has made 7 steps, while optimizer counts 300 updates"),
        ({"last_epoch": 10, "_last_lr": [1e-3]}, {"step": 300}, ""),
        ({"last_epoch": 7, "_last_lr": [1e-3]}, {"global_step": 300, "epoch": 6}, ""),
        ({"last_epoch": 20, "_last_lr": [1e-3]}, {"global_step": 300, "epoch": 40}, ""),
        (
            {"last_epoch": 19, "_last_lr": [1e-3]},
            {"global_step": 300, "epoch": 40},
            "has made 19 steps, while the file counts 40 epochs",
        ),
        ({"last_epoch": 600, "_last_lr": [1e-3]}, {"step": 300}, ""),
        ({"last_epoch": 300, "_last_lr": [1e-3], "T_max": 101}, {"step": 300}, ""),
        (
            {"last_epoch": 300, "_last_lr": [1e-3], "T_max": 100},
            {"step": 300},
            "was made for 100 steps and has made 300",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schedule_is_compared_with_the_run(schedule: dict[str, Any], counters: dict[str, int], words: str) -> None:
    check_rule(schedule_mismatch)
    found = findings_of(schedule_mismatch, run(schedule=schedule, counters=counters))
    assert [each.message for each in found] == ([found[0].message] if words else [])
    assert not words or words in found[0].message


@pytest.mark.parametrize(
    ("fields", "rate", "words"),
    [
        ({"total_iters": 20, "last_epoch": 300, "base_lrs": [1e-3]}, 0.0, "ended at step 20 of 300"),
        ({"total_iters": 300, "last_epoch": 300, "base_lrs": [1e-3]}, 0.0, ""),
        ({"total_iters": 20, "last_epoch": 300, "base_lrs": [1e-3]}, 1e-3, ""),
        ({"step_size": 10, "gamma": 0.1, "last_epoch": 300, "base_lrs": [1e-3]}, 1e-33, "lowered the learning rate to"),
        ({"step_size": 100, "gamma": 0.1, "last_epoch": 300, "base_lrs": [1e-3]}, 1e-6, ""),
        (
            {"factor": 0.1, "eps": 1e-8, "min_lrs": [0], "patience": 3, "num_bad_epochs": 2, "last_epoch": 300},
            1e-9,
            "as far as it can",
        ),
        (
            {"factor": 0.1, "eps": 1e-8, "min_lrs": [1e-9], "patience": 3, "num_bad_epochs": 2, "last_epoch": 300},
            1e-9,
            "",
        ),
    ],
)
def test_a_schedule_that_leaves_nothing_of_the_rate(fields: dict[str, Any], rate: float, words: str) -> None:
    options = {"lr": rate, "betas": (0.9, 0.999), "eps": 1e-8}
    checkpoint = run(schedule={**fields, "_last_lr": [rate]}, counters={"step": 300}, optimizer_options=options)
    messages = [each.message for each in findings_of(schedule_mismatch, checkpoint)]
    assert bool(messages) == bool(words)
    assert all(words in each for each in messages)


def farther_than(distance: float) -> dict[str, np.ndarray]:
    """Return a norm whose gains have moved so far."""
    return {
        "norm.weight": np.full(8, 1 + distance, np.float32),
        "norm.bias": np.full(8, 0.01, np.float32),
        "norm.running_mean": np.full(8, 0.1, np.float32),
        "norm.running_var": np.full(8, 0.5, np.float32),
    }


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (run(300, counters={"step": 300}), ""),
        (run(300, counters={"step": 90_000}), "where the file counts 90,000 (step)"),
        (run(300, counters={"step": 9_000}), ""),
        (run(300, counters={"num_timesteps": 90_000}), ""),
        (run(300, counters={"step": 90_000}, prefix="actor"), ""),
        (run(300, counters={"step": 90_000}, hyperparameters={"gamma": 0.99}), ""),
        (run(5, counters={"step": 300}, tensors=farther_than(0.2)), "norm.weight has moved farther than"),
        (run(5, counters={"step": 300}, tensors=farther_than(0.01)), ""),
        (run(100, counters={"step": 800}, tensors=farther_than(0.9)), ""),
        (run(5, counters={"step": 300}, schedule={"last_epoch": 300, "_last_lr": [1e-3]}), "a schedule as many steps"),
        (run(5, counters={"step": 12}, schedule={"last_epoch": 12, "_last_lr": [1e-3]}), ""),
    ],
)
def test_moments_younger_than_the_run(checkpoint: Checkpoint, words: str) -> None:
    check_rule(moments_out_of_step)
    messages = [each.message for each in findings_of(moments_out_of_step, checkpoint)]
    assert bool(messages) == bool(words)
    assert all(words in each for each in messages)


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ({"scale": 65536.0}, None),
        ({"scale": 0.5}, Severity.WARNING),
        ({"scale": 1.2e-38}, Severity.ERROR),
        ({"scale": float("inf")}, Severity.ERROR),
        ({"cur_scale": 1.0, "cur_iter": 10}, None),
        ({"loss_scale": 1e-4, "unskipped": 0}, Severity.ERROR),
        ({}, None),
    ],
)
def test_a_collapsed_loss_scale(values: dict[str, Any], severity: Severity | None) -> None:
    check_rule(loss_scale_collapsed)
    found = findings_of(loss_scale_collapsed, run(parts=[Part("scaler", Content.LOSS_SCALER, values)]))
    assert [each.severity for each in found] == ([severity] if severity else [])


class Trained(nn.Linear):
    """Stands for the trained model, so that its class is one of a program."""


def save(path: Path, **content: Any) -> list[str]:
    torch.save(content, path)
    return [each.message for each in findings_of(wrong_object, open_checkpoint(path))]


def test_the_object_under_every_key(tmp_path: Path) -> None:
    check_rule(wrong_object)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict()}
    path = tmp_path / "model.pt"
    assert save(path, **states) == []
    assert save(path, **states, optimizers=[optimizer.state_dict()], history={"loss": [1.0]}) == []
    assert save(path, **{**states, "optimizer": scheduler.state_dict()}) == [
        "under optimizer is the state of a learning rate scheduler, not the state of an optimizer"
    ]
    assert save(path, **{**states, "optimizer": model.state_dict()}) == [
        "under optimizer is the state dict of a model, not the state of an optimizer"
    ]
    assert save(path, **{**states, "model": optimizer.state_dict()}) == [
        "under model is the state of an optimizer, not the state dict of a model"
    ]
    (message,) = save(path, **{**states, "optimizer": optimizer.state_dict})
    assert message.startswith("under optimizer is a bound method (torch.optim.adam.Adam.state_dict)")
    assert len(save(path, **{**states, "model": model.state_dict})) == 1
    assert len(save(path, **{**states, "optimizer_states": [optimizer.state_dict]})) == 1


def test_state_of_another_form_is_no_wrong_object(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    flat = {"state.0.exp_avg": torch.zeros(3, 4), "state.0.exp_avg_sq": torch.zeros(3, 4)}
    assert save(tmp_path / "model.pt", model=model.state_dict(), optimizer=flat) == []


def test_the_parts_of_a_file(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    content = {
        "model": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9).state_dict()],
        "scaler": {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000},
        "swa": {**{f"module.{name}": each for name, each in model.state_dict().items()}, "n_averaged": torch.tensor(3)},
        "global_step": 12,
        "epoch": 2,
        "best": 0.5,
    }
    torch.save(content, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert [(part.name, part.content) for part in checkpoint.parts] == [
        ("model", Content.STATE_DICT),
        ("optimizer_states/0", Content.OPTIMIZER),
        ("lr_schedulers/0", Content.SCHEDULER),
        ("scaler", Content.LOSS_SCALER),
        ("swa", Content.STATE_DICT),
    ]
    assert checkpoint.parts[0].keys == {"weight", "bias"}
    assert checkpoint.parts[2].values["T_max"] == 9
    assert checkpoint.parts[3].values["scale"] == 8.0
    assert checkpoint.parts[4].values["n_averaged"] == 3
    assert checkpoint.counters == {"global_step": 12, "epoch": 2}
