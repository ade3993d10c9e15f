"""Whatever the command is given: one sentence and a hint, the right exit code, never a traceback."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.results.report import Verdict
from tests.command import run_command

CATALOGUE = discover()
MEMORY = 600 << 20
"""Bytes of data a run may ask for before it fails."""

STATE = {"0.weight": torch.arange(1.0, 33.0).reshape(4, 8) / 32, "0.bias": torch.arange(1.0, 5.0) / 4}


def ckdoc(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, limits={resource.RLIMIT_DATA: MEMORY})


def torch_bytes(content: Any, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def rewrite(archive: bytes, ending: str, change: Callable[[bytes], bytes]) -> bytes:
    """ChangeRecord one member of a zip; the zip itself stays consistent."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    (name,) = (name for name in members if name.endswith(ending))
    return zip_bytes({**members, name: change(members[name])})


def safetensors_bytes(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def bomb() -> bytes:
    """A torch archive whose weights claim to inflate to 4 GB."""
    members = rewrite(torch_bytes(STATE), "data/0", lambda _: bytes(8 << 20))
    with zipfile.ZipFile(io.BytesIO(members)) as source:
        packed = zip_bytes({name: source.read(name) for name in source.namelist()}, zipfile.ZIP_DEFLATED)
    return packed.replace(struct.pack("<I", 8 << 20), struct.pack("<I", 0xFFFFFFF0))


SB2 = zip_bytes({"data": b"{}", "parameter_list": b'["model/pi_fc0/w:0"]', "parameters": zip_bytes({"a.npy": b"x"})})
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234567\n"

UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    # name: file name, content, a word that the message or the hint must have
    "empty": ("model.pt", b"", "empty"),
    "text": ("model.pt", b"These are notes about a model, not a model.\n" * 20, ""),
    "HTML page": ("model.pt", b"<!DOCTYPE html>\n<html><body>Sign in to download</body></html>", "HTML"),
    "git-LFS pointer": ("model.safetensors", LFS, "LFS"),
    "SB2 zip": ("model.zip", SB2, "TensorFlow|Stable-Baselines 2|SB2"),
    "plain zip": ("model.zip", zip_bytes({"notes.txt": b"hello"}), ""),
    "empty zip": ("model.zip", zip_bytes({}), ""),
    "GGUF": ("model.gguf", b"GGUF" + bytes(100), "GGUF"),
    "zeros": ("model.pt", bytes(4096), ""),
    "one byte": ("model.pt", b"\x80", ""),
    "pickled notes": ("model.pkl", pickle.dumps({"note": "no tensor here"}), ""),
    "header longer than the file": ("model.safetensors", safetensors_bytes({"a": entry([1], 0, 4)}, length=2**40), ""),
    "header of 2**64 - 1 bytes": ("model.safetensors", safetensors_bytes({}, length=2**64 - 1), ""),
    "header that is no JSON": ("model.safetensors", safetensors_bytes(b"{{{{{{{{"), ""),
    "header nested too deep": ("model.safetensors", safetensors_bytes(b'{"a":' * 50_000), ""),
    "data beyond the end": ("model.safetensors", safetensors_bytes({"a": entry([1000], 0, 4000)}, bytes(16)), ""),
    "shape and size disagree": ("model.safetensors", safetensors_bytes({"a": entry([3], 0, 16)}, bytes(16)), ""),
    "negative offsets": ("model.safetensors", safetensors_bytes({"a": entry([4], -16, 0)}, bytes(16)), ""),
    "overlapping tensors": (
        "model.safetensors",
        safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
        "",
    ),
    "shape of 2**62": ("model.safetensors", safetensors_bytes({"a": entry([2**31, 2**31], 0, 16)}, bytes(16)), ""),
    "storage cut inside a whole zip": ("model.pt", rewrite(torch_bytes(STATE), "data/0", lambda data: data[:8]), ""),
    "zip bomb": ("model.pt", bomb(), ""),
    "pickle nested too deep": (
        "model.pt",
        rewrite(torch_bytes(STATE), "data.pkl", lambda _: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "",
    ),
    "pickle that doubles sixty times": (
        "model.pt",
        rewrite(torch_bytes(STATE), "data.pkl", lambda _: b"\x80\x02]" + b"2\x86" * 60 + b"."),
        "",
    ),
    "pickle that ends early": ("model.pt", rewrite(torch_bytes(STATE), "data.pkl", lambda data: data[:20]), ""),
    "shard outside its folder": (
        "model.safetensors.index.json",
        json.dumps({"weight_map": {"a": "../outside.safetensors"}}).encode(),
        "folder",
    ),
    "shard that is missing": (
        "model.safetensors.index.json",
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode(),
        "model-00001-of-00002",
    ),
}


def assert_polite(result: subprocess.CompletedProcess[str], code: int) -> None:
    said = result.stdout + result.stderr
    assert "Traceback" not in said
    assert result.returncode == code, said
    assert said.strip()


def assert_one_sentence(error: str) -> None:
    assert error.strip()
    assert "\n" not in error
    assert len(error) < 400


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_file(kind: str, tmp_path: Path) -> None:
    name, content, word = UNREADABLE[kind]
    path = tmp_path / name
    path.write_bytes(content)
    result = ckdoc("scan", "--format", "json", path)
    assert_polite(result, 2)
    (examination,) = json.loads(result.stdout)["checkpoints"]
    assert examination["verdict"] == "unreadable"
    assert_one_sentence(examination["error"])
    assert examination["hint"]
    spoken = " ".join(ckdoc("scan", path).stdout.split())
    assert examination["hint"] in spoken
    assert any(each in spoken for each in word.split("|")), spoken


def test_missing_path(tmp_path: Path) -> None:
    result = ckdoc("scan", tmp_path / "nothing.zip")
    assert_polite(result, 2)
    assert "nothing.zip" in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["runs", "x.pt"])
def test_folder_without_checkpoints(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("nothing here")
    result = ckdoc("scan", tmp_path / name)
    assert_polite(result, 3)
    assert name in result.stdout + result.stderr


def test_folder_in_which_nothing_is_included(tmp_path: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / "case_1_healthy.zip", tmp_path)
    result = ckdoc("scan", tmp_path, "--include", "other/**")
    assert_polite(result, 3)
    assert "1 file in it is not among those to include" in result.stderr


def test_pattern_without_match(tmp_path: Path) -> None:
    assert_polite(ckdoc("scan", tmp_path / "*.zip"), 3)


def test_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert_polite(ckdoc("scan", tmp_path / "model.pt"), 2)


def test_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "model.pt").symlink_to(tmp_path / "model.pt")
    assert_polite(ckdoc("scan", tmp_path / "model.pt"), 2)


def test_no_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(torch_bytes(STATE))
    path.chmod(0)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # Root reads everything, unless it gives that right up.
        prefix = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
        if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False).returncode:
            pytest.skip("root cannot give up the right to read everything here")
    command = [*prefix, sys.executable, "-m", "checkpoint_doctor", "scan", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert_polite(result, 2)
    assert "permission" in (result.stdout + result.stderr).lower()


def test_a_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"")
    (tmp_path / "b.pt").write_bytes(torch_bytes(STATE))
    (tmp_path / "c.safetensors").write_bytes(save(STATE))
    (tmp_path / "notes.txt").write_text("not looked at")
    result = ckdoc("scan", "--format", "json", tmp_path)
    assert_polite(result, 2)
    verdicts = {Path(each["path"]).name: each["verdict"] for each in json.loads(result.stdout)["checkpoints"]}
    assert verdicts == {"a.pt": "unreadable", "b.pt": "healthy", "c.safetensors": "healthy"}


class Evil:
    """Creates a file when a pickle of it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_reported_and_not_run(container: str, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    content = {"state_dict": STATE, "hook": Evil(marker)}
    path = tmp_path / "model.pt"
    path.write_bytes(
        pickle.dumps(Evil(marker)) if container == "pickle" else torch_bytes(content, legacy=container == "legacy")
    )
    result = ckdoc("scan", "--format", "json", path)
    assert not marker.exists()
    assert_polite(result, 1)
    (examination,) = json.loads(result.stdout)["checkpoints"]
    assert "FIL002" in {finding["code"] for finding in examination["findings"] if finding["severity"] == "error"}


# Damage at many places: in this process, since a process of its own for each would take minutes.

WHOLE = {
    "torch.pt": torch_bytes(STATE),
    "legacy.pt": torch_bytes(STATE, legacy=True),
    "weights.safetensors": save(STATE),
    "agent.zip": zip_bytes(
        {
            "data": json.dumps({"num_timesteps": 100, "gamma": 0.99}).encode(),
            "policy.pth": torch_bytes(STATE),
            "pytorch_variables.pth": torch_bytes({}),
            "_stable_baselines3_version": b"2.9.2",
        }
    ),
}


def scan_here(path: Path) -> Verdict:
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    if examination.verdict is Verdict.UNREADABLE:
        assert examination.error
        assert_one_sentence(examination.error)
    assert not [finding for finding in examination.findings if finding.is_about_ckdoc]
    return examination.verdict


@pytest.mark.parametrize("name", WHOLE)
def test_whole_file_is_healthy(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WHOLE[name])
    assert scan_here(tmp_path / name) is Verdict.HEALTHY


@pytest.mark.parametrize("name", WHOLE)
def test_truncated_file_is_never_healthy(name: str, tmp_path: Path) -> None:
    whole, path = WHOLE[name], tmp_path / name
    step = max(1, len(whole) // 150)
    for length in sorted({*range(0, len(whole), step), *range(len(whole) - 30, len(whole)), *range(20)}):
        path.write_bytes(whole[:length])
        assert scan_here(path) in (Verdict.ILL, Verdict.UNREADABLE), f"{name} cut at byte {length} of {len(whole)}"


@pytest.mark.parametrize("name", WHOLE)
def test_flipped_bytes_end_in_a_verdict(name: str, tmp_path: Path) -> None:
    whole, path = WHOLE[name], tmp_path / name
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        scan_here(path)


def test_foreign_files_can_be_passed_over(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(zip_bytes({"notes.txt": b"hello"}))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "weights.pt").write_bytes(torch_bytes(STATE))
    assert ckdoc("scan", tmp_path / "data.zip").returncode == 2
    assert ckdoc("scan", "--skip-foreign", tmp_path / "data.zip").returncode == 0
    assert ckdoc("scan", "--skip-foreign", tmp_path / "data.zip", tmp_path / "weights.pt").returncode == 0
    assert ckdoc("scan", "--skip-foreign", tmp_path / "empty.pt").returncode == 2
