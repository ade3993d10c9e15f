"""From files, folders and globs on the command line to the paths of possible checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from checkpoint_doctor.errors import NothingToExamine

SHARD, INDEX = ".safetensors", ".safetensors.index.json"


@dataclass(frozen=True)
class Candidate:
    """A path to examine, and whether it was named or found by a search."""

    path: str
    named: bool


def find_candidates(uris: Sequence[str], suffixes: Sequence[str]) -> list[Candidate]:
    """Expand files, folders and globs to the files to examine, each once, in a stable order.

    ``suffixes`` are the file name endings, in any case, that a search through a folder looks for.

    Raises:
        NothingToExamine: a folder or glob holds no file that could be a checkpoint.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    found: dict[str, Candidate] = {}
    for uri in uris:
        for candidate in _expand(uri, endings):
            found.setdefault(candidate.path, candidate)
    return list(found.values())


def _expand(uri: str, suffixes: tuple[str, ...]) -> Iterator[Candidate]:
    if os.path.isdir(uri):
        inside = list(_search(uri, suffixes))
        if not inside:
            raise NothingToExamine(
                f"{uri} holds no checkpoint", f"files ending in {', '.join(sorted(suffixes))} are looked for"
            )
        yield from inside
    elif os.path.lexists(uri) or not any(letter in uri for letter in "*?["):
        yield Candidate(uri, named=True)
    else:
        import glob

        matches = sorted(glob.glob(uri, recursive=True))
        if not matches:
            raise NothingToExamine(f"nothing matches {uri}", "check the pattern; quote it if the shell expands it")
        for match in matches:
            if os.path.isdir(match):
                yield from _search(match, suffixes)
            else:
                yield Candidate(match, named=False)


def _search(folder: str, suffixes: tuple[str, ...]) -> Iterator[Candidate]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        has_index = any(name.lower().endswith(INDEX) for name in files)
        for name in sorted(files):
            ending = name.lower()
            # The shards of an index are examined through it, as the one model that they are.
            if ending.endswith(suffixes) and not (has_index and ending.endswith(SHARD)):
                yield Candidate(os.path.join(root, name), named=False)
