"""The monitor under mixed precision, accumulation, compilation, closures and several optimizers."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from checkpoint_doctor.callbacks.torch import Monitor
from tests.monitored_loops import build_network, told

STEPS = 120


def monitor_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Monitor:
    return Monitor(model, optimizer, check_every=40, stream=io.StringIO(), on_error="stop")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steps_that_a_grad_scaler_skips_are_no_alarm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = build_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=20)
    monitor = monitor_of(model, optimizer)
    skipped = 0
    for _ in range(STEPS):
        batch = torch.randn(32, 8)
        with torch.autocast("cpu", dtype=dtype):
            loss = (model(batch) - batch[:, :2]).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss * (1e30 if skipped == 0 else 1.0)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
    assert skipped
    assert told(monitor) == []
    assert monitor.steps == STEPS - skipped
    assert not monitor.should_stop


def test_accumulated_gradients_are_judged_when_they_are_used() -> None:
    torch.manual_seed(0)
    model = build_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    monitor = monitor_of(model, optimizer)
    for step in range(1, 4 * 50 + 1):
        batch = torch.randn(8, 8)
        ((model(batch) - batch[:, :2]).square().mean() / 4).backward()
        if step % 4 == 0:
            total = torch.nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])
            optimizer.step()
            optimizer.zero_grad()
    assert monitor.steps == 50
    monitor.close()
    assert monitor.values["doctor/grad_norm"] == pytest.approx(float(total), rel=1e-5)
    assert told(monitor) == []


def test_a_compiled_model_is_examined() -> None:
    torch.manual_seed(0)
    model = build_network()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(compiled.parameters(), lr=1e-3)
    monitor = Monitor(compiled, optimizer, check_every=40, stream=io.StringIO())
    for step in range(80):
        batch = torch.randn(32, 8)
        loss = (compiled(batch) - batch[:, :2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 60:
            model[3].weight.grad[1, 1] = float("inf")  # type: ignore[index, union-attr]
        optimizer.step()
    assert monitor.examination
    assert len(monitor.examination.tensors) == 8
    assert told(monitor)[0] == "began nonfinite-gradient"


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SGD])
def test_gradients_that_a_closure_makes_are_seen(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = kind(model.parameters(), lr=0.1)
    monitor = monitor_of(model, optimizer)
    batch = torch.randn(32, 8)
    spoiled = False

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(batch) - batch[:, :2]).square().mean() * (float("nan") if spoiled else 1.0)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert told(monitor) == []
    spoiled = True
    before = [each.detach().clone() for each in model.parameters()]
    optimizer.step(closure)
    assert told(monitor) == ["began nonfinite-gradient"]
    if kind is torch.optim.SGD:
        assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_several_optimizers_are_told_apart() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"one": nn.Linear(8, 4), "two": nn.Linear(8, 4)})
    optimizers = {name: torch.optim.Adam(model[name].parameters(), lr=1e-3) for name in ("one", "two")}
    monitor = Monitor(model, optimizers, check_every=20, stream=io.StringIO())
    for step in range(40):
        batch = torch.randn(16, 8)
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            model[name](batch).square().mean().mul(0.0 if name == "two" and step > 20 else 1.0).backward()
            optimizer.step()
    assert told(monitor) == ["began no-gradient"]
    assert monitor.news[0].alert.subject == "two"
    assert monitor.steps == 40


def test_a_network_that_is_frozen_in_turns_is_not_told() -> None:
    torch.manual_seed(0)
    networks = {name: nn.Linear(8, 8) for name in ("generator", "discriminator")}
    model = nn.ModuleDict(networks)
    optimizers = {name: torch.optim.Adam(each.parameters(), lr=1e-3) for name, each in networks.items()}
    monitor = Monitor(model, optimizers, check_every=120, stream=io.StringIO())
    for _ in range(240):
        batch = torch.randn(16, 8)
        for name, optimizer in optimizers.items():
            for other, network in networks.items():
                network.requires_grad_(other == name)
            optimizer.zero_grad()
            networks["discriminator"](networks["generator"](batch)).square().mean().backward()
            optimizer.step()
    assert len(monitor.report.checkpoints) == 2
    assert told(monitor) == []


def test_sparse_gradients_are_measured() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(50, 8, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters())
    monitor = monitor_of(model, optimizer)
    for _ in range(40):
        optimizer.zero_grad()
        model(torch.randint(0, 50, (4,))).square().sum().backward()
        optimizer.step()
    assert float(monitor.values["doctor/grad_norm"]) > 0
    assert not monitor.should_stop
