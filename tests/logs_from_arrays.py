"""Training logs from arrays, and what a rule says of them."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from checkpoint_doctor.checkpoint.training_log import LogBuilder, TrainingLog
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity

Columns = dict[str, Any]


def build_log(columns: Columns, steps: Any = None) -> TrainingLog:
    """A log whose columns are these; ``None`` is a cell that was not recorded, and so is what a short column lacks."""
    builder = LogBuilder("memory")
    rows = max(len(each) for each in columns.values())
    steps = np.arange(rows, dtype=np.float64) if steps is None else np.asarray(steps, dtype=np.float64)
    names = ["step", *columns]
    builder.choose_step(names)
    cells = np.array(list(zip_longest(steps, *columns.values())), dtype=object)
    is_recorded = np.not_equal(cells, None)
    builder.add_rows(names, np.where(is_recorded, cells, np.nan).astype(np.float64), is_recorded)
    return builder.build()


def speak(rule: Rule, columns: Columns, steps: Any = None, **options: Any) -> list[tuple[str, Severity, float]]:
    """What a rule says of a log: metric, severity, onset."""
    found = list(rule.examine(build_log(columns, steps), options))
    return [(each.evidence["metric"], each.severity, each.evidence.get("onset_step", -1)) for each in found]
