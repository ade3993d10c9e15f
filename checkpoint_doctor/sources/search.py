"""From files, folders and globs on the command line to the paths of possible checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from checkpoint_doctor.errors import NothingToExamine, UsageError
from checkpoint_doctor.sources.folder import Folder

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)

SHARD, INDEX = ".safetensors", ".safetensors.index.json"


Claim = Callable[[Folder], Collection[str]]
"""Returns the names of the files and folders in a folder that are one checkpoint together; nothing where none are."""


@dataclass(frozen=True)
class Candidate:
    """The path of a file, or of a folder that is one checkpoint, and whether it was named or found by a search."""

    path: str
    named: bool


def find_candidates(uris: Sequence[str], suffixes: Sequence[str], claim: Claim = lambda folder: ()) -> list[Candidate]:
    """Expand files, folders and globs to what is to be examined, each once, in a stable order.

    Args:
        uris: files, folders and globs.
        suffixes: the file name endings, in any case, that a search through a folder looks for.
        claim: says of each folder which of its files are one checkpoint. That folder is a candidate in their place.

    Raises:
        NothingToExamine: a folder or glob holds no file that could be a checkpoint.
        UsageError: a URI is the address of a remote file.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    found: dict[str, Candidate] = {}
    for uri in uris:
        for candidate in _expand(uri, endings, claim):
            found.setdefault(candidate.path, candidate)
    return list(found.values())


def _expand(uri: str, suffixes: tuple[str, ...], claim: Claim) -> Iterator[Candidate]:
    if ADDRESS.match(uri) and not os.path.lexists(uri):
        raise UsageError(f"{uri} is an address, and only files on this machine are read", "download it first")
    if os.path.isdir(uri):
        inside = list(_search(uri, suffixes, claim))
        if not inside:
            raise NothingToExamine(
                f"{uri} holds no checkpoint", f"files ending in {', '.join(sorted(suffixes))} are looked for"
            )
        yield from (Candidate(each.path, named=each.path == uri) for each in inside)
    elif os.path.lexists(uri) or not any(letter in uri for letter in "*?["):
        yield Candidate(uri, named=True)
    else:
        import glob

        matches = sorted(glob.glob(uri, recursive=True))
        if not matches:
            raise NothingToExamine(f"nothing matches {uri}", "check the pattern; quote it if the shell expands it")
        for match in matches:
            if os.path.isdir(match):
                yield from _search(match, suffixes, claim)
            else:
                yield Candidate(match, named=False)


def _search(folder: str, suffixes: tuple[str, ...], claim: Claim) -> Iterator[Candidate]:
    for root, folders, files in os.walk(folder):
        claimed = frozenset(claim(Folder(root, frozenset(files), frozenset(folders))))
        if claimed:
            yield Candidate(root, named=False)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and each not in claimed)
        has_index = any(name.lower().endswith(INDEX) for name in files)
        for name in sorted(files):
            ending = name.lower()
            # The shards of an index are examined through it, as the one model that they are.
            is_shard = has_index and ending.endswith(SHARD)
            if ending.endswith(suffixes) and not is_shard and name not in claimed:
                yield Candidate(os.path.join(root, name), named=False)
