"""Facts about a whole checkpoint or optimizer that many layers ask for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar


class HasFacts(Protocol):
    """What facts are known about: a checkpoint, an optimizer."""

    @property
    def facts(self) -> dict[Hashable, Any]:
        """What was found out about it so far."""


Subject = TypeVar("Subject", bound=HasFacts)
Found = TypeVar("Found")
Given = ParamSpec("Given")


def found_once(find: Callable[Concatenate[Subject, Given], Found]) -> Callable[Concatenate[Subject, Given], Found]:
    """Let a function of a checkpoint or an optimizer look only once, however many layers ask.

    To look at all layers for every layer takes the square of their number. What the function takes beside its subject
    must be hashable. What it returns is shared, so nobody may change it.
    """

    @wraps(find)
    def remember(subject: Subject, /, *given: Given.args, **named: Given.kwargs) -> Found:
        place = find, given, tuple(named.items())
        if place not in subject.facts:
            subject.facts[place] = find(subject, *given, **named)
        found: Found = subject.facts[place]
        return found

    return remember
