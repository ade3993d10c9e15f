"""Path patterns as people know them from ``.gitignore``, matched name by name in linear time."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import translate
from functools import lru_cache

from msgspec import Struct

ANY_FOLDERS = "**"
"""The name in a pattern that stands for any number of folders."""


class PathPattern(Struct, frozen=True):
    """A pattern, name by name. ``*``, ``?`` and ``[a-z]`` stay within one name."""

    names: tuple[re.Pattern[str] | None, ...]
    """What each name of a path must match; ``None`` for any number of names."""

    def match_beginnings(self, path: Sequence[str]) -> Collection[int]:
        """Return how many of the first names of a path the pattern may stand for, each number for which it can."""
        ends: Collection[int] = {0}
        for position, name in enumerate(self.names):
            if name is None:
                # At its end a pattern means what is inside a folder, and not the folder.
                inside = position == len(self.names) - 1
                ends = range(min(ends) + inside, len(path) + 1)
            else:
                ends = {end + 1 for end in ends if end < len(path) and name.match(path[end])}
            if not ends:
                break
        return ends


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> PathPattern:
    """Return a pattern of names with ``/`` between them."""
    # Since Python 3.11 ``translate`` writes every star as an atomic group, so that no name takes exponential time.
    return PathPattern(
        tuple(None if name == ANY_FOLDERS else re.compile(translate(name)) for name in pattern.split("/"))
    )
