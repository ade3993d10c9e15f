"""Units and inputs without gradient: trained here, with histories we know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from checkpoint_doctor.builtin.analyzers.layers.dead_inputs import dead_inputs
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Finding, Severity
from tests.live_models import OUTPUTS, batches, checkpoint_of, train

KILLED = [3, 7, 8, 20]
ACTIVATIONS = {"ReLU": nn.ReLU, "Tanh": nn.Tanh}


def network(activation: type[nn.Module] = nn.ReLU, inputs: int = 8) -> nn.Sequential:
    # Biases well above zero and this seed: no unit dies by itself in 3,000 updates, each fires on 20 % of the inputs.
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(inputs, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, OUTPUTS))
    with torch.no_grad():
        model[0].bias.fill_(0.3)
        model[2].bias.fill_(0.3)
    return model


def shift(layer: nn.Linear, units: list[int], to: float) -> Callable[[], None]:
    def move() -> None:
        layer.weight[units] *= 0.01
        layer.bias[units] = to

    return move


def findings(checkpoint: Checkpoint) -> list[Finding]:
    return [*dormant_units.examine(checkpoint), *dead_inputs.examine(checkpoint)]


def trained(
    make: Callable[[nn.Module], torch.optim.Optimizer], updates: int, kill_at: int | None, activation: str = "ReLU"
) -> Checkpoint:
    model = network(ACTIVATIONS[activation])
    optimizer = make(model)
    to = -50.0 if activation == "ReLU" else 50.0
    events = {} if kill_at is None else {kill_at: shift(model[2], KILLED, to)}
    train(model, optimizer, batches(8), updates, events=events)
    return checkpoint_of(model, optimizer, hyperparameters={"activation": activation})


OPTIMIZERS = {
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01),
    "AMSGrad": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True),
    "NAdam": lambda model: torch.optim.NAdam(model.parameters(), lr=1e-3),
    "RAdam": lambda model: torch.optim.RAdam(model.parameters(), lr=1e-3),
    "Adamax": lambda model: torch.optim.Adamax(model.parameters(), lr=1e-3),
    "Adam with betas of CrossQ": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.999)),
    "SGD with momentum": lambda model: torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9),
}


def test_units_killed_at_update_2000_of_6000_are_named_and_dated():
    checkpoint = trained(OPTIMIZERS["Adam"], 6000, kill_at=2000)
    (finding,) = findings(checkpoint)
    assert (finding.code, finding.layer, finding.severity) == ("NET001", "2", Severity.NOTE)
    assert finding.evidence["units"] == finding.evidence["stopped"] == finding.evidence["dead"] == KILLED
    assert finding.evidence["never_learned"] == []
    # What the moments were when the unit died is unknown: beyond some 800 updates the date is a matter of scale.
    assert all(2000 <= ago <= 6000 for ago in finding.evidence["stopped_updates_ago"])
    assert "4 of 32 units" in finding.message
    assert "4 dead ReLUs" in finding.message


def test_a_network_without_dead_units_has_no_finding():
    assert findings(trained(OPTIMIZERS["Adam"], 2000, kill_at=None)) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_that_remembers_gradients_tells_killed_units(name: str):
    (finding,) = findings(trained(OPTIMIZERS[name], 350, kill_at=200))
    assert finding.evidence["stopped"] == KILLED
    assert findings(trained(OPTIMIZERS[name], 200, kill_at=None)) == []


def test_rmsprop_tells_killed_units_by_the_second_moment_alone():
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9)

    (finding,) = findings(trained(make, 700, kill_at=300))
    assert finding.evidence["stopped"] == KILLED
    assert all(300 <= ago <= 500 for ago in finding.evidence["stopped_updates_ago"])
    assert findings(trained(make, 400, kill_at=None)) == []


def test_adagrad_shows_only_units_that_never_learned():
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(model.parameters(), lr=1e-2, initial_accumulator_value=0.1)

    (finding,) = findings(trained(make, 200, kill_at=0))
    assert finding.evidence["never_learned"] == finding.evidence["units"] == KILLED
    assert findings(trained(make, 200, kill_at=100)) == []


def test_plain_sgd_remembers_nothing_and_nothing_is_said():
    assert findings(trained(lambda model: torch.optim.SGD(model.parameters(), lr=1e-2), 400, kill_at=100)) == []


def test_a_recent_death_is_dated_within_a_few_updates():
    (finding,) = findings(trained(OPTIMIZERS["Adam"], 800, kill_at=500))
    assert all(270 <= ago <= 330 for ago in finding.evidence["stopped_updates_ago"])


def test_units_dead_from_the_start_differ_from_units_that_stopped():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    events = {0: shift(model[2], [0, 1], -50.0), 200: shift(model[2], [30, 31], -50.0)}
    train(model, optimizer, batches(8), 350, events=events)
    (finding,) = findings(checkpoint_of(model, optimizer))
    assert finding.evidence["never_learned"] == [0, 1]
    assert finding.evidence["stopped"] == [30, 31]
    assert "2 never received one, 2 have received none for about" in finding.message


def test_saturated_units_differ_from_dead_ones():
    (finding,) = findings(trained(OPTIMIZERS["Adam"], 350, kill_at=200, activation="Tanh"))
    assert finding.evidence["saturated"] == KILLED
    assert finding.evidence["dead"] == []
    assert "4 saturated" in finding.message
    assert "The inputs do not look large" in finding.advice


@pytest.mark.parametrize(
    ("activation", "layer", "words"),
    [
        (
            "Tanh",
            "0",
            "Normalise the inputs (VecNormalize, or the mean and deviation of the data): they have an RMS of",
        ),
        (
            "ReLU",
            "0",
            "Normalise the inputs (VecNormalize, or the mean and deviation of the data): they have an RMS of",
        ),
        ("ReLU", "2", "Normalise the inputs (a layer norm): they have an RMS of"),
    ],
)
def test_the_advice_names_the_size_of_large_inputs(activation: str, layer: str, words: str):
    model = network(ACTIVATIONS[activation])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    place = model[int(layer)]
    events = {200: shift(place, KILLED, -1e7 if activation == "ReLU" else 1e7)}
    train(model, optimizer, ((1000.0 * x, y) for x, y in batches(8)), 350, events=events)
    checkpoint = checkpoint_of(model, optimizer, hyperparameters={"activation": activation})
    assert words in next(each.advice for each in findings(checkpoint) if each.layer == layer)


def test_units_behind_zero_outgoing_weights_are_cut_off():
    model = network()
    keep = torch.ones(OUTPUTS, 32)
    keep[:, KILLED] = 0.0
    model[4].weight.register_hook(lambda gradient: gradient * keep)
    with torch.no_grad():
        model[4].weight *= keep
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 150)
    (finding,) = findings(checkpoint_of(model, optimizer))
    assert finding.evidence["cut_off"] == finding.evidence["never_learned"] == KILLED


def test_a_reader_whose_moments_a_repair_replaced_cannot_tell_why():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 350, events={200: shift(model[2], list(range(31)), -50.0)})
    (before,) = findings(checkpoint_of(model, optimizer))
    for name, value in (("exp_avg", 0.0), ("exp_avg_sq", 1e-5)):
        optimizer.state[model[4].weight][name].fill_(value)
        optimizer.state[model[4].bias][name].fill_(value)
    (after,) = findings(checkpoint_of(model, optimizer))
    assert (before.severity, after.severity) == (Severity.ERROR, Severity.WARNING)
    assert before.message.startswith(after.message)
    assert "31 with an output of 0" in before.message
    assert (after.repairs, after.advice) == ((), "")


def test_severity_grows_with_the_share_of_the_layer():
    severities = {}
    for count in (2, 4, 16, 31):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        train(model, optimizer, batches(8), 150, events={0: shift(model[0], list(range(count)), -50.0)})
        found = dormant_units.examine(checkpoint_of(model, optimizer))
        severities[count] = [finding.severity for finding in found if finding.layer == "0"]
    assert severities == {2: [], 4: [Severity.NOTE], 16: [Severity.WARNING], 31: [Severity.ERROR]}


def test_a_few_updates_prove_nothing():
    assert findings(trained(OPTIMIZERS["Adam"], 10, kill_at=0)) == []
    assert findings(trained(OPTIMIZERS["Adam"], 100, kill_at=1)) == []


def test_dormant_channels_are_found_behind_flattening():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 1)
    )
    with torch.no_grad():
        model[0].bias[[1, 6]] = -50.0
        model[2].bias[[2]] = -50.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(150):
        x = torch.randn(8, 1, 8, 8)
        optimizer.zero_grad()
        (model(x) - x.mean(dim=(1, 2, 3))[:, None]).square().mean().backward()
        optimizer.step()
    first, second = findings(checkpoint_of(model, optimizer))
    assert first.evidence["units"] == first.evidence["dead"] == [1, 6]
    assert second.evidence["units"] == second.evidence["dead"] == [2]
    assert "2 of 8 channels" in first.message


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_unit_is_dormant_only_with_all_its_gates(kind: type[nn.Module]):
    torch.manual_seed(0)
    recurrent, head = kind(4, 16, batch_first=True), nn.Linear(16, 1)
    model = nn.ModuleDict({"memory": recurrent, "head": head})
    keep = torch.ones(16)
    keep[[2, 9]] = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(150):
        x = torch.randn(8, 5, 4)
        optimizer.zero_grad()
        states, _ = recurrent(x)
        loss = (head(states[:, -1] * keep) - x.sum(dim=(1, 2))[:, None]).square().mean()
        loss.backward()
        for parameter in recurrent.parameters():
            # Units outside the loss still reach it through the others' recurrent weights; close that path too.
            gates = parameter.grad.shape[0] // 16
            for gate in range(gates):
                parameter.grad[[gate * 16 + 2, gate * 16 + 9]] = 0.0
        recurrent.weight_ih_l0.grad[5] = 0.0
        optimizer.step()
    (finding,) = findings(checkpoint_of(model, optimizer))
    assert finding.evidence["units"] == finding.evidence["never_learned"] == [2, 9]
    assert finding.evidence["layer_units"] == 16


def test_masked_inputs_are_named():
    model = network(inputs=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = batches(10)
    masked = torch.ones(10)
    masked[[2, 8, 9]] = 0.0
    train(model, optimizer, ((x * masked, y) for x, y in data), 300)
    (finding,) = findings(checkpoint_of(model, optimizer))
    assert (finding.code, finding.severity, finding.layer) == ("NET006", Severity.NOTE, "0")
    assert finding.evidence["inputs"] == [2, 8, 9]
    assert "3 of 10 inputs (2, 8–9)" in finding.message


def test_inputs_that_woke_up_are_not_named():
    model = network(inputs=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    masked = torch.ones(10)
    masked[8:] = 0.0
    data = batches(10)
    train(model, optimizer, ((x * masked, y) for x, y in data), 150)
    train(model, optimizer, data, 20)
    assert findings(checkpoint_of(model, optimizer)) == []


def test_published_agents_never_raise_more_than_a_warning(corpus: Path):
    scan = pytest.importorskip("checkpoint_doctor.acts.scan")
    paths = sorted((corpus / "rl-trained-agents").glob("*/*/*.zip"))
    assert len(paths) > 15
    flagged = 0
    for path in paths:
        for finding in findings(scan.open_checkpoint(path)):
            assert finding.severity < Severity.ERROR, f"{path}: {finding.message}"
            flagged += len(finding.evidence.get("units", ()))
    assert flagged >= 1500
