"""The corpus: published checkpoints of public repositories, which ``corpus.tsv`` lists, and where they lie.

The files themselves are no part of the project: ``make corpus`` fetches them.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MANIFEST = Path(__file__).with_name("corpus.tsv")
VARIABLE = "CKDOC_CORPUS"
"""The environment variable that names another folder than the cache."""
HOW_TO_GET_IT = f"the corpus is not on this machine: `make corpus` fetches it, or {VARIABLE} says where it is"


@dataclass(frozen=True)
class CorpusFile:
    """One line of the manifest."""

    name: str
    """Path in the folder of the corpus, with slashes."""
    repository: str
    """``owner/name`` on GitHub."""
    commit: str
    """The full commit in which the repository holds exactly these bytes."""
    path: str
    """Path in the repository."""
    licence: str
    """SPDX identifier of the repository's licence."""
    format: str
    """Name of the loader that recognizes it."""
    size: int
    """In bytes."""
    sha256: str

    def is_in(self, folder: Path) -> bool:
        """True where the folder holds a file of this name with exactly these bytes."""
        file = folder / self.name
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        return hashlib.sha256(file.read_bytes()).hexdigest() == self.sha256


def read_manifest(manifest: Path = MANIFEST) -> list[CorpusFile]:
    """Return the files of the corpus, sorted by name."""
    with manifest.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return [CorpusFile(**{**row, "size": int(row["size"])}) for row in rows]


def user_cache() -> Path:
    """Return the folder in the user's cache for what the tests keep from one run to the next."""
    caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or caches) / "checkpoint-doctor"


def cache_folder() -> Path:
    """Return where the corpus is fetched to: ``CKDOC_CORPUS``, else the user's cache."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else user_cache() / "corpus"


def find_corpus(beside: Path = ROOT.parent / "shared" / "corpus") -> Path | None:
    """Return the folder of the corpus, or ``None`` where it is not on this machine.

    ``CKDOC_CORPUS`` comes first, then the folder beside the project, then the cache if nothing is missing from it.

    Raises:
        FileNotFoundError: ``CKDOC_CORPUS`` names a folder that is not there or lacks files of the corpus.
    """
    cache = cache_folder()
    if os.environ.get(VARIABLE):
        if not cache.is_dir():
            raise FileNotFoundError(f"{VARIABLE} is {cache}, and there is no such folder: `make corpus` fetches it")
        missing = count_missing(cache)
        if missing:
            raise FileNotFoundError(
                f"{VARIABLE} is {cache}, where {missing} files are missing or differ: `make corpus` fetches them"
            )
        return cache
    if beside.is_dir():
        return beside
    return None if count_missing(cache) else cache


def count_missing(folder: Path) -> int:
    """Return how many files of the corpus the folder lacks, or holds with other bytes."""
    return sum(not file.is_in(folder) for file in read_manifest())
