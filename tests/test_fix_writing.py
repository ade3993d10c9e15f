"""What ``ckdoc fix`` does to the file system: whole results or none, and never anything to the input."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from checkpoint_doctor.acts.fix import FixOptions, FixResult, Outcome, fix, result_name
from checkpoint_doctor.acts.scan import open_checkpoint, scan
from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.repair import safe_copy, writing
from checkpoint_doctor.repair.cross_check import CrossCheck
from checkpoint_doctor.sources import FileSource
from tests.command import run_command

pytestmark = pytest.mark.usefixtures("one_torch")

CATALOGUE = discover()
CASE = Path(__file__).parents[1] / "fixtures" / "case_1_head_v6.zip"


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    shutil.copy(CASE, path)
    return path


def repair(path: Path | str, **options: Any) -> FixResult:
    (result,) = fix([path], FixOptions(**options), catalogue=CATALOGUE)
    return result


def run(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    return run_command("fix", *arguments, **settings)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_refused(result: FixResult, words: str, folder: Path, before: dict[Path, bytes]) -> None:
    assert result.outcome is Outcome.FAILED
    assert words in (result.error or "")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_byte_outside_the_patches_is_the_inputs(ill: Path) -> None:
    checkpoint = open_checkpoint(ill, CATALOGUE)
    loader = next(each for each in CATALOGUE.loaders if each.name == "sb3")
    asked: list[Sequence[Patch]] = []
    original = type(loader).patch

    def patch(self: Any, *arguments: Any) -> Any:
        patches = original(self, *arguments)
        asked.extend(patches.values())
        return patches

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(type(loader), "patch", patch)
        result = repair(ill)
    old, new = (np.frombuffer(Path(each).read_bytes(), np.uint8) for each in (ill, result.output or ""))
    announced = np.zeros(old.size, bool)
    for each in asked[0]:
        announced[each.offset : each.offset + len(each.new)] = True
    assert (old != new)[announced].any()
    assert not (old != new)[~announced].any()
    assert 0 < announced.sum() < old.size / 20
    assert checkpoint.format == "sb3"


def test_an_existing_result_is_not_replaced_unless_forced(ill: Path, tmp_path: Path) -> None:
    taken = tmp_path / "model_FIXED.zip"
    taken.write_bytes(b"precious")
    assert_refused(repair(ill), "exists already", tmp_path, snapshot(tmp_path))
    assert repair(ill, force=True).outcome is Outcome.FIXED
    assert taken.stat().st_size == ill.stat().st_size


def test_an_existing_record_is_not_replaced_either(ill: Path, tmp_path: Path) -> None:
    (tmp_path / "model_FIXED.zip.ckdoc.json").write_text("{}")
    assert_refused(repair(ill), "exists already", tmp_path, snapshot(tmp_path))


@pytest.mark.parametrize("link", ["symbolic", "hard", "itself", "dots"])
def test_the_input_is_never_the_output(link: str, ill: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.zip"
    if link == "symbolic":
        target.symlink_to(ill)
    elif link == "hard":
        os.link(ill, target)
    elif link == "itself":
        target = ill
    else:
        target = tmp_path / "." / ".." / tmp_path.name / "model.zip"
    before = snapshot(tmp_path)
    assert_refused(repair(ill, output=str(target), force=True), "is an input itself", tmp_path, before)


def test_a_linked_input_is_fixed_beside_the_link(ill: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "links"
    elsewhere.mkdir()
    link = elsewhere / "alias.zip"
    link.symlink_to(ill)
    result = repair(link)
    assert result.output == str(elsewhere / "alias_FIXED.zip")
    assert names(tmp_path) == {"model.zip", "links"}
    assert link.is_symlink()


def test_an_input_that_changes_meanwhile_gives_nothing(
    ill: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CrossCheck.compare

    def meddle(*arguments: Any) -> Any:
        with open(ill, "r+b") as file:
            file.write(b"P")
        os.utime(ill, ns=(1, 1))
        return original(*arguments)

    monkeypatch.setattr(CrossCheck, "compare", meddle)
    result = repair(ill)
    assert "changed while it was being repaired" in (result.error or "")
    assert names(tmp_path) == {"model.zip"}


def test_bytes_that_are_not_the_examined_ones_are_not_patched(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(b"abcdef")
    with pytest.raises(safe_copy.RepairFailed, match="not those that were examined"):
        safe_copy.copy_patched(original, copy, [Patch(1, b"xx", b"yy")])


@pytest.mark.parametrize("call", ["copy_file_range", "fsync", "link"])
def test_a_full_disk_leaves_nothing_behind(
    call: str, ill: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safe_copy.os, call, refuse)
    if call == "link":  # nor does the way around it help
        monkeypatch.setattr(safe_copy.os, "rename", refuse)
    result = repair(ill)
    assert "no space left" in (result.error or "")
    assert names(tmp_path) == {"model.zip"}


def test_file_systems_without_links_or_copies_in_the_kernel(
    ill: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(safe_copy.os, "copy_file_range", refuse)
    monkeypatch.setattr(safe_copy.os, "link", refuse)
    assert repair(ill).outcome is Outcome.FIXED
    assert names(tmp_path) == {"model.zip", "model_FIXED.zip", "model_FIXED.zip.ckdoc.json"}


def test_a_folder_that_cannot_be_written(ill: Path, tmp_path: Path) -> None:
    result = repair(ill, output=str(tmp_path / "missing" / "out.zip"))
    assert "cannot write in" in (result.error or "")
    if os.geteuid() == 0:
        return  # the superuser may write anywhere
    tmp_path.chmod(0o500)
    try:
        assert "cannot write in" in (repair(ill).error or "")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("mode", [0o640, 0o444, 0o600])
def test_permissions_are_the_inputs(mode: int, ill: Path) -> None:
    ill.chmod(mode)
    result = repair(ill)
    assert Path(result.output or "").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["a model.zip", "модель-模型.zip", "-dash.zip", "no_suffix", "dotted.v1.2.zip"])
def test_names_of_all_kinds(name: str, ill: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    ill.rename(path)
    result = repair(path)
    assert result.outcome is Outcome.FIXED, result.error
    assert result.output == str(tmp_path / result_name(name, (".zip",)))
    assert json.loads(Path(f"{result.output}.ckdoc.json").read_text())["path"] == str(path)


def test_names_of_results() -> None:
    assert result_name("model.zip", (".zip",)) == "model_FIXED.zip"
    assert result_name("m.safetensors.index.json", (".safetensors", ".safetensors.index.json")) == (
        "m_FIXED.safetensors.index.json"
    )
    assert result_name("resnet20-12fca82f.th", (".pt",)) == "resnet20-12fca82f_FIXED.th"
    assert result_name(".zip", (".zip",)) == ".zip_FIXED"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("byte", "differs from it beyond what was announced"),
        ("value", "does not have the planned values"),
        ("checksum", "the copy"),
    ],
)
def test_a_wrong_patch_is_noticed_and_owned(
    fault: str, words: str, ill: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that patches wrongly: a byte more than announced, other values, a checksum forgotten."""
    loader = next(each for each in CATALOGUE.loaders if each.name == "sb3")
    original, copy = type(loader).patch, safe_copy.copy_patched

    def patch(self: Any, checkpoint: Any, changes: dict[Any, NDArray]) -> Any:
        if fault == "value":
            changes = {tensor: new + np.where(tensor.array != new, 1e-3, 0) for tensor, new in changes.items()}
        patches = original(self, checkpoint, changes)
        if fault == "checksum":
            return {
                source: [
                    each
                    for each in found
                    if any(each.offset <= place < each.offset + len(each.new) for place in data_of(source, found))
                ]
                for source, found in patches.items()
            }
        return patches

    def data_of(source: FileSource, patches: Sequence[Patch]) -> list[int]:
        largest = max(patches, key=lambda each: len(each.new))
        return [largest.offset]

    def copy_and_spoil(source: Path, target: Path, patches: Sequence[Patch]) -> None:
        copy(source, target, patches)
        with open(target, "r+b") as file:
            file.seek(11)
            file.write(b"\x07")

    monkeypatch.setattr(type(loader), "patch", patch)
    if fault == "byte":
        monkeypatch.setattr(writing, "copy_patched", copy_and_spoil)
    result = repair(ill)
    assert result.outcome is Outcome.FAILED
    assert "bug in ckdoc" in (result.error or "")
    assert words in (result.error or "")
    assert names(tmp_path) == {"model.zip"}


def test_killed_at_random_moments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {f"{layer}.weight": torch.randn(600, 600) for layer in range(8)}
    state |= {f"{layer}.bias": torch.randn(600) for layer in range(8)}
    state["0.bias"].zero_()
    ill = tmp_path / "model.pt"
    torch.save(state, ill)
    content = ill.read_bytes()
    command = [sys.executable, "-m", "checkpoint_doctor", "fix", str(ill), "--quiet", "--force"]
    whole = None
    chance = random.Random(5)
    for moment in [None, *(chance.uniform(0.05, 1.6) for _ in range(8))]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if moment is None:
            assert process.wait(60) == 0
            whole = (tmp_path / "model_FIXED.pt").read_bytes()
        else:
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert ill.read_bytes() == content
        for path in tmp_path.iterdir():
            if path.name == "model_FIXED.pt":
                assert path.read_bytes() == whole
                path.unlink()
            elif path.name == "model_FIXED.pt.ckdoc.json":
                json.loads(path.read_text())
                path.unlink()
            elif path != ill:
                assert path.name.startswith(".model.pt.")
                path.unlink()


def test_published_agents_without_a_warning_are_left_alone(corpus: Path, tmp_path: Path) -> None:
    untouched = 0
    for path in sorted(corpus.glob("rl-trained-agents/**/*.zip")):
        (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
        if any(finding.severity.label != "note" for finding in examination.counted):
            continue
        result = repair(path, output=str(tmp_path), recycle=True, unsafe=True)
        assert result.outcome is Outcome.NOTHING, path
        untouched += 1
    assert untouched >= 10
    assert not list(tmp_path.iterdir())


# The command


def test_exit_codes_and_words(ill: Path, tmp_path: Path) -> None:
    planned = run(ill, "--dry-run")
    assert planned.returncode == 0
    assert planned.stdout.startswith("PLAN")
    assert "entry_quality_head.1.weight" in planned.stdout
    assert "79 of 256" in planned.stdout
    assert "NRM001" in planned.stdout
    done = run(ill)
    assert done.returncode == 0, done.stderr
    assert "written and verified" in done.stdout
    again = run(ill)
    assert again.returncode == 2
    assert "exists already" in again.stdout + again.stderr
    nothing = run(tmp_path / "model_FIXED.zip")
    assert nothing.returncode == 0
    assert nothing.stdout.startswith("NOTHING TO FIX")
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty").returncode == 3
    assert run(tmp_path / "missing.zip").returncode == 2
    for result in (planned, done, again, nothing):
        assert "Traceback" not in result.stderr


def test_what_remains_decides_the_exit_code(tmp_path: Path) -> None:
    state = {"0.weight": torch.randn(8, 8), "0.bias": torch.randn(8), "1.weight": torch.randn(4, 8)}
    state["0.weight"][2, 3] = float("nan")
    path = tmp_path / "model.pt"
    torch.save(state, path)
    left = run(path)
    assert left.returncode == 1
    assert "needs --unsafe" in left.stdout
    assert names(tmp_path) == {"model.pt"}
    assert run(path, "--fail-on", "never").returncode == 0
    treated = run(path, "--unsafe")
    assert treated.returncode == 0
    read = torch.load(tmp_path / "model_FIXED.pt", weights_only=True)
    limit = 1 / np.sqrt(8)
    assert abs(float(read["0.weight"][2, 3])) <= limit
    state["0.weight"][2, 3] = read["0.weight"][2, 3]
    assert torch.equal(read["0.weight"], state["0.weight"])


def test_json_is_the_record(ill: Path, tmp_path: Path) -> None:
    result = run(ill, "--format", "json", "--quiet")
    assert result.returncode == 0
    assert result.stderr == ""
    (result,) = json.loads(result.stdout)["operations"]
    assert result == json.loads((tmp_path / "model_FIXED.zip.ckdoc.json").read_text())
    (change,) = result["tensors"]
    assert change["tensor"] == "entry_quality_head.1.weight"
    assert change["rules"] == ["NRM001"]
    assert change["entries"]["changed"] == 79 == sum(stop - start for start, stop in change["entries"]["ranges"])
    assert change["before"]["zeros"] == 79
    assert change["after"]["zeros"] == 0
    assert {each["tensor"].rpartition("/")[2] for each in result["optimizer"]} == {"exp_avg", "exp_avg_sq"}
    assert result["will_not_last"]
    assert result["options"]["seed"] == 0


def test_several_inputs_with_one_bad(ill: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"")
    shutil.copy(CASE.with_name("case_1_healthy.zip"), tmp_path / "well.zip")
    result = run(tmp_path)
    assert result.returncode == 2
    assert (tmp_path / "model_FIXED.zip").exists()
    assert not (tmp_path / "well_FIXED.zip").exists()
    assert "FAILED" in result.stdout
    refused = run(ill, tmp_path / "well.zip", "--output", tmp_path / "one.zip")
    assert refused.returncode == 2
    assert "cannot all become" in refused.stderr


def test_limits_come_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.manual_seed(0)
    torch.save({"0.weight": torch.randn(64, 8), "0.bias": torch.zeros(64), "1.weight": torch.randn(4, 64)}, path)
    (tmp_path / "ckdoc.toml").write_text("[options.ZER003]\nlimit = 0.5\n[options.ZER004]\nfewest = 9\n")
    assert run(path, cwd=tmp_path).returncode == 0
    bias = torch.load(tmp_path / "model_FIXED.pt", weights_only=True)["0.bias"]
    assert 0.1 < float(bias.abs().max()) <= 0.5


def test_selecting_a_rule_treats_that_alone(tmp_path: Path) -> None:
    shutil.copy(CASE.with_name("case_2_overwritten.zip"), tmp_path / "model.zip")
    result = run(tmp_path / "model.zip", "--select", "RNN001", "--format", "json")
    (record,) = json.loads(result.stdout)["operations"]
    assert {code for change in record["tensors"] for code in change["rules"]} == {"RNN001"}
    assert run(tmp_path / "model.zip", "--select", "NOPE1").returncode == 2


def test_compressed_members_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(CASE) as original, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in original.namelist():
            packed.writestr(name, original.read(name))
    result = repair(path)
    assert result.outcome is Outcome.FAILED
    assert "compressed" in (result.error or "")
    assert "bug in ckdoc" not in (result.error or "")
    assert names(tmp_path) == {"model.zip"}
    findings = scan([path], catalogue=CATALOGUE).checkpoints[0].findings
    assert findings
    assert {each.fix for each in findings} == {None}, "no finding promises what would be refused"


def test_a_learning_rate_below_zero_becomes_zero(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "rl-trained-agents/ppo/CartPole-v1_1/CartPole-v1.zip"
    result = repair(path, output=str(tmp_path))
    (change,) = result.summary.changes
    assert change.rules == ("OPT003",)
    (optimizer,) = open_checkpoint(result.output or "", CATALOGUE).optimizers
    assert optimizer.groups[0].options["lr"] == 0.0
