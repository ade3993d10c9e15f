"""The optimizer's parameters get the names that object identity gives them in the live model."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sb3_models import MODELS, live_names, live_optimizers, save_and_open
from stable_baselines3.common.base_class import BaseAlgorithm

from checkpoint_doctor.builtin.loaders.sb3.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.sources import FileSource


def assert_names_are_the_live_ones(checkpoint: Checkpoint, model: BaseAlgorithm) -> None:
    names, live = live_names(model), live_optimizers(model)
    assert {optimizer.name for optimizer in checkpoint.optimizers} == set(live)
    for optimizer in checkpoint.optimizers:
        assert not optimizer.mismatch
        assert not optimizer.unmatched
        parameters = [each for group in live[optimizer.name].param_groups for each in group["params"]]
        assert len(optimizer.parameters) == len(parameters)
        given = [moments.tensor for moments in optimizer.parameters]
        assert len(set(given)) == len(given)
        for moments, parameter in zip(optimizer.parameters, parameters, strict=True):
            assert moments.tensor in names[id(parameter)]
            state = live[optimizer.name].state.get(parameter, {})
            assert (moments.step or 0) == int(state.get("step", 0))
            if "exp_avg" in state:
                np.testing.assert_array_equal(moments.first.array, state["exp_avg"].numpy())


@pytest.mark.parametrize("kind", MODELS)
def test_names_equal_object_identity_and_the_algorithm_is_inferred(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    checkpoint = save_and_open(model, tmp_path / "model.zip")
    assert checkpoint.algorithm == kind.partition("-")[0]
    assert checkpoint.step == model.num_timesteps
    assert checkpoint.updates == model._n_updates
    assert not checkpoint.damage
    assert not checkpoint.skipped
    live = model.policy.state_dict()
    assert [tensor.name for tensor in checkpoint.tensors if "/" not in tensor.name] == list(live)
    for name, values in live.items():
        np.testing.assert_array_equal(checkpoint.by_name[name].array, values.numpy())
    assert_names_are_the_live_ones(checkpoint, model)


def test_only_the_critic_of_trpo_has_state(tmp_path: Path) -> None:
    checkpoint = save_and_open(MODELS["TRPO"](), tmp_path / "model.zip")
    with_state = {moments.tensor for moments in checkpoint.optimizers[0].parameters if moments.state}
    assert with_state == {name for name in checkpoint.by_name if "value_net" in name}


@pytest.mark.parametrize("kind", ["DQN", "QRDQN"])
def test_the_target_half_of_an_old_dqn_is_named_too(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    # Before SB3 2.4 the optimizer held the target network's parameters as well, without ever stepping them.
    old = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    state = model.policy.optimizer.state_dict()["state"]
    old.load_state_dict({"state": state, "param_groups": old.state_dict()["param_groups"]})
    model.policy.optimizer = old
    checkpoint = save_and_open(model, tmp_path / "model.zip")
    assert_names_are_the_live_ones(checkpoint, model)
    without_state = {moments.tensor for moments in checkpoint.optimizers[0].parameters if not moments.state}
    assert without_state == {name for name in checkpoint.by_name if "_target." in name}


def rewrite(path: Path, member: str, change) -> None:
    """Load one torch member of a zip, change it, and write the zip again."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    loaded = torch.load(io.BytesIO(contents[member]), weights_only=True)
    buffer = io.BytesIO()
    torch.save(change(loaded), buffer)
    contents[member] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("kind", ["PPO-cnn-shared", "PPO-cnn-separate", "A2C-cnn-separate", "TRPO-cnn-shared"])
def test_a_file_whose_shared_extractors_were_cloned_keeps_its_names(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    path = tmp_path / "model.zip"
    model.save(path)
    rewrite(path, "policy.pth", lambda state: {name: values.clone() for name, values in state.items()})
    assert_names_are_the_live_ones(loader.open(FileSource(path)), model)


def test_a_state_of_the_wrong_shape_is_a_mismatch_with_index_and_name(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    MODELS["PPO"]().save(path)

    def spoil(state: dict) -> dict:
        state["state"][2] = {**state["state"][2], "exp_avg": torch.zeros(9, 9), "exp_avg_sq": torch.zeros(9, 9)}
        return state

    rewrite(path, "policy.optimizer.pth", spoil)
    (optimizer,) = loader.open(FileSource(path)).optimizers
    assert "2" in optimizer.mismatch
    assert "[9, 9]" in optimizer.mismatch
    assert "mlp_extractor.policy_net.2.weight" in optimizer.mismatch
    assert all(moments.tensor is None for moments in optimizer.parameters)


def test_an_optimizer_of_another_network_is_a_mismatch_with_both_counts(tmp_path: Path) -> None:
    path, other = tmp_path / "model.zip", tmp_path / "other.zip"
    MODELS["PPO"]().save(path)
    MODELS["PPO-cnn-shared"]().save(other)
    with zipfile.ZipFile(other) as archive:
        foreign = torch.load(io.BytesIO(archive.read("policy.optimizer.pth")), weights_only=True)
    rewrite(path, "policy.optimizer.pth", lambda _: foreign)
    (optimizer,) = loader.open(FileSource(path)).optimizers
    assert f"{len(foreign['param_groups'][0]['params'])} parameters" in optimizer.mismatch
    assert "12" in optimizer.mismatch


def test_every_optimizer_of_the_published_agents_is_named(corpus: Path) -> None:
    seen = 0
    for path in sorted(corpus.rglob("*.zip")):
        checkpoint = loader.open(FileSource(path))
        for optimizer in checkpoint.optimizers:
            seen += 1
            assert not optimizer.mismatch, path
            assert all(moments.tensor in checkpoint.by_name for moments in optimizer.parameters), path
            for moments in optimizer.parameters:
                assert all(each.shape == checkpoint.by_name[moments.tensor].shape for each in moments.state.values())
    assert seen >= 30
