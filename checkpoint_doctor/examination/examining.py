"""From the path of a checkpoint to what is found in it."""

from __future__ import annotations

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.settings import Settings
from checkpoint_doctor.errors import NotACheckpoint, UnknownFormat, UnreadableCheckpoint
from checkpoint_doctor.examination.measuring import MeasuredCallback, measure_checkpoint
from checkpoint_doctor.examination.rules import run_rules, select_rules, with_ranges
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.plugins.protocols import Workers
from checkpoint_doctor.results.report import Examination, Verdict
from checkpoint_doctor.sources.address import show_uri
from checkpoint_doctor.sources.traces import trace


def examine(
    path: str,
    catalogue: Catalogue,
    settings: Settings,
    *,
    jobs: int | None = None,
    on_measured: MeasuredCallback | None = None,
    histograms: bool = False,
    with_settings: bool = False,
    workers: Workers | None = None,
) -> Examination:
    """Examine one checkpoint: open it, measure it, run every selected rule.

    A large one is measured on ``workers``, if there are any. One that cannot be opened or read to its end is an
    examination too, with the verdict ``UNREADABLE``.

    Raises:
        NotACheckpoint: it is a sound file of another kind.
        UnknownFormat: nothing in it says what it is.
    """
    try:
        checkpoint, examination = open_and_examine(
            path, catalogue, settings, jobs=jobs, on_measured=on_measured, workers=workers
        )
        if with_settings:
            from checkpoint_doctor.checkpoint.reviewed_settings import review_settings

            examination = replace(examination, settings=review_settings(checkpoint))
        if histograms:
            from checkpoint_doctor.examination.histograms import count_histograms

            examination = count_histograms(examination, checkpoint)
        return examination
    except (NotACheckpoint, UnknownFormat):
        raise
    except UnreadableCheckpoint as error:
        return unreadable(path, error)


def open_and_examine(
    path: str,
    catalogue: Catalogue,
    settings: Settings,
    *,
    jobs: int | None = None,
    on_measured: MeasuredCallback | None = None,
    workers: Workers | None = None,
) -> tuple[Checkpoint, Examination]:
    """Open and examine one checkpoint, and return it with what was found in it.

    Its tensors are only measured where a selected rule asks for their values.

    Raises:
        UnreadableCheckpoint: it cannot be opened or read to its end.
        NotACheckpoint: it is a sound file of another kind.
        UnknownFormat: nothing in it says what it is.
    """
    with_values = any(rule.reads_values for rule in select_rules(catalogue, settings))
    # Of a remote file that may be spread, this process reads little.
    is_read_whole = with_values and workers is None
    with trace() as found:
        checkpoint = with_ranges(open_checkpoint(path, catalogue, is_read_whole=is_read_whole), settings)
    if with_values and workers is not None:
        from checkpoint_doctor.examination.shares import measure_on

        measure_on(workers, checkpoint, path, found, catalogue, jobs, on_measured)
    elif with_values:
        measure_checkpoint(checkpoint, jobs, on_measured)
    examination = run_rules(checkpoint, catalogue, settings, with_values=with_values)
    require_contents(path, checkpoint, examination)
    return checkpoint, examination


def require_contents(path: str, checkpoint: Checkpoint, examination: Examination) -> None:
    """Make sure that a file that was opened holds something to examine.

    Raises:
        NotACheckpoint: it holds neither a model nor an optimizer, and no rule found an error in it.
    """
    other = checkpoint.metadata.get("content")
    if (other or not checkpoint.tensors) and not checkpoint.optimizers and examination.verdict is not Verdict.ILL:
        why = f" ({checkpoint.skipped[0].why})" if checkpoint.skipped else ""
        what = other or f"holds no tensor to examine{why}"
        raise NotACheckpoint(f"{show_uri(path)} {what}", "name the file that holds the state dict")


def unreadable(path: str, error: UnreadableCheckpoint) -> Examination:
    """Return the examination of a checkpoint that cannot be opened or read to its end."""
    return Examination(
        path=show_uri(path), format=None, verdict=Verdict.UNREADABLE, error=error.message, hint=error.hint
    )
