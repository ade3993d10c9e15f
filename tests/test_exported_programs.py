"""Exported programs (``.pt2``): the state dict that ``torch.export.load`` gives, however it was stored."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from checkpoint_doctor import open_checkpoint, scan
from checkpoint_doctor.builtin.loaders.torch.loader import TorchLoader
from checkpoint_doctor.errors import DoctorError, UnreadableCheckpoint
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.testing import check_loader


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
        self.mixing = nn.Parameter(torch.randn(4, 4, dtype=torch.bfloat16))
        self.transposed = nn.Parameter(torch.randn(3, 4).t())
        self.tied = self.body[2].weight
        self.register_buffer("constant", torch.arange(4.0), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.body(inputs) @ self.mixing.float() @ self.transposed + self.tied.sum() + self.constant.sum()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "network.pt2"
    torch.export.save(torch.export.export(Network(), (torch.randn(2, 4),)), path)
    return path


def assert_equal(path: Path, expected: dict[str, torch.Tensor]) -> None:
    found = open_checkpoint(path)
    assert set(found.by_name) == set(expected)
    for name, tensor in expected.items():
        ours = found.by_name[name]
        assert (ours.shape, f"torch.{ours.dtype}") == (tuple(tensor.shape), str(tensor.dtype))
        np.testing.assert_array_equal(ours.array.astype(np.float64), tensor.detach().double().numpy())


def change_config(path: Path, target: Path, change: Any) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("_weights_config.json"):
                config = json.loads(content)
                change(config["config"])
                content = json.dumps(config).encode()
            new.writestr(item.filename, content)
    return target


def test_every_tensor_is_what_torch_loads(exported: Path) -> None:
    assert_equal(exported, dict(torch.export.load(exported).state_dict))
    checkpoint = open_checkpoint(exported)
    assert checkpoint.aliases == {"body.2.weight": "tied"} or checkpoint.aliases == {"tied": "body.2.weight"}
    assert not checkpoint.damage


def test_an_exported_program_is_healthy_and_found_in_a_folder(exported: Path) -> None:
    (examination,) = scan([exported.parent]).checkpoints
    assert (examination.path, examination.verdict) == (str(exported), Verdict.HEALTHY)


def test_the_loader_keeps_its_protocol(exported: Path) -> None:
    check_loader(TorchLoader(), exported)


@pytest.mark.parametrize("name", ["archive/data/weights/model.pt", "archive/serialized_state_dict.pt"])
def test_state_dicts_of_older_releases_are_read(tmp_path: Path, name: str) -> None:
    state = Network().state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    program = "archive/models/model.json" if "weights" in name else "archive/serialized_exported_program.json"
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr(program, "{}")
        archive.writestr(name, buffer.getvalue())
    assert_equal(tmp_path / "old.pt2", state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config["mixing"]["tensor_meta"].update(sizes=[{"as_int": 1 << 40}]),
            "shape and strides differ",
        ),
        (lambda config: config["mixing"]["tensor_meta"].update(sizes=[{"as_int": -4}, {"as_int": 4}]), "negative"),
        (
            lambda config: config["mixing"]["tensor_meta"].update(strides=[{"as_int": 400}, {"as_int": 1}]),
            "should take bytes",
        ),
        (lambda config: config["mixing"].update(tensor_meta=None), "does not describe mixing"),
        (lambda config: config["mixing"]["tensor_meta"].pop("storage_offset"), "has no shape for mixing"),
        (lambda config: config.update(mixing=[]), "does not map names to weights"),
    ],
)
def test_a_list_of_weights_that_does_not_fit_is_refused(
    exported: Path, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(UnreadableCheckpoint, match=message):
        open_checkpoint(change_config(exported, tmp_path / "bad.pt2", change))


def test_missing_bytes_and_unknown_types_are_said(exported: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mixing"]["path_name"] = "../../weight_99"
        config["transposed"]["tensor_meta"]["dtype"] = 99

    checkpoint = open_checkpoint(change_config(exported, tmp_path / "bad.pt2", change))
    assert {each.what for each in checkpoint.skipped} == {"mixing", "transposed"}
    assert [flaw.message for flaw in checkpoint.flaws] == ["the bytes of mixing are missing from the archive"]


def test_a_changed_byte_is_noticed(exported: Path, tmp_path: Path) -> None:
    content = bytearray(exported.read_bytes())
    weight = open_checkpoint(exported).by_name["body.0.weight"].array.tobytes()
    content[content.index(weight) + 3] ^= 1
    (tmp_path / "bad.pt2").write_bytes(content)
    assert any("CRC-32" in flaw.message for flaw in open_checkpoint(tmp_path / "bad.pt2").damage)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_sentence(exported: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(exported.read_bytes())
    for _ in range(data.draw(st.integers(1, 10))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "bad.pt2").write_bytes(content)
    try:
        open_checkpoint(tmp_path / "bad.pt2")
        return
    except DoctorError as refusal:
        error = refusal
    assert "bug in the loader" not in error.hint
