"""What a path pattern in a configuration means: which paths, and seen from which folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import takewhile

from checkpoint_doctor.sources.patterns import compile_pattern


def match_path(pattern: str, path: str, folder: str = "") -> bool:
    """True where a pattern means the path or a folder above it.

    ``*`` and ``?`` stay within one name, ``**`` crosses folders, ``[a-z]`` is one character. A pattern without a slash
    means a name at any depth; any other starts at ``folder`` (the working directory by default), or at the root where
    it begins with a slash. The path is also tried as it was given.
    """
    absolute = os.path.abspath(path)
    forms = {os.path.normpath(path), os.path.relpath(absolute, folder or os.curdir), absolute}
    stem = pattern.removeprefix("./").rstrip("/") or pattern
    compiled = compile_pattern(stem if "/" in stem else f"**/{stem}")
    return any(compiled.match_beginnings(form.replace(os.sep, "/").split("/")) for form in forms)


def should_match(pattern: str, folder: str, searched: Iterable[str]) -> bool:
    """True where what a pattern means lies in one of the folders that were searched, or cannot exist at all."""
    stem = pattern.removeprefix("./").rstrip("/")
    names = stem.split("/") if "/" in stem else []
    plain = "/".join(takewhile(lambda name: not any(letter in name for letter in "*?["), names))
    start = os.path.abspath(os.path.join(folder or os.curdir, plain or ("/" if stem.startswith("/") else "")))
    return not os.path.lexists(start) or any(_is_within(start, os.path.abspath(each)) for each in searched)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))
