"""Results of an earlier run, which stand in for the checkpoints that have not changed since."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from msgspec.structs import replace

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.examination.candidates import CandidateTask
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.examination import IN_BASELINE, Examination, Verdict, judge
from checkpoint_doctor.results.findings import Identity
from checkpoint_doctor.results.json import write_line
from checkpoint_doctor.results.json_reading import read_examination, read_provenance
from checkpoint_doctor.sources.targets import is_same_file
from checkpoint_doctor.sources.traces import is_unchanged

_SETTLED = (Verdict.HEALTHY.value, Verdict.ILL.value)
"""Verdicts on checkpoints that were read to their end, by every rule."""

_HINT = "use the output of `ckdoc scan --format jsonl` or json"


class EarlierResults:
    """The entries of a JSON Lines file or of a JSON report, by path.

    Of a JSON Lines file only the places of its lines are kept in memory; of several lines about one path the last
    counts.
    """

    def __init__(self, file: str, rules: Iterable[Rule]) -> None:
        """Open the file, which may have been left by a run that was interrupted.

        Args:
            file: its path.
            rules: those that are installed. They declare what makes findings the same, which no file holds.

        Raises:
            UsageError: it cannot be read, or is no such file.
        """
        self._file = file
        self._identities = {rule.code: rule.identity for rule in rules}
        self._entries: dict[str, int | dict[str, Any]] = {}
        """Path to the entry, or to where its line starts."""
        self.is_cut_off = False
        """True where its last line is not whole, and was ignored."""
        try:
            self._stream: BinaryIO = open(file, "rb")  # noqa: SIM115
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot read {file}: {reason}", "name the result of an earlier run") from None
        try:
            self._index()
        except OSError as error:
            raise UsageError(f"cannot read {file}: {(error.strerror or str(error)).lower()}", _HINT) from None

    def _index(self) -> None:
        first = self._stream.readline()
        self._stream.seek(0)
        if first and not _is_line(first):
            self._take_document()
            return
        start = 0
        for number, line in enumerate(self._stream, 1):
            entry = _parse(line)
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                self._entries[entry["path"]] = start
            elif not isinstance(entry, dict) or "schema_version" not in entry:
                if line.endswith(b"\n"):
                    raise UsageError(f"{self._file}: line {number} is not what --format jsonl writes", _HINT)
                self.is_cut_off = True
            start += len(line)

    def _take_document(self) -> None:
        document = _parse(self._stream.read())
        entries = document.get("checkpoints") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise UsageError(f"{self._file} holds no results of an earlier run", _HINT)
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                self._entries[entry["path"]] = entry

    def stands_for(self, task: CandidateTask) -> bool:
        """Return whether there is an entry that the task would come to again. Where that cannot be told, there is none.

        What could not be examined, or not by every rule, is tried again. The checkpoint is not opened.
        """
        entry = self._find(task.candidate.path)
        if entry is None or entry.get("verdict") not in _SETTLED:
            return False
        if task.with_settings or (task.histograms and entry.get("findings")):
            return False  # neither is in an entry
        provenance = read_provenance(entry.get("provenance"))
        if provenance is None or provenance.asked_with != task.asked_with or not is_unchanged(provenance.read):
            return False
        try:
            return read_examination(entry).path == task.candidate.path
        except UsageError:
            return False

    def read(self, path: str) -> Examination:
        """Return the examination of a checkpoint, as it was before a baseline hid anything.

        Raises:
            UsageError: there is none, because the file was changed since it was opened.
        """
        try:
            examination = read_examination(self._find(path))
        except UsageError:
            raise UsageError(f"{self._file} was changed while it was read", "wait until it is written") from None
        return replace(_uncover(examination, self._identities), path=path)

    def is_file_at(self, path: str) -> bool:
        """Return whether these are the results in the file at a path."""
        return is_same_file(path, self._file)

    def list_lines(self, *, besides: Collection[str]) -> Iterator[bytes]:
        """Yield the entries of all checkpoints but some, as lines of JSON Lines."""
        for path in self._entries:
            if path not in besides:
                entry = self._find(path)
                if entry is not None:
                    yield write_line(entry).encode()

    def _find(self, path: str) -> dict[str, Any] | None:
        found = self._entries.get(path)
        if isinstance(found, int):
            self._stream.seek(found)
            found = _parse(self._stream.readline())
        return found if isinstance(found, dict) else None


def _is_line(text: bytes) -> bool:
    """True for the first line of a JSON Lines file, even where it is cut off."""
    entry = _parse(text)
    if isinstance(entry, dict):
        return "checkpoints" not in entry
    return text.startswith(b'{"path": ') and not text.endswith(b"\n")


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _uncover(examination: Examination, identities: Mapping[str, Identity]) -> Examination:
    """Take off what a baseline hid, and what a log beside it showed: both are looked at anew in every run."""
    findings = tuple(
        replace(
            each,
            ignored=None if each.ignored == IN_BASELINE else each.ignored,
            identity=identities.get(each.code, each.identity),
        )
        for each in examination.findings
    )
    diagnoses = tuple(
        replace(
            each,
            ignored=None if each.ignored == IN_BASELINE else each.ignored,
            evidence={key: value for key, value in each.evidence.items() if key != "log"},
        )
        for each in examination.diagnoses
    )
    return replace(examination, findings=findings, diagnoses=diagnoses, verdict=judge(findings, diagnoses))
