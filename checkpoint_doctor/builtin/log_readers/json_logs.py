"""Reads logs in JSON: a record on each line, a list of records, and the ``trainer_state.json`` of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from checkpoint_doctor.builtin.log_readers._blocks import OnRead, read_blocks
from checkpoint_doctor.builtin.log_readers._records import RecordTable, flatten_record, is_number
from checkpoint_doctor.checkpoint.contents import Skipped
from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source, read_json
from checkpoint_doctor.text import quantity

LISTS = ("log_history", "history", "logs", "records", "metrics")
"""Keys under which a document keeps its records; the first is that of transformers."""
HEAD = 1 << 16


class JsonReader:
    """Reads JSON lines and JSON documents that hold records."""

    name = "json"
    patterns = ("*.jsonl", "trainer_state.json", "*history.json", "training_log.json", "progress.json")

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``."""
        try:
            head = source.read(0, min(source.size, HEAD)).lstrip(b"\xef\xbb\xbf \t\r\n")
        except UnreadableCheckpoint:
            return False
        if head.startswith(b"["):
            return True
        if not head.startswith(b"{"):
            return False
        line = head.partition(b"\n")[0]
        record = _parse(line)
        if isinstance(record, dict):
            flat = flatten_record(record)
            return any(is_number(each) or isinstance(each, list) for each in flat.values())
        return any(f'"{key}"'.encode() in head for key in LISTS)

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``."""
        head = source.read(0, min(source.size, HEAD)).lstrip(b"\xef\xbb\xbf \t\r\n")
        is_lines = isinstance(_parse(head.partition(b"\n")[0]), dict) and b"\n" in head.rstrip()
        if is_lines:
            builder.kind = "json lines"
            RecordTable(builder).take(_read_lines(source, builder, on_read))
            return
        RecordTable(builder).take(_read_document(source, builder))


def _read_lines(source: Source, builder: LogBuilder, on_read: OnRead | None) -> Iterator[Mapping[str, Any]]:
    odd = 0
    for block in read_blocks(source, 0, on_read):
        lines = block.split(b"\n")
        for position, line in enumerate(lines):
            record = _parse(line)
            if isinstance(record, dict):
                yield record
            elif line.strip() and not (position == len(lines) - 1 and not block.endswith(b"\n")):
                odd += 1
    if odd:
        builder.skipped.append(Skipped(quantity(odd, "line"), "it is not a JSON object"))


def _read_document(source: Source, builder: LogBuilder) -> Iterator[Mapping[str, Any]]:
    document = _parse(read_json(source))
    builder.kind = "json"
    if isinstance(document, dict):
        if "log_history" in document:
            builder.kind = "transformers"
        records = next((document[key] for key in LISTS if isinstance(document.get(key), (list, dict))), document)
        document = _as_records(records) if isinstance(records, dict) else records
    if not isinstance(document, list):
        raise UnreadableCheckpoint(f"{source.name} is JSON, but holds no list of records", "name a training log")
    yield from (record for record in document if isinstance(record, dict))


def _as_records(columns: Mapping[str, Any]) -> list[Any]:
    """Return the records of a table that is stored by its columns, as the history of Keras; nothing for any other."""
    lists = {name: each for name, each in columns.items() if isinstance(each, list) and each}
    length = max(map(len, lists.values()), default=0)
    return [{name: each[row] for name, each in lists.items() if row < len(each)} for row in range(length)]


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


reader = JsonReader()
