"""Engines: the same report wherever a scan runs, and what is lost is done again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import engine_tasks
import numpy as np
import pytest
from conftest import ROOT

from checkpoint_doctor import (
    DoctorError,
    Engine,
    LostTask,
    Report,
    UnreadableCheckpoint,
    UsageError,
    Workers,
    discover,
    load_config,
    open_checkpoint,
    scan,
    to_json,
)
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.errors import UnknownFormat
from checkpoint_doctor.examination import errands, shares
from checkpoint_doctor.examination.candidates import CandidateTask
from checkpoint_doctor.examination.errands import Errand, Unseen, receive, run_errand, see_state
from checkpoint_doctor.examination.senders import Sender, introduce
from checkpoint_doctor.results.examination import Examination
from checkpoint_doctor.sources.search import Candidate
from checkpoint_doctor.sources.traces import trace
from checkpoint_doctor.testing import build_checkpoint

OTHERS = ("processes", "ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine; the driver is on the first, which has one core, as the second."""
    pytest.importorskip("ray", reason="needs ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A node that says nothing for two seconds is gone; Ray waits for 25.
        noticing = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}
        head = {**node, "include_dashboard": False, "_system_config": noticing}
        started = Cluster(initialize_head=True, head_node_args=head)
        started.second = started.add_node(**node)
        yield started
    started.shutdown()


@pytest.fixture(params=OTHERS)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine with workers in other processes."""
    if request.param == "ray":
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("cluster").address)
    return discover().find_engine(request.param)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> Path:
    """A folder of healthy, ill, damaged and foreign files, and of a folder that is one checkpoint."""
    folder = tmp_path_factory.mktemp("fleet")
    for name in ("case_1_head_v6.zip", "case_2_overwritten.zip", "case_3_healthy.pt", "case_5_zero_head.pt"):
        shutil.copy(fixtures / name, folder)
    content = (fixtures / "case_4_healthy.pt").read_bytes()
    (folder / "truncated.pt").write_bytes(content[: len(content) // 2])
    (folder / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (folder / "unknown.pt").write_bytes(bytes(range(256)))
    shutil.copytree(fixtures / "case_3_run", folder / "run")
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of PyTorch with moments, in which one bit of a weight was flipped after it was written."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(6)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 256)).sum().backward()
    optimizer.step()
    path = tmp_path_factory.mktemp("large") / "model.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    weight = model[3].weight.detach().numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight) + 1000] ^= 1
    path.write_bytes(content)
    # A file that was written a moment ago may still be, and is measured where it was opened.
    os.utime(path, (time.time() - 60,) * 2)
    return path


def as_text(report: Report) -> str:
    return json.dumps(to_json(report), indent=1)


# --- the same report --------------------------------------------------------------------------------------------------


def test_the_report_of_a_fleet_is_the_same(
    engine: Engine, fleet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(fleet.parent)
    seen: list[int] = []
    asked: dict[str, Any] = {"histograms": True, "with_settings": True, "jobs": 2}
    here = scan(fleet.name, **asked)
    there = scan(fleet.name, engine=engine.name, on_progress=lambda each: seen.append(each.number), **asked)
    assert as_text(there) == as_text(here)
    assert there.summary_line == here.summary_line
    assert {each.verdict.value for each in here.checkpoints} == {"healthy", "ill", "unreadable"}
    assert seen[-1] == len(set(seen)) > 5


def test_the_report_of_a_large_checkpoint_is_the_same(
    engine: Engine, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = scan(large, jobs=1)
    cut: list[Any] = []
    measured: list[tuple[int, int]] = []
    cut_into_shares = shares.cut_into_shares
    monkeypatch.setattr(shares, "SHARE", 1 << 20)
    monkeypatch.setattr(shares, "cut_into_shares", lambda *given: cut.append(cut_into_shares(*given)) or cut[-1])
    there = scan(
        large, engine=engine.name, jobs=2, on_progress=lambda each: measured.append((each.measured, each.total))
    )
    assert as_text(there) == as_text(here)
    assert "CRC-32" in as_text(there)
    assert len(cut[0]) > 3, "it was not spread"
    assert measured[-1][0] == measured[-1][1] > 4 << 20


def test_tensors_are_not_measured_where_the_report_is_made(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("measured here")

    monkeypatch.setattr(shares, "SHARE", 1 << 20)
    with trace() as found:
        checkpoint = open_checkpoint(large)
    monkeypatch.setattr("checkpoint_doctor.checkpoint.tensors.measure", refuse)
    monkeypatch.setattr("checkpoint_doctor.checkpoint.optimizers.measure_moments", refuse)
    with discover().find_engine("processes").start(2) as workers:
        shares.measure_on(workers, checkpoint, str(large), found, discover())
    assert all(tensor.statistics.count == tensor.size for tensor in checkpoint.tensors)
    assert all(each.statistics for each in checkpoint.optimizers[0].parameters)


def test_shares_are_consecutive_and_hold_the_checksums_of_what_they_read(large: Path) -> None:
    measurable = shares.list_measurable(open_checkpoint(large))
    cut = shares.cut_into_shares(measurable, 1 << 20)
    assert sorted(position for share in cut for position in share) == list(range(len(measurable)))
    for share in cut:
        read = [measurable[position] for position in share if not hasattr(measurable[position], "flaw")]
        assert sum(map(shares.size_of, read[:-1])) < 1 << 20, "it was full before"
        bodies = [position for position in share if not hasattr(measurable[position], "flaw")]
        assert bodies == list(range(bodies[0], bodies[0] + len(bodies))) if bodies else True
    moved = [share for share in cut if len({hasattr(measurable[position], "flaw") for position in share}) == 2]
    assert len(moved) >= 3, "checksums are with their tensors"
    assert shares.cut_into_shares(measurable, 1 << 40) == [tuple(range(len(measurable)))]


def test_a_tied_tensor_is_measured_once() -> None:
    from msgspec.structs import replace

    weight = np.ones((4, 4), np.float32)
    checkpoint = build_checkpoint({"a": weight, "b": weight})
    first, second = (replace(each, storage="one", storage_range=(0, 64)) for each in checkpoint.tensors)
    tied = replace(checkpoint, tensors=(first, second)).with_shared_statistics()
    assert [each.name for each in shares.list_measurable(tied)] == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize(("sizes", "sent_whole"), [([1, 1, 1, 1], 4), ([100, 1, 1, 1], 3), ([1, 300, 300, 1], 4)])
def test_what_is_more_than_a_workers_part_is_spread(
    sizes: list[int], sent_whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.pt" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    usual = load_config(discover().rules).for_path("")
    tasks = [CandidateTask(Candidate(str(path), True), usual) for path in paths]
    whole, spread = [], []
    monkeypatch.setattr(errands, "examine_candidate", lambda task, *rest: spread.append(task) or task)
    monkeypatch.setattr(errands, "run_errand", lambda errand: whole.append(errand.task) or errand.task)

    class Here:
        count = 2
        map = staticmethod(map)

    come = list(errands.examine_on(Here(), tasks, discover(), lambda position: None))
    assert [each.candidate for each in come] == [each.candidate for each in tasks]
    assert (len(whole), len(spread)) == (sent_whole, len(sizes) - sent_whole)


def test_of_small_files_that_go_together_only_the_one_that_loses_its_worker_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.pt" for number in range(40)]
    for name in names:
        (tmp_path / name).write_bytes(b"small")
    usual = load_config(discover().rules).for_path("")
    tasks = [CandidateTask(Candidate(str(tmp_path / name), True), usual) for name in names]
    monkeypatch.setattr(errands, "run_errand", lambda errand: Skipped(errand.task.candidate.path, "seen"))
    sent: list[int] = []

    class Deadly:
        count = 2
        is_at_work = False

        def map(self, function: Any, bundles: Any) -> Iterator[Any]:
            assert not self.is_at_work, "one call at a time"
            self.is_at_work = True
            try:
                for bundle in bundles:
                    sent.append(len(bundle))
                    is_deadly = any(errand.task.candidate.path.endswith("/7.pt") for errand in bundle)
                    yield LostTask("lost") if is_deadly else function(bundle)
            finally:
                self.is_at_work = False

    come = list(errands.examine_on(Deadly(), tasks, discover(), lambda position: None))
    assert max(sent) > 1, "they go together"
    assert [getattr(each, "what", None) or each.path for each in come] == [each.candidate.path for each in tasks]
    assert [each.path.rpartition("/")[2] for each in come if isinstance(each, Examination)] == ["7.pt"]


# --- what an engine promises ------------------------------------------------------------------------------------------


@pytest.fixture
def workers(engine: Engine) -> Iterator[Workers]:
    with engine.start(2) as started:
        yield started


def test_an_engine_keeps_its_promises(workers: Workers, tmp_path: Path) -> None:
    assert workers.count == 2
    assert list(workers.map(engine_tasks.double, range(200))) == list(range(0, 400, 2))
    processes = set(workers.map(engine_tasks.name_process, range(8)))
    assert os.getpid() not in processes
    assert len(processes) <= 2, "they stay"
    with pytest.raises(UnknownFormat, match="five is not read") as refused:
        list(workers.map(engine_tasks.refuse_five, range(9)))
    assert (refused.value.hint, refused.value.what) == ("take six", "a prime number")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(workers.map(engine_tasks.fail_at_five, range(9)))
    marker = str(tmp_path / "died")
    assert list(workers.map(engine_tasks.die_once, ["", marker, ""])) == ["", marker, ""]
    taken: list[int] = []
    results = workers.map(engine_tasks.double, (taken.append(number) or number for number in range(10_000)))
    assert next(results) == 0
    time.sleep(0.2)
    assert len(taken) < 200
    results.close()  # type: ignore[attr-defined]
    assert list(workers.map(engine_tasks.double, [1])) == [2], "what was left does not come back"


def test_a_task_that_kills_every_worker_is_given_up(workers: Workers) -> None:
    come = list(workers.map(engine_tasks.die_at_five, range(8)))
    lost = come.pop(5)
    assert come == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(lost, LostTask)
    assert "3 workers were lost in a row" in lost.why


def test_workers_that_cannot_start_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with (
        pytest.raises(UsageError, match="a worker process cannot be started: exit code 1"),
        discover().find_engine("processes").start(2) as workers,
    ):
        list(workers.map(engine_tasks.double, range(4)))


def children() -> list[int]:
    """The processes that this one started and that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == os.getpid() and b"engines.processes" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_worker_that_is_killed_changes_nothing(fleet: Path) -> None:
    killed: list[int] = []

    def kill(progress: object) -> None:
        if not killed and (found := children()):
            killed.append(found[0])
            os.kill(found[0], signal.SIGKILL)

    there = scan(fleet, engine="processes", jobs=2, on_progress=kill)
    assert killed
    assert as_text(there) == as_text(scan(fleet))
    assert not children()


def test_a_node_that_is_killed_changes_nothing(cluster: Any, fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    several = [fleet / name for name in sorted(os.listdir(fleet)) * 3]
    copies = []
    for number, path in enumerate(several):
        if path.is_file():
            copies.append(fleet.parent / f"{number}{path.suffix}")
            shutil.copy(path, copies[-1])
    seen = 0

    def kill(progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            cluster.remove_node(cluster.second, allow_graceful=False)

    there = scan(copies, engine="ray", on_progress=kill)
    cluster.second = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    assert seen == len(copies) > 15
    assert as_text(there) == as_text(scan(copies))


# --- what cannot work -------------------------------------------------------------------------------------------------


def ckdoc(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "checkpoint_doctor", "scan", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2
    assert result.stdout == ""
    [words, hint] = result.stderr.splitlines()
    assert hint.startswith("  hint: ")
    return words


def test_an_engine_that_is_not_installed_is_refused() -> None:
    assert "there is no engine 'dusk'" in refused(ckdoc("fixtures", "--engine", "dusk"))


def test_ray_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = ckdoc("fixtures", "--engine", "ray", PYTHONPATH=path)
    assert "the library ray is not installed" in refused(result)
    assert "checkpoint-doctor[ray]" in result.stderr


def test_only_a_server_of_grpc_passes_for_a_cluster(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from checkpoint_doctor.builtin.engines import ray_cluster

    monkeypatch.setattr(ray_cluster, "CONNECTING", 0.5)
    assert ray_cluster._find_silence(cluster.address) == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert ray_cluster._find_silence(address) == "no answer"
        server.accept()[0].close()
        Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), daemon=True).start()
        assert ray_cluster._find_silence(address) == "what answers there is another program"
    assert ray_cluster._find_silence(address) == "connection refused"


class Silent:
    """A Ray whose tasks never end."""

    def __init__(self, head: str, cores: float) -> None:
        self.gcs_address, self.cores = head, cores

    def get_runtime_context(self) -> Any:
        return self

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cores} if self.cores else {}

    def wait(self, *given: object, **named: object) -> Any:
        return [], []


def test_a_cluster_that_is_lost_ends_the_run(cluster: Any) -> None:
    from checkpoint_doctor.builtin.engines.ray_cluster import _Crew

    for head, cores, lost in ((cluster.address, 0, "all its workers"), ("127.0.0.1:1", 2, "its head at 127.0.0.1:1")):
        crew = _Crew(Silent(head, cores), None, engine_tasks.double, 1)
        with pytest.raises(DoctorError, match=f"the Ray cluster has lost {lost}"):
            list(crew.wait())
    assert list(_Crew(Silent(cluster.address, 2), None, engine_tasks.double, 1).wait()) == [], (
        "long tasks are waited for"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_a_cluster_that_is_not_there_is_named(address: str) -> None:
    pytest.importorskip("ray", reason="needs ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.format(port=free.getsockname()[1])
    words = refused(ckdoc("fixtures", "--engine", "ray", RAY_ADDRESS=address))
    assert f"there is no Ray cluster at {address}" in words


def test_workers_with_other_plugins_refuse(fleet: Path) -> None:
    usual = load_config(discover().rules).for_path("")
    task = CandidateTask(Candidate(str(fleet / "case_3_healthy.pt"), named=True), usual)
    with pytest.raises(UsageError, match="other plugins"):
        run_errand(Errand(task, Sender(socket.gethostname(), "others"), None))


def test_a_worker_that_does_not_see_the_file_says_so(fleet: Path, tmp_path: Path) -> None:
    catalogue = discover()
    usual = load_config(catalogue.rules).for_path("")
    path = str(shutil.copy(fleet / "case_3_healthy.pt", tmp_path))
    task = CandidateTask(Candidate(path, named=True), usual)
    elsewhere = Sender("another-machine", introduce(catalogue).plugins)
    state = see_state(path)
    assert state
    assert not isinstance(run_errand(Errand(task, elsewhere, state)), Unseen)
    os.utime(path, (1, 1))
    answer = run_errand(Errand(task, elsewhere, state))
    assert isinstance(answer, Unseen)
    # The file that was sent has changed since: what is there now is examined.
    assert receive(answer, Errand(task, elsewhere, state), catalogue).path == path
    with pytest.raises(UsageError, match="does not see the file"):
        receive(answer, Errand(task, elsewhere, see_state(path)), catalogue)


def test_a_checkpoint_whose_workers_are_lost_is_unreadable(fleet: Path) -> None:
    catalogue = discover()
    usual = load_config(catalogue.rules).for_path("")
    errand = Errand(CandidateTask(Candidate("model.pt", named=True), usual), introduce(catalogue), None)
    come = receive(LostTask("3 workers were lost in a row at this: killed by SIGKILL"), errand, catalogue)
    assert come.verdict.value == "unreadable"  # type: ignore[union-attr]
    assert "killed by SIGKILL" in come.error  # type: ignore[union-attr, operator]


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_unreadable(large: Path) -> None:
    identity = shares.Identity(str(large), "other files", introduce(discover()))
    with pytest.raises(UnreadableCheckpoint, match="was replaced while it was read"):
        shares.measure_share(shares.Share(identity, (0,)))
    elsewhere = shares.Identity(str(large), "other files", Sender("another-machine", introduce(discover()).plugins))
    with pytest.raises(UnreadableCheckpoint, match="sees another file"):
        shares.measure_share(shares.Share(elsewhere, (0,)))
    missing = shares.Identity(f"{large}.gone", "other files", Sender("another-machine", introduce(discover()).plugins))
    with pytest.raises(UnreadableCheckpoint, match=r"the worker on .* cannot open"):
        shares.measure_share(shares.Share(missing, (0,)))


# --- the end ----------------------------------------------------------------------------------------------------------

LONG_SCAN = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run in the background
from engine_tasks import rest
from checkpoint_doctor import discover
with discover().find_engine("processes").start(2) as workers:
    for _ in workers.map(rest, [0.01, 0.01] + [float(sys.argv[1])] * 50):
        print(*[each.process.pid for each in workers._workers], flush=True)
"""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(("sent", "rest"), [(signal.SIGINT, "60"), (signal.SIGKILL, "0.5")])
def test_workers_end_with_their_driver(sent: signal.Signals, rest: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    driver = subprocess.Popen(
        [sys.executable, "-c", LONG_SCAN, rest],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert driver.stdout
    driver.stdout.readline()
    processes = [int(word) for word in driver.stdout.readline().split()]
    assert len(processes) == 2
    assert all(map(is_running, processes))
    driver.send_signal(sent)
    _, words = driver.communicate(timeout=20)
    assert driver.returncode == -sent or "KeyboardInterrupt" in words
    wait_until(lambda: not any(map(is_running, processes)))


def test_a_working_directory_is_no_place_for_libraries(engine: Engine, fleet: Path, tmp_path: Path) -> None:
    """Workers import nothing that lies among the checkpoints, whatever its name is."""
    for name in ("case_5_zero_head.pt", "case_3_healthy.pt"):
        shutil.copy(fleet / name, tmp_path)
    trap = tmp_path / "imported"
    for module in ("json", "msgspec", "pickle", "random"):
        (tmp_path / f"{module}.py").write_text(f"open({str(trap)!r}, 'w')\nraise SystemExit\n")
    command = [sys.executable, "-m", "checkpoint_doctor", "scan", ".", "-f", "json", "--engine", engine.name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    assert [each["verdict"] for each in json.loads(done.stdout)["checkpoints"]] == ["healthy", "ill"]
    assert not trap.exists()
