"""The use case: open checkpoints, measure them, ask every rule, and report. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from checkpoint_doctor.checkpoint import Checkpoint, Skipped, Tensor
from checkpoint_doctor.config.settings import Config, Settings
from checkpoint_doctor.config.unused import remark_unused_ignores
from checkpoint_doctor.errors import DoctorError, NotACheckpoint, NothingToExamine, UnreadableCheckpoint, UsageError
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.report import Examination, Report, TensorRecord, Verdict, judge
from checkpoint_doctor.sources import FileSource, Source

SMALL_CHECKPOINT = 8 << 20
"""Elements below which threads are not worth their start: a pool takes 0.7 ms once its modules are loaded, a
core measures a MiB in 0.2 ms (measured)."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    path: str
    """The checkpoint being examined."""
    number: int
    """Its place among the candidates, from 1."""
    of: int
    measured: int
    """Numbers measured in it so far."""
    total: int
    """Numbers to measure in it; 0 before it is opened."""


ProgressCallback = Callable[[Progress], None]
"""Told how far the run has come; must return quickly."""


@dataclass(frozen=True)
class Candidate:
    """A path to examine, and whether it was named or found by a search."""

    path: str
    named: bool


def open_checkpoint(path: str | os.PathLike[str], catalogue: Catalogue | None = None) -> Checkpoint:
    """Open a checkpoint with the loader that recognizes its content. Nothing in it is executed.

    Raises:
        UnreadableCheckpoint: the file cannot be opened; the message says what it is and what to do.
    """
    source = FileSource(os.fspath(path))
    passed_over: list[Skipped] = []
    for loader in (catalogue or _discover_whole()).loaders:
        try:
            recognized = loader.recognizes(source)
        except Exception as error:  # a loader that breaks its word must not keep the others from theirs
            why = f"could not say whether it reads the file: {_name(error)}"
            passed_over.append(Skipped(f"the loader {loader.name}", why))
            continue
        if recognized:
            opened = _open(loader, source)
            return replace(opened, path=os.fspath(path), skipped=(*opened.skipped, *passed_over))
    raise NotACheckpoint(f"{path} is of no format that an installed loader recognizes", "see `ckdoc plugins`")


def _open(loader: Loader, source: Source) -> Checkpoint:
    try:
        return loader.open(source)
    except DoctorError:
        raise
    except Exception as error:
        raise UnreadableCheckpoint(
            f"the loader {loader.name} failed on {source.name} with {_name(error)}",
            "this is a fault of the loader and not of the file: report it, please; `ckdoc plugins` names its package",
        ) from error


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _discover_whole() -> Catalogue:
    catalogue = discover()
    refuse_broken_parts(catalogue)
    return catalogue


def refuse_broken_parts(catalogue: Catalogue) -> None:
    """Make sure that all of ckdoc itself works; what is broken about strangers' plugins is left to be told.

    Raises:
        UsageError: a part of ckdoc itself is broken, so that silence would prove nothing.
    """
    for plugin in catalogue.broken:
        if plugin.is_ours:
            raise UsageError(f"ckdoc's own {plugin.name} is broken: {plugin.problem}", "install checkpoint-doctor anew")


def find_checkpoints(uris: Sequence[str], catalogue: Catalogue) -> list[Candidate]:
    """Expand files, folders and globs to the checkpoints to examine, each once, in a stable order.

    Raises:
        NothingToExamine: a folder or glob holds no file that could be a checkpoint.
        UnreadableCheckpoint: a named path does not exist.
    """
    suffixes = tuple({suffix for loader in catalogue.loaders for suffix in loader.suffixes})
    found: dict[str, Candidate] = {}
    for uri in uris:
        for candidate in _expand(uri, suffixes):
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
        index = [name for name in files if name.endswith(".safetensors.index.json")]
        for name in sorted(files):
            # The shards of an index are examined through it, as the one model that they are.
            if name.endswith(suffixes) and not (index and name.endswith(".safetensors") and name not in index):
                yield Candidate(os.path.join(root, name), named=False)


def examine(
    path: str,
    catalogue: Catalogue,
    settings: Settings,
    *,
    jobs: int = 1,
    measured: Callable[[int, int], None] | None = None,
) -> Examination:
    """Examine one checkpoint: open it, measure it, ask every selected rule.

    A checkpoint that cannot be opened or read to its end is an examination too, with the verdict ``UNREADABLE``.
    """
    try:
        checkpoint = open_checkpoint(path, catalogue)
        warm_up(checkpoint, jobs, measured)
    except NotACheckpoint:
        raise
    except UnreadableCheckpoint as error:
        return Examination(path=path, format=None, verdict=Verdict.UNREADABLE, error=error.message, hint=error.hint)
    examination = diagnose(checkpoint, catalogue, settings)
    if not checkpoint.tensors and examination.verdict is not Verdict.ILL:
        why = f" ({checkpoint.skipped[0].why})" if checkpoint.skipped else ""
        raise NotACheckpoint(f"{path} holds no tensor to examine{why}", "name the file that holds the state dict")
    return examination


def warm_up(checkpoint: Checkpoint, jobs: int, measured: Callable[[int, int], None] | None = None) -> None:
    """Take the statistics of every tensor and verify every checksum, on several cores where that pays.

    ``measured`` is told the numbers measured so far and in all, from this thread.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor cannot be read.
    """
    _measure(checkpoint, jobs, measured)
    for name, first in checkpoint.aliases.items():
        vars(checkpoint.by_name[name])["statistics"] = checkpoint.by_name[first].statistics


def _measure(checkpoint: Checkpoint, jobs: int, measured: Callable[[int, int], None] | None) -> None:
    work: list[tuple[int, object, str]] = [
        (tensor.size, tensor, "statistics") for tensor in checkpoint.distinct_tensors
    ]
    work += [
        (sum(tensor.size for tensor in moments.state.values()), moments, "statistics")
        for optimizer in checkpoint.optimizers
        for moments in optimizer.parameters
    ]
    work.sort(key=lambda task: -task[0])
    # Checksums come last: of bytes that the passes above have read from front to back they are known by then.
    work += [(0, check, "flaw") for check in checkpoint.checksums]
    total, done = sum(size for size, _, _ in work), 0
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
                if measured:
                    measured(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def diagnose(checkpoint: Checkpoint, catalogue: Catalogue, settings: Settings) -> Examination:
    """Ask every selected rule about an opened checkpoint."""
    findings = []
    for rule in catalogue.rules:
        if not settings.selects(rule):
            continue
        try:
            found = list(rule.examine(checkpoint, settings.options(rule)))
        except UnreadableCheckpoint as error:
            return Examination(
                path=checkpoint.path, format=checkpoint.format, verdict=Verdict.UNREADABLE, error=error.message,
                hint=error.hint,
            )  # fmt: skip
        except Exception as error:
            found = [report_crash(rule, error)]
        findings += [settings.judge(_place(each, checkpoint), checkpoint.path) for each in found]
    findings.sort(key=lambda finding: (-finding.severity, finding.code))
    return Examination(
        path=checkpoint.path,
        format=checkpoint.format,
        verdict=judge(findings, settings.fail_on),
        algorithm=checkpoint.algorithm,
        step=checkpoint.step,
        versions=checkpoint.versions,
        hyperparameters=checkpoint.hyperparameters,
        layers=len(checkpoint.layers),
        tensors=tuple(_record(tensor, checkpoint) for tensor in checkpoint.tensors),
        findings=tuple(findings),
        skipped=checkpoint.skipped,
    )


def _place(finding: Finding, checkpoint: Checkpoint) -> Finding:
    if finding.layer is None and finding.tensor is not None and finding.tensor in checkpoint.layer_of:
        return replace(finding, layer=checkpoint.layer_of[finding.tensor].name)
    return finding


def _record(tensor: Tensor, checkpoint: Checkpoint) -> TensorRecord:
    statistics, layer = tensor.statistics, checkpoint.layer_of[tensor.name]
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
        tied_to=checkpoint.aliases.get(tensor.name),
    )


def scan(
    uris: Sequence[str | os.PathLike[str]],
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    jobs: int | None = None,
    on_progress: ProgressCallback | None = None,
    skip_foreign: bool = False,
) -> Report:
    """Examine every checkpoint that the URIs name or hold, and report.

    A sound file of another kind is unreadable where it was named, and passed over where a search came across it; with
    ``skip_foreign`` always, and a run that met nothing else is an empty report.

    Raises:
        NothingToExamine: there is no checkpoint to look at.
        UsageError: the configuration does not fit the rules that are installed.
    """
    catalogue = catalogue or _discover_whole()
    config = config or Config()
    candidates = find_checkpoints([os.fspath(uri) for uri in uris], catalogue)
    examinations = []
    for number, candidate in enumerate(candidates, 1):
        if on_progress:
            on_progress(Progress(candidate.path, number, len(candidates), 0, 0))
        try:
            examination = examine(
                candidate.path,
                catalogue,
                config.for_path(candidate.path),
                jobs=jobs or os.cpu_count() or 1,
                measured=tell(on_progress, candidate.path, number, len(candidates)),
            )
        except NotACheckpoint as error:
            if skip_foreign or not candidate.named:
                continue
            examination = Examination(
                path=candidate.path, format=None, verdict=Verdict.UNREADABLE, error=error.message, hint=error.hint
            )
        examinations.append(examination)
    if not examinations and not skip_foreign:
        raise NothingToExamine(f"none of {len(candidates)} files is a checkpoint", "name a file to hear what it is")
    report = Report(checkpoints=tuple(examinations), rules=len(catalogue.rules), fail_on=config.fail_on)
    return remark_unused_ignores(report, config, catalogue.rules)


def tell(on_progress: ProgressCallback | None, path: str, number: int, of: int) -> Callable[[int, int], None] | None:
    """Return what passes the progress within one file on to a on_progress, if there is one."""
    if on_progress is None:
        return None
    return lambda measured, total: on_progress(Progress(path, number, of, measured, total))
