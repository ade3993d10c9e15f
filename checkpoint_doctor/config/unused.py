"""Exceptions that nothing needs any more: ignores that matched nothing, and baseline entries whose finding is gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from checkpoint_doctor.config.globs import match_path, should_match
from checkpoint_doctor.config.settings import Config, Ignore, Section
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.plugins.self_checks import report_unused, unused_ignore
from checkpoint_doctor.results.examination import Examination
from checkpoint_doctor.results.findings import Finding

if TYPE_CHECKING:
    from checkpoint_doctor.results.baseline import EntryUse


class IgnoreUse:
    """Which ignores of a configuration are needed in a run, gathered examination by examination."""

    def __init__(self, config: Config, rules: Sequence[Rule], causes: Sequence[Cause]) -> None:
        self._config = config
        self._rules = rules
        self._causes = {cause.name for cause in causes}
        self._ignores = [(section, ignore) for section in config.sections for ignore in section.ignores]
        self._run: set[int] = set()
        """Positions of the ignores that could have matched something."""
        self._used: set[int] = set()
        """Positions of those that did."""
        self._unmatched = {
            (position, pattern)
            for position, (section, ignore) in enumerate(self._ignores)
            for pattern in ignore.paths or filter(None, [section.path])
        }
        """Paths of ignores that no checkpoint has matched so far."""

    def see(self, examination: Examination) -> None:
        """Take in one more examination."""
        for position, pattern in list(self._unmatched):
            if match_path(pattern, examination.path, self._ignores[position][0].folder):
                self._unmatched.discard((position, pattern))
        if examination.is_unreadable:
            return
        for position, (section, ignore) in enumerate(self._ignores):
            if position not in self._used and section.reaches(ignore, examination.path):
                if position not in self._run and self._was_run(ignore, examination):
                    self._run.add(position)
                if _hides_any(section, ignore, examination):
                    self._used.add(position)

    def _was_run(self, ignore: Ignore, examination: Examination) -> bool:
        """True where a cause or a rule that an ignore is about was asked. Causes are always asked."""
        if not self._causes.isdisjoint(ignore.codes):
            return True
        settings = self._config.for_path(examination.path)
        return any(
            (rule.examines_checkpoints or rule.code in (examination.asked or ()))
            and ignore.concerns(rule.code, rule.name)
            and settings.selects(rule)
            for rule in self._rules
        )

    def remark_unused(self) -> list[Finding]:
        """Return a remark for every ignore that matched nothing, though it could have.

        An ignore is judged only where a rule it is about was run on a readable checkpoint it is about.
        """
        return _judge(
            self._config,
            (
                report_unused(
                    f"{ignore.key} ({', '.join(ignore.codes)}: {ignore.reason})",
                    section.origin,
                    {"key": ignore.key, "codes": list(ignore.codes)},
                )
                for position, (section, ignore) in enumerate(self._ignores)
                if position in self._run and position not in self._used
            ),
        )

    def remark_unmatched(self, searched: Sequence[str]) -> list[Finding]:
        """Return a remark for every path of an ignore that no checkpoint matches, though one should.

        One should where the path leads into one of the folders that were searched, or to a place that does not exist.
        Paths to places that were not part of the run are not judged.
        """
        return _judge(
            self._config,
            (
                report_unused(
                    f"the path {pattern!r} of {ignore.key} ({', '.join(ignore.codes)}: {ignore.reason})",
                    section.origin,
                    {"key": ignore.key, "codes": list(ignore.codes), "path": pattern},
                    "and may be mistyped",
                )
                for position, (section, ignore) in enumerate(self._ignores)
                for pattern in ignore.paths or filter(None, [section.path])
                if (position, pattern) in self._unmatched and should_match(pattern, section.folder, searched)
            ),
        )


def _hides_any(section: Section, ignore: Ignore, examination: Examination) -> bool:
    path, findings = examination.path, examination.findings
    return any(section.hides(ignore, finding, path) for finding in findings) or any(
        section.hides_diagnosis(ignore, diagnosis, findings, path) for diagnosis in examination.diagnoses
    )


def remark_stale(use: EntryUse, config: Config, rules: Sequence[Rule], causes: Sequence[Cause]) -> list[Finding]:
    """Return a remark for every entry of a baseline whose finding is gone; see ``EntryUse`` for which are judged."""
    by_code = {rule.code: rule for rule in rules}
    asked = {cause.name for cause in causes}

    def was_run(code: str, path: str) -> bool:
        return code in asked or (code in by_code and config.for_path(path).selects(by_code[code]))

    return _judge(
        config,
        (
            report_unused(
                str(each),
                use.baseline.file,
                {
                    "path": each.entry.path,
                    "code": each.entry.key.code,
                    "subject": each.entry.key.subject,
                    "count": each.missing,
                },
            )
            for each in use.find_stale(was_run)
        ),
    )


def _judge(config: Config, findings: Iterable[Finding]) -> list[Finding]:
    if not config.general.selects(unused_ignore):
        return []
    return [config.general.judge(each, "") for each in findings]
