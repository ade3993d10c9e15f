"""Stable-Baselines3 zips: settings, schedules, versions, and zips that were cut, changed, re-zipped or made to harm."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_models import CHOICE, MODELS, SMALL, VECTOR, Noise
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule

from checkpoint_doctor.builtin.loaders.sb3.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource, MemorySource


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small PPO zip, as SB3 writes it."""
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    MODELS["PPO"]().save(path)
    return path.read_bytes()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def open_bytes(content: bytes) -> Checkpoint:
    source = MemorySource("model.zip", content)
    assert loader.recognizes(source)
    return loader.open(source)


def with_data(content: bytes, change: Callable[[dict], None]) -> bytes:
    members = members_of(content)
    data = json.loads(members["data"])
    change(data)
    members["data"] = json.dumps(data).encode()
    return zip_of(members)


def serialized(value: object) -> dict:
    return {":type:": str(type(value)), ":serialized:": base64.b64encode(cloudpickle.dumps(value)).decode()}


def test_settings_versions_and_counts_are_read(saved: bytes) -> None:
    checkpoint = open_bytes(saved)
    assert (checkpoint.format, checkpoint.algorithm, checkpoint.step) == ("sb3", "PPO", 8)
    settings_ = checkpoint.hyperparameters
    assert (settings_["gamma"], settings_["n_steps"], settings_["learning_rate"]) == (0.99, 4, 0.0003)
    assert settings_["policy_class"] == "stable_baselines3.common.policies.ActorCriticPolicy"
    assert settings_["policy_kwargs"] == {"net_arch": [8, 8]}
    assert settings_["clip_range"] == {"stored_as": "object", "class": "ConstantSchedule", "value": 0.2}
    assert checkpoint.versions["torch"] == torch.__version__
    assert checkpoint.versions["python"] == sys.version.split()[0]
    assert set(checkpoint.versions) >= {"stable_baselines3", "numpy", "gymnasium"}
    assert "num_timesteps" not in settings_
    json.dumps(settings_)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda progress: progress * 0.002, {"stored_as": "code", "class": "function", "value": 0.002}),
        (
            LinearSchedule(0.01, 0.001, 0.5),
            {
                "stored_as": "object", "class": "LinearSchedule", "value": 0.01, "start": 0.01, "end": 0.001,
                "end_fraction": 0.5,
            },
        ),
    ],
    ids=["lambda", "object"],
)  # fmt: skip
def test_schedules_are_told_without_running_them(schedule: Callable, expected: dict, tmp_path: Path) -> None:
    model = PPO("MlpPolicy", Noise(VECTOR, CHOICE), learning_rate=schedule, policy_kwargs={**SMALL}, device="cpu")
    model.save(tmp_path / "model.zip")
    checkpoint = loader.open(FileSource(tmp_path / "model.zip"))
    assert checkpoint.hyperparameters["learning_rate"] == expected
    assert checkpoint.hyperparameters["lr_schedule"]["stored_as"] == expected["stored_as"]
    assert checkpoint.hyperparameters["lr_schedule"]["value"] == expected["value"]


def test_schedules_of_closures_as_old_versions_stored_them(saved: bytes) -> None:
    def constant_fn(val: float) -> Callable:
        def func(_: float) -> float:
            return val

        return func

    def get_linear_fn(start: float, end: float, end_fraction: float) -> Callable:
        def func(progress_remaining: float) -> float:
            if (1 - progress_remaining) > end_fraction:
                return end
            return start + (1 - progress_remaining) * (end - start) / end_fraction

        return func

    def change(data: dict) -> None:
        data["lr_schedule"] = serialized(constant_fn(0.00025))
        data["exploration_schedule"] = serialized(get_linear_fn(1.0, 0.05, 0.1))

    settings_ = open_bytes(with_data(saved, change)).hyperparameters
    assert settings_["lr_schedule"] == {"stored_as": "code", "class": "constant", "value": 0.00025}
    assert settings_["exploration_schedule"] == {
        "stored_as": "code", "class": "linear", "end": 0.05, "end_fraction": 0.1, "value": 1.0,
    }  # fmt: skip


def test_the_published_schedules_are_all_read(corpus: Path) -> None:
    seen = 0
    for path in sorted((corpus / "rl-trained-agents").rglob("*.zip")):
        checkpoint = loader.open(FileSource(path))
        for name in ("lr_schedule", "clip_range", "delta_std_schedule", "exploration_schedule"):
            if name in checkpoint.hyperparameters:
                seen += 1
                schedule = checkpoint.hyperparameters[name]
                assert schedule["stored_as"] == "code"
                assert isinstance(schedule["value"], float)
    assert seen >= 30


def test_pickled_numbers_are_numbers_and_bare_nan_is_read(saved: bytes) -> None:
    def change(data: dict) -> None:
        data["target_entropy"] = serialized(np.float32(-3.0))
        data["seed"] = serialized(np.int64(7))
        data["ent_coef"] = float("nan")

    settings_ = open_bytes(with_data(saved, change)).hyperparameters
    assert settings_["target_entropy"] == -3.0
    assert settings_["seed"] == 7
    assert np.isnan(settings_["ent_coef"])


class Harm:
    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_in_a_setting_is_recorded_and_not_run(
    saved: bytes, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    harm = base64.b64encode(pickle.dumps(Harm(), protocol)).decode()
    checkpoint = open_bytes(with_data(saved, lambda data: data.update(seed={":type:": "int", ":serialized:": harm})))
    (name,) = [each for each in checkpoint.pickled_names if each.name == "system"]
    assert (name.module, name.member, name.called, name.known) == (os.system.__module__, "data", True, False)
    assert not (tmp_path / "harmed").exists()


def test_a_zip_that_was_unpacked_and_zipped_again_reads_the_same(saved: bytes) -> None:
    original, again = open_bytes(saved), open_bytes(zip_of(members_of(saved), zipfile.ZIP_DEFLATED))
    assert [each.name for each in again.tensors] == [each.name for each in original.tensors]
    for name, tensor in original.by_name.items():
        np.testing.assert_array_equal(again.by_name[name].array, tensor.array)
    assert [m.tensor for m in again.optimizers[0].parameters] == [m.tensor for m in original.optimizers[0].parameters]
    assert not again.damage


def test_files_of_the_first_versions_have_tensors_pth_and_no_version(saved: bytes) -> None:
    members = members_of(saved)
    for name in ("_stable_baselines3_version", "system_info.txt", "pytorch_variables.pth"):
        del members[name]
    buffer = io.BytesIO()
    torch.save({"log_ent_coef": torch.tensor([0.5]), "ent_coef_tensor": None}, buffer)
    checkpoint = open_bytes(zip_of({**members, "tensors.pth": buffer.getvalue()}))
    assert checkpoint.versions == {}
    assert checkpoint.by_name["tensors.pth/log_ent_coef"].array.tolist() == [0.5]
    assert not checkpoint.damage
    assert not checkpoint.skipped


def test_members_that_the_library_needs_are_missed(saved: bytes) -> None:
    members = members_of(saved)
    for name in ("policy.pth", "policy.optimizer.pth"):
        checkpoint = open_bytes(zip_of({each: content for each, content in members.items() if each != name}))
        assert name in [flaw.member for flaw in checkpoint.damage]


def test_settings_that_cannot_be_read_are_skipped_and_the_tensors_are_not(saved: bytes) -> None:
    members = members_of(saved)
    deep = b'{"a":' + b"[" * 100_000
    for data in (b"{", b"[]", b"\xff\xfe", deep, None):
        changed = {**members, "data": data} if data is not None else {k: v for k, v in members.items() if k != "data"}
        checkpoint = open_bytes(zip_of(changed))
        assert len(checkpoint.tensors) == 12
        assert [each.what for each in checkpoint.skipped] == ["the settings (data)"]
        assert checkpoint.step is None


@pytest.mark.parametrize("broken", ["?", "AAAA", "gASVEAAAAAAAAACMAm9zlIwGc3lzdGVtlJOU", "é"])
def test_a_setting_that_cannot_be_followed_is_named(saved: bytes, broken: str) -> None:
    checkpoint = open_bytes(with_data(saved, lambda data: data.update(seed={":type:": "x", ":serialized:": broken})))
    assert [each.what for each in checkpoint.skipped] == ["the setting seed"]


def test_a_damaged_optimizer_does_not_hide_the_model(saved: bytes) -> None:
    members = members_of(saved)
    members["policy.optimizer.pth"] = members["policy.optimizer.pth"][:500]
    checkpoint = open_bytes(zip_of(members))
    assert len(checkpoint.tensors) == 12
    assert any(flaw.member == "policy.optimizer.pth" and "truncated" in flaw.message for flaw in checkpoint.damage)


def test_a_damaged_policy_is_refused_with_its_name(saved: bytes) -> None:
    members = members_of(saved)
    members["policy.pth"] = members["policy.pth"][:500]
    with pytest.raises(UnreadableCheckpoint, match=r"model\.zip/policy\.pth is truncated at byte 500"):
        open_bytes(zip_of(members))


def test_a_changed_weight_is_damage(saved: bytes) -> None:
    checkpoint = open_bytes(saved)
    tensor = checkpoint.by_name["action_net.weight"]
    content = bytearray(saved)
    at = saved.index(tensor.array.tobytes())
    content[at] ^= 1
    assert not checkpoint.damage
    assert {flaw.member.rpartition("/")[2] for flaw in open_bytes(bytes(content)).damage} >= {"policy.pth"}


def test_other_zips_are_not_recognized(saved: bytes, corpus: Path) -> None:
    torch_zip = members_of(saved)["policy.pth"]
    for content in (torch_zip, zip_of({"data": b"{}", "parameters": b"", "parameter_list": b"[]"}), zip_of({}), b"PK"):
        assert not loader.recognizes(MemorySource("file.zip", content))
    (stable_baselines_2,) = corpus.rglob("model@df419c7.pkl")
    assert not loader.recognizes(FileSource(stable_baselines_2))


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_truncated_anywhere_it_is_refused_in_one_sentence(saved: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(saved) - 1))
    source = MemorySource("model.zip", saved[:cut])
    if loader.recognizes(source):
        with pytest.raises(UnreadableCheckpoint, match="truncated"):
            loader.open(source)
    else:
        assert cut < len("PK..") + 26 + len("data")  # not even the first header is whole


@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_changed_bytes_are_damage_or_refused_but_never_crash(saved: bytes, changes: list[tuple[float, int]]) -> None:
    content = bytearray(saved)
    for place, value in changes:
        content[int(place * len(content))] = value
    source = MemorySource("model.zip", bytes(content))
    if loader.recognizes(source):
        with contextlib.suppress(UnreadableCheckpoint):
            checkpoint = loader.open(source)
            assert checkpoint.damage is not None
            for tensor in checkpoint.tensors:
                tensor.statistics  # noqa: B018


def test_opening_imports_no_framework_and_no_other_zip_reader(saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(saved)
    script = (
        "import sys; from checkpoint_doctor.builtin.loaders.sb3.loader import loader;"
        "from checkpoint_doctor.sources import FileSource;"
        f"loader.open(FileSource({str(tmp_path / 'model.zip')!r}));"
        "print([name for name in ('torch', 'stable_baselines3', 'zipfile', 'pickletools', 'ml_dtypes', 'cloudpickle')"
        " if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_settings_made_to_keep_us_busy_are_skipped(saved: bytes) -> None:
    busy = base64.b64encode(b"\x80\x04" + b"N0" * 3_000_000 + b"N.").decode()
    many = {f"a{number}": serialized(number) for number in range(3000)}
    for harm, what in (({"seed": {":type:": "x", ":serialized:": busy}}, "the setting seed"), (many, "the settings")):
        started = time.perf_counter()
        checkpoint = open_bytes(with_data(saved, lambda data, harm=harm: data.update(harm)))
        assert what in checkpoint.skipped[0].what
        assert len(checkpoint.tensors) == 12
        assert time.perf_counter() - started < 5


def test_wide_schedules_and_half_characters_are_survived(saved: bytes) -> None:
    def change(data: dict) -> None:
        data["lr_schedule"] = {**serialized([0.5] * 200_000), ":type:": "<class 'function'>"}
        data["seed"] = "\ud800"

    settings_ = open_bytes(with_data(saved, change)).hyperparameters
    str(settings_).encode("utf-8")
    assert settings_["lr_schedule"]["class"] == "function"
