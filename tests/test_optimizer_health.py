"""OPT002 to OPT005 and VAL001 on moments: trained here, with optimizers we know."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from checkpoint_doctor.builtin.analyzers.optimizer import gradient_norms
from checkpoint_doctor.builtin.analyzers.optimizer import optimizer as health
from checkpoint_doctor.builtin.analyzers.values.nonfinite import nonfinite_values
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.optimizer_steps import effective_step, implied_gradient_norm
from checkpoint_doctor.results.findings import Finding, Severity
from tests.live_models import OUTPUTS, batches, checkpoint_of, train

RULES = (
    health.untrained_tensor,
    health.optimizer_mismatch,
    health.learning_rate_at_save,
    gradient_norms.clip_saturated,
    gradient_norms.epsilon_dominated,
    nonfinite_values,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, OUTPUTS))


def findings(checkpoint: Checkpoint) -> list[Finding]:
    return [finding for rule in RULES for finding in rule.examine(checkpoint)]


def trained(updates: int = 100, clip: float | None = None, scale: float = 1.0, **options: Any) -> Checkpoint:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), **{"lr": 1e-3, **options})
    norms = []
    for _, (x, y) in zip(range(updates), batches(8), strict=False):
        optimizer.zero_grad()
        (scale * nn.functional.mse_loss(model(x), y)).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)))
        optimizer.step()
    checkpoint = checkpoint_of(model, optimizer, hyperparameters={"max_grad_norm": clip})
    return replace(checkpoint, metadata={"norm": str(math.sqrt(sum(norm**2 for norm in norms) / len(norms)))})


def test_a_healthy_optimizer_has_no_finding():
    assert findings(trained()) == []


def test_the_implied_gradient_norm_is_the_measured_one():
    checkpoint = trained(updates=200)
    assert implied_gradient_norm(checkpoint.optimizers[0]) == pytest.approx(float(checkpoint.metadata["norm"]), rel=0.1)


def test_the_effective_step_is_that_of_adam():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 49)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, optimizer, batches(8), 1)
    moves = torch.cat([(new - old).flatten() for new, old in zip(model.parameters(), before, strict=True)]) / 1e-3
    step = effective_step(checkpoint_of(model, optimizer).optimizers[0])
    assert step == pytest.approx(float(moves.detach().square().mean().sqrt()), rel=1e-3)


def test_a_clip_that_every_step_ran_into():
    (finding,) = findings(trained(clip=0.05))
    assert (finding.code, finding.severity) == ("OPT004", Severity.NOTE)
    assert finding.evidence["implied_gradient_norm"] == pytest.approx(0.05, rel=1e-3)


def test_a_clip_out_of_reach_is_not_mentioned():
    assert findings(trained(clip=50.0)) == []


def test_gradients_below_epsilon():
    (finding,) = findings(trained(scale=1e-9))
    assert (finding.code, finding.severity) == ("OPT005", Severity.NOTE)
    assert finding.evidence["share"] > 0.9
    assert finding.evidence["effective_step"] < 0.05
    assert findings(trained(scale=1e-3)) == []


@pytest.mark.parametrize(
    ("rate", "severity", "word"),
    [(-1e-6, Severity.WARNING, "increases the loss"), (0.0, Severity.NOTE, "learns nothing")],
)
def test_the_learning_rate_at_save(rate: float, severity: Severity, word: str):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 30)
    optimizer.param_groups[0]["lr"] = rate
    (finding,) = findings(checkpoint_of(model, optimizer))
    assert (finding.code, finding.severity) == ("OPT003", severity)
    assert finding.evidence["learning_rate"] == rate
    assert word in finding.message


def test_state_that_does_not_fit_is_an_error_in_the_loaders_words():
    checkpoint = trained()
    broken = replace(checkpoint.optimizers[0], mismatch="it holds 5 parameters, the model has 4")
    (finding,) = findings(replace(checkpoint, optimizers=(broken,)))
    assert (finding.code, finding.severity) == ("OPT002", Severity.ERROR)
    assert "5 parameters, the model has 4" in finding.message


def test_a_nan_in_a_moment_is_found_and_placed():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    train(model, optimizer, batches(8), 30)
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        optimizer.state[model[0].weight][key][3, 5] = float("nan")
        found = findings(checkpoint_of(model, optimizer))
        optimizer.state[model[0].weight][key][3, 5] = 0.5
        (finding,) = found
        assert (finding.code, finding.severity, finding.tensor) == ("VAL001", Severity.ERROR, "0.weight")
        assert finding.evidence["moment"] == key
        assert finding.evidence["first_index"] == [3, 5]


def test_many_frozen_layers_are_one_finding():
    torch.manual_seed(0)
    backbone = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    model = nn.Sequential()
    model.add_module("backbone", backbone.requires_grad_(requires_grad=False))
    model.add_module("head", nn.Linear(8, OUTPUTS))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 30)
    (finding,) = findings(checkpoint_of(model, optimizer))
    assert finding.code == "OPT001"
    assert len(finding.evidence["tensors"]) == 12
    assert finding.message.startswith("backbone (12 tensors) was never trained in 30 updates")
