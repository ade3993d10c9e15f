"""Turns records with any keys, as JSON lines and W&B's history have them, into the rows of a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.text import shown

ROWS = 4096
"""Records that are taken together at most."""
CELLS = 1 << 20
"""Numbers of a block of rows, those that are missing included: every record may have other keys."""
MOST_NAMES = 5000


class RecordTable:
    """Collects records with any keys into blocks of rows."""

    def __init__(self, builder: LogBuilder) -> None:
        self._builder = builder
        self._seen: dict[str, None] = {}

    def take(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take all records."""
        rows: list[dict[str, float]] = []
        names: set[str] = set()
        for record in records:
            numbers = {shown(key): float(each) for key, each in flatten_record(record).items() if is_number(each)}
            if numbers:
                rows.append(numbers)
                names.update(numbers)
            if len(rows) == ROWS or len(rows) * len(names) > CELLS:
                self._add(rows)
                rows, names = [], set()
        self._add(rows)

    def _add(self, rows: list[dict[str, float]]) -> None:
        if not rows:
            return
        here = dict[str, None]()
        for row in rows:
            if len(self._seen) < MOST_NAMES:
                self._seen.update(dict.fromkeys(row))
            here.update(dict.fromkeys(row))
        if not self._builder.step_name:
            self._builder.choose_step(list(self._seen))
        names = [name for name in self._seen if name in here or name == self._builder.step_name]
        place = {name: position for position, name in enumerate(names)}
        values = np.full((len(rows), len(names)), np.nan)
        recorded = np.zeros(values.shape, dtype=bool)
        for position, row in enumerate(rows):
            for name, number in row.items():
                if name in place:
                    values[position, place[name]] = number
                    recorded[position, place[name]] = True
        self._builder.add_rows(names, values, recorded)


def flatten_record(record: Mapping[str, Any], prefix: str = "", depth: int = 3) -> dict[str, Any]:
    """Return a record with the keys of what it contains joined by ``/``."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            if depth:
                flat.update(flatten_record(value, f"{prefix}{key}/", depth - 1))
        else:
            flat[f"{prefix}{key}"] = _WORDS.get(value, value) if isinstance(value, str) else value
    return flat


_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf"), "nan": float("nan")}
"""Numbers that JSON has no token for, as some writers spell them."""


def is_number(value: object) -> bool:
    """True for a number that a curve can hold, NaN and infinity among them."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e308) or (
        isinstance(value, float)
    )
