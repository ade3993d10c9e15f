"""``scan``: find checkpoints, examine each of them, and report. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.config.asked import describe_silence, find_asked
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.config.unused import remark_unmatched_paths, remark_unused_ignores
from checkpoint_doctor.errors import NothingToExamine
from checkpoint_doctor.examination.candidates import CandidateTask, Outcome, examine_candidate
from checkpoint_doctor.examination.examining import examine
from checkpoint_doctor.examination.measuring import MeasuredCallback, measure_checkpoint
from checkpoint_doctor.examination.rules import run_rules
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import claim_folder, discover_working, open_checkpoint, recognize_content
from checkpoint_doctor.results.report import Examination, Report
from checkpoint_doctor.sources.search import Candidate, Criteria, Found, Uris, find_candidates, list_uris
from checkpoint_doctor.text import quantity

__all__ = ["Progress", "ProgressCallback", "examine", "measure_checkpoint", "open_checkpoint", "run_rules", "scan"]


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
) -> Report:
    """Examine every checkpoint that the URIs name or contain.

    Args:
        uris: one or several files, folders that are one checkpoint or are searched for checkpoints, and globs.
        catalogue: the plugins to use, by default all that are installed.
        config: which rules to run and what to hide, by default nothing is hidden.
        jobs: threads, by default one per core.
        on_progress: called before each checkpoint and while it is measured.
        skip_foreign: pass over sound files that are no checkpoints even where they were named. By default these are
            unreadable, and only those that a search came across are passed over.
        histograms: also count how the values of tensors with findings are distributed, for a report that draws them.
        with_settings: also review the settings of the run and of its optimizers, for a report that lists them.

    Raises:
        NothingToExamine: there is no checkpoint to look at; with ``skip_foreign`` that is an empty report.
        UsageError: the configuration does not fit the rules that are installed, or leaves no rule to run.
    """
    catalogue = catalogue or discover_working()
    config = config or Config()
    uris = list_uris(uris)
    found = find_checkpoints(uris, catalogue, config)
    asked = find_asked([candidate.path for candidate in found.candidates], config, catalogue.rules)
    tasks = make_tasks(
        found.candidates,
        config,
        jobs=jobs,
        skip_foreign=skip_foreign,
        histograms=histograms,
        with_settings=with_settings,
    )
    examinations: list[Examination] = []
    passed_over: list[Skipped] = []
    for outcome in examine_each(tasks, catalogue, on_progress):
        if isinstance(outcome, Examination):
            examinations.append(outcome)
        elif isinstance(outcome, Skipped):
            passed_over.append(outcome)
        else:
            found.unsearched.append(outcome)
    if not examinations and not skip_foreign and found.is_complete:
        raise NothingToExamine(
            f"there is no checkpoint among {quantity(found.seen, 'file')}", "name one file to learn what it is"
        )
    report = Report(
        checkpoints=tuple(examinations),
        rules=len(asked),
        fail_on=config.fail_on,
        remarks=tuple(config.general.judge(each, "") for each in catalogue.left_out),
        passed_over=tuple(passed_over),
        unrecognized=found.unrecognized,
        unsearched=tuple(found.unsearched),
        asked=asked,
    )
    searched = [uri for uri in uris if os.path.isdir(uri)]
    report = remark_unused_ignores(report, config, catalogue.rules, catalogue.causes)
    report = remark_unmatched_paths(report, config, searched)
    return replace(report, configuration=describe_silence(report, config, catalogue.rules))


def find_checkpoints(uris: Uris, catalogue: Catalogue, config: Config) -> Found:
    """Find what files, folders and globs lead to: what a loader claims or recognizes and no pattern leaves out.

    Raises:
        NothingToExamine: a folder or glob leads to nothing.
        UsageError: a URI is the address of a remote file.
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
    candidates: Sequence[Candidate],
    config: Config,
    *,
    jobs: int | None = None,
    skip_foreign: bool = False,
    histograms: bool = False,
    with_settings: bool = False,
) -> Sequence[CandidateTask]:
    """Return the tasks of examining candidates, in their order, with what the configuration says about each."""
    return [
        CandidateTask(
            candidate,
            config.for_path(candidate.path),
            jobs=jobs,
            skip_foreign=skip_foreign,
            histograms=histograms,
            with_settings=with_settings,
        )
        for candidate in candidates
    ]


def examine_each(
    tasks: Sequence[CandidateTask], catalogue: Catalogue, on_progress: ProgressCallback | None = None
) -> Iterator[Outcome]:
    """Carry out tasks one after the other, and yield what comes of each, in order."""
    for number, task in enumerate(tasks, 1):
        path = task.candidate.path
        if on_progress:
            on_progress(Progress(path, number, len(tasks), 0, 0))
        yield examine_candidate(task, catalogue, within_file(on_progress, path, number, len(tasks)))


def within_file(on_progress: ProgressCallback | None, path: str, number: int, of: int) -> MeasuredCallback | None:
    """Return the callback that reports the progress within one file, ``None`` where nobody listens."""
    if on_progress is None:
        return None
    return lambda measured, total: on_progress(Progress(path, number, of, measured, total))
