"""The examination of one candidate of a search, as a task that any process can carry out."""

from __future__ import annotations

import os
from functools import cache
from typing import TypedDict

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor import __version__
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.config.settings import Section, Settings
from checkpoint_doctor.errors import NotACheckpoint, UnknownFormat
from checkpoint_doctor.examination.examining import examine, unreadable
from checkpoint_doctor.examination.measuring import MeasuredCallback
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import discover_working
from checkpoint_doctor.plugins.protocols import Workers
from checkpoint_doctor.results.examination import Examination, Provenance
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.address import is_address, show_uri
from checkpoint_doctor.sources.search import Candidate
from checkpoint_doctor.sources.traces import digest, trace

Outcome = Examination | Skipped | Unsearched
"""What comes of a candidate: it is examined (or cannot be read, which is an examination too); it is a sound file of
another kind, which is passed over; or nothing in it says what it is, and its name promises no checkpoint."""


class TaskOptions(TypedDict, total=False):
    """What all tasks of a run are told; see ``CandidateTask``."""

    jobs: int | None
    skip_foreign: bool
    histograms: bool
    with_settings: bool
    asked_of: str


class CandidateTask(Struct, frozen=True):
    """All that the examination of a candidate needs to know, as plain values that can be pickled."""

    candidate: Candidate
    """What is examined."""
    settings: Settings
    """What holds for it."""
    jobs: int | None = None
    """Threads; ``None`` for one per core."""
    skip_foreign: bool = False
    """Pass over a sound file that is no checkpoint even where it was named."""
    histograms: bool = False
    """Also count how the values of tensors with findings are distributed."""
    with_settings: bool = False
    """Also review the settings of the run and of its optimizers."""
    asked_of: str = ""
    """A digest of the plugins that are asked, by which a later run knows whether it would ask the same; empty where the
    examination is not to be carried over."""

    @property
    def asked_with(self) -> str:
        """A digest of all that decides what is found in the candidate, but for its files."""
        path = self.candidate.path
        # What a run fails on and where it searches decides nothing about what is found.
        sections = (replace(each, fail_on=None, files=(), exclude=(), include=None) for each in self.settings.sections)
        return digest(
            {
                "asked_of": self.asked_of,
                "path": path if is_address(path) else os.path.abspath(path),
                "settings": [each for each in sections if each != Section(each.origin, each.folder, each.path)],
                "with_settings": self.with_settings,
            }
        )


def examine_candidate(
    task: CandidateTask,
    catalogue: Catalogue | None = None,
    on_measured: MeasuredCallback | None = None,
    workers: Workers | None = None,
) -> Outcome:
    """Carry out a task, and return what came of it. What is returned can be pickled, and refers to no open file.

    ``catalogue`` is by default what is installed where this is called; it is discovered once in a process. A
    large checkpoint is measured on ``workers``, if there are any.

    Raises:
        UsageError: a part of ckdoc itself is broken.
    """
    if not task.asked_of:
        return _examine(task, catalogue, on_measured, workers)
    with trace() as found:
        outcome = _examine(task, catalogue, on_measured, workers)
    if not isinstance(outcome, Examination):
        return outcome
    return replace(outcome, provenance=Provenance(task.asked_with, found))


def _examine(
    task: CandidateTask,
    catalogue: Catalogue | None,
    on_measured: MeasuredCallback | None,
    workers: Workers | None,
) -> Outcome:
    candidate = task.candidate
    try:
        examination = examine(
            candidate.path,
            catalogue or _discover_once(),
            task.settings,
            jobs=task.jobs,
            on_measured=on_measured,
            histograms=task.histograms,
            with_settings=task.with_settings,
            workers=workers,
        )
    except NotACheckpoint as error:
        if task.skip_foreign or not candidate.named:
            shown = show_uri(candidate.path)
            return Skipped(shown, error.message.removeprefix(f"{shown} "))
        return unreadable(candidate.path, error)
    except UnknownFormat as error:
        if not candidate.is_expected:
            return Unsearched(show_uri(candidate.path), error.what)
        return unreadable(candidate.path, error)
    return replace(examination, findings=tuple(map(_let_go, examination.findings)))


def _let_go(finding: Finding) -> Finding:
    """Return a finding whose repairs say what they are, and no longer hold the values that they start from."""
    if not finding.repairs:
        return finding
    return replace(finding, repairs=tuple(repair.described for repair in finding.repairs))


@cache
def _discover_once() -> Catalogue:
    return discover_working()


def digest_catalogue(catalogue: Catalogue) -> str:
    """Return a digest of the versions of ckdoc, of its plugins and of the libraries that decide what is read."""
    import importlib.util

    import numpy as np

    plugins = sorted(
        f"{each.group} {each.name} {each.value} {each.distribution} {each.version} {each.problem}"
        for each in catalogue.plugins
    )
    readers = [name for name in ("yaml", "h5py", "tensorstore") if importlib.util.find_spec(name)]
    return digest({"version": __version__, "plugins": plugins, "numpy": np.__version__, "readers": readers})
