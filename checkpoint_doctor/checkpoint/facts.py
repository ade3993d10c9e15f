"""Facts about a whole checkpoint that many layers ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint

Found = TypeVar("Found")
Given = ParamSpec("Given")


def once_per_checkpoint(
    find: Callable[Concatenate[Checkpoint, Given], Found],
) -> Callable[Concatenate[Checkpoint, Given], Found]:
    """Let a function of a checkpoint look only once, however many layers ask: all layers for each is their square.

    What it takes beside the checkpoint must be hashable and given by position. What it returns is shared, so nobody may
    change it.
    """

    @wraps(find)
    def remember(checkpoint: Checkpoint, /, *given: Given.args, **named: Given.kwargs) -> Found:
        place = find, given, tuple(named.items())
        if place not in checkpoint.facts:
            checkpoint.facts[place] = find(checkpoint, *given, **named)
        found: Found = checkpoint.facts[place]
        return found

    return remember
