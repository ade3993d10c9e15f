"""Examining candidates in other processes, perhaps on other machines: with the same plugins, and the same files."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

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
        sent: deque[list[tuple[int, Errand]]] = deque()
        for answer in workers.map(run_errands, _send(tasks, positions, sizes, sender, sent)):
            bundle = sent.popleft()
            errands = [errand for _, errand in bundle]
            answers = _send_one_by_one(workers, errands) if isinstance(answer, LostTask) else answer
            for (position, errand), each in zip(bundle, answers, strict=True):
                listen(position)
                yield receive(each, errand, catalogue)


def _send(
    tasks: Sequence[CandidateTask],
    positions: Iterable[int],
    sizes: Sequence[int],
    sender: Sender,
    sent: deque[list[tuple[int, Errand]]],
) -> Iterator[Sequence[Errand]]:
    """Yield the errands of tasks, small files together, and keep those that are on their way."""
    bundle: list[tuple[int, Errand]] = []
    filled = 0
    for position in positions:
        path = tasks[position].candidate.path
        # Remote files are waited for, each as long as the others: they go one by one.
        size = BUNDLE if is_address(path) else sizes[position]
        if bundle and (len(bundle) == MOST_TOGETHER or filled + size > BUNDLE):
            sent.append(bundle)
            yield [errand for _, errand in bundle]
            bundle, filled = [], 0
        # A worker has one core for it.
        bundle.append((position, Errand(replace(tasks[position], jobs=1), sender, see_state(path))))
        filled += size
    if bundle:
        sent.append(bundle)
        yield [errand for _, errand in bundle]


def _send_one_by_one(workers: Workers, errands: Sequence[Errand]) -> Iterator[Outcome | Unseen | LostTask]:
    """Carry out errands of which one loses the worker that has them all."""
    for answer in workers.map(run_errands, [[each] for each in errands]):
        if isinstance(answer, LostTask):
            yield answer
        else:
            yield from answer


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
