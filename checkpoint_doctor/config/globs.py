"""Path patterns as people know them from ``.gitignore``."""

from __future__ import annotations

import os
import re
from functools import lru_cache

_PARTS = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


def match_path(pattern: str, path: str, folder: str = "") -> bool:
    """True where a pattern means the path or a folder above it.

    ``*`` and ``?`` stay within one name, ``**`` crosses folders, ``[a-z]`` is one character. A pattern without a slash
    means a name at any depth; any other starts at ``folder`` (the working directory by default), or at the root where
    it begins with a slash. The path is also tried as it was given.
    """
    absolute = os.path.abspath(path)
    forms = {os.path.normpath(path), os.path.relpath(absolute, folder or os.curdir), absolute}
    compiled = _compile(pattern)
    return any(compiled.fullmatch(form.replace(os.sep, "/")) for form in forms)


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    stem = pattern.removeprefix("./").rstrip("/") or pattern
    expression = "".join(_translate(part) for part in _PARTS.findall(stem))
    anywhere = "" if "/" in stem else "(?:.*/)?"
    try:
        return re.compile(f"{anywhere}{expression}(?:/.*)?", re.DOTALL)
    except re.error:  # a range that runs backwards, such as [z-a]
        return re.compile(re.escape(stem))


def _translate(part: str) -> str:
    if part == "**/":
        return "(?:.*/)?"
    if part == "**":
        return ".*"
    if part == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if len(part) > 1:
        inside = re.sub(r"[\\\[^&|~]", r"\\\g<0>", part[1:-1])
        return f"(?!/)[{'^' + inside[1:] if inside.startswith('!') else inside}]"
    return re.escape(part)
