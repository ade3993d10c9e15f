"""From files, folders and globs on the command line to the paths of possible checkpoints."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct, field

from checkpoint_doctor.errors import NothingToExamine, UnreadableCheckpoint
from checkpoint_doctor.sources.address import conceal_secrets, is_address, show_uri
from checkpoint_doctor.sources.folder import Folder
from checkpoint_doctor.sources.globs import match_addresses, match_glob
from checkpoint_doctor.sources.opening import is_folder
from checkpoint_doctor.text import natural_key, quantity

Uris = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One file, folder or glob, or several."""

SHARD, INDEX = ".safetensors", ".safetensors.index.json"

UNSPECIFIC = re.compile(
    r".*(?<!\.pth)\.tar|(?!(pytorch|adapter)_model).*(?<!\.weights)\.(bin|pkl|pickle|p|npy|npz|h5|hdf5)", re.I | re.S
)
"""Names under which programs of all kinds store data, and so do a few that store models."""


class Candidate(Struct, frozen=True):
    """The path of a file, or of a folder that is one checkpoint, and whether it was named or found by a search."""

    path: str
    named: bool
    is_expected: bool = True
    """True where the path promises a checkpoint: somebody named it, or its ending belongs to checkpoints."""


class Unsearched(Struct, frozen=True):
    """A file or folder that a search did not look at, and why."""

    path: str
    """The file or folder."""
    why: str
    """The reason, as the second half of a sentence."""
    on_purpose: bool = True
    """False where it should have been looked at, and could not be."""


class Criteria(Struct, frozen=True):
    """What a search looks for; by default, any file with one of the endings."""

    suffixes: Sequence[str] = ()
    """File name endings, in any case, of files that are examined without a look at their content."""
    recognizes: Callable[[str], bool] = lambda path: False
    """True where the first bytes of the file at a path are those of a checkpoint; asked about all other files."""
    claim: Callable[[Folder], Collection[str]] = lambda folder: ()
    """Returns the names of the files and folders in a folder that are one checkpoint together; mostly none. It raises
    ``UnreadableCheckpoint`` where it cannot tell."""
    excludes: Callable[[str], str] = lambda path: ""
    """Returns why a file or folder is not to be examined; empty where it is."""
    includes: Callable[[str], bool] = lambda path: True
    """False for files that are not to be examined, because only others are."""


class Found(Struct):
    """What files, folders and globs lead to."""

    candidates: list[Candidate] = field(default_factory=list)
    """Each once, in a stable order."""
    unrecognized: Counter[str] = field(default_factory=Counter)
    """How many other files there are, by their ending: their first bytes are those of no checkpoint."""
    unsearched: list[Unsearched] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many files were looked at."""
        return len(self.candidates) + self.unrecognized.total()

    @property
    def is_complete(self) -> bool:
        """True where everything could be searched that should be."""
        return all(each.on_purpose for each in self.unsearched)


def list_uris(uris: Uris) -> list[str]:
    """Return URIs as text, each of them; a single one is a list of one, never a list of its letters."""
    return [os.fspath(uris)] if isinstance(uris, str | os.PathLike) else [os.fspath(uri) for uri in uris]


def find_candidates(uris: Sequence[str], criteria: Criteria) -> Found:
    """Expand files, folders and globs to what is to be examined.

    Files are named or recognized by their content; their ending only saves a look at it. Hidden folders (``.git``) and
    links to folders are not entered, so a search always ends. What is named is examined whatever the patterns say.
    A folder or glob without anything to examine does not keep the others from it, and is among what was not searched.

    Raises:
        NothingToExamine: no folder or glob holds a file that could be a checkpoint, and all could be searched.
        UnreadableCheckpoint: a store does not answer.
        UsageError: a URI is an address that no installed library reads.
    """
    search = _Search(criteria)
    for uri in uris:
        search.expand(uri)
    return search.finish()


class _Search:
    def __init__(self, criteria: Criteria) -> None:
        self._criteria = criteria
        self._suffixes = tuple(suffix.lower() for suffix in criteria.suffixes)
        self._candidates: dict[str, Candidate] = {}
        self._recognized: set[str] = set()
        """Paths of the candidates that only their content shows."""
        self._linked: set[tuple[int, int]] = set()
        """Device and number of the files that links in the searched folders lead to."""
        self._unrecognized: dict[str, str] = {}
        """Path to ending, so that a file that several URIs lead to counts once."""
        self._unsearched: dict[str, Unsearched] = {}
        self._not_included: set[str] = set()
        self._empty: dict[str, tuple[str, NothingToExamine]] = {}
        """Folders and patterns that lead to nothing, with the reason, and the error if the others lead to nothing."""

    def expand(self, uri: str) -> None:
        if is_address(uri):
            self._expand_address(uri)
        elif os.path.isdir(uri):
            self._note_if_empty(self._search(uri, named=True), uri)
        elif os.path.lexists(uri) or not any(letter in uri for letter in "*?["):
            self._candidates.setdefault(uri, Candidate(uri, named=True))
        else:
            failures: list[OSError] = []
            matches = match_glob(uri, failures.append)
            for failure in failures:
                self._note_failure(failure)
            if not (matches or failures):
                self._note_unmatched(uri, "check the pattern; quote it if the shell expands it")
            for match in matches:
                if os.path.isdir(match):
                    self._search(match)
                else:
                    self._consider(match, os.path.basename(match))

    def _expand_address(self, uri: str) -> None:
        try:
            is_searched = is_folder(uri)
        except UnreadableCheckpoint:
            if any(letter in uri for letter in "*["):
                raise
            is_searched = False  # opening it says the same, and the other URIs are examined
        if is_searched:
            self._note_if_empty(self._search_remote(uri.rstrip("/")), uri)
        elif not any(letter in uri.partition("?")[0] for letter in "*["):
            self._candidates.setdefault(uri, Candidate(uri, named=True))
        else:
            matches = match_addresses(uri)
            if not matches:
                self._note_unmatched(conceal_secrets(uri), "check the pattern; quote it")
            for match in matches:
                if match.endswith("/"):
                    self._search_remote(match.rstrip("/"))
                else:
                    self._consider(match, match.rpartition("/")[2])

    def _search_remote(self, root: str) -> int:
        """Search a folder of a store as ``_search`` does, and return how many candidates it has."""
        count, pending = 0, [Folder.read(root)]
        while pending:
            folder = pending.pop()
            claimed = self._claim(folder)
            if claimed:
                self._candidates.setdefault(folder.path, Candidate(folder.path, named=folder.path == root))
            count += bool(claimed) + self._consider_files(folder, claimed)
            for name in sorted(folder.folders - set(claimed), key=natural_key, reverse=True):
                path = folder.locate(name)
                if reason := self._criteria.excludes(path) or ("hidden" if name.startswith(".") else ""):
                    self._leave_out(path, reason)
                else:
                    try:
                        pending.append(folder.enter(name))
                    except UnreadableCheckpoint as error:
                        why = error.message.rpartition(": ")[2]
                        self._unsearched[path] = Unsearched(path, why, on_purpose=False)
        return count

    def _consider_files(self, folder: Folder, claimed: Collection[str]) -> int:
        has_index = any(name.lower().endswith(INDEX) for name in folder.files)
        count = 0
        for name in sorted(folder.files - set(claimed), key=natural_key):
            # The shards of an index are examined through it, as the one model that they are.
            if not (has_index and name.lower().endswith(SHARD)):
                count += self._consider(folder.locate(name), name)
        return count

    def finish(self) -> Found:
        """Return what was found.

        Raises:
            NothingToExamine: there is nothing, and all could be searched.
        """
        # A blob of a cache is examined under the name that a link gives it.
        doubles = {path for path in self._recognized if self._linked and _identify(path) in self._linked}
        found = Found(
            [each for path, each in self._candidates.items() if path not in doubles],
            Counter(self._unrecognized.values()),
            list(self._unsearched.values()),
        )
        if self._empty and not found.candidates and found.is_complete:
            raise next(error for _, error in self._empty.values())
        found.unsearched += [Unsearched(path, why, on_purpose=False) for path, (why, _) in self._empty.items()]
        return found

    def _note_unmatched(self, pattern: str, hint: str) -> None:
        self._empty[pattern] = "nothing matches it", NothingToExamine(f"nothing matches {pattern}", hint)

    def _note_if_empty(self, count: int, uri: str) -> None:
        """Note a folder that was named and has nothing in it, unless something in it could not be searched."""
        inside = [each for each in self._unsearched.values() if _is_within(each.path, uri)]
        if count or not all(each.on_purpose for each in inside):
            return
        unlike, others = (
            sum(_is_within(path, uri) for path in paths) for paths in (self._unrecognized, self._not_included)
        )
        reasons = [
            f"{quantity(unlike, 'file')} in it begin{'s' * (unlike == 1)} unlike any checkpoint" * bool(unlike),
            f"{quantity(others, 'file')} in it {'is' if others == 1 else 'are'} not among those to include"
            * bool(others),
            f"{quantity(len(inside), 'file or folder', 'files and folders')} not searched" * bool(inside),
        ]
        why, folder = ", and ".join(filter(None, reasons)) or "there is no file in it", show_uri(uri)
        self._empty[folder] = why, NothingToExamine(f"{folder} holds no checkpoint", why)

    def _search(self, root: str, *, named: bool = False) -> int:
        """Search a folder and return how many candidates it has."""
        count = 0
        for folder, folders, files in os.walk(root, onerror=self._note_failure):
            claimed = self._claim(Folder(folder, frozenset(files), frozenset(folders)))
            if claimed:
                self._candidates.setdefault(folder, Candidate(folder, named=named and folder == root))
            count += bool(claimed)
            entered = (name for name in folders if name not in claimed and self._enters(folder, name, root))
            folders[:] = sorted(entered, key=natural_key)
            has_index = any(name.lower().endswith(INDEX) for name in files)
            for name in sorted(files, key=natural_key):
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    self._linked.add(_identify(path))
                # The shards of an index are examined through it, as the one model that they are.
                is_shard = has_index and name.lower().endswith(SHARD)
                if name not in claimed and not is_shard:
                    count += self._consider(path, name)
        return count

    def _claim(self, folder: Folder) -> Collection[str]:
        try:
            claimed = frozenset(self._criteria.claim(folder))
        except UnreadableCheckpoint as error:  # its files are examined one by one
            self._unsearched[folder.path] = Unsearched(folder.path, error.message, on_purpose=False)
            return ()
        includes = self._criteria.includes
        is_wanted = includes(folder.path) or any(includes(folder.locate(name)) for name in claimed)
        return claimed if is_wanted else ()

    def _consider(self, path: str, name: str) -> bool:
        """Add a file that may be a checkpoint, and return whether it is one."""
        is_known = name.lower().endswith(self._suffixes)
        if reason := self._criteria.excludes(path):
            if is_known:
                self._leave_out(path, reason)
            return False
        if not self._criteria.includes(path):
            self._not_included.add(path)
            return False
        if not is_known:
            try:
                if not self._criteria.recognizes(path):
                    self._unrecognized[path] = os.path.splitext(name)[1].lower()
                    return False
            except UnreadableCheckpoint as error:
                if not (is_address(path) or os.path.isfile(path)):  # a pipe, or a link that leads nowhere
                    self._leave_out(path, error.message.removeprefix(f"cannot open {path}: ").removeprefix(f"{path} "))
                    return False
                # It may be a checkpoint, and whoever opens it is told why it cannot be.
            self._recognized.add(path)
        is_expected = is_known and UNSPECIFIC.fullmatch(name) is None
        self._candidates.setdefault(path, Candidate(path, named=False, is_expected=is_expected))
        return True

    def _enters(self, folder: str, name: str, root: str) -> bool:
        path = os.path.join(folder, name)
        if reason := self._criteria.excludes(path):
            self._leave_out(path, reason)
        elif name.startswith("."):
            self._leave_out(path, "hidden")
        elif os.path.islink(path):
            is_inside = _is_within(os.path.realpath(path), os.path.realpath(root))
            self._leave_out(path, "a link to a folder that is searched" if is_inside else "a link to another folder")
        else:
            return True
        return False

    def _leave_out(self, path: str, why: str) -> None:
        self._unsearched[path] = Unsearched(path, why)

    def _note_failure(self, error: OSError) -> None:
        path = str(error.filename)
        self._unsearched[path] = Unsearched(path, (error.strerror or str(error)).lower(), on_purpose=False)


def _identify(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))
