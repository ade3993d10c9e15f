"""Examining candidates in other processes, perhaps on other machines: with the same plugins, and the same files."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.errors import UnreadableCheckpoint, UsageError
from checkpoint_doctor.examination.candidates import CandidateTask, Outcome, examine_candidate
from checkpoint_doctor.examination.examining import unreadable
from checkpoint_doctor.examination.measuring import MeasuredCallback
from checkpoint_doctor.examination.senders import Sender, find_plugins_of, introduce
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.protocols import LostTask, Workers
from checkpoint_doctor.sources.address import is_address, show_uri

BUNDLE, MOST_TOGETHER = 4 << 20, 24
"""Bytes and number of small files that a worker gets together: to send a task and its result costs as much as to
examine a file of 100 kB (measured on Ray)."""


Answer = TypeVar("Answer")


class Errand(Struct, frozen=True):
    """The examination of a candidate, and what the worker must make sure of before."""

    task: CandidateTask
    sender: Sender
    state: tuple[int, int] | None
    """Size and time of change of the file, as the sender sees it; ``None`` where it is no file of a machine."""


class Unseen(Struct, frozen=True):
    """A worker does not see the file that it was sent."""

    host: str


def examine_on(
    workers: Workers,
    tasks: Sequence[CandidateTask],
    catalogue: Catalogue,
    listen: Callable[[int], MeasuredCallback | None],
) -> Iterator[Outcome]:
    """Carry out tasks on workers, and yield what comes of each, in their order.

    A checkpoint with more than a worker's part of all bytes is measured by several. ``listen`` is called with the
    position of a task, when it is begun or done.

    Raises:
        UsageError: the workers have other plugins, or do not see the files of this machine.
    """
    sender = introduce(catalogue)
    sizes = [find_size(task.candidate.path) for task in tasks]
    part = sum(sizes) / workers.count
    # How large a remote file is shows when it is opened, which is worth it where workers have nothing else to do.
    are_few = len(tasks) < workers.count

    def is_large(position: int) -> bool:
        return sizes[position] > part or (are_few and is_address(tasks[position].candidate.path))

    for are_large, positions in groupby(range(len(tasks)), is_large):
        if are_large:
            for position in positions:
                yield examine_candidate(tasks[position], catalogue, listen(position), workers)
            continue
        bundles = deque(put_together(tasks, positions, sizes))
        while bundles:
            sent: deque[list[Errand]] = deque()
            with _ended(workers.map(run_errands, _send(tasks, list(bundles), sender, sent))) as answers:
                for answer in answers:
                    bundle, errands = bundles.popleft(), sent.popleft()
                    if isinstance(answer, LostTask) and len(bundle) > 1:
                        # One of them loses its worker. They go one by one, and the others after them.
                        bundles.extendleft([position] for position in reversed(bundle))
                        break
                    each_answer = [answer] if isinstance(answer, LostTask) else answer
                    for position, errand, each in zip(bundle, errands, each_answer, strict=True):
                        listen(position)
                        yield receive(each, errand, catalogue)


@contextmanager
def _ended(answers: Iterator[Answer]) -> Iterator[Iterator[Answer]]:
    """Yield the answers of a call of ``Workers.map``, and end its tasks with the block: the next call needs them."""
    try:
        yield answers
    finally:
        if isinstance(answers, Generator):
            answers.close()


def put_together(tasks: Sequence[CandidateTask], positions: Iterable[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield the positions of what a worker gets together: small files, and everything else alone."""
    bundle: list[int] = []
    filled = 0
    for position in positions:
        # Remote files are waited for, each as long as the others: they go one by one.
        size = BUNDLE if is_address(tasks[position].candidate.path) else sizes[position]
        if bundle and (len(bundle) == MOST_TOGETHER or filled + size > BUNDLE):
            yield bundle
            bundle, filled = [], 0
        bundle.append(position)
        filled += size
    if bundle:
        yield bundle


def _send(
    tasks: Sequence[CandidateTask], bundles: Iterable[Sequence[int]], sender: Sender, sent: deque[list[Errand]]
) -> Iterator[Sequence[Errand]]:
    """Yield the errands of each bundle, and keep those that are on their way."""
    for bundle in bundles:
        # A worker has one core for it.
        errands = [
            Errand(replace(tasks[position], jobs=1), sender, see_state(tasks[position].candidate.path))
            for position in bundle
        ]
        sent.append(errands)
        yield errands


def run_errands(errands: Sequence[Errand]) -> list[Outcome | Unseen]:
    """Examine candidates in a worker, one after the other. Raises as ``run_errand``."""
    return [run_errand(each) for each in errands]


def run_errand(errand: Errand) -> Outcome | Unseen:
    """Examine a candidate in a worker.

    Raises:
        UsageError: other plugins are installed there.
    """
    catalogue = find_plugins_of(errand.sender)
    host = socket.gethostname()
    if host != errand.sender.host and see_state(errand.task.candidate.path) != errand.state:
        return Unseen(host)
    return examine_candidate(errand.task, catalogue)


def receive(answer: Outcome | Unseen | LostTask, errand: Errand, catalogue: Catalogue) -> Outcome:
    """Return what came of an errand, where a worker answered it or could not.

    Raises:
        UsageError: the worker does not see the files of this machine.
    """
    path = errand.task.candidate.path
    if isinstance(answer, LostTask):
        hint = "see whether its machine has enough memory, and examine it alone"
        return unreadable(path, UnreadableCheckpoint(f"{show_uri(path)} could not be examined: {answer.why}", hint))
    if not isinstance(answer, Unseen):
        return answer
    if see_state(path) == errand.state:
        raise UsageError(
            f"the worker on {answer.host} does not see the file {path} of this machine",
            "keep checkpoints where all machines see them, such as a shared folder or an object store",
        )
    return examine_candidate(errand.task, catalogue)  # it was changed or removed meanwhile, as files are


def see_state(path: str) -> tuple[int, int] | None:
    """Return the size and the time of change of a file; ``None`` for an address, and where there is no such file."""
    if is_address(path):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    # The size of a folder says nothing, and is another one on another file system.
    return 0 if os.path.isdir(path) else status.st_size, status.st_mtime_ns


def find_size(path: str) -> int:
    """Return the bytes of a file, or of the files in a folder; 0 for an address, and where there is nothing."""
    if is_address(path):
        return 0
    if os.path.isdir(path):
        return sum(find_size(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names)
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
