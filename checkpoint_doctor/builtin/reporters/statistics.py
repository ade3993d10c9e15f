"""How often each cause and each rule spoke, for a first look at many checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import BinaryIO

from checkpoint_doctor.builtin.reporters._wording import one_line
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Examination, Page, Report
from checkpoint_doctor.text import quantity


class _Count:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def add(self, examination: Examination) -> None:
        """Write nothing: the totals of the run are counted anyway."""

    def finish(self, report: Report) -> None:
        """Write the lines."""
        self._stream.write(reporter.render(report, (), Page()).encode())


class StatisticsReporter:
    """Counts diagnoses by cause, and findings that no diagnosis explains by rule; the page makes no difference."""

    is_binary = False

    def open_stream(self, stream: BinaryIO, rules: Sequence[Rule], page: Page) -> _Count:
        """Return what waits for the end of the run."""
        return _Count(stream)

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return a line for each cause and rule with the number of checkpoints it spoke of, the most frequent first."""
        counts, holders = Counter(report.totals.spoken), report.totals.holders
        counts.update((each.severity, each.title) for each in report.remarks if each.ignored is None)
        for each in report.unsearched:
            severity = Severity.NOTE if each.on_purpose else Severity.ERROR
            counts[severity, f"not searched ({one_line(each.why)})"] += 1
        order = sorted(counts, key=lambda key: (-key[0], -counts[key], key[1]))
        width = max((len(f"{count:,}") for count in counts.values()), default=0)
        lines = "".join(
            f"{counts[key]:>{width},} {key[0].label:<7} {key[1]}"
            + (f" in {quantity(holders[key], 'checkpoint')}\n" if key in holders else "\n")
            for key in order
        )
        return lines + (f"{one_line(report.configuration)}\n" if report.configuration else "")


reporter = StatisticsReporter()
