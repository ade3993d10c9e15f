"""Which rules a run asks, and what a configuration file keeps silent: a report says both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from checkpoint_doctor.checkpoint import Checkpoint, TrainingLog
from checkpoint_doctor.config.settings import COMMAND_LINE, Config, Section, Settings
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.rule import Rule, Subject
from checkpoint_doctor.plugins.self_checks import RULES as SELF_CHECKS
from checkpoint_doctor.results.examination import Examination
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity


def find_asked(paths: Sequence[str], config: Config, rules: Sequence[Rule], *on: type[Subject]) -> tuple[str, ...]:
    """Return the codes of the rules that are asked about any of some checkpoints, or about series or logs if ``on``
    says so.

    Raises:
        UsageError: no rule is asked about one of them, so that it would pass whatever it holds.
    """
    asked: set[str] = set()
    about_ckdoc = {rule.code for rule in SELF_CHECKS}
    for path, settings in _distinct_settings(paths, config):
        chosen = {rule.code for rule in rules if _is_about(rule, on) and settings.selects(rule)}
        if chosen <= about_ckdoc:
            raise UsageError(
                f"no rule is left to examine {path}: what is selected is ignored, off, or about ckdoc itself",
                "look at select, --ignore and severity; `ckdoc config` shows what holds and where it comes from",
            )
        asked |= chosen
    return tuple(rule.code for rule in rules if rule.code in asked)


def _is_about(rule: Rule, on: Sequence[type[Subject]]) -> bool:
    return rule.on in on or (rule.examines_checkpoints and (not on or Checkpoint in on))


class Silence:
    """What a configuration file keeps silent in a run, gathered examination by examination."""

    def __init__(self, config: Config, rules: Sequence[Rule], *on: type[Subject]) -> None:
        self._config = config
        self._on = on
        self._rules = [rule for rule in rules if _is_about(rule, on)]
        self._known: dict[tuple[int, ...], Settings] = {}
        """What holds for the checkpoints seen so far, each once."""
        self._sections = {id(each): each for each in config.sections if each.path is None}
        """The sections that are about any of them."""
        self._hidden = 0

    def see(self, examination: Examination) -> None:
        """Take in one more examination, as it is without a baseline."""
        self._hidden += examination.hidden
        settings = self._config.for_path(examination.path)
        if self._known.setdefault(tuple(map(id, settings.sections)), settings) is settings:
            self._sections |= {id(each): each for each in settings.sections}

    def see_hidden(self, findings: Iterable[Finding]) -> None:
        """Take in findings that belong to no single examination."""
        self._hidden += sum(each.ignored is not None for each in findings)

    def describe(self) -> str:
        """Name the configuration file in force and what it keeps silent; return nothing where that is nothing."""
        held = [each for each in self._config.sections if id(each) in self._sections and each.origin != COMMAND_LINE]
        silenced = list(self._list_silenced(held))
        return f"configured by {held[0].origin}: {', '.join(silenced)}" if silenced else ""

    def _list_silenced(self, sections: Sequence[Section]) -> Iterator[str]:
        if any(section.ignores for section in sections) and self._hidden:
            yield f"{quantity(self._hidden, 'finding')} hidden"
        if any(section.select is not None or section.severities for section in sections):
            unasked = self._find_unasked()
            if unasked:
                yield f"{quantity(len(unasked), 'rule')} not asked"
        lowered = {code for each in sections for code, severity in each.severities.items() if _lowers(severity)}
        if lowered:
            verb = "severity" if len(lowered) == 1 else "severities"
            yield f"{verb} of {', '.join(sorted(lowered))} set"
        changed = {code for each in sections for code in each.options}
        if changed:
            yield f"options of {', '.join(sorted(changed))} set"
        if any(each.ranges for each in sections):
            yield "ranges of settings set"
        if TrainingLog in self._on and any(each.meanings for each in sections):
            yield "meanings of metrics set"
        if any(each.exclude or each.include is not None for each in sections):
            yield "files of a search left out by exclude or include"
        if self._config.fail_on is None and any(each.fail_on == "never" for each in sections):
            yield "fail-on never"

    def _find_unasked(self) -> set[str]:
        """Return the codes of the rules that would be asked without a configuration file, and are not."""
        by_command = Config(tuple(each for each in self._config.sections if each.origin == COMMAND_LINE)).general
        return {
            rule.code
            for settings in self._known.values()
            for rule in self._rules
            if by_command.selects(rule) and not settings.selects(rule)
        }


def _lowers(severity: Severity | None) -> bool:
    return severity is not None and severity < Severity.ERROR


def _distinct_settings(paths: Sequence[str], config: Config) -> Iterator[tuple[str, Settings]]:
    """Yield what holds for the checkpoints at some paths, each once, with the first path that it holds for."""
    known = set()
    for path in paths:
        settings = config.for_path(path)
        key = tuple(map(id, settings.sections))
        if key not in known:
            known.add(key)
            yield path, settings
