"""``log``: read training logs, run the rules about them, and report. Prints nothing."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
from msgspec.structs import replace

from checkpoint_doctor.acts.scan import Progress, ProgressCallback
from checkpoint_doctor.checkpoint import TrainingLog
from checkpoint_doctor.config.asked import Silence, find_asked
from checkpoint_doctor.config.settings import Config, Settings
from checkpoint_doctor.config.unused import IgnoreUse
from checkpoint_doctor.errors import NothingToExamine, UnreadableCheckpoint
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.log_opening import find_log_readers, read_log
from checkpoint_doctor.plugins.opening import discover_working
from checkpoint_doctor.plugins.protocols import LogReader
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.results.findings import Finding, by_severity
from checkpoint_doctor.results.log_report import LogReport
from checkpoint_doctor.results.report import Examination, Report, Verdict, judge
from checkpoint_doctor.sources import Unsearched
from checkpoint_doctor.sources.globs import match_glob
from checkpoint_doctor.text import natural_key

LOGS_BESIDE = ("progress.csv", "metrics.csv", "trainer_state.json", "evaluations.npz", "monitor.csv")
"""Logs that training libraries write into the folder of a run."""

LARGEST_BESIDE = 64 << 20
"""Bytes of a log that a scan reads besides; `ckdoc log` reads larger ones."""

_BEARS_ON = {
    "LOG002": "learning-rate-too-high exploded poisoned-moments unscaled-inputs reward-scale optimizer-settings",
    "LOG005": "learning-rate-too-high exploded poisoned-moments nonfinite-gradient nonfinite-data corrupted-values",
    "LOG007": "learning-rate-too-low never-started frozen detached no-gradient dead-relu saturated zero-deadlock",
    "LOG008": "learning-rate-too-high exploded poisoned-moments nonfinite-gradient nonfinite-data",
    "LOG009": "learning-rate-too-high optimizer-settings",
    "LOG010": "learning-rate-too-low schedule never-started",
    "LOG011": "learning-rate-too-high learning-rate-too-low exploded",
}
"""Rule about logs to the causes that would show themselves so."""


def examine_logs(
    paths: Sequence[str | os.PathLike[str]],
    *,
    catalogue: Catalogue | None = None,
    config: Config | None = None,
    on_progress: ProgressCallback | None = None,
) -> LogReport:
    """Examine training logs: files, folders that are searched for them, and globs.

    Raises:
        NothingToExamine: a folder or a glob leads to no training log.
        UsageError: the configuration does not fit the rules that are installed, or leaves no rule to run.
    """
    catalogue = catalogue or discover_working()
    rules = [rule for rule in catalogue.rules if rule.on is TrainingLog]
    config = config or Config()
    readers = find_log_readers()
    files, unsearched = find_logs([os.fspath(path) for path in paths], readers)
    asked = find_asked(files, config, rules, TrainingLog)
    examinations: list[Examination] = []
    logs: dict[str, TrainingLog] = {}
    for number, path in enumerate(files, 1):
        on_read = _within_file(on_progress, path, number, len(files))
        try:
            log = read_log(path, readers=readers, meanings=config.meanings, on_read=on_read)
        except UnreadableCheckpoint as error:
            examinations.append(
                Examination(path=path, format=None, verdict=Verdict.UNREADABLE, error=error.message, hint=error.hint)
            )
            continue
        logs[path] = log
        examinations.append(examine_log(log, rules, config.for_path(path)))
    report = Report(
        checkpoints=tuple(examinations),
        rules=len(asked),
        fail_on=config.fail_on,
        remarks=tuple(config.general.judge(each, "") for each in catalogue.left_out),
        unsearched=unsearched,
        asked=asked,
    )
    use, silence = IgnoreUse(config, rules, ()), Silence(config, rules, TrainingLog)
    for examination in examinations:
        use.see(examination)
        silence.see(examination)
    report = replace(report, remarks=(*report.remarks, *use.remark_unused()), configuration=silence.describe())
    return LogReport(report, logs)


def examine_log(log: TrainingLog, rules: Sequence[Rule], settings: Settings) -> Examination:
    """Run every selected rule about training logs on one. One that crashes becomes a finding, and the others go on."""
    findings: list[Finding] = []
    log = replace(log, ranges=settings.ranges) if settings.ranges else log
    asked = [rule for rule in rules if settings.selects(rule)]
    with np.errstate(all="ignore"):
        for rule in asked:
            try:
                found = list(rule.examine(log, settings.options(rule)))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a rule may even call sys.exit
                findings.append(settings.judge(report_crash(rule, error), log.path))
                continue
            findings += [settings.judge(each, log.path, rule.severity) for each in found]
    findings.sort(key=by_severity)
    return Examination(
        path=log.path,
        format=log.kind,
        verdict=judge(findings),
        findings=tuple(findings),
        skipped=log.skipped,
        asked=tuple(rule.code for rule in asked),
    )


def find_logs(paths: Sequence[str], readers: Sequence[LogReader]) -> tuple[list[str], tuple[Unsearched, ...]]:
    """Return the files that paths lead to: files as they are, and those in folders whose name is that of a log.

    Beside them stands what was not searched, and why: links to folders, and what cannot be listed.

    Raises:
        NothingToExamine: a folder or a glob leads to none, and all of it could be searched.
    """
    patterns = [pattern for reader in readers for pattern in reader.patterns]
    found: list[str] = []
    unsearched: list[Unsearched] = []

    def note(error: OSError) -> None:
        unsearched.append(Unsearched(str(error.filename), (error.strerror or str(error)).lower(), on_purpose=False))

    for path in paths:
        if os.path.isdir(path):
            inside = sorted(_walk(path, patterns, note, unsearched), key=natural_key)
        elif os.path.exists(path) or not glob.has_magic(path):
            inside = [path]
        else:
            inside = [each for each in match_glob(path, note) if os.path.isfile(each)]
        if not inside and all(each.on_purpose for each in unsearched):
            raise NothingToExamine(
                f"{path} leads to no training log", f"the names of logs are {', '.join(patterns)}; name other files"
            )
        found += inside
    return list(dict.fromkeys(found)), tuple(unsearched)


def _walk(
    folder: str, patterns: Sequence[str], on_failure: Callable[[OSError], None], unsearched: list[Unsearched]
) -> Iterator[str]:
    for place, folders, files in os.walk(folder, onerror=on_failure):
        links = [path for name in sorted(folders) if os.path.islink(path := os.path.join(place, name))]
        unsearched += [Unsearched(path, "a link to a folder") for path in links]
        for file in files:
            if any(fnmatchcase(file, pattern) for pattern in patterns):
                yield os.path.join(place, file)


def _within_file(on_progress: ProgressCallback | None, path: str, number: int, of: int) -> Callable[[int], None] | None:
    if on_progress is None:
        return None
    total = os.path.getsize(path) if os.path.exists(path) else 0
    on_progress(Progress(path, number, of, 0, 0))
    return lambda read: on_progress(Progress(path, number, of, read, total))


class LogsBeside:
    """What the logs beside checkpoints show. Each is read once for all checkpoints beside it in a row."""

    def __init__(self, catalogue: Catalogue, config: Config) -> None:
        self._rules = [rule for rule in catalogue.rules if rule.on is TrainingLog]
        self._config = config
        self._last: tuple[str, Sequence[Finding]] = "", ()
        """The log that was read last, and what was found in it."""

    def take_up(self, examination: Examination) -> Examination:
        """Return an examination whose diagnoses say what the log beside the checkpoint shows of the same illness.

        Only a log that lies in the checkpoint's folder under the name that its library gives it is read, only where
        there is a diagnosis that it could bear on, and only what it shows up to the checkpoint's step counts. It
        changes neither causes nor severities.
        """
        relevant = {cause for causes in _BEARS_ON.values() for cause in causes.split()}
        if not any(each.counts and each.cause in relevant for each in examination.diagnoses):
            return examination
        folder = os.path.dirname(examination.path)
        path = next((path for name in LOGS_BESIDE if os.path.isfile(path := os.path.join(folder, name))), None)
        if path is None or os.path.getsize(path) > LARGEST_BESIDE:
            return examination
        if self._last[0] != path:
            self._last = path, self._find(path)
        step = examination.step
        seen = [each for each in self._last[1] if step is None or each.evidence.get("onset_step", 0) <= step]
        diagnoses = []
        for diagnosis in examination.diagnoses:
            words = [each.message for each in seen if diagnosis.cause in _BEARS_ON.get(each.code, "").split()]
            if words:
                evidence = {**diagnosis.evidence, "log": f"{os.path.basename(path)}: {'; '.join(words)}"}
                diagnosis = replace(diagnosis, evidence=evidence)
            diagnoses.append(diagnosis)
        return replace(examination, diagnoses=tuple(diagnoses))

    def _find(self, path: str) -> Sequence[Finding]:
        try:
            log = read_log(path, meanings=self._config.meanings)
        except UnreadableCheckpoint:
            return ()
        found = examine_log(log, self._rules, self._config.for_path(path)).findings
        return [each for each in found if each.counts]
