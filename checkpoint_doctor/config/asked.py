"""Which rules a run asks, and what a configuration file keeps silent: a report says both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.settings import COMMAND_LINE, Config, Section, Settings
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.rule import Rule, Subject
from checkpoint_doctor.plugins.self_checks import RULES as SELF_CHECKS
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Report
from checkpoint_doctor.text import quantity


def find_asked(
    paths: Sequence[str], config: Config, rules: Sequence[Rule], on: type[Subject] = Checkpoint
) -> tuple[str, ...]:
    """Return the codes of the rules that are asked about any of some checkpoints, or logs if ``on`` says so.

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


def _is_about(rule: Rule, on: type[Subject]) -> bool:
    return rule.examines_checkpoints if on is Checkpoint else rule.on is on


def describe_silence(report: Report, config: Config, rules: Sequence[Rule], on: type[Subject] = Checkpoint) -> str:
    """Name the configuration file in force and what it keeps silent; return nothing where that is nothing."""
    paths = [each.path for each in report.checkpoints]
    sections = [
        section
        for section in config.sections
        if section.origin != COMMAND_LINE and any(map(section.covers, paths if section.path else [""]))
    ]
    silenced = list(_list_silenced(report, config, [rule for rule in rules if _is_about(rule, on)], sections))
    return f"configured by {sections[0].origin}: {', '.join(silenced)}" if silenced else ""


def _list_silenced(report: Report, config: Config, rules: Sequence[Rule], sections: Sequence[Section]) -> Iterator[str]:
    if any(section.ignores for section in sections):
        hidden = sum(finding.ignored is not None for each in report.checkpoints for finding in each.findings)
        if hidden:
            yield f"{quantity(hidden, 'finding')} hidden"
    if any(section.select is not None or section.severities for section in sections):
        unasked = _find_unasked([each.path for each in report.checkpoints], config, rules)
        if unasked:
            yield f"{quantity(len(unasked), 'rule')} not asked"
    lowered = {code for each in sections for code, severity in each.severities.items() if _lowers(severity)}
    if lowered:
        verb = "severity" if len(lowered) == 1 else "severities"
        yield f"{verb} of {', '.join(sorted(lowered))} set"
    changed = {code for each in sections for code in each.options}
    if changed:
        yield f"options of {', '.join(sorted(changed))} set"
    if any(each.exclude or each.include is not None for each in sections):
        yield "files of a search left out by exclude or include"
    if config.fail_on is None and any(each.fail_on == "never" for each in sections):
        yield "fail-on never"


def _lowers(severity: Severity | None) -> bool:
    return severity is not None and severity < Severity.ERROR


def _find_unasked(paths: Sequence[str], config: Config, rules: Sequence[Rule]) -> set[str]:
    """Return the codes of the rules that would be asked without a configuration file, and are not."""
    by_command = Config(tuple(section for section in config.sections if section.origin == COMMAND_LINE)).general
    return {
        rule.code
        for _, settings in _distinct_settings(paths, config)
        for rule in rules
        if by_command.selects(rule) and not settings.selects(rule)
    }


def _distinct_settings(paths: Sequence[str], config: Config) -> Iterator[tuple[str, Settings]]:
    """Yield what holds for the checkpoints at some paths, each once, with the first path that it holds for."""
    known = set()
    for path in paths:
        settings = config.for_path(path)
        key = tuple(map(id, settings.sections))
        if key not in known:
            known.add(key)
            yield path, settings
