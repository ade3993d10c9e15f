"""Carries out tasks on workers, a bounded number at a time, and puts the results in the order of the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

AHEAD = 16
"""Results for each worker that may wait for an earlier one: a large checkpoint among small ones holds up few workers,
and memory does not grow with the tasks."""


class Crew(Protocol):
    """Workers that carry out numbered tasks."""

    @property
    def has_room(self) -> bool:
        """True where another task would be begun soon."""

    @property
    def is_idle(self) -> bool:
        """True where no task is being carried out."""

    def begin(self, number: int, task: Any) -> None:
        """Give a task to a worker."""

    def wait(self) -> Iterable[tuple[int, Any]]:
        """Wait until at least one task is done, and return the numbers and answers of those that are."""


def in_order(crew: Crew, tasks: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Yield the answer to each task, in their order. At most ``ahead`` tasks are taken before the next is yielded."""
    remaining = enumerate(tasks)
    is_left = True
    done: dict[int, Any] = {}
    taken = due = 0
    while True:
        while is_left and crew.has_room and taken - due < ahead:
            following = next(remaining, None)
            is_left = following is not None
            if following is not None:
                crew.begin(*following)
                taken += 1
        if due in done:
            yield done.pop(due)
            due += 1
        elif crew.is_idle:
            return
        else:
            done.update(crew.wait())
