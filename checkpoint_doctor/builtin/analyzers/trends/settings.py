"""Settings that change with every save, as bugs of saving and resuming leave them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from checkpoint_doctor.checkpoint import Series
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

PROGRESS = re.compile(
    r"(?i)(^|[._])(lr|rate|learning_rate|step|steps|n?_?updates|epochs?|iter(ation)?s?|it|time|timesteps?|progress|count"
    r"|counter|seed|episodes?|loss|reward|returns?|score|acc(uracy)?|best|remaining|total|elapsed|alpha|beta\w*|epsilon"
    r"|exploration\w*|temperature|ent_coef|coef|weight_decay|momentum|clip\w*|dropout|kl\w*|d|k|lambda\w*)(_|\d|$)"
)
"""Words of what progress or a schedule changes by design."""


@rule("TRD006", "hyperparameter-drift", Severity.WARNING, on=Series, part=("setting",), worse=("saves",))
def hyperparameter_drift(series: Series, *, saves: int = 3) -> Iterator[Finding]:
    """A setting that should be constant changes with every save.

    Why it matters:
        A setting that is written back changed at each save or load drifts away without anybody's decision: the target
        network of one agent was updated every 2,500 steps, then every 625, 156 and 9.

    When it is normal:
        Learning rates, clips, coefficients, exploration and whatever else follows a schedule drift by design and are
        passed over, as counters and results are. A setting that changes once was changed by somebody. It must change in
        ``saves`` neighbouring pairs of checkpoints up to the last, always in the same direction.

    What to do:
        Set the setting anew after loading, and report the bug to the library.

    Options:
        saves: The number of neighbouring pairs of checkpoints, up to the last, in which the setting must change;
            chosen, since what changes once or twice was changed by somebody.

    References:
        https://github.com/Stable-Baselines-Team/stable-baselines3-contrib/issues/258.
    """
    names = dict.fromkeys(name for point in series.points for name in point.settings)
    for name in names:
        if PROGRESS.search(name):
            continue
        values = [point.settings.get(name) for point in series.points]
        onset = find_drift(values, saves)
        if onset is not None:
            yield hyperparameter_drift.finding(
                f"the setting {name} changes with every save since {series.name_point(onset)}: "
                f"{', '.join(f'{value:g}' for value in values[onset - 1 :][:5])}",
                evidence={**series.place(onset), "setting": name, "values": values, "saves": len(values) - onset},
                advice=f"Set {name} anew after loading.",
            )


def find_drift(values: Sequence[Any], saves: int) -> int | None:
    """Return the position from which on a number changes in one direction up to the end; ``None`` where it does not."""
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return None
    signs = [(later > earlier) - (later < earlier) for earlier, later in pairwise(values)]
    onset = len(signs)
    while onset > 0 and signs[onset - 1] == signs[-1] != 0:
        onset -= 1
    return onset + 1 if len(signs) - onset >= saves else None
