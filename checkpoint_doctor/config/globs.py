"""What a path pattern in a configuration means: which paths, and seen from which folder."""

from __future__ import annotations

import os

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
