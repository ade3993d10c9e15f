"""The engine ``ray``: the machines of a Ray cluster, or this machine as one.

Ray begins a task again where its worker or its node is lost; what is here bounds how often, how many tasks are in
flight, and how long an empty cluster is waited for.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from checkpoint_doctor.builtin.engines._calls import ATTEMPTS, carry_out, give_up, pack, unpack
from checkpoint_doctor.builtin.engines._order import AHEAD, in_order
from checkpoint_doctor.errors import DoctorError, UsageError
from checkpoint_doctor.plugins.protocols import LostTask

ADDRESS = "RAY_ADDRESS"
"""The environment variable that names the cluster, as for every program that uses Ray."""

CONNECTING = 10.0
"""Seconds in which the head of a cluster must answer."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How HTTP/2 begins (RFC 9113, 3.4), which gRPC and so Ray speak: a preface, and an empty frame of settings."""
SETTINGS = 4
"""The type of the frame with which the other side must answer."""
FIRST_ANSWER = 120.0
"""Seconds in which a worker must answer: a node that was idle starts a process, which takes some."""
SILENCE = 10.0
"""Seconds without a result after which is looked whether the cluster and its workers are still there. Where its head is
gone, Ray ends the whole program after 60, without a word to us."""

IN_FLIGHT = 2
"""Tasks that are given to Ray for each core: one that is carried out, and one that waits for its end."""
OBJECT_STORE = 256 << 20
"""Bytes of memory for the results of a cluster of our own; each is a few kilobytes, of a share of a large checkpoint
some megabytes."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class RayCluster:
    """See the module."""

    name = "ray"

    @contextmanager
    def start(self, jobs: int | None = None) -> Iterator[ClusterWorkers]:
        """See ``Engine.start``. Joins the cluster of ``RAY_ADDRESS``, or starts one on this machine."""
        ray = _import_ray()
        is_ours = not ray.is_initialized()
        if is_ours:
            _initialize(ray, jobs)
        try:
            cores = int(ray.cluster_resources().get("CPU", 0))
            workers = ClusterWorkers(ray, min(jobs or cores, cores))
            workers.make_sure_that_they_answer()
            yield workers
        finally:
            if is_ours:
                ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        from ray._private import worker
    except ImportError:
        raise UsageError("the library ray is not installed", "pip install 'checkpoint-doctor[ray]'") from None
    # What happens to workers would be written to the standard output, between the lines of a report, and no setting of
    # Ray keeps it from that.
    worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _initialize(ray: Any, jobs: int | None) -> None:
    address = os.environ.get(ADDRESS, "")
    if address:
        _require_answer(address)
        options: dict[str, Any] = {"address": address}
    else:
        options = {
            "address": "local",
            "num_cpus": jobs,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        search = os.pathsep.join(filter(None, sys.path))
        with _environment(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=search), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**options, job_config=_describe_job(ray), log_to_driver=False, logging_level="CRITICAL")
    except Exception as error:  # ConnectionError, RuntimeError and ValueError, as the cluster and the version may be
        what = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot be started"
        raise UsageError(f"{what}: {_first_line(error)}", "see `ray status`") from None
    finally:
        for number, handler in handlers.items():
            with suppress(ValueError):  # not in the main thread, where nobody changed them either
                signal.signal(number, handler)


def _describe_job(ray: Any) -> Any:
    """Return a job whose workers import nothing from the working directory, which Ray would put before all else.

    Nothing that lies among the checkpoints may be taken for a plugin or a library.
    """
    job = ray.job_config.JobConfig()
    job._runtime_env_has_working_dir = lambda: True  # no setting of Ray says the same
    return job


def _require_answer(address: str) -> None:
    """Make sure that there is a server of gRPC at an address; Ray itself asks for minutes, or for ever.

    Raises:
        UsageError: there is none.
    """
    why = _find_silence(address)
    if why:
        raise UsageError(
            f"there is no Ray cluster at {address}, which {ADDRESS} names ({why})",
            f"start it with `ray start --head`, or unset {ADDRESS} to use the cores of this machine",
        )


def _find_silence(address: str) -> str:
    """Say why there is no server of gRPC at an address; empty where there is one, or where only Ray can tell."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit() or os.environ.get("RAY_USE_TLS", "0") != "0":
        return ""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECTING) as connection:
            connection.sendall(GREETING)
            answer = connection.recv(9)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "" if answer[3:4] == bytes([SETTINGS]) else "what answers there is another program"


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__).rstrip(".")


class ClusterWorkers:
    """The cores of a cluster."""

    def __init__(self, ray: Any, count: int) -> None:
        self.count = count
        self._ray = ray
        # Every machine has a network card of its own: reads that are spread are faster than reads that are packed.
        options = {"num_cpus": 1, "max_retries": ATTEMPTS - 1, "scheduling_strategy": "SPREAD"}
        self._carry_out = ray.remote(**options)(carry_out)

    def make_sure_that_they_answer(self) -> None:
        """Carry out one task that does nothing.

        Raises:
            UsageError: no worker does within ``FIRST_ANSWER`` seconds, or it cannot.
        """
        if not self.count:
            raise UsageError("the Ray cluster has no core", "start a node of it with `ray start --num-cpus`")
        first = self._carry_out.remote(pack(_answer, None))
        answered, _ = self._ray.wait([first], timeout=FIRST_ANSWER)
        if not answered:
            raise UsageError(
                f"no worker of the Ray cluster was free within {FIRST_ANSWER:.0f} seconds", "see `ray status`"
            )
        try:
            unpack(self._ray.get(first))
        except (self._ray.exceptions.RayError, RuntimeError) as error:
            raise UsageError(
                f"the workers of the Ray cluster cannot work: {_last_line(error)}",
                "the same version of checkpoint-doctor must be installed on every node",
            ) from None

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result | LostTask]:
        """See ``Workers.map``."""
        crew = _Crew(self._ray, self._carry_out, function, IN_FLIGHT * self.count)
        try:
            yield from map(unpack, in_order(crew, tasks, AHEAD * self.count))
        finally:
            crew.dismiss()


def _answer(task: None) -> None:
    """Do nothing, to see whether a worker can."""


def _last_line(error: BaseException) -> str:
    return next((line for line in map(str.strip, reversed(str(error).splitlines())) if line), type(error).__name__)


class _Crew:
    """The tasks of one call of ``map`` that Ray has."""

    def __init__(self, ray: Any, carry_out: Any, function: Callable[[Any], Any], most: int) -> None:
        self._ray, self._carry_out, self._function, self._most = ray, carry_out, function, most
        self._head = ray.get_runtime_context().gcs_address
        self._numbers: dict[Any, int] = {}

    @property
    def has_room(self) -> bool:
        """See ``Crew.has_room``."""
        return len(self._numbers) < self._most

    @property
    def is_idle(self) -> bool:
        """See ``Crew.is_idle``."""
        return not self._numbers

    def begin(self, number: int, task: Any) -> None:
        """See ``Crew.begin``."""
        self._numbers[self._carry_out.remote(pack(self._function, task))] = number

    def wait(self) -> Iterator[tuple[int, bytes | LostTask]]:
        """See ``Crew.wait``.

        Raises:
            DoctorError: there is no worker any more.
        """
        running = list(self._numbers)
        answered, _ = self._ray.wait(running, num_returns=1, timeout=SILENCE)
        if not answered:
            self._require_workers()
            return
        answered, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
        for each in answered:
            yield self._numbers.pop(each), self._receive(each)

    def _require_workers(self) -> None:
        why = _find_silence(self._head)
        if why or not self._ray.cluster_resources().get("CPU"):
            what = f"its head at {self._head} ({why})" if why else "all its workers"
            raise DoctorError(f"the Ray cluster has lost {what}", "see `ray status`, and scan again")

    def _receive(self, reference: Any) -> bytes | LostTask:
        try:
            answer = self._ray.get(reference)
            assert isinstance(answer, bytes)
            return answer
        except self._ray.exceptions.RayError as error:
            return give_up(f"Ray says {type(error).__name__}")

    def dismiss(self) -> None:
        """End the tasks whose results nobody wants any more."""
        for each in self._numbers:
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(each, force=True)
        self._numbers.clear()


engine = RayCluster()
