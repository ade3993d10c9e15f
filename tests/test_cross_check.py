"""The libraries that read a repaired copy before it gets its name, and what becomes of it when they object."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.examination.examining import open_and_examine
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.repair import cross_check
from checkpoint_doctor.repair.changes import Change
from checkpoint_doctor.repair.cross_check import CrossCheck

CATALOGUE = discover()
CASE = Path(__file__).parents[1] / "fixtures" / "case_1_head_v6.zip"


def write(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a network whose first bias is zero while the others were trained."""
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{layer}.{part}": torch.randn(*shape, generator=generator).mul(0.1).to(dtype)
        for layer in ("0", "2", "4")
        for part, shape in (("weight", (8, 8)), ("bias", (8,)))
    }
    state["2.bias"].zero_()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def plan(path: Path) -> tuple[str, list[Change]]:
    checkpoint, examination = open_and_examine(str(path), CATALOGUE, Config().for_path(str(path)))
    found = FixOptions().plan(checkpoint, examination)
    assert found.changes
    return checkpoint.format, list(found.changes)


FILES = [("a.pt", torch.float32), ("a.safetensors", torch.float32), ("a.safetensors", torch.bfloat16)]


@pytest.mark.usefixtures("one_torch")
@pytest.mark.parametrize(("name", "dtype"), FILES)
def test_a_right_copy_is_read_and_the_reader_is_named(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write(tmp_path / name, dtype)
    format, changes = plan(path)
    (result,) = fix([path], catalogue=CATALOGUE)
    copy = Path(result.output or "")
    with CrossCheck() as found:
        (reader,) = found.compare(format, {path: copy}, changes)
    library = "torch" if (dtype == torch.bfloat16 or path.suffix == ".pt") else "safetensors"
    assert reader.startswith(f"{library} ")
    assert result.record["proof"]["read_by"] == [reader]


@pytest.mark.usefixtures("one_torch")
@pytest.mark.parametrize(("name", "dtype"), FILES)
def test_a_copy_with_other_values_is_a_fault(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write(tmp_path / name, dtype)
    format, changes = plan(path)
    copy = shutil.copy(path, tmp_path / f"copy{path.suffix}")
    with CrossCheck() as found, pytest.raises(RepairFailed, match=r"reads other values for 2\.bias"):
        found.compare(format, {path: copy}, changes)


@pytest.mark.usefixtures("one_torch")
@pytest.mark.parametrize(("name", "dtype"), FILES)
def test_a_copy_that_the_library_cannot_read_is_a_fault(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write(tmp_path / name, dtype)
    format, changes = plan(path)
    copy = tmp_path / f"copy{path.suffix}"
    copy.write_bytes(path.read_bytes()[:-100])
    with CrossCheck() as found, pytest.raises(RepairFailed, match="does not read the copy"):
        found.compare(format, {path: copy}, changes)


@pytest.mark.usefixtures("one_torch")
def test_a_library_that_does_not_read_the_original_either_is_not_asked(tmp_path: Path) -> None:
    format, changes = plan(write(tmp_path / "a.pt"))
    strange, copy = tmp_path / "strange.pt", tmp_path / "copy.pt"
    torch.save({"model": torch.nn.Linear(2, 2)}, strange)  # a whole module, which weights_only refuses
    shutil.copy(strange, copy)
    with CrossCheck() as found:
        assert found.compare(format, {strange: copy}, changes) == ()


def test_a_file_that_safetensors_refuses_itself_is_not_put_to_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes() + bytes(100))
    (result,) = fix([path], catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    assert result.record["proof"]["read_by"] == []


def test_a_member_too_large_to_be_read_is_not_said_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copy(CASE, tmp_path / "model.zip")
    (result,) = fix([path], FixOptions(force=True), catalogue=CATALOGUE)
    assert result.record["proof"]["read_by"] == [f"torch {torch.__version__}"]
    limited = "import checkpoint_doctor.repair.torch_reader as reader; reader.LARGEST_MEMBER = 1000; reader.serve()"
    pretend(monkeypatch, limited)
    (result,) = fix([path], FixOptions(force=True), catalogue=CATALOGUE)
    assert result.record["proof"]["read_by"] == []


def test_one_process_serves_a_run_and_is_gone_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    original = subprocess.Popen

    def start(arguments: list[str], **settings: object) -> subprocess.Popen[str]:
        started.append(original(arguments, **settings))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(cross_check.subprocess, "Popen", start)
    paths = [write(tmp_path / f"{number}.pt") for number in range(3)]
    results = fix(paths, catalogue=CATALOGUE)
    assert [each.outcome for each in results] == [Outcome.FIXED] * 3
    (process,) = started
    assert process.poll() is not None


def test_healthy_checkpoints_call_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "healthy.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).state_dict(), path)
    monkeypatch.setattr(cross_check.subprocess, "Popen", None)
    (result,) = fix([path], catalogue=CATALOGUE)
    assert result.outcome is Outcome.NOTHING


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(cross_check, "_START", "import sys; sys.path[:] = sys.argv[1:]\n" + code)


def test_a_library_that_crashes_on_the_copy_alone_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch,
        'import os; print(\'{"version": "9"}\', flush=True)\n'
        "for line in sys.stdin:\n"
        "    os.abort() if '_copy' in line else print('{\"found\": null}', flush=True)",
    )
    path = write(tmp_path / "a.pt")
    format, changes = plan(path)
    copy = shutil.copy(path, tmp_path / "_copy.pt")
    with CrossCheck() as found, pytest.raises(RepairFailed, match="its process ended with -6"):
        found.compare(format, {path: copy}, changes)


@pytest.mark.parametrize(
    "code",
    [
        'print(\'{"error": "ImportError: libtorch is damaged"}\')',
        "raise SystemExit",
        'import os; print(\'{"version": "9"}\', flush=True); sys.stdin.readline(); os.abort()',
    ],
    ids=["an installation that cannot be imported", "one that ends at once", "one that crashes on whatever it reads"],
)
def test_a_library_that_does_not_work_is_not_asked(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, code)
    (result,) = fix([write(tmp_path / "a.pt")], catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED
    assert result.record["proof"]["read_by"] == []


def test_modules_in_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    shutil.copy(CASE, tmp_path / "model.zip")
    for name in ("torch", "json", "hashlib", "zipfile"):
        (tmp_path / f"{name}.py").write_text(f"open('{name} was imported', 'w')")
    ckdoc = [str(Path(sys.executable).with_name("ckdoc")), "fix", "model.zip"]
    subprocess.run(ckdoc, cwd=tmp_path, check=False, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    record = json.loads((tmp_path / "model_FIXED.zip.ckdoc.json").read_text())
    assert record["proof"]["read_by"] == [f"torch {torch.__version__}"]
    assert not list(tmp_path.glob("*was imported"))


def test_fixing_itself_imports_no_framework(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    code = (
        f"import sys; from checkpoint_doctor.acts.fix import fix; fix([{str(path)!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert path.with_name("a_FIXED.pt").exists()
