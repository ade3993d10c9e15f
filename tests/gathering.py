"""Functions that take whole reports, in terms of what gathers examination by examination."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.config.unused import IgnoreUse, remark_stale
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.baseline import Baseline, EntryUse, Stale
from checkpoint_doctor.results.report import Report


def apply_baseline(report: Report, baseline: Baseline) -> Report:
    use = EntryUse(baseline)
    return replace(report, checkpoints=tuple(map(use.hide_known, report.checkpoints)))


def find_stale(report: Report, baseline: Baseline, was_asked: Callable[[str, str], bool]) -> list[Stale]:
    return _see_all(report, baseline).find_stale(was_asked)


def remark_stale_entries(
    report: Report, baseline: Baseline, config: Config, rules: Sequence[Rule], causes: Sequence[Cause]
) -> Report:
    remarks = remark_stale(_see_all(report, baseline), config, rules, causes)
    return replace(report, remarks=(*report.remarks, *remarks))


def _see_all(report: Report, baseline: Baseline) -> EntryUse:
    use = EntryUse(baseline)
    for examination in report.checkpoints:
        use.hide_known(examination)
    return use


def follow_ignores(report: Report, config: Config, rules: Sequence[Rule], causes: Sequence[Cause] = ()) -> IgnoreUse:
    use = IgnoreUse(config, rules, causes)
    for examination in report.checkpoints:
        use.see(examination)
    return use
