"""Weights that are averages or copies of others: soups, SWA, moving averages, mixed precision."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import state_dict
from tests.zoo.sequences import LanguageModel
from tests.zoo.tasks import CLASSES, chains, clusters, cross_entropy, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


def classifier() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, CLASSES))
    )


@healthy(state_dict, suffix=".pth")
def soup() -> Run:
    """The mean of three models that were trained on from the same one (Wortsman et al., 2022)."""
    batches, model = smooth_functions(16, 4), perceptron(nn.ReLU, 16, 64, 64, 4)
    first = fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), squared_error(model, batches), steps=300)
    ingredients = [copy.deepcopy(model) for _ in range(3)]
    for each, rate in zip(ingredients, (5e-4, 1e-3, 2e-3), strict=True):
        fit(each, torch.optim.AdamW(each.parameters(), lr=rate), squared_error(each, batches), steps=100)
    with torch.no_grad():
        for target, *sources in zip(model.parameters(), *(each.parameters() for each in ingredients), strict=True):
            target.copy_(torch.stack(sources).mean(0))
    return Run(model, (), first.losses)


@healthy()
def stochastic_weight_average() -> Run:
    model, batches = classifier(), clusters(12)
    averaged = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss, updates = cross_entropy(model, batches), itertools.count(1)

    def average_late() -> None:
        if next(updates) > 150:
            averaged.update_parameters(model)

    run = fit(model, optimizer, loss, 200, after_step=average_late)
    update_bn((batches()[0] for _ in range(10)), averaged)
    return Run(nn.ModuleDict({"model": model, "averaged": averaged}), (optimizer,), run.losses)


def with_average(run: Run, path: Path) -> None:
    """Save the model, its average and its optimizer side by side, as diffusion code does."""
    both, (optimizer,) = run.model, run.optimizers
    content = {"step": len(run.losses), "model": both["model"].state_dict(), "ema": both["ema"].module.state_dict()}
    torch.save({**content, "optimizer": optimizer.state_dict()}, path)


@healthy(with_average)
def moving_average_beside_the_model() -> Run:
    model = perceptron(nn.SiLU, 16, 64, 64, 4)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    run = fit(
        model, optimizer, squared_error(model, smooth_functions(16, 4)), 400,
        after_step=lambda: average.update_parameters(model),
    )  # fmt: skip
    return Run(nn.ModuleDict({"model": model, "ema": average}), run.optimizers, run.losses)


@healthy(with_average)
def moving_average_of_a_tied_model() -> Run:
    model = LanguageModel()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    run = fit(
        model, optimizer, cross_entropy(model, chains()), 120, largest_norm=1.0,
        after_step=lambda: average.update_parameters(model),
    )  # fmt: skip
    return Run(nn.ModuleDict({"model": model, "ema": average}), run.optimizers, run.losses)


@healthy()
def pure_bfloat16() -> Run:
    """Trained in bfloat16 throughout, moments included."""
    model = perceptron(nn.GELU, 16, 64, 64, 4).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batches = smooth_functions(16, 4)

    def loss() -> Tensor:
        x, y = batches()
        return (model(x.bfloat16()).float() - y).square().mean()

    return fit(model, optimizer, loss, steps=400)


@healthy()
def bfloat16_model_with_float32_masters() -> Run:
    """The optimizer holds float32 copies of a bfloat16 model's parameters."""
    model, batches = perceptron(nn.GELU, 16, 64, 64, 4).bfloat16(), smooth_functions(16, 4)
    masters = [nn.Parameter(each.detach().float()) for each in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=2e-3)
    losses = []
    for _ in range(400):
        x, y = batches()
        value = (model(x.bfloat16()).float() - y).square().mean()
        model.zero_grad()
        value.backward()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            master.grad = parameter.grad.float()
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, model.parameters(), strict=True):
                parameter.copy_(master)
        losses.append(value.item())
    return Run(model, (optimizer,), losses)


def with_scaler(run: Run, path: Path) -> None:
    """Save the state of mixed-precision training: model, optimizer and loss scaler."""
    (optimizer,) = run.optimizers
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    content = {"state_dict": run.model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save({**content, "scaler": {**scaler, "_growth_tracker": len(run.losses)}}, path)


@healthy(with_scaler)
def mixed_precision() -> Run:
    model, batches = classifier(), clusters(12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss() -> Tensor:
        x, label = batches()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
        return nn.functional.cross_entropy(logits.float(), label)

    return fit(model, optimizer, loss, steps=250)


@healthy(with_scaler)
def cosine_schedule_to_zero() -> Run:
    """The schedule has come to its end, and the learning rate to zero."""
    model = perceptron(nn.ReLU, 16, 64, 64, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), 300, after_step=schedule.step)
