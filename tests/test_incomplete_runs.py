"""What a run could not look at makes it incomplete, whichever command it is: exit code 2, and a sentence about it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_plugin_example import ENDINGS, pretend_to_install

from checkpoint_doctor import Catalogue, discover, scan
from checkpoint_doctor.acts.fix import Outcome, fix
from checkpoint_doctor.acts.log import examine_logs
from checkpoint_doctor.acts.watch import Options, watch
from checkpoint_doctor.plugins.log_opening import read_log
from checkpoint_doctor.results.log_report import logs_to_json
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.traces import Trace, trace
from tests.command import run_command

ENDS = [ENDINGS[each] for each in ("exits", "exits when it is said")]
LOG = "step,loss\n" + "".join(f"{step},{1 + 1 / step}\n" for step in range(1, 9))
COMMANDS = {
    "scan": ("scan", "runs/rl_model_256_steps.zip"),
    "fix": ("fix", "-n", "runs/rl_model_256_steps.zip"),
    "compare": ("compare", "runs"),
    "watch": ("watch", "runs", "--once", "--settle", "0"),
    "log": ("log", "progress.csv"),
}


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    """A folder with a healthy run, ``runs``, and a log."""
    shutil.copytree(fixtures / "ppo_run", tmp_path / "runs")
    (tmp_path / "progress.csv").write_text(LOG)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_healthy_run_passes(command: str, folder: Path) -> None:
    assert run_command(*COMMANDS[command], cwd=folder).returncode == 0


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [("--select", "NET", "--ignore", "NET"), ("--ignore", "ALL")], ids=" ".join)
def test_no_command_runs_without_a_rule(command: str, arguments: tuple[str, ...], folder: Path) -> None:
    result = run_command(*COMMANDS[command], *arguments, cwd=folder)
    assert result.returncode == 2
    assert "no rule is left to examine" in result.stderr


def test_a_comparison_counts_the_rules_that_it_asks(folder: Path) -> None:
    result = run_command("compare", "runs", "--select", "TRD,LOG,CKD", "-f", "json", cwd=folder)
    trends = [rule for rule in discover().rules if rule.family == "TRD"]
    about_ckdoc = [rule for rule in discover().rules if rule.family == "CKD"]
    assert json.loads(result.stdout)["rules"] == len(trends) + len(about_ckdoc)


def test_a_comparison_names_the_configuration_that_silences(folder: Path) -> None:
    (folder / "ckdoc.toml").write_text('select = ["TRD"]\n')
    result = run_command("compare", "runs", "-f", "json", cwd=folder)
    words = "configured by ckdoc.toml: "
    assert json.loads(result.stdout)["configuration"].startswith(words)
    assert words in result.stderr


@pytest.mark.parametrize(
    ("command", "text", "words"),
    [
        ("scan", "[ranges.PPO]\ngamma = [0.1, 0.2]\n", "ranges of settings set"),
        ("log", '[metrics]\n"loss" = "reward"\n', "meanings of metrics set"),
    ],
)
def test_what_else_silences_is_said(command: str, text: str, words: str, folder: Path) -> None:
    (folder / "ckdoc.toml").write_text(text)
    result = run_command(*COMMANDS[command], "-f", "json", cwd=folder)
    assert words in json.loads(result.stdout)["configuration"], result.stderr


# --- plugins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["loaders", "analyzers"])
@pytest.mark.parametrize("command", ["compare", "watch", "log"])
def test_a_broken_plugin_makes_every_command_incomplete(command: str, group: str, folder: Path) -> None:
    site = pretend_to_install(folder, "acmelost", "raise ImportError('no acme here')", **{group: "it = acmelost"})
    result = run_command(*COMMANDS[command], cwd=folder, packages=[site])
    assert result.returncode == 2
    assert "no acme here" in result.stderr


SERIES_RULE = """
from checkpoint_doctor import Severity, rule
from checkpoint_doctor.checkpoint import Series

@rule("ACM666", "ending-rule", Severity.ERROR, on=Series)
def ending_rule(series):
    \"\"\"It never ends well.\"\"\"
    {body}
"""


@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("command", ["compare", "watch"])
def test_a_rule_about_series_that_ends_the_program_is_a_crash(command: str, ending: str, folder: Path) -> None:
    code = SERIES_RULE.format(body=ending)
    site = pretend_to_install(folder, "acmetrend", code, analyzers="it = acmetrend")
    result = run_command(*COMMANDS[command], cwd=folder, packages=[site])
    assert result.returncode == 2
    assert "CKD001" in result.stdout


def test_a_rule_that_crashes_on_an_early_checkpoint_makes_the_comparison_incomplete(folder: Path) -> None:
    code = SERIES_RULE.format(body="if checkpoint.step == 256: raise ValueError").replace("Series", "Checkpoint")
    code = code.replace("(series)", "(checkpoint)") + "    return ()\n"
    site = pretend_to_install(folder, "acmeearly", code, analyzers="it = acmeearly")
    assert run_command("compare", "runs", cwd=folder, packages=[site]).returncode == 2


LOADER = """
class Loader:
    name, suffixes = "aaa", (".aaa",)
    def recognizes(self, source): {recognizes}
    def open(self, source): ...
    def claim_folder(self, folder): {claim_folder}
    def open_folder(self, folder): ...
    def patch(self, checkpoint, changes): ...
loader = Loader()
"""


@pytest.mark.parametrize("command", ["scan", "fix", "watch"])
@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("place", ["recognizes", "claim_folder"])
def test_a_loader_that_fails_is_said_though_another_reads_the_file(
    place: str, ending: str, command: str, folder: Path
) -> None:
    methods = {"recognizes": "return False", "claim_folder": "return ()"} | {place: ending}
    site = pretend_to_install(folder, "acmeload", LOADER.format(**methods), loaders="aaa = acmeload:loader")
    arguments = [each.replace("runs/rl_model_256_steps.zip", "runs") for each in COMMANDS[command]]
    result = run_command(*arguments, cwd=folder, packages=[site])
    assert result.returncode == 2
    assert "loader aaa" in " ".join(result.stdout.split()) or "CKD001" in result.stdout


@pytest.mark.parametrize("place", ["recognizes", "read"])
@pytest.mark.parametrize("ending", ENDS)
def test_a_reader_of_logs_that_ends_the_program_is_named(ending: str, place: str, folder: Path) -> None:
    methods = {"recognizes": "return True", "read": "..."} | {place: ending}
    code = f"""
class Reader:
    name, patterns = "aaa", ("*.aaa",)
    def recognizes(self, source): {methods["recognizes"]}
    def read(self, source, builder, on_read): {methods["read"]}
reader = Reader()
"""
    site = pretend_to_install(folder, "acmelog", code, log_readers="aaa = acmelog:reader")
    result = run_command("log", "progress.csv", cwd=folder, packages=[site])
    assert result.returncode == 2
    assert "the log reader aaa failed on progress.csv" in result.stdout


@pytest.mark.parametrize("place", ["start", "map"])
@pytest.mark.parametrize("ending", ENDS)
def test_an_engine_that_ends_the_program_is_named(ending: str, place: str, folder: Path) -> None:
    bodies = {"start": "...", "map": "..."} | {place: ending}
    code = f"""
from contextlib import contextmanager
class Workers:
    count = 2
    def map(self, function, tasks):
        {bodies["map"]}
        yield from map(function, tasks)
class Engine:
    name = "aaa"
    @contextmanager
    def start(self, jobs=None):
        {bodies["start"]}
        yield Workers()
engine = Engine()
"""
    site = pretend_to_install(folder, "acmeengine", code, engines="aaa = acmeengine:engine")
    result = run_command("scan", "runs", "--engine", "aaa", cwd=folder, packages=[site])
    assert result.returncode == 2
    assert "the engine aaa failed" in result.stderr


# --- files and folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue() -> Catalogue:
    return discover()


@pytest.fixture
def locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder has another one, ``locked``, that cannot be listed, and in which nothing can be looked at."""
    shutil.copytree(folder / "runs", folder / "locked")
    shutil.copy(folder / "progress.csv", folder / "runs")
    refuse(monkeypatch, os, "scandir", lambda path: path.rstrip("/").endswith("locked"))
    refuse(monkeypatch, os, "stat", lambda path: "locked/" in path)
    monkeypatch.chdir(folder)
    return folder


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, is_refused: Callable[[str], bool]) -> None:
    """Let the system refuse some paths to a function."""
    function = getattr(module, name)

    def refuse_some(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if not isinstance(path, int) and is_refused(os.fspath(path)):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return function(path, *arguments, **options)

    monkeypatch.setattr(module, name, refuse_some)


@pytest.mark.parametrize("pattern", ["**/*.zip", "*/*.zip", "*/rl_model_256_steps.zip", "./[lr]*/**/*.zip"])
def test_a_folder_that_a_pattern_leads_into_and_that_cannot_be_listed_is_said(pattern: str, locked: Path) -> None:
    report = scan([pattern])
    assert report.checkpoints
    assert not report.is_complete
    assert "locked" in report.unsearched[0].path


def test_a_pattern_that_leads_nowhere_else_is_incomplete_too(locked: Path) -> None:
    report = scan(["lock*/*.zip"])
    assert (report.checkpoints, report.is_complete) == ((), False)


@pytest.mark.parametrize("path", [".", "**/progress.csv", "*/progress.csv"])
def test_logs_in_a_folder_that_cannot_be_listed_are_missed(path: str, locked: Path) -> None:
    result = examine_logs([path])
    assert result.report.checkpoints
    assert not result.report.is_complete
    assert "1 folder or pattern could not be searched" in result.summary_line
    [missed] = logs_to_json(result)["unsearched"]
    assert (missed["why"], missed["on_purpose"]) == ("permission denied", False)


def test_a_link_to_a_folder_of_logs_is_said(folder: Path) -> None:
    (folder / "all").mkdir()
    shutil.copy(folder / "progress.csv", folder / "all")
    (folder / "all" / "more").symlink_to(folder / "runs")
    result = run_command("log", "all", cwd=folder)
    assert "not searched: all/more: a link to a folder" in result.stdout
    assert result.returncode == 0


def test_a_watch_tells_of_a_folder_that_cannot_be_listed(locked: Path, catalogue: Catalogue) -> None:
    options = Options(settled=0.0, patience=0.0, once=True)
    events = list(watch(".", options, catalogue=catalogue))
    assert [each.path for each in events if isinstance(each, Unsearched)] == ["./locked"]


def test_a_file_that_cannot_be_looked_at_may_be_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "runs" / "rl_model_256_steps.zip", folder / "runs" / "weights")
    (folder / "runs" / "nowhere").symlink_to("missing")
    os.mkfifo(folder / "runs" / "pipe")
    refuse(monkeypatch, os, "open", lambda path: path.endswith("weights"))
    report = scan([folder / "runs"])
    [unread] = [each for each in report.checkpoints if each.is_unreadable]
    assert unread.error == f"cannot open {folder / 'runs' / 'weights'}: permission denied"
    assert not report.is_complete
    assert sorted(os.path.basename(each.path) for each in report.unsearched) == ["nowhere", "pipe"]
    assert Outcome.FAILED in [each.outcome for each in fix([folder / "runs"])]


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_watch_that_should_end_by_itself_and_is_stopped_has_not_done_its_work(folder: Path) -> None:
    shutil.copy(folder / "runs" / "rl_model_256_steps.zip", folder / "runs" / "new.zip")
    os.utime(folder / "runs" / "new.zip", (time.time() + 60,) * 2)
    for path in (folder / "runs").glob("rl*"):
        os.utime(path, (time.time() - 600,) * 2)
    command = [sys.executable, "-m", "checkpoint_doctor", "watch", "runs", "--once", "--settle", "30"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_traces_that_hold_the_same_are_told_apart(folder: Path) -> None:
    with trace() as outer:
        with trace():
            read_log(folder / "progress.csv")
        read_log(folder / "progress.csv")
        (folder / "other.csv").write_text(LOG)
        read_log(folder / "other.csv")
    assert {os.path.basename(path) for path in outer.files} == {"progress.csv", "other.csv"}
    with trace() as later:
        pass
    assert replace(later) == Trace()
