"""Files that take long to make: made once on a machine, and again when what makes them changes."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from tests.corpus import user_cache

LIBRARIES = ("torch", "numpy", "gymnasium", "stable-baselines3")
"""What trains and writes the files: another version of one may make others of them."""

KEPT = 4
"""Folders from other sources that stay: those of checkouts that are tested in turn."""


def folder_of(name: str, sources: Iterable[Path]) -> Path:
    """Return a folder in the user's cache that is another one whenever a source or a library changes."""
    versions = [f"{library} {version(library)}".encode() for library in LIBRARIES]
    content = [*versions, *(path.read_bytes() for path in sorted(sources))]
    digest = hashlib.sha256(b"\0".join(content)).hexdigest()[:16]
    above = user_cache() / "tests" / name
    above.mkdir(parents=True, exist_ok=True)
    others = (path for path in above.iterdir() if path.name != digest and not path.name.startswith("."))
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    return above / digest


def build_once(name: str, sources: Iterable[Path], build: Callable[[Path], object]) -> Path:
    """Return the folder of a name, filled by a function unless it is there. Several processes may ask at once."""
    folder = folder_of(name, sources)
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
            built = Path(scratch) / "built"
            built.mkdir()
            build(built)
            try:
                built.rename(folder)
            except OSError:
                assert folder.is_dir()  # another process was faster
    return folder
