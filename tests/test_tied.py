"""Tensors that a file stores under several names: counted, judged and repaired once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import open_checkpoint, scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.results.findings import Severity
from tests.sb3_models import MODELS

CATALOGUE = discover()


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A PPO agent with one features extractor, which its state dict holds under three names, some of it zeroed."""
    model = MODELS["PPO-cnn-shared"]()
    with torch.no_grad():
        model.policy.features_extractor.linear[0].bias.zero_()
        model.policy.features_extractor.cnn[2].weight[3] = 0
        model.policy.features_extractor.cnn[0].weight[0, 0, 0, 0] = float("nan")
    model.save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def test_names_of_the_same_bytes_lead_to_the_first(agent: Path) -> None:
    checkpoint = open_checkpoint(agent, CATALOGUE)
    names = [tensor.name for tensor in checkpoint.tensors]
    others = [name for name in names if name.startswith(("pi_features_extractor.", "vf_features_extractor."))]
    assert checkpoint.aliases == {name: name[3:] for name in others}
    assert [tensor.name for tensor in checkpoint.distinct_tensors] == [each for each in names if each not in others]
    assert {layer.name.partition(".")[0] for layer in checkpoint.distinct_layers} == {
        "features_extractor", "mlp_extractor", "action_net", "value_net",
    }  # fmt: skip


def test_every_name_is_held_by_the_optimizer(agent: Path) -> None:
    checkpoint = open_checkpoint(agent, CATALOGUE)
    for name, first in checkpoint.aliases.items():
        assert checkpoint.moments[name] is checkpoint.moments[first]
        assert checkpoint.updates_of(name) == checkpoint.updates_of(first)
        assert checkpoint.updates_of(name)


def test_findings_and_parameters_are_counted_once(agent: Path) -> None:
    (examination,) = scan([agent], catalogue=CATALOGUE).checkpoints
    found = {(each.code, each.tensor) for each in examination.counted if each.severity >= Severity.WARNING}
    assert found >= {
        ("VAL001", "features_extractor.cnn.0.weight"),
        ("ZER003", "features_extractor.linear.0.bias"),
        ("NET002", "features_extractor.cnn.2.weight"),
    }
    assert not [tensor for _, tensor in found if tensor and tensor.startswith(("pi_", "vf_"))]
    (bias,) = (each for each in examination.counted if each.code == "ZER003")
    assert bias.evidence["cause"] == "overwritten"
    model = MODELS["PPO-cnn-shared"]()
    assert examination.parameters == sum(each.numel() for each in model.policy.parameters())


@pytest.mark.usefixtures("one_torch")
def test_a_repair_reaches_all_names(agent: Path) -> None:
    (result,) = fix([agent], FixOptions(unsafe=True), catalogue=CATALOGUE)
    assert result.outcome is Outcome.RELIEVED, "the overwritten channel needs --recycle"
    model = MODELS["PPO-cnn-shared"]()
    fixed = type(model).load(result.output or "", device="cpu")
    for extractor in (fixed.policy.features_extractor, fixed.policy.pi_features_extractor):
        assert (extractor.linear[0].bias != 0).all()
        assert torch.isfinite(extractor.cnn[0].weight).all()


@pytest.mark.usefixtures("one_torch")
def test_units_behind_a_shared_layer_can_be_recycled(tmp_path: Path) -> None:
    """The repaired outgoing weights stand under names that no optimizer knows; they are no new illness."""
    model = MODELS["PPO-cnn-shared"]()
    moments = model.policy.optimizer.state
    extractor = model.policy.features_extractor
    dormant = list(range(20))
    for state in moments.values():
        state["step"].fill_(5000)
    with torch.no_grad():
        extractor.cnn[0].bias[dormant] = -50.0
        for parameter in (extractor.cnn[0].weight, extractor.cnn[0].bias):
            for name in ("exp_avg", "exp_avg_sq"):
                moments[parameter][name][dormant] = 1e-30
        for name in ("exp_avg", "exp_avg_sq"):
            moments[extractor.cnn[2].weight][name][:, dormant] = 1e-30
    model.save(tmp_path / "agent.zip")
    (result,) = fix([tmp_path / "agent.zip"], FixOptions(recycle=True), catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    assert "NET001" in {code for change in result.summary.changes for code in change.rules}


def test_a_head_tied_to_an_embedding_is_a_layer_of_its_own(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(50, 16), "hidden": nn.Linear(16, 16), "head": nn.Linear(16, 50)})
    model["head"].weight = model["embedding"].weight
    torch.save(model.state_dict(), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt", CATALOGUE)
    assert checkpoint.aliases == {"head.weight": "embedding.weight"}
    assert [layer.name for layer in checkpoint.distinct_layers] == ["embedding", "hidden", "head"]
    (examination,) = scan([tmp_path / "model.pt"], catalogue=CATALOGUE).checkpoints
    assert [each.tied_to for each in examination.tensors] == [None, None, None, "embedding.weight", None]
