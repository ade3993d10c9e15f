"""``watch``: wait for checkpoints as they are written, and examine each when it is whole. Prints nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UnknownFormat
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import discover_working
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.identity import FindingKey, identify, identify_diagnosis
from checkpoint_doctor.results.report import Alert, Examination, Report, Verdict
from checkpoint_doctor.scan import examine, find_checkpoints
from checkpoint_doctor.sources.changes import Fingerprint, Waiter, age_of, make_waiter, read_fingerprints
from checkpoint_doctor.sources.search import INDEX, SHARD, Candidate

SETTLED = 2.0
"""Seconds without a change after which a file is taken to be written: programs write without a pause."""

PATIENCE = 30.0
"""Seconds without a change after which a checkpoint that is not whole is reported as it is. Some programs do pause:
they write a folder's model, gather the optimizer of all ranks, and write that."""

LONGEST_WAIT = 30.0
"""Seconds after which a folder is looked at though no event came: a network drive tells of none from elsewhere."""

SIGNS = frozenset(("FIL001",))
"""Rules whose findings may mean that a file is still being written: it is damaged."""

SIGNS_IN_FOLDERS = SIGNS | {"RES006"}
"""The same for a folder that is a checkpoint: a part of it is missing."""


@dataclass(frozen=True)
class Options:
    """How a folder is watched; times are in seconds."""

    interval: float = 1.0
    """Time between two looks at the folder."""
    settled: float = SETTLED
    patience: float = PATIENCE
    stalled: float | None = None
    """Time without a new checkpoint that is reported; ``None`` for never."""
    once: bool = False
    """True to end when everything that is there was examined."""
    polls: bool = False
    """True to look at the folder again and again though the file system tells of changes."""
    jobs: int | None = None


@dataclass(frozen=True)
class Arrival:
    """A checkpoint that was written, and examined when it was whole."""

    examination: Examination
    report: Report
    """The report on this checkpoint alone, which says whether it fails."""
    new: tuple[Alert, ...]
    """Diagnoses and findings that the checkpoint of the same network before it does not have."""
    gone: tuple[Alert, ...]
    """Those that the one before it has, and it has not."""
    follows: str | None
    """The path of the checkpoint before it; ``None`` for the first of its network."""


@dataclass(frozen=True)
class Loss:
    """A file that was deleted before it could be examined, or the folder itself."""

    path: str


@dataclass(frozen=True)
class Stall:
    """Nothing new came for too long."""

    seconds: float


Event = Arrival | Loss | Stall


def watch(
    path: str | os.PathLike[str],
    options: Options | None = None,
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
) -> Iterator[Event]:
    """Yield what happens in a folder, or to a file: first the checkpoints that are there, then new ones as they come.

    A checkpoint is examined once for each time it is written. It is whole when none of its files has changed for some
    time and it can be read to its end; one that cannot is waited for with more patience, and reported as it is then.

    Args:
        path: the folder or file; it need not be there yet.
        options: for how long to wait for what.
        catalogue: the plugins to use, by default all that are installed.
        config: which rules to run and what to hide, by default nothing is hidden.
    """
    options = options or Options()
    return _Watch(os.fspath(path), options, catalogue or discover_working(), config or Config()).run()


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is being written, or may be."""

    files: Mapping[str, Fingerprint]
    since: float
    """Time of the last change."""
    examined: Examination | None = None
    """What was found in it, where that looks unfinished."""
    was_examined: bool = False


class _Watch:
    def __init__(self, path: str, options: Options, catalogue: Catalogue, config: Config) -> None:
        self._path, self._options, self._catalogue, self._config = path, options, catalogue, config
        self._files: dict[str, Fingerprint] = {}
        self._is_first = True
        self._grown: dict[str, float] = {}
        """The time at which a file was last added to each folder."""
        self._pending: dict[str, _Pending] = {}
        self._done: dict[str, Mapping[str, Fingerprint]] = {}
        """The files of each checkpoint as they were when it was examined."""
        self._before: dict[object, Examination] = {}
        """The last checkpoint of each network."""
        self._last = time.monotonic()
        self._has_stalled = False

    def run(self) -> Iterator[Event]:
        waiter: Waiter | None = None
        was_there = os.path.lexists(self._path)
        while True:
            is_there = os.path.lexists(self._path)
            if was_there and not is_there:
                yield Loss(self._path)
                waiter = None
            was_there = is_there
            if waiter is None and is_there:
                waiter = make_waiter(self._path, self._options.interval, polls=self._options.polls)
            yield from self._look()
            if self._options.once and not self._pending:
                return
            yield from self._notice_stall()
            (waiter or make_waiter(self._path, self._options.interval, polls=True)).wait(self._time_to_wait())

    def _time_to_wait(self) -> float:
        """Return how long nothing needs to be looked at unless a file changes."""
        now, options = time.monotonic(), self._options
        ends = [now + LONGEST_WAIT]
        for path, each in self._pending.items():
            ends.append(self._since(path) + (options.patience if each.was_examined else options.settled))
        if options.stalled is not None and not self._has_stalled:
            ends.append(self._last + options.stalled)
        return max(options.interval, min(ends) - now)

    def _look(self) -> Iterator[Event]:
        files = read_fingerprints(self._path)
        if files != self._files:
            yield from self._compare(files)
        self._is_first = False
        for path in list(self._pending):
            yield from self._try(path)

    def _compare(self, files: Mapping[str, Fingerprint]) -> Iterator[Event]:
        """Find which checkpoints have changed since the last look, and which are no longer there."""
        now = time.monotonic()
        if not self._is_first:
            self._grown |= {os.path.dirname(path): now for path in files.keys() - self._files.keys()}
        self._files = dict(files)
        candidates = {each.path: each for each in self._search()}
        for path, candidate in candidates.items():
            own = _files_of(candidate, files)
            known = self._pending.get(path)
            if not own or own == self._done.get(path) or (known is not None and known.files == own):
                continue
            # A file that was there before is as old as the clock says. Later, no clock of another machine is trusted.
            self._pending[path] = _Pending(own, now - age_of(own) if self._is_first else now)
            self._last, self._has_stalled = max(self._last, self._pending[path].since), False
        for path in [each for each in self._pending if each not in candidates]:
            pending = self._pending.pop(path)
            if not any(map(os.path.lexists, pending.files)):
                yield Loss(path)
        self._done = {path: own for path, own in self._done.items() if path in candidates}

    def _since(self, path: str) -> float:
        """Return the time since which a checkpoint did not change.

        A file added beside it soon after may be a part of it: not all are known for one before the last is there.
        """
        since, settled = self._pending[path].since, self._options.settled
        return max(since, min(self._grown.get(os.path.dirname(path), 0.0), since + 2 * settled))

    def _search(self) -> list[Candidate]:
        try:
            return find_checkpoints([self._path], self._catalogue, self._config).candidates
        except NothingToExamine:
            return []

    def _try(self, path: str) -> Iterator[Event]:
        """Examine a checkpoint if its time has come, and report it if it is whole or enough time was given."""
        pending = self._pending[path]
        quiet = time.monotonic() - self._since(path)
        if quiet < self._options.settled:
            return
        if not pending.was_examined:
            examined = self._examine(path)
            if _read_again(pending.files) != pending.files:  # it was changed meanwhile: the next look shows how
                return
            pending = replace(pending, examined=examined, was_examined=True)
            self._pending[path] = pending
        if _may_be_unfinished(pending.examined) and quiet < self._options.patience:
            return
        del self._pending[path]
        self._done[path] = pending.files
        if pending.examined is not None:
            self._last, self._has_stalled = time.monotonic(), False
            yield self._compare_with_the_one_before(pending.examined)

    def _examine(self, path: str) -> Examination | None:
        """Examine a checkpoint; ``None`` where it is none."""
        try:
            return examine(path, self._catalogue, self._config.for_path(path), jobs=self._options.jobs)
        except (NotACheckpoint, UnknownFormat) as error:
            if path != self._path:
                return None
            return Examination(path, None, Verdict.UNREADABLE, error=error.message, hint=error.hint)

    def _compare_with_the_one_before(self, examination: Examination) -> Arrival:
        network = tuple((tensor.name, tensor.shape) for tensor in examination.tensors)
        before = self._before.get(network)
        if not examination.is_unreadable:
            self._before[network] = examination
        known, now = _alerts_by_key(before), _alerts_by_key(examination)
        return Arrival(
            examination,
            Report((examination,), rules=len(examination.asked or ()), fail_on=self._config.fail_on),
            new=tuple(alert for key, alert in now.items() if key not in known),
            gone=tuple(alert for key, alert in known.items() if key not in now)
            if not examination.is_unreadable
            else (),
            follows=before.path if before is not None else None,
        )

    def _notice_stall(self) -> Iterator[Stall]:
        limit = self._options.stalled
        silence = time.monotonic() - self._last
        if limit is not None and silence >= limit and not self._has_stalled:
            self._has_stalled = True
            yield Stall(silence)


def _files_of(candidate: Candidate, files: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
    """Return the files that a checkpoint is made of, and their fingerprints."""
    path = candidate.path
    if path not in files:
        inside = os.path.join(path, "")
        return {name: files[name] for name in files if name.startswith(inside)}
    if not path.lower().endswith(INDEX):
        return {path: files[path]}
    folder = os.path.dirname(path)
    shards = (name for name in files if os.path.dirname(name) == folder and name.lower().endswith(SHARD))
    return {name: files[name] for name in (path, *shards)}


def _read_again(files: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
    return {path: found for name in files for path, found in read_fingerprints(name).items()}


def _may_be_unfinished(examination: Examination | None) -> bool:
    """True where a checkpoint may still be written: it cannot be read to its end, or lacks a part."""
    if examination is None or examination.is_unreadable:
        return True
    signs = SIGNS_IN_FOLDERS if examination.parts else SIGNS
    return any(each.code in signs for each in examination.findings) or bool(examination.parts and examination.skipped)


def _alerts_by_key(examination: Examination | None) -> dict[FindingKey, Alert]:
    alerts = examination.alerts if examination is not None else ()
    return {identify_diagnosis(each) if isinstance(each, Diagnosis) else identify(each): each for each in alerts}
