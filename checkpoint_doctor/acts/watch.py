"""``watch``: wait for checkpoints as they are written, and examine each when it is whole. Prints nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.acts.compare import run_trend_rules
from checkpoint_doctor.acts.scan import find_checkpoints
from checkpoint_doctor.checkpoint import Checkpoint, Series
from checkpoint_doctor.checkpoint.ongoing_run import OngoingRun
from checkpoint_doctor.config.asked import find_asked
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UnknownFormat, UnreadableCheckpoint
from checkpoint_doctor.examination.examining import open_and_examine, unreadable
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import discover_working
from checkpoint_doctor.results.events import Arrival, Event, Loss, Stall, list_by_key
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.identity import FindingKey, identify
from checkpoint_doctor.results.report import Examination, Report
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.address import require_local
from checkpoint_doctor.sources.changes import (
    Fingerprint,
    age_of,
    files_of,
    make_waiter,
    read_again,
    read_fingerprints,
)

SETTLED = 2.0
"""Seconds without a change after which a file is taken to be written: programs write without a pause."""

PATIENCE = 30.0
"""Seconds without a change after which a checkpoint that is not whole is reported as it is. Some programs do pause:
they write a folder's model, gather the optimizer of all ranks, and write that."""

LONGEST_WAIT = 30.0
"""Seconds after which a folder is looked at though no event came: a network drive tells of none from elsewhere."""

BUSY = 0.02
"""Share of the time that looking at the folder may take; where it takes long, it is looked at less often."""

SIGNS = frozenset(("FIL001",))
"""Rules whose findings may mean that a file is still being written: it is damaged."""

SIGNS_IN_FOLDERS = SIGNS | {"RES006"}
"""The same for a folder that is a checkpoint: a part of it is missing."""


class Options(Struct, frozen=True):
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

    Raises:
        UsageError: the path is the address of something remote, or the configuration leaves no rule to run.
    """
    require_local(os.fspath(path), "and only folders of this machine are watched", "`ckdoc scan` reads it where it is")
    options = options or Options()
    return _Watch(os.fspath(path), options, catalogue or discover_working(), config or Config()).run()


class _Pending(Struct, frozen=True):
    """A checkpoint that is being written, or may be."""

    files: Mapping[str, Fingerprint]
    since: float
    """Time of the last change."""
    examined: Examination | None = None
    """What was found in it, where that looks unfinished."""
    opened: Checkpoint | None = None
    was_examined: bool = False


class _Run:
    """What a watch remembers of the checkpoints of one network."""

    def __init__(self) -> None:
        self.series = OngoingRun()
        self.before: Examination | None = None
        self.begun: frozenset[FindingKey] = frozenset()
        """What was seen to have begun."""


class _Watch:
    def __init__(self, path: str, options: Options, catalogue: Catalogue, config: Config) -> None:
        self._path, self._options, self._catalogue, self._config = path, options, catalogue, config
        self._files: dict[str, Fingerprint] = {}
        self._cost = 0.0
        """Seconds of processor time that a look at the folder took."""
        self._is_first = True
        self._grown: dict[str, float] = {}
        """The time at which a file was last added to each folder."""
        self._pending: dict[str, _Pending] = {}
        self._done: dict[str, Mapping[str, Fingerprint]] = {}
        """The files of each checkpoint as they were when it was examined."""
        self._runs: dict[object, _Run] = {}
        """By the names and shapes of their tensors."""
        self._unlisted: dict[str, Unsearched] = {}
        """What should be searched and cannot be, by its path."""
        self._last = time.monotonic()
        self._has_stalled = False

    def run(self) -> Iterator[Event]:
        options, waiter = self._options, None
        find_asked([self._path], self._config, self._catalogue.rules, Checkpoint, Series)
        was_there = os.path.lexists(self._path)
        while True:
            is_there = os.path.lexists(self._path)
            if was_there and not is_there:
                yield Loss(self._path)
            if waiter is None or is_there != was_there:
                waiter = make_waiter(self._path, polls=options.polls or options.once)
            was_there = is_there
            yield from self._look()
            if options.once and not self._pending:
                return
            yield from self._notice_stall()
            pause = max(options.interval, self._cost / BUSY)
            waiter.wait(pause, max(pause, self._time_to_wait()))

    def _time_to_wait(self) -> float:
        """Return how long nothing needs to be looked at unless a file changes."""
        now, options = time.monotonic(), self._options
        ends = [now + LONGEST_WAIT]
        for path, each in self._pending.items():
            ends.append(self._since(path) + (options.patience if each.was_examined else options.settled))
        if options.stalled is not None and not self._has_stalled:
            ends.append(self._last + options.stalled)
        return min(ends) - now

    def _look(self) -> Iterator[Event]:
        begin = time.process_time()
        files = read_fingerprints(self._path)
        self._cost = time.process_time() - begin
        if files != self._files or self._is_first:
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
        known_before = self._unlisted
        candidates = self._search()
        yield from (each for path, each in self._unlisted.items() if path not in known_before)
        for path in candidates:
            own = files_of(path, files)
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

    def _search(self) -> list[str]:
        try:
            found = find_checkpoints([self._path], self._catalogue, self._config)
        except NothingToExamine:
            self._unlisted = {}
            return []
        self._unlisted = {each.path: each for each in found.unsearched if not each.on_purpose}
        return [candidate.path for candidate in found.candidates]

    def _try(self, path: str) -> Iterator[Event]:
        """Examine a checkpoint if its time has come, and report it if it is whole or enough time was given."""
        pending = self._pending[path]
        quiet = time.monotonic() - self._since(path)
        if quiet < self._options.settled:
            return
        if not pending.was_examined:
            opened, examined = self._examine(path)
            if read_again(pending.files) != pending.files:  # it was changed meanwhile: the next look shows how
                return
            pending = replace(pending, examined=examined, opened=opened, was_examined=True)
            self._pending[path] = pending
        if _may_be_unfinished(pending.examined) and quiet < self._options.patience:
            return
        del self._pending[path]
        self._done[path] = pending.files
        if pending.examined is not None:
            self._last, self._has_stalled = time.monotonic(), False
            yield self._report(pending.examined, pending.opened)

    def _examine(self, path: str) -> tuple[Checkpoint | None, Examination | None]:
        """Open and examine a checkpoint. There is no examination of what is none, unless it alone is watched."""
        settings = self._config.for_path(path)
        find_asked([path], self._config, self._catalogue.rules, Checkpoint, Series)
        try:
            return open_and_examine(path, self._catalogue, settings, jobs=self._options.jobs)
        except (NotACheckpoint, UnknownFormat) as error:
            return None, unreadable(path, error) if path == self._path else None
        except UnreadableCheckpoint as error:
            return None, unreadable(path, error)

    def _report(self, examination: Examination, opened: Checkpoint | None) -> Arrival:
        """Compare a checkpoint with those of the same network that came before it."""
        network = tuple((tensor.name, tensor.shape) for tensor in examination.tensors)
        run = self._runs.setdefault(network, _Run()) if opened is not None else _Run()
        known, now = list_by_key(run.before), list_by_key(examination)
        begun = self._find_beginnings(run, opened) if opened is not None else []
        arrival = Arrival(
            examination,
            Report((examination,), len(examination.asked or ()), self._config.fail_on, remarks=tuple(begun)),
            new=(*(alert for key, alert in now.items() if key not in known), *begun),
            gone=tuple(alert for key, alert in known.items() if key not in now),
            follows=run.before.path if run.before is not None else None,
        )
        run.before = examination
        return arrival

    def _find_beginnings(self, run: _Run, opened: Checkpoint) -> list[Finding]:
        """Return what the rules about series find now and did not find before."""
        try:
            series = run.series.add(opened)
        except UnreadableCheckpoint:  # it was deleted or overwritten since it was examined
            return []
        if not series.is_connected:  # a folder with models of different runs
            return []
        found = {identify(each): each for each in run_trend_rules(series, self._catalogue, self._config) if each.counts}
        begun = [finding for key, finding in found.items() if key not in run.begun]
        run.begun = frozenset(found)
        return begun

    def _notice_stall(self) -> Iterator[Stall]:
        limit = self._options.stalled
        silence = time.monotonic() - self._last
        if limit is not None and silence >= limit and not self._has_stalled:
            self._has_stalled = True
            yield Stall(silence)


def _may_be_unfinished(examination: Examination | None) -> bool:
    """True where a checkpoint may still be written: it cannot be read to its end, or lacks a part."""
    if examination is None or examination.is_unreadable:
        return True
    signs = SIGNS_IN_FOLDERS if examination.parts else SIGNS
    return any(each.code in signs for each in examination.findings) or bool(examination.parts and examination.skipped)
