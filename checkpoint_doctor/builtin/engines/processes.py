"""The engine ``processes``: worker processes of this machine.

Each worker has a socket of its own. So one that is killed loses the one task that it was at, and one whose driver is
gone notices that its socket is closed; a pool of ``concurrent.futures`` loses all tasks, and leaves its workers behind.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from checkpoint_doctor.builtin.engines._calls import ATTEMPTS, carry_out, give_up, pack, unpack
from checkpoint_doctor.builtin.engines._order import AHEAD, in_order
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.protocols import LostTask

_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from checkpoint_doctor.builtin.engines.processes import serve
serve(int(sys.argv[1]))
"""

PATIENCE = 5.0
"""Seconds that a worker that closed its socket has to end."""

_READY = b""
"""What a worker sends before it takes its first task."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class Processes:
    """See the module."""

    name = "processes"

    @contextmanager
    def start(self, jobs: int | None = None) -> Iterator[LocalWorkers]:
        """See ``Engine.start``. A process is started when there is a task for it."""
        workers = LocalWorkers(jobs or os.cpu_count() or 1)
        try:
            yield workers
        finally:
            workers.stop()


class LocalWorkers:
    """Processes that are kept from one call of ``map`` to the next."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers: list[_Worker] = []

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result | LostTask]:
        """See ``Workers.map``."""
        crew = _Crew(self._workers, self.count, function)
        try:
            yield from map(unpack, in_order(crew, tasks, AHEAD * self.count))
        finally:
            crew.dismiss()

    def stop(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


class _Worker:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the driver, which ends its workers
            )
        self.connection = Connection(ours.detach())
        self.is_ready = False

    def kill(self) -> None:
        """End the process at once. It holds nothing that would be lost."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def explain_end(self) -> str:
        """Say how a process ended that closed its socket."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        self.kill()
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _Crew:
    """The workers while they are at the tasks of one call of ``map``."""

    def __init__(self, workers: list[_Worker], most: int, function: Callable[[Any], Any]) -> None:
        self._workers, self._most, self._function = workers, most, function
        self._busy: dict[Connection, tuple[_Worker, int, bytes]] = {}
        self._losses: dict[int, int] = {}

    @property
    def has_room(self) -> bool:
        """See ``Crew.has_room``."""
        return len(self._busy) < self._most

    @property
    def is_idle(self) -> bool:
        """See ``Crew.is_idle``."""
        return not self._busy

    def begin(self, number: int, task: Any) -> None:
        """See ``Crew.begin``."""
        self._send(number, pack(self._function, task))

    def _send(self, number: int, packed: bytes) -> None:
        while True:
            worker = next((each for each in self._workers if each.connection not in self._busy), None)
            if worker is None:
                worker = _Worker()
                self._workers.append(worker)
            try:
                worker.connection.send_bytes(packed)
            except OSError:  # it was killed while it had nothing to do, so no task is to blame
                self._lose(worker)
                continue
            self._busy[worker.connection] = worker, number, packed
            return

    def wait(self) -> Iterator[tuple[int, bytes | LostTask]]:
        """See ``Crew.wait``."""
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            worker, number, packed = self._busy[connection]
            try:
                answer = connection.recv_bytes()
            except (EOFError, OSError):
                del self._busy[connection]
                why = self._lose(worker)
                self._losses[number] = self._losses.get(number, 0) + 1
                if self._losses[number] == ATTEMPTS:
                    yield number, give_up(why)
                else:
                    self._send(number, packed)
                continue
            if worker.is_ready:
                del self._busy[connection]
                yield number, answer
            worker.is_ready = True

    def dismiss(self) -> None:
        """End the workers that are at a task whose result nobody wants any more."""
        for worker, _, _ in self._busy.values():
            self._workers.remove(worker)
            worker.kill()
        self._busy.clear()

    def _lose(self, worker: _Worker) -> str:
        """Take leave of a worker that ended, and say how it ended.

        Raises:
            UsageError: it could not even begin to work.
        """
        self._workers.remove(worker)
        end = worker.explain_end()
        if not worker.is_ready and worker.process.returncode > 0:
            raise UsageError(
                f"a worker process cannot be started: {end}", "--engine threads needs no processes besides this one"
            )
        return end


def serve(descriptor: int) -> None:
    """Carry out the calls that arrive on a socket until it is closed."""
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):  # the driver has ended
        connection.send_bytes(_READY)
        while True:
            connection.send_bytes(carry_out(connection.recv_bytes()))


engine = Processes()
