"""Paths of checkpoints for services that only accept relative paths."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote


def artifact_path(path: str) -> str:
    """Return a path relative to the working directory, with ``/`` between its parts.

    Code-scanning services accept neither absolute paths nor ``..``: a path outside the working directory loses its
    leading ``/``, and a remote one (``s3://bucket/key``) its scheme.
    """
    remote = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://+", path)
    if remote:
        return path[remote.end() :]
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix().lstrip("/")


def artifact_uri(path: str) -> str:
    """Return ``artifact_path`` as a URI reference, with every other byte percent-encoded."""
    return quote(os.fsencode(artifact_path(path)), safe="/")
