"""What a run writes: it replaces nothing that it read, nothing that is no file, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pickle_code import mapping, text, torch_zip, vector
from tests.command import run_command

COMMAND = [sys.executable, "-m", "checkpoint_doctor"]
HEALTHY, ILL = "case_1_healthy.zip", "case_1_head_v6.zip"


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    """A folder with a healthy checkpoint, ``a.zip``, and an ill one that can be repaired, ``model.zip``."""
    shutil.copy(fixtures / HEALTHY, tmp_path / "a.zip")
    shutil.copy(fixtures / "case_5_zero_head.pt", tmp_path / "model.pt")
    return tmp_path


def ckdoc(folder: Path, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, cwd=folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(result: subprocess.CompletedProcess[str], words: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.zip", "-f", "json", "-o", "a.zip"),
        (".", "-f", "json", "-o", "a.zip"),
        ("a.zip", "--report", "sarif=a.zip"),
        ("a.zip", "--write-baseline", "./a.zip"),
        ("a.zip", "-o", "hard"),
        ("a.zip", "-o", "soft"),
        ("a.zip", "-o", "model.pt"),
        ("a.zip", "--config", "own.toml", "-o", "own.toml"),
        ("a.zip", "-o", "ckdoc.toml"),
        ("a.zip", "--baseline", "known.json", "-o", "known.json"),
    ],
    ids=" ".join,
)
def test_no_output_replaces_what_the_run_reads(arguments: tuple[str, ...], folder: Path) -> None:
    os.link(folder / "a.zip", folder / "hard")
    (folder / "soft").symlink_to("a.zip")
    for name in ("own.toml", "ckdoc.toml"):
        (folder / name).write_text('fail-on = "error"\n')
    (folder / "known.json").write_text('{"baseline_version": 1, "findings": []}')
    before = contents(folder)
    result = ckdoc(folder, "scan", *arguments)
    assert result.returncode == 2, result.stdout
    assert "never" in result.stderr
    assert contents(folder) == before


def test_a_file_of_a_folder_that_is_a_checkpoint_is_not_replaced(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text('{"model_type": "bert", "architectures": ["Bert"]}')
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a.weight": np.random.default_rng(0).normal(0, 0.1, (8, 8))}, run / "model.safetensors")
    before = contents(folder)
    result = ckdoc(folder, "scan", "run", "-f", "json")
    [found] = json.loads(result.stdout)["checkpoints"]
    assert found["parts"], "it is one checkpoint"
    assert_refused(ckdoc(folder, "scan", "run", "-f", "json", "-o", "run/config.json"), "an input")
    assert contents(folder) == before


LOG = "step,loss\n" + "".join(f"{step},{1 + 1 / step}\n" for step in range(1, 9))


@pytest.mark.parametrize("output", ["run/progress.csv", "hard", "soft", "a.zip"])
def test_a_report_on_logs_replaces_no_log_and_no_checkpoint(output: str, folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "progress.csv").write_text(LOG)
    os.link(folder / "run" / "progress.csv", folder / "hard")
    (folder / "soft").symlink_to("run/progress.csv")
    before = contents(folder)
    result = ckdoc(folder, "log", "run", "-f", "json", "-o", output)
    assert_refused(result, "never")
    assert contents(folder) == before


def test_a_log_beside_a_checkpoint_that_the_scan_reads_is_not_replaced(folder: Path) -> None:
    (folder / "progress.csv").write_text(LOG)
    assert_refused(ckdoc(folder, "scan", "model.pt", "-f", "json", "-o", "progress.csv"), "an input")
    assert (folder / "progress.csv").read_text() == LOG


def test_settings_beside_a_checkpoint_are_not_replaced_and_an_earlier_report_is(folder: Path) -> None:
    (folder / "plain.pt").write_bytes(torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(range(16))}))
    arguments = ("scan", "plain.pt", "-f", "json", "-o", "plain.json")
    assert [ckdoc(folder, *arguments).returncode for _ in range(2)] == [0, 0]
    (folder / "plain.json").write_text('{"learning_rate": 0.1}')
    assert_refused(ckdoc(folder, *arguments), "an input")
    assert json.loads((folder / "plain.json").read_text()) == {"learning_rate": 0.1}


def test_a_comparison_replaces_no_file_of_a_folder_that_it_compares(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    for number in (1, 2):
        run = folder / "runs" / f"checkpoint-{number}"
        run.mkdir(parents=True)
        (run / "config.json").write_text('{"model_type": "bert", "architectures": ["Bert"]}')
        save_file({"a.weight": np.random.default_rng(number).normal(0, 0.1, (8, 8))}, run / "model.safetensors")
    before = contents(folder)
    assert_refused(ckdoc(folder, "compare", "runs", "-f", "json", "-o", "runs/checkpoint-1/config.json"), "an input")
    assert contents(folder) == before


def test_a_baseline_may_be_written_anew(folder: Path) -> None:
    written = ckdoc(folder, "scan", ".", "--write-baseline", "known.json", "--fail-on", "never")
    assert written.returncode == 0
    count = len(json.loads((folder / "known.json").read_text())["findings"])
    assert f"wrote a baseline with {count} entries to known.json" in written.stderr
    first = (folder / "known.json").read_bytes()
    assert ckdoc(folder, "scan", ".", "--baseline", "known.json", "--write-baseline", "known.json").returncode == 0
    assert (folder / "known.json").read_bytes() == first


def test_two_reports_do_not_share_a_file(folder: Path) -> None:
    assert_refused(ckdoc(folder, "scan", "a.zip", "-o", "r.json", "--report", "sarif=./r.json"), "written twice")
    assert ckdoc(folder, "scan", "a.zip", "-o", os.devnull, "--report", f"sarif={os.devnull}").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can make devices")
def test_a_device_stays_one(folder: Path) -> None:
    device = folder / "null"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert ckdoc(folder, "scan", "a.zip", "-f", "json", "-o", "null").returncode == 0
    result = ckdoc(folder, "fix", "model.pt", "-o", "null", "--force")
    assert result.returncode == 2
    assert "device" in result.stdout
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_pipe_is_written_into(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((folder / "pipe").read_text()))
    reader.start()
    assert ckdoc(folder, "scan", "a.zip", "-f", "json", "-o", "pipe").returncode == 0
    reader.join(10)
    assert json.loads(received[0])["checkpoints"][0]["path"] == "a.zip"
    assert (folder / "pipe").is_fifo()


def test_a_link_stays_and_what_it_leads_to_is_written(folder: Path) -> None:
    (folder / "latest.json").symlink_to("there.json")
    assert ckdoc(folder, "scan", "a.zip", "-f", "json", "-o", "latest.json").returncode == 0
    assert (folder / "latest.json").is_symlink()
    assert json.loads((folder / "there.json").read_text())["checkpoints"]


def test_a_report_keeps_the_permissions_of_the_one_that_it_replaces(folder: Path) -> None:
    (folder / "r.json").write_text("{}")
    (folder / "r.json").chmod(0o600)
    assert ckdoc(folder, "scan", "a.zip", "-f", "json", "-o", "r.json").returncode == 0
    assert stat.S_IMODE((folder / "r.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("output", "words"), [(".", "is a folder"), ("none/r.json", "no folder"), ("n" * 300, "300 bytes")]
)
def test_what_cannot_be_written_is_said_before_the_scan(output: str, words: str, folder: Path) -> None:
    before = contents(folder)
    result = ckdoc(folder, "scan", "a.zip", "-o", output)
    assert_refused(result, words)
    assert result.stdout == ""
    assert contents(folder) == before


def test_a_long_name_that_fits_is_written(folder: Path) -> None:
    name = "é" * 120 + ".json"
    assert ckdoc(folder, "scan", "a.zip", "-f", "json", "-o", name).returncode == 0
    assert (folder / name).is_file()


def test_a_full_disk_leaves_no_temporary_report(folder: Path) -> None:
    before = contents(folder)
    full = {resource.RLIMIT_FSIZE: 2000}
    result = ckdoc(folder, "scan", "a.zip", "-f", "json", "-o", "r.json", "-q", limits=full)
    assert_refused(result, "cannot write r.json")
    assert contents(folder) == before


# --- fix --------------------------------------------------------------------------------------------------------------


def test_a_fix_replaces_no_input_of_the_run(folder: Path) -> None:
    shutil.copy(folder / "a.zip", folder / "precious.zip")
    shutil.copy(folder / "model.pt", folder / "model_FIXED.pt")
    before = contents(folder)
    result = ckdoc(folder, "fix", ".", "--force")
    assert result.returncode == 2
    assert "an input itself" in result.stdout
    assert {name: content for name, content in contents(folder).items() if name in before} == before


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_record_is_for_those_who_may_read_the_input(mode: int, folder: Path) -> None:
    (folder / "model.pt").chmod(mode)
    assert ckdoc(folder, "fix", "model.pt").returncode < 2
    for name in ("model_FIXED.pt", "model_FIXED.pt.ckdoc.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == mode


@pytest.mark.parametrize("length", [255 - 3, 255 - 12])
def test_a_result_with_too_long_a_name_is_refused(length: int, folder: Path) -> None:
    """The result's name is too long, or that of its record."""
    (folder / "model.pt").rename(folder / ("m" * (length - 3) + ".pt"))
    before = contents(folder)
    result = ckdoc(folder, "fix", ".")
    assert result.returncode == 2
    assert "bytes, and the file system allows" in " ".join(result.stdout.split())
    assert contents(folder) == before


def test_names_are_given_together_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from checkpoint_doctor.acts.fix import fix
    from checkpoint_doctor.repair import writing

    take = writing.take_name

    def fail_at_the_record(temporary: Path, target: Path, **options: bool) -> None:
        if target.name.endswith(".ckdoc.json"):
            raise KeyboardInterrupt
        take(temporary, target, **options)

    monkeypatch.setattr(writing, "take_name", fail_at_the_record)
    before = contents(folder)
    with pytest.raises(KeyboardInterrupt):
        fix([folder / "model.pt"])
    assert contents(folder) == before


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, code: int, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    command = [*COMMAND, "scan", "a.zip", "-f", "json", "-o", "pipe"]  # it waits for a reader of the pipe
    before = contents(folder)
    heed = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731  # a test in the background ignores SIGINT
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    time.sleep(1.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert number.name in said
    assert "Traceback" not in said
    assert contents(folder) == before


def test_a_signal_that_is_ignored_stays_ignored(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731  # as nohup does
    command = [*COMMAND, "scan", "a.zip", "-f", "json", "-o", "pipe"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, preexec_fn=ignore)
    time.sleep(1.5)
    process.send_signal(signal.SIGHUP)
    assert json.loads((folder / "pipe").read_text())["checkpoints"]
    assert process.wait(30) == 0
