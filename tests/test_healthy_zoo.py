"""ckdoc finds nothing wrong with models that are well, whatever their architecture and however they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from torch import nn

from checkpoint_doctor import FixOptions, Outcome, Severity, fix, scan
from tests.built_files import folder_of
from tests.zoo import ZOO, HealthyModel
from tests.zoo.saving import state_dict
from tests.zoo.training import NotTrained, Run

FALSE_ALARMS: dict[str, str] = {}
"""Healthy models that a rule takes for ill today, and why. A rule that learns better takes its line away."""


@pytest.fixture(scope="session")
def zoo_folder() -> Path:
    """The folder of trained models, kept from one run to the next for as long as their source stays the same."""
    return folder_of("healthy_zoo", (ROOT / "tests" / "zoo").glob("*.py"))


def models() -> Iterator[Any]:
    for name in ZOO:
        alarm = FALSE_ALARMS.get(name)
        marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=alarm)] if alarm else []
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(models()))
def test_nothing_is_wrong_with_a_healthy_model(name: str, zoo_folder: Path) -> None:
    path = ZOO[name].checkpoint(zoo_folder)
    (examination,) = scan([path]).checkpoints
    assert examination.error is None
    assert [each.message for each in examination.findings if each.severity is Severity.ERROR] == []
    (result,) = fix([path], FixOptions(dry_run=True))
    assert (result.outcome, result.summary.changes) == (Outcome.NOTHING, ())


@pytest.mark.parametrize(
    ("name", "weights", "tensor", "value"),
    [
        ("mlp_relu", "model", "2.bias", 0.0),
        ("mlp_gelu", "model", "4.weight", 0.0),
        ("residual_mlp", "state_dict", "2.norm.weight", 0.0),
        ("lstm", "state_dict", "recurrent.weight_hh_l1", float("nan")),
        ("cnn_group_norm", None, "3.weight", 0.0),
        ("siren", None, "layers.1.weight", float("inf")),
        ("q_learning", "model", "q_net.0.weight", 0.0),
    ],
)
def test_the_same_model_with_one_tensor_overwritten_is_not_well(
    name: str, weights: str | None, tensor: str, value: float, zoo_folder: Path, tmp_path: Path
) -> None:
    healthy = ZOO[name].checkpoint(zoo_folder)
    ill = tmp_path / healthy.name
    if healthy.suffix == ".safetensors":
        content = load_file(healthy)
        content[tensor].fill_(value)
        save_file(content, ill)
    else:
        content = torch.load(healthy)
        (content[weights] if weights else content)[tensor].fill_(value)
        torch.save(content, ill)
    (examination,) = scan([ill]).checkpoints
    assert tensor in {each.tensor for each in examination.findings if each.severity >= Severity.WARNING}


def test_the_zoo_is_large() -> None:
    healthy = [name for name in ZOO if name not in FALSE_ALARMS]
    assert len(healthy) >= 30
    assert FALSE_ALARMS.keys() <= ZOO.keys()


def test_a_model_is_trained_once(tmp_path: Path) -> None:
    seen = []

    def train() -> Run:
        seen.append(torch.rand(1))
        return Run(nn.Linear(2, 2), (), [1.0, 0.9, 0.8, *[0.1] * 20])

    model = HealthyModel("linear", train, state_dict, ".pt")
    before = torch.random.get_rng_state()
    first = model.checkpoint(tmp_path / "new").read_bytes()
    assert model.checkpoint(tmp_path / "new").read_bytes() == first
    assert len(seen) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["linear.pt"]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.checkpoint(tmp_path / "other").read_bytes() == first, "the same seed makes the same file"


def test_a_model_that_learned_nothing_does_not_get_in(tmp_path: Path) -> None:
    model = HealthyModel("idle", lambda: Run(nn.Linear(2, 2), (), [1.0] * 40), state_dict, ".pt")
    with pytest.raises(NotTrained, match="idle keeps 100% of its first loss"):
        model.checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []
