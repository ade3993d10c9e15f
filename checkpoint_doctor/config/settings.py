"""What holds for a run: which rules to run, how severe their findings are, what to hide and why.

A ``Config`` is a stack of sections: those of a file, those of the file for some paths, and the command line's. Later
ones win, and each knows where it comes from. Files are read in ``config.file`` and checked in ``config.reader``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.checkpoint.setting_ranges import Range
from checkpoint_doctor.config.globs import match_path
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import PLUGIN_LEFT_OUT, RULE_CRASHED
from checkpoint_doctor.sources.address import is_address

ALL = "ALL"
"""The selector of every rule."""

COMMAND_LINE = "command line"
"""The origin of what the command line says."""

OFF = "off"
"""In place of a severity: the rule is not run."""

FAIL_ON: Mapping[str, Severity | None] = {
    "error": Severity.ERROR,
    "warning": Severity.WARNING,
    "note": Severity.NOTE,
    "never": None,
}
"""The values of ``fail-on``, with the lowest severity that fails the run."""


class Ignore(Struct, frozen=True):
    """Findings to hide, and why."""

    codes: tuple[str, ...]
    """Selectors of rules, and names of causes."""
    reason: str
    paths: tuple[str, ...] = ()
    """Patterns for the checkpoint's path; none means all."""
    tensors: tuple[str, ...] = ()
    """Patterns for the name of the tensor or of the layer; none means all."""
    key: str = "ignore"
    """Its position in the file, such as ``ignore[0]``."""

    def concerns(self, code: str, name: str) -> bool:
        """True where it is about the rule of that code and name."""
        return any(selects(selector, code, name) for selector in self.codes)


class Section(Struct, frozen=True):
    """Settings from one place. What is ``None`` or missing is left to the sections below."""

    origin: str
    """Where the settings come from: a file, or ``command line``."""
    folder: str = ""
    """The folder that path patterns start at, ``""`` for the working directory."""
    path: str | None = None
    """The pattern of the checkpoints it is about, ``None`` for all."""
    select: tuple[str, ...] | None = None
    deselect: tuple[str, ...] = ()
    ignores: tuple[Ignore, ...] = ()
    severities: Mapping[str, Severity | None] = field(default_factory=dict)
    """Code to severity; ``None`` where the rule is off."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Code to option to value."""
    fail_on: str | None = None
    files: tuple[str, ...] = ()
    """What is examined where the command line names nothing; relative to ``folder``."""
    preview: bool | None = None
    """Whether the findings of rules and causes in preview count."""
    exclude: tuple[str, ...] = ()
    """Patterns of files and folders that a search leaves out."""
    include: tuple[str, ...] | None = None
    """Patterns of the only files that a search takes."""
    ranges: tuple[Range, ...] = ()
    """The user's own ranges of settings."""
    meanings: Mapping[str, Meaning] = field(default_factory=dict)
    """Patterns of metrics' names to what they mean."""

    def covers(self, path: str) -> bool:
        """True where the section is about the checkpoint at that path."""
        return self.path is None or match_path(self.path, path, self.folder)

    def reaches(self, ignore: Ignore, path: str) -> bool:
        """True where one of the section's ignores is about the checkpoint at that path."""
        return self.covers(path) and (
            not ignore.paths or any(match_path(pattern, path, self.folder) for pattern in ignore.paths)
        )

    def hides(self, ignore: Ignore, finding: Finding, path: str) -> bool:
        """True where one of the section's ignores is about a finding in the checkpoint at that path."""
        names = [name for name in (finding.tensor, finding.layer) if name is not None]
        return (
            ignore.concerns(finding.code, finding.name)
            and (not ignore.tensors or any(fnmatchcase(name, each) for name in names for each in ignore.tensors))
            and self.reaches(ignore, path)
        )

    def hides_diagnosis(self, ignore: Ignore, diagnosis: Diagnosis, findings: Sequence[Finding], path: str) -> bool:
        """True where one of the section's ignores is about a diagnosis of the findings in the checkpoint at a path."""
        explained = (findings[position] for position in diagnosis.explains)
        names = [diagnosis.subject, *(name for each in explained for name in (each.tensor, each.layer))]
        return (
            diagnosis.cause in ignore.codes
            and (
                not ignore.tensors or any(name and fnmatchcase(name, each) for name in names for each in ignore.tensors)
            )
            and self.reaches(ignore, path)
        )


class Settings(Struct, frozen=True):
    """What holds for one checkpoint."""

    sections: tuple[Section, ...] = ()
    """Those that cover it; later ones win."""

    def selects(self, rule: Rule) -> bool:
        """Return whether the rule is to be run."""
        chosen = next((each.select for each in reversed(self.sections) if each.select is not None), (ALL,))
        dropped = [selector for section in self.sections for selector in section.deselect]
        return (
            any(selects(each, rule.code, rule.name) for each in chosen)
            and not any(selects(each, rule.code, rule.name) for each in dropped)
            and self._severity(rule.code, rule.severity) is not None
        )

    def options(self, rule: Rule) -> dict[str, Any]:
        """The rule's options that were set."""
        options: dict[str, Any] = {}
        for section in self.sections:
            options.update(section.options.get(rule.code, {}))
        return options

    def ignore_reason(self, finding: Finding, path: str) -> str | None:
        """The reason of the first ignore that is about the finding, ``None`` where the finding counts.

        That a rule crashed or a plugin is broken cannot be hidden: the run did not look for what these find.
        """
        if finding.code in (RULE_CRASHED, PLUGIN_LEFT_OUT):
            return None
        hiding = (
            ignore for section in self.sections for ignore in section.ignores if section.hides(ignore, finding, path)
        )
        return next((ignore.reason for ignore in hiding), None)

    def judge(self, finding: Finding, path: str, usual: Severity | None = None) -> Finding:
        """Give a finding the severity that counts, the reason to hide it if there is one, and whether it counts at all.

        ``usual`` is the severity of its rule, where the finding may have another.
        """
        severity = self._grade(finding.code, finding.severity, usual or finding.severity)
        return replace(
            finding,
            severity=severity,
            ignored=finding.ignored or self.ignore_reason(finding, path),
            preview=finding.preview and not self.preview,
        )

    def judge_diagnoses(
        self, diagnoses: Iterable[Diagnosis], findings: Sequence[Finding], path: str
    ) -> tuple[tuple[Diagnosis, ...], tuple[Finding, ...]]:
        """Hide the diagnoses of causes that are ignored, and the findings that they explain."""
        judged, shown = [], list(findings)
        for diagnosis in diagnoses:
            reason = self._diagnosis_ignore_reason(diagnosis, findings, path)
            judged.append(replace(diagnosis, ignored=reason))
            for position in diagnosis.explains if reason else ():
                shown[position] = replace(shown[position], ignored=f"{diagnosis.cause}: {reason}")
        return tuple(judged), tuple(shown)

    def _diagnosis_ignore_reason(self, diagnosis: Diagnosis, findings: Sequence[Finding], path: str) -> str | None:
        for section in self.sections:
            if diagnosis.cause in section.deselect:
                return f"ignored by the {section.origin}"
            for ignore in section.ignores:
                if section.hides_diagnosis(ignore, diagnosis, findings, path):
                    return ignore.reason
        return None

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The user's own ranges of settings, those that count first."""
        return tuple(each for section in reversed(self.sections) for each in section.ranges)

    @property
    def preview(self) -> bool:
        """Whether the findings of rules and causes in preview count."""
        return next((each.preview for each in reversed(self.sections) if each.preview is not None), False)

    @property
    def fail_on(self) -> Severity | None:
        """The lowest severity that fails the run, ``None`` where none does."""
        return FAIL_ON[next((each.fail_on for each in reversed(self.sections) if each.fail_on), "error")]

    def _grade(self, code: str, found: Severity, usual: Severity) -> Severity:
        """Return the severity that counts.

        What was set replaces the rule's own severity. Where the evidence argues for a worse one than that, what was set
        is a minimum: it never makes a finding milder than its evidence.
        """
        chosen = self._severity(code, found) or found
        return max(chosen, found) if found > usual else chosen

    def _severity(self, code: str, found: Severity) -> Severity | None:
        return next((each.severities[code] for each in reversed(self.sections) if code in each.severities), found)


class Config(Struct, frozen=True, dict=True):
    """All that was set for a run, and where."""

    sections: tuple[Section, ...] = ()
    """Later ones win: the file's, its sections for some paths, the command line's."""

    def for_path(self, path: str) -> Settings:
        """What holds for the checkpoint at a path."""
        return Settings(tuple(section for section in self.sections if section.covers(path)))

    @cached_property
    def general(self) -> Settings:
        """What holds wherever no section for some paths says otherwise."""
        return Settings(tuple(section for section in self.sections if section.path is None))

    @property
    def fail_on(self) -> Severity | None:
        """The lowest severity that fails the run, ``None`` where none does."""
        return self.general.fail_on

    @property
    def origins(self) -> Sequence[str]:
        """The configuration files that sections come from."""
        return list(dict.fromkeys(each.origin for each in self.sections if each.origin != COMMAND_LINE))

    @property
    def examined(self) -> Sequence[str]:
        """The files, folders and globs to examine where the command line names nothing."""
        chosen = next((each for each in reversed(self.sections) if each.files), None)
        return [_locate(file, chosen.folder) for file in chosen.files] if chosen else []

    @property
    def meanings(self) -> Mapping[str, Meaning]:
        """Patterns of metrics' names to what they mean, in the order in which they are tried."""
        return {pattern: meaning for section in self.sections for pattern, meaning in section.meanings.items()}

    def excludes(self, path: str) -> str:
        """Return why a search leaves out the file or folder at a path; empty where it does not."""
        for section in self.sections:
            if any(match_path(pattern, path, section.folder) for pattern in section.exclude):
                return f"excluded by {section.origin}"
        return ""

    def includes(self, path: str) -> bool:
        """True where a search may take the file at a path: all of them, unless patterns name the only ones."""
        chosen = next((each for each in reversed(self.sections) if each.include is not None), None)
        return chosen is None or any(match_path(each, path, chosen.folder) for each in chosen.include or ())


def _locate(file: str, folder: str) -> str:
    """Return a path that starts at a folder as it is written in the working directory, where it lies within it."""
    if is_address(file):
        return file
    path = os.path.join(folder, file)
    relative = os.path.relpath(path)
    return path if relative.split(os.sep)[0] == os.pardir else relative


def selects(selector: str, code: str, name: str) -> bool:
    """True where a selector means a rule: by its code, by the beginning of it, by the rule's name, or as ``ALL``."""
    return selector == ALL or code.startswith(selector) or name == selector
