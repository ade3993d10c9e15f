"""``compare``: put the checkpoints of a run in order, and find what changed and when that began. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.acts.scan import Progress, ProgressCallback, find_checkpoints, within_file
from checkpoint_doctor.checkpoint import Checkpoint, Series, Skipped
from checkpoint_doctor.checkpoint.series_builder import (
    SeriesBuilder,
    compare_neighbours,
    count_updates,
    describe_point,
    outline_tensors,
)
from checkpoint_doctor.checkpoint.series_figures import measure_point
from checkpoint_doctor.checkpoint.series_order import Heading, describe_difference, group_runs, order_run
from checkpoint_doctor.config.asked import Silence, find_asked
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UnknownFormat, UnreadableCheckpoint, UsageError
from checkpoint_doctor.examination.measuring import measure_checkpoint
from checkpoint_doctor.examination.rules import run_rules, with_ranges
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import discover_working, open_checkpoint
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.json_reading import read_json
from checkpoint_doctor.results.report import Examination, Verdict
from checkpoint_doctor.results.series_reading import figures_of, head_examination, outlines_of, point_of
from checkpoint_doctor.results.series_records import Kept, keep, record_series
from checkpoint_doctor.results.series_report import PointRecord, SeriesRecord, SeriesReport
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.search import Uris, list_uris
from checkpoint_doctor.text import quantity

REPORT = ".json"
"""Ending of the files that are earlier reports and stand in for their checkpoints."""


def compare(
    uris: Uris,
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    jobs: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> SeriesReport:
    """Compare the checkpoints of runs, in the order of training.

    Two checkpoints are open at a time, and a few numbers of each tensor are kept of every one.

    Args:
        uris: files, folders that are one checkpoint or are searched for checkpoints, globs, and earlier reports
            (``.json``) of ``ckdoc scan``, which stand in for their checkpoints.
        catalogue: the plugins to use, by default all that are installed.
        config: which rules to run and what to hide, by default nothing is hidden.
        jobs: threads, by default one per core.
        on_progress: called before each checkpoint and while it is measured.

    Raises:
        NothingToExamine: there are no two checkpoints that can be compared, and all of them could be read.
        UsageError: the configuration does not fit the rules that are installed, or leaves no rule to run.
    """
    catalogue, config = catalogue or discover_working(), config or Config()
    silence = Silence(config, catalogue.rules, Checkpoint, Series)
    comparison = _Comparison(catalogue, config, jobs, on_progress, silence)
    comparison.open_all(list_uris(uris))
    return comparison.finish()


class _Comparison(Struct):
    catalogue: Catalogue
    config: Config
    jobs: int | None
    on_progress: ProgressCallback | None
    silence: Silence
    headings: list[Heading] = field(default_factory=list)
    reports: dict[Heading, Examination] = field(default_factory=dict)
    """The examinations that stand in for their checkpoints."""
    unreadable: list[Examination] = field(default_factory=list)
    left_out: list[Skipped] = field(default_factory=list)
    passed_over: list[Skipped] = field(default_factory=list)
    unsearched: list[Unsearched] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    """The files of the checkpoints that are folders."""
    done: int = 0

    def open_all(self, uris: Sequence[str]) -> None:
        """Read the headers of everything that the URIs lead to."""
        reports = [uri for uri in uris if uri.lower().endswith(REPORT) and os.path.isfile(uri)]
        for path in dict.fromkeys(reports):
            self._read_report(path)
        known: dict[tuple[int, int] | str, str] = {}
        named = [uri for uri in uris if uri not in reports]
        for number, uri in enumerate(named):
            if uri in named[:number] and not os.path.isdir(uri):
                self.left_out.append(Skipped(uri, "it is named twice"))
        for uri in dict.fromkeys(uri for uri in reports if reports.count(uri) > 1):
            self.left_out.append(Skipped(uri, "it is named twice"))
        if not named:
            return
        found = find_checkpoints(list(dict.fromkeys(named)), self.catalogue, self.config)
        self.unsearched += found.unsearched
        for candidate in found.candidates:
            identity = _identify(candidate.path)
            if identity in known:
                self.left_out.append(Skipped(candidate.path, f"it is the same file as {known[identity]}"))
                continue
            known[identity] = candidate.path
            try:
                self.headings.append(self._head(candidate.path, named=candidate.named))
            except (NotACheckpoint, UnknownFormat) as error:
                if candidate.named:
                    self._note_unreadable(candidate.path, error)
                elif isinstance(error, UnknownFormat) and not candidate.is_expected:
                    self.unsearched.append(Unsearched(candidate.path, error.what))
                else:
                    why = error.message.removeprefix(f"{candidate.path} ")
                    self.passed_over.append(Skipped(candidate.path, why))
            except UnreadableCheckpoint as error:
                self._note_unreadable(candidate.path, error)
        for heading in [each for each in self.reports if _identify(each.path) in known]:
            self.headings.remove(heading)
            self.left_out.append(Skipped(heading.path, "its report is not needed: the checkpoint itself is here"))

    def _read_report(self, path: str) -> None:
        try:
            with open(path, "rb") as stream:
                examinations = read_json(stream.read()).checkpoints
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self._note_unreadable(path, UnreadableCheckpoint(f"cannot open {path}: {reason}"))
            return
        except UsageError as error:
            self._note_unreadable(path, UnreadableCheckpoint(f"{path}: {error.message}", error.hint))
            return
        for examination in examinations:
            if examination.is_unreadable:
                self.unreadable.append(examination)
            elif not examination.tensors:
                self.passed_over.append(Skipped(examination.path, "its report holds no tensors"))
            else:
                heading = head_examination(examination)
                self.headings.append(heading)
                self.reports[heading] = examination
        if not examinations:
            self.passed_over.append(Skipped(path, "is a report on no checkpoint"))

    def _head(self, path: str, *, named: bool) -> Heading:
        checkpoint = open_checkpoint(path, self.catalogue)
        self.parts += [os.path.join(path, part.file) for part in checkpoint.files]
        if not checkpoint.tensors or (checkpoint.metadata.get("content") and not checkpoint.optimizers):
            other = checkpoint.metadata.get("content") or "holds no tensor to compare"
            raise NotACheckpoint(f"{path} {other}", "name the file that holds the state dict")
        return Heading(
            path=path,
            shapes={tensor.name: tensor.shape for tensor in checkpoint.distinct_tensors},
            named=named,
            algorithm=checkpoint.algorithm,
            step=checkpoint.step,
            updates=count_updates(checkpoint),
            counters=checkpoint.counters,
        )

    def _note_unreadable(self, path: str, error: UnreadableCheckpoint) -> None:
        self.unreadable.append(
            Examination(path=path, format=None, verdict=Verdict.UNREADABLE, error=error.message, hint=error.hint)
        )

    def finish(self) -> SeriesReport:
        """Compare what was opened, and return the report."""
        paths = [heading.path for heading in self.headings]
        asked = find_asked(paths or [""], self.config, self.catalogue.rules, Checkpoint, Series)
        records = [record for run in self._choose_runs() for record in self._examine_run(run)]
        if not records and not self.unreadable and all(each.on_purpose for each in self.unsearched):
            raise self._nothing()
        if records:
            records[0] = replace(records[0], unreadable=tuple(self.unreadable), left_out=tuple(self.left_out))
        return SeriesReport(
            series=tuple(records),
            rules=len(asked),
            fail_on=self.config.fail_on,
            unreadable=tuple(self.unreadable),
            left_out=tuple(self.left_out),
            passed_over=tuple(self.passed_over),
            unsearched=tuple(self.unsearched),
            parts=tuple(self.parts),
            remarks=tuple(self.config.general.judge(each, "") for each in self.catalogue.left_out),
            configuration=self.silence.describe(),
        )

    def _choose_runs(self) -> list[list[Heading]]:
        """Return the runs of two and more checkpoints; the others are left out by name.

        Two checkpoints that are all there is are a run if they share any tensor.
        """
        runs = group_runs(self.headings)
        if len(self.headings) == 2 and len(runs) == 2:
            one, other = self.headings
            if one.shapes.items() & other.shapes.items():
                return [self.headings]
        chosen = [run for run in runs if len(run) > 1]
        for run in runs:
            if len(run) == 1 and len(self.headings) > 1:
                self.left_out.append(Skipped(run[0].path, self._why_alone(run[0], chosen)))
        return chosen

    def _why_alone(self, heading: Heading, chosen: Sequence[Sequence[Heading]]) -> str:
        others = chosen[0][0] if chosen else next(each for each in self.headings if each is not heading)
        if heading.shapes == others.shapes:
            return "it is the only checkpoint in its folder, and there are several runs like it"
        whose = "the others" if chosen else others.path
        return f"it is of another architecture than {whose}: {describe_difference(heading.shapes, others.shapes)}"

    def _nothing(self) -> NothingToExamine:
        if len(self.headings) == 1:
            twice = f": {self.left_out[0].what} is left out, because {self.left_out[0].why}" if self.left_out else ""
            return NothingToExamine(
                f"there is one checkpoint, {self.headings[0].path}, and comparing takes two{twice}",
                "name two or more checkpoints of a run, or their folder; `ckdoc scan` examines one",
            )
        if not self.headings:
            return NothingToExamine("there is no checkpoint to compare", "name those of a run, or their folder")
        first = self.left_out[0]
        return NothingToExamine(
            f"no two of {quantity(len(self.headings), 'checkpoint')} can be compared: {first.what} is left out, "
            f"because {first.why}",
            "name checkpoints of the same model",
        )

    def _examine_run(self, run: Sequence[Heading]) -> Iterable[SeriesRecord]:
        ordered, ordered_by, remarks = order_run(run)
        builder, kept = SeriesBuilder(), list[PointRecord]()
        last: Kept | None = None
        previous: Checkpoint | None = None
        for heading in ordered:
            self.done += 1
            try:
                opened, last_or_same = self._examine_point(heading, previous, builder)
            except UnreadableCheckpoint as error:
                self._note_unreadable(heading.path, error)
                continue
            if isinstance(last_or_same, Kept):
                last, previous = last_or_same, opened
                kept.append(last.record)
            else:
                self.left_out.append(last_or_same)
        if last is None or len(kept) < 2:
            return
        series = builder.build(ordered_by)
        if any(heading in self.reports for heading in ordered):
            remarks = [*remarks, "figures from reports do not say what changed between neighbours"]
        is_run = series.is_connected or len(kept) == 2
        trends = run_trend_rules(series, self.catalogue, self.config) if is_run else []
        self.silence.see_hidden(trends)
        if not series.is_connected:
            remarks = [*remarks, "nothing of one checkpoint is left in the next: they may be of different runs"]
        record = record_series(series, kept, last.findings, trends)
        appeared, vanished = _list_new(ordered[0].shapes, ordered[-1].shapes)
        yield replace(record, remarks=tuple(remarks), appeared=appeared, vanished=vanished)

    def _examine_point(
        self, heading: Heading, previous: Checkpoint | None, builder: SeriesBuilder
    ) -> tuple[Checkpoint | None, Kept | Skipped]:
        """Add one checkpoint to a series, unless it is the same as the one before it.

        Raises:
            UnreadableCheckpoint: it cannot be read to its end.
        """
        if (report := self.reports.get(heading)) is not None:
            point = point_of(report)
            builder.add(point, outlines_of(report), figures_of(report))
            return None, keep(report, point)
        path, count = heading.path, len(self.headings)
        if self.on_progress:
            self.on_progress(Progress(path, self.done, count, 0, 0))
        settings = self.config.for_path(path)
        checkpoint = with_ranges(open_checkpoint(path, self.catalogue), settings)
        measure_checkpoint(checkpoint, self.jobs, within_file(self.on_progress, path, self.done, count))
        measured = measure_point(checkpoint)
        if previous is not None:
            measured = compare_neighbours(previous, checkpoint, measured)
            if checkpoint.step == previous.step and builder.repeats(measured):
                return None, Skipped(path, f"it holds the same values as {previous.path}")
        point = describe_point(checkpoint)
        examination = run_rules(checkpoint, self.catalogue, settings)
        self.silence.see(examination)
        builder.add(point, outline_tensors(checkpoint), measured)
        return checkpoint, keep(examination, point)


def run_trend_rules(series: Series, catalogue: Catalogue, config: Config) -> list[Finding]:
    """Run every selected rule about series; one that crashes becomes a finding, and the others go on."""
    import numpy as np

    settings, findings = config.general, list[Finding]()
    with np.errstate(all="ignore"):
        for rule in catalogue.rules:
            if rule.on is not Series or not settings.selects(rule):
                continue
            try:
                found = list(rule.examine(series, settings.options(rule)))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a rule may even call sys.exit
                findings.append(report_crash(rule, error))
                continue
            layers = {tensor.name: tensor.layer for tensor in series.tensors}
            for each in found:
                path = str(each.evidence.get("onset_path", ""))
                judged = config.for_path(path).judge(each, path, rule.severity)
                findings.append(replace(judged, layer=judged.layer or layers.get(judged.tensor or "")))
    return findings


def _identify(path: str) -> tuple[int, int] | str:
    try:
        status = os.stat(path)
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _list_new(first: Mapping[str, object], last: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tensors that only the last checkpoint has, and those that only the first has, in that shape."""
    appeared = tuple(name for name, shape in last.items() if first.get(name) != shape)
    vanished = tuple(name for name, shape in first.items() if last.get(name) != shape)
    return appeared, vanished
