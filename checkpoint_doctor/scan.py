"""``scan``: open checkpoints, measure them, run every rule, and report. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, LayerSignal, Skipped, Tensor
from checkpoint_doctor.config.asked import describe_silence, find_asked
from checkpoint_doctor.config.settings import Config, Settings
from checkpoint_doctor.config.unused import remark_unmatched_paths, remark_unused_ignores
from checkpoint_doctor.diagnosis.competition import choose_diagnoses, collect_claims
from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UnknownFormat, UnreadableCheckpoint
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import claim_folder, discover_working, open_checkpoint, recognize_content
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.results.findings import Finding, by_severity
from checkpoint_doctor.results.report import Examination, Report, TensorRecord, Verdict, judge
from checkpoint_doctor.results.resume import find_resumption
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.address import is_address
from checkpoint_doctor.sources.search import Criteria, Found, Uris, find_candidates, list_uris
from checkpoint_doctor.text import quantity

__all__ = ["Progress", "ProgressCallback", "examine", "measure_checkpoint", "open_checkpoint", "run_rules", "scan"]

SMALL_CHECKPOINT = 8 << 20
"""Elements below which threads are not worth their start: a pool takes 0.7 ms once its modules are loaded, a
core measures a MiB in 0.2 ms (measured)."""

MOST_HISTOGRAMS = 12
"""Tensors of a checkpoint of which a histogram is counted: those of its worst findings."""

LARGEST_DRAWN = 1 << 26
"""Entries of a tensor beyond which its histogram is not counted: 67 million take 1.2 s of processor time (measured)."""


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

MeasuredCallback = Callable[[int, int], None]
"""Called with the numbers measured so far in one checkpoint, and in all."""


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
    candidates = found.candidates
    asked = find_asked([candidate.path for candidate in candidates], config, catalogue.rules)
    examinations: list[Examination] = []
    passed_over: list[Skipped] = []
    for number, candidate in enumerate(candidates, 1):
        if on_progress:
            on_progress(Progress(candidate.path, number, len(candidates), 0, 0))
        on_measured = within_file(on_progress, candidate.path, number, len(candidates))
        settings = config.for_path(candidate.path)
        try:
            examination = examine(
                candidate.path,
                catalogue,
                settings,
                jobs=jobs,
                on_measured=on_measured,
                histograms=histograms,
                with_settings=with_settings,
            )
        except NotACheckpoint as error:
            if skip_foreign or not candidate.named:
                passed_over.append(Skipped(candidate.path, error.message.removeprefix(f"{candidate.path} ")))
                continue
            examination = unreadable(candidate.path, error)
        except UnknownFormat as error:
            if not candidate.is_expected:
                found.unsearched.append(Unsearched(candidate.path, error.what))
                continue
            examination = unreadable(candidate.path, error)
        examinations.append(examination)
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


def within_file(on_progress: ProgressCallback | None, path: str, number: int, of: int) -> MeasuredCallback | None:
    """Return the callback that reports the progress within one file, ``None`` where nobody listens."""
    if on_progress is None:
        return None
    return lambda measured, total: on_progress(Progress(path, number, of, measured, total))


def examine(
    path: str,
    catalogue: Catalogue,
    settings: Settings,
    *,
    jobs: int | None = None,
    on_measured: MeasuredCallback | None = None,
    histograms: bool = False,
    with_settings: bool = False,
) -> Examination:
    """Examine one checkpoint: open it, measure it, run every selected rule.

    A checkpoint that cannot be opened or read to its end is an examination too, with the verdict ``UNREADABLE``.

    Raises:
        NotACheckpoint: it is a sound file of another kind.
        UnknownFormat: nothing in it says what it is.
    """
    try:
        checkpoint, examination = open_and_examine(path, catalogue, settings, jobs=jobs, on_measured=on_measured)
        if with_settings:
            from checkpoint_doctor.checkpoint.reviewed_settings import review_settings

            examination = replace(examination, settings=review_settings(checkpoint))
        return count_histograms(examination, checkpoint) if histograms else examination
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
) -> tuple[Checkpoint, Examination]:
    """Open and examine one checkpoint, and return it with what was found in it.

    Raises:
        UnreadableCheckpoint: it cannot be opened or read to its end.
        NotACheckpoint: it is a sound file of another kind.
        UnknownFormat: nothing in it says what it is.
    """
    checkpoint = open_checkpoint(path, catalogue, is_read_whole=True)
    checkpoint = replace(checkpoint, ranges=settings.ranges) if settings.ranges else checkpoint
    measure_checkpoint(checkpoint, jobs, on_measured)
    examination = run_rules(checkpoint, catalogue, settings)
    other = checkpoint.metadata.get("content")
    if (other or not checkpoint.tensors) and not checkpoint.optimizers and examination.verdict is not Verdict.ILL:
        why = f" ({checkpoint.skipped[0].why})" if checkpoint.skipped else ""
        what = other or f"holds no tensor to examine{why}"
        raise NotACheckpoint(f"{path} {what}", "name the file that holds the state dict")
    return checkpoint, examination


def count_histograms(examination: Examination, checkpoint: Checkpoint) -> Examination:
    """Return an examination with histograms of the tensors that its worst findings are about.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    ranked = sorted(examination.counted, key=by_severity)
    subjects = dict.fromkeys(name for each in ranked for name in _subject_tensors(each, checkpoint))
    tensors = {name: checkpoint.by_name[name] for name in subjects if name in checkpoint.by_name}
    drawable = [name for name, tensor in tensors.items() if _has_distribution(tensor)]
    drawn = {name: tensors[name].histogram for name in drawable[:MOST_HISTOGRAMS]}
    records = (replace(each, histogram=drawn.get(each.name)) for each in examination.tensors)
    return replace(examination, tensors=tuple(records))


def _has_distribution(tensor: Tensor) -> bool:
    """True where a histogram would show more than one number, and takes no longer than it is worth."""
    return tensor.size <= LARGEST_DRAWN and tensor.statistics.minimum != tensor.statistics.maximum


def _subject_tensors(finding: Finding, checkpoint: Checkpoint) -> list[str]:
    """Return the tensor that a finding is about, or the weight of the layer that it is about."""
    if finding.tensor is not None:
        return [finding.tensor]
    layer = checkpoint.layer_by_name.get(finding.layer or "")
    weight = (layer.weight or layer.tensors.get("weight_ih")) if layer else None
    return [weight.name] if weight else []


def unreadable(path: str, error: UnreadableCheckpoint) -> Examination:
    """Return the examination of a checkpoint that cannot be opened or read to its end."""
    return Examination(path=path, format=None, verdict=Verdict.UNREADABLE, error=error.message, hint=error.hint)


def measure_checkpoint(
    checkpoint: Checkpoint, jobs: int | None = None, on_measured: MeasuredCallback | None = None
) -> None:
    """Compute the statistics of every tensor and verify every checksum, on several cores where that pays.

    ``on_measured`` is called from this thread.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    tensors = checkpoint.distinct_tensors
    work: list[tuple[int, object, str]] = [(tensor.size, tensor, "statistics") for tensor in tensors]
    work += [
        (sum(tensor.size for tensor in moments.state.values()), moments, "statistics")
        for optimizer in checkpoint.optimizers
        for moments in optimizer.parameters
    ]
    # A remote file is read from front to back in one request, unless the user asks for several at a time.
    is_remote = is_address(checkpoint.path)
    if not is_remote:
        work.sort(key=lambda task: -task[0])
    # Checksums come last: those of bytes that the passes above read from front to back are known by then.
    work += [(0, check, "flaw") for check in checkpoint.checksums]
    total, done = sum(size for size, _, _ in work), 0
    jobs = jobs or (1 if is_remote else os.cpu_count()) or 1
    if jobs < 2 or total < SMALL_CHECKPOINT:
        for _, subject, figure in work:
            getattr(subject, figure)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(jobs) as pool:
        futures = [(size, pool.submit(getattr, subject, figure)) for size, subject, figure in work]
        try:
            for size, future in futures:
                future.result()
                done += size
                if on_measured:
                    on_measured(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_rules(checkpoint: Checkpoint, catalogue: Catalogue, settings: Settings) -> Examination:
    """Run every selected rule on an opened checkpoint, and ask the causes what explains the findings.

    A rule or a cause that crashes becomes a finding, and the others go on.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor that a rule needs cannot be read.
    """
    import numpy as np

    findings: list[Finding] = []
    asked = [rule for rule in catalogue.rules if rule.examines_checkpoints and settings.selects(rule)]
    # What is reckoned with damaged numbers overflows or is NaN, and the rules go on from there.
    with np.errstate(all="ignore"):
        for rule in asked:
            try:
                found = list(rule.examine(checkpoint, settings.options(rule)))
            except (UnreadableCheckpoint, KeyboardInterrupt):
                raise
            except BaseException as error:  # a rule may even call sys.exit
                findings.append(settings.judge(report_crash(rule, error), checkpoint.path))
                continue
            judged_by = checkpoint.path, rule.severity
            findings += [settings.judge(_with_layer(each, checkpoint), *judged_by) for each in found]
        if not checkpoint.is_patchable:
            findings = [replace(each, fix=None) for each in findings]
        claims, crashes = collect_claims(checkpoint, findings, catalogue.causes)
    findings += [settings.judge(each, checkpoint.path) for each in crashes]
    findings.sort(key=by_severity)
    chosen = choose_diagnoses(claims, findings, with_preview=settings.preview)
    diagnoses, judged = settings.judge_diagnoses(chosen, findings, checkpoint.path)
    return Examination(
        path=checkpoint.path,
        format=checkpoint.format,
        verdict=judge(judged, diagnoses),
        algorithm=checkpoint.algorithm,
        step=checkpoint.step,
        versions=checkpoint.versions,
        hyperparameters=checkpoint.hyperparameters,
        layers=len(checkpoint.layers),
        tensors=tuple(_record(tensor, checkpoint) for tensor in checkpoint.tensors),
        findings=judged,
        diagnoses=diagnoses,
        skipped=checkpoint.skipped,
        parts=checkpoint.files,
        layout=checkpoint.layout,
        resumption=find_resumption(checkpoint, judged),
        asked=tuple(rule.code for rule in asked),
        content=str(checkpoint.metadata.get("content", "")),
    )


def _with_layer(finding: Finding, checkpoint: Checkpoint) -> Finding:
    if finding.layer is None and finding.tensor is not None and finding.tensor in checkpoint.layer_of:
        return replace(finding, layer=checkpoint.layer_of[finding.tensor].name)
    return finding


def _record(tensor: Tensor, checkpoint: Checkpoint) -> TensorRecord:
    statistics, layer = tensor.statistics, checkpoint.layer_of[tensor.name]
    is_weight = tensor is layer.weight or tensor is layer.tensors.get("weight_ih")
    signal = checkpoint.signals[layer.name] if is_weight else LayerSignal()
    return TensorRecord(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        kind=layer.kind.value,
        layer=layer.name,
        updates=checkpoint.updates_of(tensor.name),
        zeros=statistics.zeros,
        nonfinite=statistics.nonfinite,
        minimum=statistics.minimum,
        maximum=statistics.maximum,
        mean=statistics.mean,
        std=statistics.std,
        norm=statistics.norm,
        input_rms=signal.input_rms,
        gradient_rms=signal.gradient_rms,
        update_ratio=signal.update_ratio,
        tied_to=checkpoint.aliases.get(tensor.name),
    )
