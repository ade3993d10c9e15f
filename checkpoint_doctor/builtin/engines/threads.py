"""The engine ``threads``: this process does all the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from checkpoint_doctor.plugins.protocols import LostTask

Task = TypeVar("Task")
Result = TypeVar("Result")


class ThisProcess:
    """The one worker that is already there. It measures tensors on several threads."""

    count = 1

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result | LostTask]:
        """See ``Workers.map``."""
        return map(function, tasks)


class Threads:
    """See the module."""

    name = "threads"

    def start(self, jobs: int | None = None) -> AbstractContextManager[ThisProcess]:
        """See ``Engine.start``."""
        return nullcontext(ThisProcess())


engine = Threads()
