"""How often each cause and each rule spoke, for a first look at many checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.reporters._wording import one_line, title_of
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Page, Report
from checkpoint_doctor.text import quantity


class StatisticsReporter:
    """Counts diagnoses by cause, and findings that no diagnosis explains by rule; the page makes no difference."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return a line for each cause and rule with the number of checkpoints it spoke of, the most frequent first."""
        counts: Counter[tuple[Severity, str]] = Counter()
        holders: dict[tuple[Severity, str], set[int]] = {}
        for position, examination in enumerate(report.checkpoints):
            keys = [(alert.severity, title_of(alert)) for alert in (*examination.alerts, *examination.in_preview)]
            for key in keys or ([(Severity.ERROR, "unreadable")] if examination.is_unreadable else []):
                counts[key] += 1
                holders.setdefault(key, set()).add(position)
        counts.update((each.severity, each.title) for each in report.remarks if each.ignored is None)
        for each in report.unsearched:
            severity = Severity.NOTE if each.on_purpose else Severity.ERROR
            counts[severity, f"not searched ({one_line(each.why)})"] += 1
        order = sorted(counts, key=lambda key: (-key[0], -counts[key], key[1]))
        width = max((len(f"{count:,}") for count in counts.values()), default=0)
        lines = "".join(
            f"{counts[key]:>{width},} {key[0].label:<7} {key[1]}"
            + (f" in {quantity(len(holders[key]), 'checkpoint')}\n" if key in holders else "\n")
            for key in order
        )
        return lines + (f"{one_line(report.configuration)}\n" if report.configuration else "")


reporter = StatisticsReporter()
