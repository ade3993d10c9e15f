"""What a run found: the report on all checkpoints, and the page that a reporter draws it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.examination import (
    IN_BASELINE,
    PLUGIN_LEFT_OUT,
    RULE_CRASHED,
    Alert,
    Examination,
    TensorRecord,
    Verdict,
    judge,
    list_alerts,
)
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.totals import Totals, add_up
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.text import printable, quantity

__all__ = [
    "IN_BASELINE",
    "PLUGIN_LEFT_OUT",
    "RULE_CRASHED",
    "Alert",
    "Examination",
    "Page",
    "Report",
    "TensorRecord",
    "Verdict",
    "hidden_in_words",
    "judge",
    "list_alerts",
]


VALUES_NOT_READ = "values not read, since no selected rule asks for them"


class Report(Struct, frozen=True, dict=True):
    """What a run found in all its checkpoints."""

    checkpoints: tuple[Examination, ...]
    """One examination for each checkpoint, in the order of the run."""
    rules: int
    """How many rules were asked."""
    fail_on: Severity | None = Severity.ERROR
    """The lowest severity that fails the run; ``None`` where none does."""
    remarks: tuple[Finding, ...] = ()
    """Findings about the run and not about a checkpoint, such as an ignore that nothing needs any more."""
    passed_over: tuple[Skipped, ...] = ()
    """Files that a search came across and that are no checkpoints, and what they are."""
    unrecognized: Mapping[str, int] = field(default_factory=dict)
    """How many other files a search came across, by their ending: their first bytes are those of no checkpoint."""
    unsearched: tuple[Unsearched, ...] = ()
    """Files and folders that a search did not look at, and why."""
    asked: tuple[str, ...] | None = None
    """Codes of the rules that were asked about any checkpoint; ``None`` where that is not known."""
    configuration: str = ""
    """The configuration file that silences something, and what, in words; empty where none does."""
    carried_over: int = 0
    """How many of the examinations come from an earlier result, because nothing has changed since."""
    counted: Totals | None = None
    """What was counted in the checkpoints, where they were written out one by one and ``checkpoints`` is empty."""

    @cached_property
    def totals(self) -> Totals:
        """What there is to count in all checkpoints, whether they are kept or were only counted."""
        return self.counted or add_up(self.checkpoints)

    @property
    def files(self) -> Iterator[str]:
        """The checkpoints, the files of those that are folders, and what was passed over."""
        for examination in self.checkpoints:
            yield from examination.files
        yield from (each.what for each in self.passed_over)

    @property
    def findings(self) -> Sequence[Finding]:
        """All findings that count, in report order."""
        about_checkpoints = [finding for examination in self.checkpoints for finding in examination.counted]
        return about_checkpoints + [finding for finding in self.remarks if finding.ignored is None]

    @property
    def hidden(self) -> int:
        """How many findings were hidden by configuration or baseline."""
        return self.totals.hidden

    @property
    def known(self) -> int:
        """How many of the hidden findings the baseline hides."""
        return self.totals.known

    @property
    def diagnoses(self) -> Sequence[Diagnosis]:
        """All diagnoses that count, in report order."""
        return [each for examination in self.checkpoints for each in examination.diagnoses if each.counts]

    @property
    def alerts(self) -> Sequence[Alert]:
        """All diagnoses that count, and all findings that count and that no diagnosis explains."""
        about_checkpoints = [alert for examination in self.checkpoints for alert in examination.alerts]
        return about_checkpoints + [finding for finding in self.remarks if finding.ignored is None]

    def fails(self, alert: Alert) -> bool:
        """True for a diagnosis or a finding that counts and is at or above ``fail_on``."""
        return alert.counts and self._fails_at(alert.severity)

    def _fails_at(self, severity: Severity) -> bool:
        return self.fail_on is not None and severity >= self.fail_on

    @property
    def failed(self) -> bool:
        """True where a diagnosis, or a finding without one, fails the run.

        Unreadable checkpoints are not judged; see ``is_complete``.
        """
        return any(map(self._fails_at, self.totals.alerts)) or any(map(self.fails, self.remarks))

    @property
    def unreadable(self) -> int:
        """How many checkpoints could not be read."""
        return self.totals.verdicts["unreadable"]

    @property
    def crashes(self) -> int:
        """How many times a rule crashed."""
        return self.totals.crashes + sum(each.code == RULE_CRASHED for each in self.remarks)

    @property
    def left_out(self) -> Sequence[Finding]:
        """The remarks about loaders, rules and causes that are installed and broken."""
        return [remark for remark in self.remarks if remark.code == PLUGIN_LEFT_OUT]

    @property
    def is_complete(self) -> bool:
        """True where nothing was missed: every folder was searched, every checkpoint read, and every plugin there.

        Every rule that was run came to its end, too. What a search left out on purpose is no lack.
        """
        return not (self.unreadable or self.crashes or self.left_out or self.unlisted)

    @property
    def unlisted(self) -> int:
        """How many folders and patterns should have been searched and could not be."""
        return sum(not each.on_purpose for each in self.unsearched)

    @property
    def unlisted_in_words(self) -> Sequence[str]:
        """What could not be searched, as in ``1 folder or pattern could not be searched``; nothing where all could."""
        what = quantity(self.unlisted, "folder or pattern", "folders or patterns")
        return [f"{what} could not be searched"] if self.unlisted else []

    @property
    def others(self) -> int:
        """How many files a search came across that are no checkpoints."""
        return len(self.passed_over) + sum(self.unrecognized.values())

    @property
    def summary_line(self) -> str:
        """What was examined and found, as in ``32 tensors, 41 rules, 2 findings, 1 hidden by config``."""
        totals = self.totals
        several = totals.checkpoints != 1
        findings = totals.findings + sum(each.counts for each in self.remarks)
        return ", ".join(
            [
                *([f"{quantity(totals.checkpoints, 'checkpoint')}{totals.verdicts_in_words}"] if several else []),
                quantity(totals.tensors, "tensor"),
                quantity(self.rules, "rule"),
                quantity(findings, "finding"),
                *([quantity(totals.diagnoses, "diagnosis", "diagnoses")] if totals.diagnoses else []),
                *([f"{totals.in_preview:,} in preview"] if totals.in_preview else []),
                *hidden_in_words(self.hidden - self.known, self.known),
                *([f"{totals.unseen:,} not looked at"] if totals.unseen else []),
                *([f"{self.unreadable:,} unreadable"] if self.unreadable and not several else []),
                *([f"{self.carried_over:,} carried over"] if self.carried_over else []),
                *([f"{quantity(self.others, 'other file')} passed over"] if self.others else []),
                *(
                    [f"{len(self.unsearched) - self.unlisted:,} left out"]
                    if len(self.unsearched) > self.unlisted
                    else []
                ),
                *self.unlisted_in_words,
                *([quantity(self.crashes, "rule crash", "rule crashes")] if self.crashes else []),
                *([f"{quantity(len(self.left_out), 'plugin')} left out"] if self.left_out else []),
                *([VALUES_NOT_READ] if totals.unmeasured else []),
                *([printable(self.configuration)] if self.configuration else []),
            ]
        )


def hidden_in_words(configured: int, known: int) -> list[str]:
    """Return how many findings the configuration hides and how many a baseline, as in ``1 hidden by config``."""
    counts = {"hidden by config": configured, "hidden by the baseline": known}
    return [f"{count:,} {words}" for words, count in counts.items() if count]


class Page(Struct, frozen=True):
    """What a reporter is told about where its text goes."""

    width: int = 80
    """Columns."""
    color: bool = False
    """True where colours are wanted."""
    verbose: bool = False
    """True where all layers and hidden findings are shown."""
    settings: bool = False
    """True where all that is asked is what the settings are: a table per checkpoint."""
    resume: bool = False
    """True where all that is asked is whether each run resumes: one line per checkpoint."""
    ascii_only: bool = False
    """True where the output cannot show block characters."""
    tensors: tuple[str, ...] = ()
    """Patterns of the tensors that are shown of a series; all where there are none."""
