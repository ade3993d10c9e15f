"""Exceptions that nothing needs any more: ignores that matched nothing, and baseline entries whose finding is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from checkpoint_doctor.config.globs import match_path, should_match
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.plugins.self_checks import report_unused, unused_ignore
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.report import Report

if TYPE_CHECKING:
    from checkpoint_doctor.results.baseline import Baseline


def remark_unused_ignores(report: Report, config: Config, rules: Sequence[Rule], causes: Sequence[Cause]) -> Report:
    """Add a remark for every ignore that matched nothing in a report, though it could have.

    An ignore is judged only where a rule it is about was run on a readable checkpoint it is about. Causes are always
    asked.
    """
    read = [each for each in report.checkpoints if not each.is_unreadable]
    known = {cause.name for cause in causes}
    unused = []
    for section in config.sections:
        for ignore in section.ignores:
            reached = [each for each in read if section.reaches(ignore, each.path)]
            was_run = (reached and not known.isdisjoint(ignore.codes)) or any(
                (rule.examines_checkpoints or rule.code in (each.asked or ()))
                and ignore.concerns(rule.code, rule.name)
                and config.for_path(each.path).selects(rule)
                for each in reached
                for rule in rules
            )
            used = any(
                any(section.hides(ignore, finding, each.path) for finding in each.findings)
                or any(section.hides_diagnosis(ignore, one, each.findings, each.path) for one in each.diagnoses)
                for each in reached
            )
            if was_run and not used:
                about = f"{ignore.key} ({', '.join(ignore.codes)}: {ignore.reason})"
                unused.append(report_unused(about, section.origin, {"key": ignore.key, "codes": list(ignore.codes)}))
    return _remark(report, config, unused)


def remark_unmatched_paths(report: Report, config: Config, searched: Sequence[str]) -> Report:
    """Add a remark for every path of an ignore that no checkpoint of a report matches, though one should.

    One should where the path leads into one of the folders that were searched, or to a place that does not exist. Paths
    to places that were not part of the run are not judged.
    """
    unmatched = []
    for section in config.sections:
        for ignore in section.ignores:
            for pattern in ignore.paths or filter(None, [section.path]):
                if not any(match_path(pattern, each.path, section.folder) for each in report.checkpoints) and (
                    should_match(pattern, section.folder, searched)
                ):
                    about = f"the path {pattern!r} of {ignore.key} ({', '.join(ignore.codes)}: {ignore.reason})"
                    evidence = {"key": ignore.key, "codes": list(ignore.codes), "path": pattern}
                    unmatched.append(report_unused(about, section.origin, evidence, "and may be mistyped"))
    return _remark(report, config, unmatched)


def remark_stale_entries(
    report: Report, baseline: Baseline, config: Config, rules: Sequence[Rule], causes: Sequence[Cause]
) -> Report:
    """Add a remark for every entry of a baseline whose finding is gone; see ``find_stale`` for which are judged."""
    from checkpoint_doctor.results.baseline import find_stale

    by_code = {rule.code: rule for rule in rules}
    asked = {cause.name for cause in causes}

    def was_run(code: str, path: str) -> bool:
        return code in asked or (code in by_code and config.for_path(path).selects(by_code[code]))

    stale = [
        report_unused(
            str(each),
            baseline.file,
            {
                "path": each.entry.path,
                "code": each.entry.key.code,
                "subject": each.entry.key.subject,
                "count": each.missing,
            },
        )
        for each in find_stale(report, baseline, was_run)
    ]
    return _remark(report, config, stale)


def _remark(report: Report, config: Config, findings: Sequence[Finding]) -> Report:
    if not config.general.selects(unused_ignore):
        return report
    return replace(report, remarks=(*report.remarks, *(config.general.judge(each, "") for each in findings)))
