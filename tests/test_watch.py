"""Watching a folder: every checkpoint once, when it is whole, and an alarm that cannot be missed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from checkpoint_doctor.acts.watch import Options, watch
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.cli.watching import read_duration
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.results.events import Arrival, Event, Loss, Stall
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.sources.changes import Events, Polling, make_waiter

COMMAND = [sys.executable, "-m", "checkpoint_doctor", "watch"]
QUICK = Options(interval=0.02, settled=0.1, patience=0.4)
HEALTHY, ILL = "case_1_healthy.zip", "case_1_head_v6.zip"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return discover()


class Watched:
    """Collects what a watch yields, on a thread of its own."""

    def __init__(self, path: Path, catalogue: Catalogue, options: Options = QUICK) -> None:
        self.events: list[Event] = []
        self._events = watch(path, options, catalogue=catalogue, config=Config())
        self._ended = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for event in self._events:
            self.events.append(event)
            if self._ended:
                return

    @property
    def arrivals(self) -> list[Arrival]:
        return [event for event in self.events if isinstance(event, Arrival)]

    def names(self) -> list[str]:
        return [Path(each.examination.path).name for each in self.arrivals]

    def wait(self, holds: Callable[[Watched], object], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not holds(self):
            assert time.monotonic() < end, self.events
            assert self._thread.is_alive()
            time.sleep(0.02)


@pytest.fixture
def start(catalogue: Catalogue) -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def begin(path: Path, options: Options = QUICK) -> Watched:
        started.append(Watched(path, catalogue, options))
        return started[-1]

    yield begin
    for each in started:
        each._ended = True


def write_slowly(source: Path, target: Path, pause: float, pieces: int = 10) -> None:
    content = source.read_bytes()
    size = len(content) // pieces + 1
    with target.open("wb") as file:
        for piece in range(pieces):
            file.write(content[piece * size : (piece + 1) * size])
            file.flush()
            time.sleep(pause)


@pytest.mark.parametrize("pause", [0.03, 0.15], ids=["shorter than the time to settle", "longer"])
def test_a_file_that_is_written_in_ten_slow_pieces_is_seen_once_and_whole(
    pause: float, tmp_path: Path, fixtures: Path, start: Callable[..., Watched]
) -> None:
    watched = start(tmp_path, replace(QUICK, patience=5.0))
    write_slowly(fixtures / ILL, tmp_path / "model.zip", pause)
    watched.wait(lambda each: each.arrivals)
    shutil.copy(fixtures / HEALTHY, tmp_path / "next.zip")
    watched.wait(lambda each: len(each.arrivals) > 1)
    assert watched.names() == ["model.zip", "next.zip"]
    assert watched.arrivals[0].examination.verdict is Verdict.ILL
    assert len(watched.arrivals[0].examination.tensors) == 18


def test_a_folder_that_is_a_checkpoint_is_seen_once_and_whole(tmp_path: Path, start: Callable[..., Watched]) -> None:
    watched = start(tmp_path, replace(QUICK, settled=0.4, patience=0.6))
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    save_file({"a.weight": np.random.default_rng(0).random((8, 8), np.float32)}, folder / "model.safetensors")
    time.sleep(0.15)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    time.sleep(0.15)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 500, "log_history": []}))
    watched.wait(lambda each: each.arrivals)
    time.sleep(0.5)
    assert watched.names() == ["checkpoint-500"]
    assert watched.arrivals[0].examination.step == 500


def test_what_is_there_is_examined_once_and_what_is_replaced_again(
    tmp_path: Path, fixtures: Path, start: Callable[..., Watched]
) -> None:
    shutil.copy(fixtures / HEALTHY, tmp_path / "latest.zip")
    watched = start(tmp_path)
    watched.wait(lambda each: each.arrivals)
    time.sleep(0.4)
    assert watched.names() == ["latest.zip"]
    shutil.copy(fixtures / ILL, tmp_path / ".hidden")
    os.replace(tmp_path / ".hidden", tmp_path / "latest.zip")
    watched.wait(lambda each: len(each.arrivals) > 1)
    first, second = watched.arrivals
    assert (first.report.failed, second.report.failed) == (False, True)
    assert second.follows == first.examination.path
    assert [alert.title for alert in second.new] == ["overwritten"], "the note was there before"
    assert not second.gone


def test_a_broken_file_is_reported_once_and_the_others_go_on(
    tmp_path: Path, fixtures: Path, start: Callable[..., Watched]
) -> None:
    watched = start(tmp_path)
    (tmp_path / "broken.zip").write_bytes((fixtures / ILL).read_bytes()[:5000])
    watched.wait(lambda each: each.arrivals)
    assert watched.arrivals[0].examination.is_unreadable
    shutil.copy(fixtures / HEALTHY, tmp_path / "next.zip")
    watched.wait(lambda each: len(each.arrivals) > 1)
    assert watched.names() == ["broken.zip", "next.zip"]


def test_a_file_that_is_deleted_before_it_is_whole_is_named(
    tmp_path: Path, fixtures: Path, start: Callable[..., Watched]
) -> None:
    watched = start(tmp_path, Options(interval=0.02, settled=5.0, patience=5.0))
    time.sleep(0.2)
    shutil.copy(fixtures / HEALTHY, tmp_path / "model.zip")
    time.sleep(0.3)
    (tmp_path / "model.zip").unlink()
    watched.wait(lambda each: each.events)
    assert watched.events == [Loss(str(tmp_path / "model.zip"))]


def test_the_folder_may_come_later_and_go(tmp_path: Path, fixtures: Path, start: Callable[..., Watched]) -> None:
    folder = tmp_path / "run"
    watched = start(folder)
    time.sleep(0.1)
    folder.mkdir()
    shutil.copy(fixtures / HEALTHY, folder / "model.zip")
    watched.wait(lambda each: each.arrivals)
    shutil.rmtree(folder)
    watched.wait(lambda each: Loss(str(folder)) in each.events)


def test_a_run_that_stalls_is_noticed_once_until_it_goes_on(
    tmp_path: Path, fixtures: Path, start: Callable[..., Watched]
) -> None:
    watched = start(tmp_path, Options(interval=0.02, settled=0.1, patience=0.2, stalled=0.4))
    watched.wait(lambda each: each.events)
    time.sleep(0.6)
    assert [type(event) for event in watched.events] == [Stall]
    shutil.copy(fixtures / HEALTHY, tmp_path / "model.zip")
    watched.wait(lambda each: len(each.events) > 2)
    assert [type(event) for event in watched.events] == [Stall, Arrival, Stall]


def test_files_that_are_no_checkpoints_are_passed_over(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "events.out").write_bytes(bytes(range(256)))
    options = Options(interval=0.02, settled=0.05, patience=0.1, once=True)
    assert list(watch(tmp_path, options, catalogue=catalogue)) == []


@pytest.mark.parametrize("polls", [True, False], ids=["polling", "events"])
def test_between_checkpoints_it_sleeps(polls: bool, tmp_path: Path, catalogue: Catalogue) -> None:
    for number in range(500):
        (tmp_path / f"{number}.txt").touch()
    options = Options(interval=0.01, stalled=1.5, polls=polls)
    events = watch(tmp_path, options, catalogue=catalogue)
    spent = time.process_time()
    assert isinstance(next(events), Stall)
    assert time.process_time() - spent < 0.5


def test_a_checkpoint_that_takes_long_does_not_delay_the_next(tmp_path: Path, catalogue: Catalogue) -> None:
    train(tmp_path, steps=12)
    events = watch(tmp_path, Options(interval=0.01, settled=0.0, polls=True), catalogue=catalogue)
    arrived = [next(events) for _ in range(12)]
    begin = time.monotonic()
    shutil.copy(tmp_path / "step_100.pt", tmp_path / "step_1300.pt")
    arrived.append(next(events))
    assert time.monotonic() - begin < 1.0


def test_without_the_library_it_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_waiter(str(tmp_path)), Events)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert isinstance(make_waiter(str(tmp_path)), Polling)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)])
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "soon", "3w", "٣m"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no length of time"):
        read_duration(text)


def train(folder: Path, steps: int, frozen_from: int = 99) -> None:
    """Write the checkpoints of a run in which one layer stops to move."""
    random = np.random.default_rng(0)
    weights = {f"net.{layer}.weight": random.normal(0, 0.3, (16, 16)).astype(np.float32) for layer in range(3)}
    for step in range(1, steps + 1):
        for name in weights:
            if step <= frozen_from or name != "net.1.weight":
                weights[name] = weights[name] + random.normal(0, 0.01, (16, 16)).astype(np.float32)
        torch.save({"model": {name: torch.from_numpy(each) for name, each in weights.items()}, "step": step * 100},
                   folder / f"step_{step * 100}.pt")  # fmt: skip


def test_what_begins_in_a_run_is_told_when_it_begins_and_once(tmp_path: Path, catalogue: Catalogue) -> None:
    train(tmp_path, steps=10, frozen_from=5)
    arrivals = list(watch(tmp_path, replace(QUICK, settled=0.0, once=True), catalogue=catalogue))
    told = [[alert.title for alert in each.new] for each in arrivals if isinstance(each, Arrival)]
    assert len(told) == 10
    assert not any(told[:5])
    frozen = [place for place, titles in enumerate(told) if "TRD003 frozen-tensor" in titles]
    assert len(frozen) == 1
    assert frozen[0] in (5, 6, 7)


def test_a_run_that_is_resumed_from_an_earlier_checkpoint_begins_anew(tmp_path: Path, catalogue: Catalogue) -> None:
    train(tmp_path, steps=6)
    for step, older in ((700, 100), (800, 200), (900, 300)):  # the steps inside run backwards
        shutil.copy(tmp_path / f"step_{older}.pt", tmp_path / f"step_{step}.pt")
    arrivals = list(watch(tmp_path, replace(QUICK, settled=0.0, once=True), catalogue=catalogue))
    assert len(arrivals) == 9
    assert not [alert.title for each in arrivals if isinstance(each, Arrival) for alert in each.new]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["watch", *map(str, arguments)])


def test_once_is_a_scan_with_the_exit_code_of_one(tmp_path: Path, fixtures: Path) -> None:
    nothing = run(tmp_path, "--once")
    assert nothing.exit_code == 3
    shutil.copy(fixtures / HEALTHY, tmp_path / "step_9.zip")
    assert run(tmp_path, "--once", "--settle", "0").exit_code == 0
    assert run(tmp_path, "--once", "--settle", "0", "--fail-on", "note").exit_code == 1
    shutil.copy(fixtures / ILL, tmp_path / "step_10.zip")
    ill = run(tmp_path, "--once", "--settle", "0")
    assert ill.exit_code == 1
    first, second = ill.stdout.splitlines()
    assert "step_9.zip" in first
    assert second.endswith("1 error, 1 note · new: overwritten")
    assert ill.stderr == "ckdoc: 2 checkpoints, 1 alarm\n"
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    assert run(tmp_path, "--once", "--settle", "0", "--patience", "0").exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_to_be_stopped_is_the_normal_end(number: signal.Signals, tmp_path: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / HEALTHY, tmp_path / "model.zip")
    command = [*COMMAND, str(tmp_path), "--settle", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it runs in the background with interrupts ignored, and a test run may be that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout
        assert process.stderr
        assert "model.zip" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read().splitlines()[-1] == "ckdoc: 1 checkpoint, 0 alarms"


def test_an_alarm_runs_a_command_that_no_name_of_a_file_is_a_part_of(tmp_path: Path, fixtures: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    name = "a $(touch pwned) `touch pwned`; touch pwned 'x\" \n.zip"
    shutil.copy(fixtures / ILL, folder / name)
    told = tmp_path / "told"
    command = f'printf "%s|%s|%s" "$CKDOC_PATH" "$CKDOC_VERDICT" "$CKDOC_STEP" > {told}; echo told; exit 3'
    result = subprocess.run(
        [*COMMAND, str(folder), "--once", "--settle", "0", "--exec", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert told.read_text() == f"{folder / name}|ill|1792"
    assert not list(tmp_path.rglob("pwned"))
    assert len(result.stdout.splitlines()) == 1, "the command's own output does not mix with the lines"
    assert "failed with exit code 3" in result.stderr


def test_it_ends_at_the_first_alarm_where_that_is_asked_for(tmp_path: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / ILL, tmp_path / "model.zip")
    result = run(tmp_path, "--exit-on-alarm", "--settle", "0")
    assert result.exit_code == 1
    stalled = run(tmp_path / "nothing", "--exit-on-alarm", "--stalled", "0.2s", "--interval", "0.05")
    assert stalled.exit_code == 1
    assert "nothing new for 0 seconds" in stalled.stdout


def test_a_wrong_length_of_time_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    result = run(tmp_path, "--stalled", "soon")
    assert isinstance(result.exception, UsageError)
