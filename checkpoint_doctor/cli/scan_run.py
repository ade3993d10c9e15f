"""A run of ``ckdoc scan``, from its candidates to its reports: streamed, where all of its formats can be."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from checkpoint_doctor.cli.output import is_terminal, remark
from checkpoint_doctor.cli.outputs import ExistingOutputs, write
from checkpoint_doctor.cli.progress import show_progress
from checkpoint_doctor.cli.reports import deliver, draw, make_page
from checkpoint_doctor.cli.streaming import StreamedOutputs, Target, is_streamed, open_outputs
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.sources.traces import trace
from checkpoint_doctor.text import quantity

if TYPE_CHECKING:
    from checkpoint_doctor.acts.log import LogsBeside
    from checkpoint_doctor.config.settings import Config
    from checkpoint_doctor.examination.earlier import EarlierResults
    from checkpoint_doctor.results.baseline import Baseline, EntryUse
    from checkpoint_doctor.results.report import Examination, Report
    from checkpoint_doctor.results.totals import Totals

RESULTS = ("json", "jsonl")
"""The formats whose entries a later run can carry over."""


class Run:
    """What one call of ``ckdoc scan`` examines, and what is written of it."""

    def __init__(
        self,
        uris: Sequence[str],
        catalogue: Catalogue,
        config: Config,
        targets: Sequence[Target],
        *,
        known: Baseline | None,
        write_baseline: str,
        earlier: EarlierResults | None,
        page: Mapping[str, bool],
        jobs: int | None,
        engine: str | None,
        skip_foreign: bool,
    ) -> None:
        self._uris = uris
        self._catalogue = catalogue
        self._config = config
        self._streamed = [each for each in targets if is_streamed(each[0], catalogue)]
        self._rendered = [each for each in targets if each not in self._streamed]
        self._baseline_use = _use(known) if known else None
        self._write_baseline = write_baseline
        self._earlier = earlier
        self._page = page
        self._options: dict[str, Any] = {"jobs": jobs, "engine": engine, "skip_foreign": skip_foreign}
        self._existing = ExistingOutputs([*(path for _, path in targets), write_baseline])

    def carry_out(self, *, quiet: bool) -> Report:
        """Examine every checkpoint, write every report, and return what there is to say in the end.

        Raises:
            NothingToExamine: there is no checkpoint to look at.
            ReaderGone: the reader of standard output has closed it.
            UsageError: the configuration leaves no rule to run, or an output cannot be written or is an input.
        """
        from checkpoint_doctor.acts.scan import Scan

        targets = [*self._streamed, *self._rendered]
        scan = Scan(
            self._uris,
            catalogue=self._catalogue,
            config=self._config,
            earlier=self._earlier,
            histograms=any(_draws_histograms(name, self._catalogue) for name, _ in targets),
            with_settings=self._page["settings"],
            asked_of=self._digest_catalogue() if any(name in RESULTS for name, _ in targets) or self._earlier else "",
            **self._options,
        )
        # Lines that are printed as they come would be drawn over by the bar.
        prints_lines = any(not path for _, path in self._streamed) and is_terminal(sys.stdout)
        with open_outputs(self._streamed, self._catalogue, self._earlier) as outputs:
            with show_progress(quiet=quiet or prints_lines) as on_progress:
                held, totals = self._examine_all(scan.examine_all(on_progress), outputs)
            report = scan.conclude(tuple(held), totals)
            if self._baseline_use:
                report = self._remark_stale(self._baseline_use, report)
            self._existing.refuse(each.what for each in report.passed_over)
            self._deliver(report, outputs, quiet=quiet)
        return report

    def _examine_all(
        self, examinations: Iterator[Examination], outputs: StreamedOutputs
    ) -> tuple[list[Examination], Totals]:
        """Write and count each examination, and return those that a report needs all at once, with the totals."""
        from checkpoint_doctor.results.totals import Totals

        held: list[Examination] = []
        totals = Totals()
        logs: LogsBeside | None = None
        is_held = bool(self._rendered or self._write_baseline)
        with trace() as read:
            for examination in examinations:
                if examination.diagnoses:
                    if logs is None:
                        from checkpoint_doctor.acts.log import LogsBeside

                        logs = LogsBeside(self._catalogue, self._config)
                    examination = logs.take_up(examination)
                if self._baseline_use:
                    examination = self._baseline_use.hide_known(examination)
                self._existing.refuse(examination.files)
                self._existing.refuse_read(read.files)
                read.clear()
                totals.add(examination)
                outputs.add(examination, is_last_use=not is_held)
                if is_held:
                    held.append(examination)
        return held, totals

    def _deliver(self, report: Report, outputs: StreamedOutputs, *, quiet: bool) -> None:
        """Write what is written at the end. Files come first: nobody may be there to read standard output."""
        if self._write_baseline:
            _write_baseline(report, self._write_baseline, quiet=quiet)
        for name, path in self._rendered:
            if path:
                deliver(self._render(report, name, to_file=True), name, path)
        outputs.finish(report)
        for name, path in self._rendered:
            if not path:
                deliver(self._render(report, name, to_file=False), name, path)

    def _render(self, report: Report, name: str, *, to_file: bool) -> str:
        page = make_page(to_file=to_file, **self._page)
        reporter = self._catalogue.reporters[name]
        return draw(name, lambda: reporter.render(report, self._catalogue.rules, page))

    def _remark_stale(self, use: EntryUse, report: Report) -> Report:
        from checkpoint_doctor.config.unused import remark_stale

        stale = remark_stale(use, self._config, self._catalogue.rules, self._catalogue.causes)
        return replace(report, remarks=(*report.remarks, *stale))

    def _digest_catalogue(self) -> str:
        from checkpoint_doctor.examination.candidates import digest_catalogue

        return digest_catalogue(self._catalogue)


def _write_baseline(report: Report, file: str, *, quiet: bool) -> None:
    import json

    from checkpoint_doctor.results.baseline import write_baseline

    text = write_baseline(report, file)
    write(text, file)
    if not quiet:
        count = len(json.loads(text)["findings"])
        remark(f"wrote a baseline with {quantity(count, 'entry', 'entries')} to {file}")


def _use(known: Baseline) -> EntryUse:
    from checkpoint_doctor.results.baseline import EntryUse

    return EntryUse(known)


def _draws_histograms(name: str, catalogue: Catalogue) -> bool:
    """Return whether the reports of a format draw how the values of ill tensors are distributed."""
    from checkpoint_doctor.plugins.protocols import HistogramReporter

    reporter = catalogue.reporters[name]
    return isinstance(reporter, HistogramReporter) and reporter.draws_histograms
