"""The report as a Parquet table with a row for each checkpoint, for pandas, polars and DuckDB. Needs ``[parquet]``.

Findings, diagnoses and tensors are lists of records in it; ``docs/fleets.md`` describes the columns. Groups of rows are
written as they come. What there is to say of the whole run (the last line of the format ``jsonl``) is in the metadata
of the file, under ``checkpoint_doctor.run``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.json import close_json, write_examination, write_line
from checkpoint_doctor.results.report import Examination, Page, Report

INSTALL = "pip install 'checkpoint-doctor[parquet]'"

GROUP = 20_000
"""Records of tensors, findings and diagnoses after which a group of rows is written: a group takes some 10 MB."""

ROWS = 1_000
"""Rows after which it is written in any case."""

LARGEST_INTEGER = 2**63

_TEXT, _INTEGER, _NUMBER, _TRUTH = "string", "int64", "float64", "bool"

_DIAGNOSIS = {
    "cause": _TEXT, "certainty": _TEXT, "severity": _TEXT, "subject": _TEXT, "message": _TEXT, "advice": _TEXT,
    "prognosis": _TEXT, "ignored": _TEXT, "preview": _TRUTH, "evidence": _TEXT,
}  # fmt: skip
_FINDING = {
    "code": _TEXT, "name": _TEXT, "severity": _TEXT, "tensor": _TEXT, "layer": _TEXT, "message": _TEXT,
    "advice": _TEXT, "fix": _TEXT, "ignored": _TEXT, "preview": _TRUTH, "diagnosis": _INTEGER, "evidence": _TEXT,
}  # fmt: skip
_TENSOR = {
    "name": _TEXT, "shape": [_INTEGER], "dtype": _TEXT, "kind": _TEXT, "layer": _TEXT, "updates": _INTEGER,
    "zeros": _INTEGER, "nonfinite": _INTEGER, "minimum": _NUMBER, "maximum": _NUMBER, "mean": _NUMBER, "std": _NUMBER,
    "norm": _NUMBER, "input_rms": _NUMBER, "gradient_rms": _NUMBER, "update_ratio": _NUMBER, "tied_to": _TEXT,
}  # fmt: skip
COLUMNS: Mapping[str, Any] = {
    "path": _TEXT, "verdict": _TEXT, "errors": _INTEGER, "warnings": _INTEGER, "notes": _INTEGER, "causes": [_TEXT],
    "codes": [_TEXT], "error": _TEXT, "format": _TEXT, "layout": _TEXT, "content": _TEXT, "algorithm": _TEXT,
    "step": _INTEGER, "resumes": _TEXT, "layers": _INTEGER, "parameters": _INTEGER, "entries": _INTEGER,
    "zeros": _INTEGER, "nonfinite": _INTEGER, "skipped": _INTEGER, "hidden": _INTEGER, "versions": _TEXT,
    "hyperparameters": _TEXT, "diagnoses": [_DIAGNOSIS], "findings": [_FINDING], "tensors": [_TENSOR],
}  # fmt: skip
"""Columns to their types: a word, the fields of a record, or a list of either."""


def make_row(examination: Examination) -> dict[str, Any]:
    """Return a checkpoint's row, as plain values of the types of ``COLUMNS``."""
    entry = write_examination(examination)
    counts = Counter(alert.severity for alert in examination.alerts)
    resumption = entry["resume"] or {}
    row = {
        **entry,
        **entry["summary"],
        "tensors": entry["tensors"],
        "errors": counts[Severity.ERROR],
        "warnings": counts[Severity.WARNING],
        "notes": counts[Severity.NOTE],
        "causes": sorted({each.cause for each in examination.diagnoses if each.counts}),
        "codes": sorted({each.code for each in examination.counted}),
        "skipped": len(examination.skipped),
        "hidden": examination.hidden,
        "resumes": resumption.get("answer"),
    }
    return {name: _fit(row.get(name), kind) for name, kind in COLUMNS.items()}


def _fit(value: Any, kind: Any) -> Any:
    """Return a plain value as one of a column's type; ``None`` for an integer that has no room in 64 bits."""
    if value is None:
        return None
    if isinstance(kind, list):
        return [_fit(each, kind[0]) for each in value]
    if isinstance(kind, dict):
        return {name: _fit(value.get(name), inner) for name, inner in kind.items()}
    if kind == _TEXT:
        text = value if isinstance(value, str) else json.dumps(value)
        return text.encode(errors="backslashreplace").decode()
    if kind == _INTEGER:
        return value if -LARGEST_INTEGER <= value < LARGEST_INTEGER else None
    return float(value) if kind == _NUMBER else value


class _Rows:
    def __init__(self, stream: BinaryIO) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError("Parquet is written with the library pyarrow, which is not installed", INSTALL) from None
        self._arrow: Any = pyarrow
        self._schema = pyarrow.schema([(name, self._type(kind)) for name, kind in COLUMNS.items()])
        self._writer: Any = pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._records = 0

    def __del__(self) -> None:
        # What does not come to its end is thrown away; pyarrow would write an end, to a file that is closed already.
        if hasattr(self, "_writer"):
            self._writer.is_open = False

    def _type(self, kind: Any) -> Any:
        if isinstance(kind, list):
            return self._arrow.list_(self._type(kind[0]))
        if isinstance(kind, dict):
            return self._arrow.struct([(name, self._type(inner)) for name, inner in kind.items()])
        return self._arrow.type_for_alias(kind)

    def add(self, examination: Examination) -> None:
        """Add a checkpoint's row, and write the group that it completes."""
        self._rows.append(make_row(examination))
        self._records += len(examination.tensors) + len(examination.findings) + len(examination.diagnoses)
        if self._records >= GROUP or len(self._rows) == ROWS:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows, self._records = [], 0

    def finish(self, report: Report) -> None:
        """Write the last group, what there is to say of the run, and the end of the file."""
        if self._rows:
            self._write()
        self._writer.add_key_value_metadata({"checkpoint_doctor.run": write_line(close_json(report)).strip()})
        self._writer.close()


class ParquetReporter:
    """Writes a row for each checkpoint; the page makes no difference."""

    is_binary = True

    def open_stream(self, stream: BinaryIO, rules: Sequence[Rule], page: Page) -> _Rows:
        """Return what writes rows.

        Raises:
            UsageError: pyarrow is not installed.
        """
        return _Rows(stream)

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> NoReturn:
        """Raise: Parquet is not text.

        Raises:
            UsageError: always.
        """
        raise UsageError("parquet is not text, and only `ckdoc scan` writes it", "use -f parquet -o report.parquet")


reporter = ParquetReporter()
