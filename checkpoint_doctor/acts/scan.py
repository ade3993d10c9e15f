"""``scan``: find checkpoints, examine each of them, and report. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Unpack

from msgspec import Struct

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.config.asked import Silence, find_asked
from checkpoint_doctor.config.settings import Config, Settings
from checkpoint_doctor.config.unused import IgnoreUse
from checkpoint_doctor.errors import DoctorError, NothingToExamine, UsageError
from checkpoint_doctor.examination.candidates import CandidateTask, Outcome, TaskOptions, examine_candidate
from checkpoint_doctor.examination.examining import examine
from checkpoint_doctor.examination.measuring import MeasuredCallback, measure_checkpoint
from checkpoint_doctor.examination.rules import run_rules
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import claim_folder, discover_working, open_checkpoint, recognize_content
from checkpoint_doctor.plugins.protocols import Workers
from checkpoint_doctor.results.report import Examination, Report
from checkpoint_doctor.results.totals import Totals
from checkpoint_doctor.sources.search import Candidate, Criteria, Found, Uris, find_candidates, list_uris
from checkpoint_doctor.text import describe_error, quantity

if TYPE_CHECKING:
    from checkpoint_doctor.examination.earlier import EarlierResults

__all__ = [
    "Progress",
    "ProgressCallback",
    "examine",
    "measure_checkpoint",
    "open_checkpoint",
    "run_rules",
    "scan",
    "scan_each",
]


class Progress(Struct, frozen=True):
    """How far a run has come."""

    path: str
    """The checkpoint being examined."""
    number: int
    """Its position among the files to examine, from 1."""
    of: int
    measured: int
    """Numbers measured in it so far."""
    total: int
    """Numbers to measure in it; 0 before it is opened."""


ProgressCallback = Callable[[Progress], None]
"""Called with how far the run has come; must return quickly."""


def scan(
    uris: Uris,
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    jobs: int | None = None,
    on_progress: ProgressCallback | None = None,
    skip_foreign: bool = False,
    histograms: bool = False,
    with_settings: bool = False,
    engine: str | None = None,
) -> Report:
    """Examine every checkpoint that the URIs name or contain.

    Args:
        uris: one or several files, folders that are one checkpoint or are searched for checkpoints, and globs.
        catalogue: the plugins to use, by default all that are installed.
        config: which rules to run and what to hide, by default nothing is hidden.
        jobs: threads or, with another engine, workers; by default one per core.
        on_progress: called before each checkpoint and while it is measured.
        skip_foreign: pass over sound files that are no checkpoints even where they were named. By default these are
            unreadable, and only those that a search came across are passed over.
        histograms: also count how the values of tensors with findings are distributed, for a report that draws them.
        with_settings: also review the settings of the run and of its optimizers, for a report that lists them.
        engine: where the work is done: ``processes``, ``ray`` or another one that is installed; by default in this
            process.

    Raises:
        NothingToExamine: there is no checkpoint to look at; with ``skip_foreign`` that is an empty report.
        UsageError: the configuration does not fit the rules that are installed, or leaves no rule to run; or the engine
            is not installed, cannot be started, or its workers cannot work.
    """
    run = Scan(
        uris,
        catalogue=catalogue,
        config=config,
        jobs=jobs,
        skip_foreign=skip_foreign,
        histograms=histograms,
        with_settings=with_settings,
        engine=engine,
    )
    return run.conclude(tuple(run.examine_all(on_progress)))


def scan_each(
    uris: Uris,
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    jobs: int | None = None,
    on_progress: ProgressCallback | None = None,
    engine: str | None = None,
) -> Iterator[Examination]:
    """Examine every checkpoint that the URIs name or contain, and yield each examination as it is done.

    None is kept, so memory does not grow with their number. What is no checkpoint is passed over. The arguments are
    those of ``scan``.

    Raises:
        NothingToExamine: a folder or glob leads to nothing.
        UsageError: as for ``scan``.
    """
    return Scan(uris, catalogue=catalogue, config=config, jobs=jobs, engine=engine).examine_all(on_progress)


class Scan:
    """A scan under way: ``examine_all`` yields examinations as they are done, and ``conclude`` makes the report.

    What it keeps does not grow with the checkpoints, but for their paths.
    """

    def __init__(
        self,
        uris: Uris,
        *,
        catalogue: Catalogue | None = None,
        config: Config | None = None,
        earlier: EarlierResults | None = None,
        engine: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        """Find what there is to examine.

        Args:
            uris: as for ``scan``, and so are the arguments that are not named here.
            catalogue: the plugins to use.
            config: which rules to run and what to hide.
            earlier: results of a run before, which stand in for the checkpoints that have not changed since.
            engine: where the work is done.
            options: what every task is told.

        Raises:
            NothingToExamine: a folder or glob leads to nothing.
            UsageError: the configuration does not fit the rules that are installed, or leaves no rule to run; or the
                engine is not installed.
        """
        self.catalogue = catalogue or discover_working()
        self.config = config or Config()
        if engine is not None:
            self.catalogue.find_engine(engine)
        self._engine = engine
        self._options = options
        self._earlier = earlier
        self._uris = list_uris(uris)
        self._found = find_checkpoints(self._uris, self.catalogue, self.config)
        paths = [candidate.path for candidate in self._found.candidates]
        self._asked = find_asked(paths, self.config, self.catalogue.rules)
        self._passed_over: list[Skipped] = []
        self._ignores = IgnoreUse(self.config, self.catalogue.rules, self.catalogue.causes)
        self._silence = Silence(self.config, self.catalogue.rules)
        self._examined = 0
        self._carried_over = 0

    def examine_all(self, on_progress: ProgressCallback | None = None) -> Iterator[Examination]:
        """Yield the examination of each checkpoint, in order; what is no checkpoint is left for the report."""
        for outcome in self._come_by_all(on_progress):
            if isinstance(outcome, Examination):
                self._examined += 1
                self._ignores.see(outcome)
                self._silence.see(outcome)
                yield outcome
            elif isinstance(outcome, Skipped):
                self._passed_over.append(outcome)
            else:
                self._found.unsearched.append(outcome)

    def _come_by_all(self, on_progress: ProgressCallback | None) -> Iterator[Outcome]:
        """Yield what comes of each candidate, carried over from an earlier result where nothing has changed since."""
        tasks = make_tasks(self._found.candidates, self.config, **self._options)
        earlier = self._earlier
        if earlier is None:
            yield from self._examine_each(tasks, on_progress)
            return
        carried = [earlier.stands_for(task) for task in tasks]
        changed = [task for task, is_carried in zip(tasks, carried, strict=True) if not is_carried]
        examined = self._examine_each(changed, on_progress)
        for task, is_carried in zip(tasks, carried, strict=True):
            if is_carried:
                self._carried_over += 1
                yield earlier.read(task.candidate.path)
            else:
                yield next(examined)

    def _examine_each(self, tasks: Sequence[CandidateTask], on_progress: ProgressCallback | None) -> Iterator[Outcome]:
        """Carry out tasks where the engine does that. Raises ``UsageError`` where it cannot."""
        if self._engine is None or not tasks:
            yield from examine_each(tasks, self.catalogue, on_progress)
            return
        try:
            with self.catalogue.find_engine(self._engine).start(self._options.get("jobs")) as workers:
                yield from examine_each(tasks, self.catalogue, on_progress, workers)
        except (DoctorError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise UsageError(
                f"the engine {self._engine} failed with {describe_error(error)}, so there is no report",
                "leave out --engine; `ckdoc plugins` names its package",
            ) from error

    def conclude(self, checkpoints: tuple[Examination, ...] = (), counted: Totals | None = None) -> Report:
        """Return the report on what was examined.

        Args:
            checkpoints: the examinations.
            counted: their totals, where they are not kept.

        Raises:
            NothingToExamine: there was no checkpoint to look at; with ``skip_foreign`` that is an empty report.
        """
        found = self._found
        if not self._examined and not self._options.get("skip_foreign") and found.is_complete:
            raise NothingToExamine(
                f"there is no checkpoint among {quantity(found.seen, 'file')}", "name one file to learn what it is"
            )
        broken = (self.config.general.judge(each, "") for each in self.catalogue.left_out)
        searched = [uri for uri in self._uris if os.path.isdir(uri)]
        return Report(
            checkpoints=checkpoints,
            rules=len(self._asked),
            fail_on=self.config.fail_on,
            remarks=(*broken, *self._ignores.remark_unused(), *self._ignores.remark_unmatched(searched)),
            passed_over=tuple(self._passed_over),
            unrecognized=found.unrecognized,
            unsearched=tuple(found.unsearched),
            asked=self._asked,
            configuration=self._silence.describe(),
            carried_over=self._carried_over,
            counted=counted,
        )


def find_checkpoints(uris: Uris, catalogue: Catalogue, config: Config) -> Found:
    """Find what files, folders and globs lead to: what a loader claims or recognizes and no pattern leaves out.

    Raises:
        NothingToExamine: a folder or glob leads to nothing.
        UnreadableCheckpoint: a store does not answer.
        UsageError: a URI is an address that no installed library reads.
    """
    criteria = Criteria(
        suffixes=catalogue.suffixes,
        recognizes=partial(recognize_content, catalogue=catalogue),
        claim=partial(claim_folder, catalogue=catalogue),
        excludes=config.excludes,
        includes=config.includes,
    )
    return find_candidates(list_uris(uris), criteria)


def make_tasks(
    candidates: Sequence[Candidate], config: Config, **options: Unpack[TaskOptions]
) -> Sequence[CandidateTask]:
    """Return the tasks of examining candidates, in their order, with what the configuration says about each."""
    shared: dict[tuple[int, ...], Settings] = {}

    def find_settings(path: str) -> Settings:
        settings = config.for_path(path)
        return shared.setdefault(tuple(map(id, settings.sections)), settings)

    return [CandidateTask(candidate, find_settings(candidate.path), **options) for candidate in candidates]


def examine_each(
    tasks: Sequence[CandidateTask],
    catalogue: Catalogue,
    on_progress: ProgressCallback | None = None,
    workers: Workers | None = None,
) -> Iterator[Outcome]:
    """Carry out tasks, one after the other or on workers, and yield what comes of each, in their order.

    Raises:
        UsageError: the workers cannot work.
    """

    def listen(position: int) -> MeasuredCallback | None:
        path = tasks[position].candidate.path
        if on_progress:
            on_progress(Progress(path, position + 1, len(tasks), 0, 0))
        return within_file(on_progress, path, position + 1, len(tasks))

    if workers is not None and workers.count > 1:
        from checkpoint_doctor.examination.errands import examine_on

        yield from examine_on(workers, tasks, catalogue, listen)
        return
    for position, task in enumerate(tasks):
        yield examine_candidate(task, catalogue, listen(position))


def within_file(on_progress: ProgressCallback | None, path: str, number: int, of: int) -> MeasuredCallback | None:
    """Return the callback that reports the progress within one file, ``None`` where nobody listens."""
    if on_progress is None:
        return None
    return lambda measured, total: on_progress(Progress(path, number, of, measured, total))
