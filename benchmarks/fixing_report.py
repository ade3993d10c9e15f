"""What the runs of ``does_fixing_help`` say: the measured returns as CSV, the tables of the document, and its plot."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOCS = Path(__file__).parent.parent / "docs"
DATA = DOCS / "does-fixing-help.csv"
DOCUMENT = DOCS / "does-fixing-help.md"
PLOT = DOCS / "does-fixing-help.png"

BEGIN = "<!-- measured: written by benchmarks/does_fixing_help.py -->"
END = "<!-- end of what was measured -->"

TITLES = {
    "dormant-units-same-task": "Dormant units, the task it has mastered",
    "dormant-units-new-task": "Dormant units, a weaker engine",
    "lstm-biases": "LSTM biases at zero",
    "zero-head-cause-stays": "Zero head, the training code still forgets it",
    "zero-head-cause-gone": "Zero head, sound training code",
}
ARMS = {
    "sick": "from the sick file",
    "fixed": "from the fixed file",
    "stale": "fixed, old moments kept",
    "intact": "before it fell ill",
    "scratch": "from scratch",
}
COLOURS = {"sick": "#c0392b", "fixed": "#2471a3", "stale": "#8e44ad", "intact": "#1e8449", "scratch": "#7f8c8d"}
COMPARISONS = (("fixed", "sick"), ("fixed", "scratch"), ("fixed", "stale"), ("fixed", "intact"))

RESAMPLES = 10_000


@dataclass(frozen=True)
class Arm:
    """The runs of one arm of a case, seed by seed."""

    seeds: tuple[int, ...]
    steps: NDArray
    """Steps of the evaluations, [evaluations]."""
    returns: NDArray
    """Mean returns, [seeds, evaluations]."""
    dormant: tuple[tuple[int | None, int | None], ...]
    """Dormant units of each seed's first and last file."""

    @property
    def averages(self) -> NDArray:
        """Each seed's return averaged over the run's evaluations after its first step, [seeds]."""
        return self.returns[:, 1:].mean(axis=1)


def write_data(runs: Iterable[Mapping[str, Any]]) -> None:
    """Write the finished runs as a table of evaluations."""
    with DATA.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case", "arm", "seed", "step", "mean_return", "dormant_units"])
        for run in sorted(runs, key=lambda run: (run["case"], run["arm"], run["seed"])):
            dormant = dict(zip((0, len(run["steps"]) - 1), run["silent"], strict=True))
            for number, (step, value) in enumerate(zip(run["steps"], run["returns"], strict=True)):
                counted = dormant.get(number)
                row = [run["case"], run["arm"], run["seed"], step, f"{value:.2f}", "" if counted is None else counted]
                table.writerow(row)


def read_data() -> dict[str, dict[str, Arm]]:
    """Read the table back, case by case and arm by arm."""
    rows: dict[tuple[str, str], dict[int, list[dict[str, str]]]] = {}
    with DATA.open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["case"], row["arm"]), {}).setdefault(int(row["seed"]), []).append(row)
    cases: dict[str, dict[str, Arm]] = {}
    for case in TITLES:
        for arm in ARMS:
            seeds = rows.get((case, arm))
            if seeds:
                cases.setdefault(case, {})[arm] = Arm(
                    seeds=tuple(sorted(seeds)),
                    steps=np.array([int(row["step"]) for row in seeds[min(seeds)]]),
                    returns=np.array([[float(row["mean_return"]) for row in seeds[seed]] for seed in sorted(seeds)]),
                    dormant=tuple((_count(seeds[seed][0]), _count(seeds[seed][-1])) for seed in sorted(seeds)),
                )
    return cases


def _count(row: Mapping[str, str]) -> int | None:
    return int(row["dormant_units"]) if row["dormant_units"] else None


def resample(values: NDArray) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over seeds."""
    drawn = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def write_report() -> None:
    """Write the measured part of the document, and the plot."""
    cases = read_data()
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{chr(10).join(_tables(cases))}\n{END}{after}")
    draw(cases)


def _tables(cases: Mapping[str, Mapping[str, Arm]]) -> Iterator[str]:
    for case, arms in cases.items():
        seeds = sorted({len(arm.seeds) for arm in arms.values()})
        steps = next(iter(arms.values())).steps[-1]
        yield f"### {TITLES[case]}\n"
        yield f"{steps:,} steps, {' or '.join(map(str, seeds))} seeds an arm.\n"
        yield "| trained on | at the start | half way | at the end | averaged over the run | dormant units |"
        yield "|---|---|---|---|---|---|"
        for name, arm in arms.items():
            half = arm.returns.shape[1] // 2
            figures = [_spread(arm.returns[:, at]) for at in (0, half, -1)]
            yield f"| {ARMS[name]} | {' | '.join(figures)} | {_spread(arm.averages)} | {_silence(arm)} |"
        yield ""
        yield "| difference | averaged over the run | seeds in favour | at the end | seeds in favour | |"
        yield "|---|---|---|---|---|---|"
        for one, other in COMPARISONS:
            if one in arms and other in arms:
                yield f"| {one} − {other} | {_difference(arms[one], arms[other])} |"
        yield ""


def _spread(values: NDArray) -> str:
    return f"{values.mean():.0f} ({values.min():.0f} to {values.max():.0f})"


def _silence(arm: Arm) -> str:
    parts = []
    for counted in zip(*arm.dormant, strict=True):
        known = [count for count in counted if count is not None]
        parts.append(f"{np.mean(known):.0f}" if known else "–")
    return " → ".join(parts)


def _difference(one: Arm, other: Arm) -> str:
    shared = [seed for seed in one.seeds if seed in other.seeds]
    left = [one.seeds.index(seed) for seed in shared]
    right = [other.seeds.index(seed) for seed in shared]
    cells = []
    sure = []
    for values in (one.averages[left] - other.averages[right], one.returns[left, -1] - other.returns[right, -1]):
        low, high = resample(values)
        cells += [f"{values.mean():+.0f} [{low:+.0f}, {high:+.0f}]", f"{(values > 0).sum()} of {len(values)}"]
        sure.append(bool((values > 0).all() or (values < 0).all()))
    return " | ".join([*cells, _verdict(sure)])


def _verdict(sure: Sequence[bool]) -> str:
    """Say which difference all seeds agree on; the chance of that among five equals is 1 in 16."""
    if all(sure):
        return "all seeds agree"
    if sure[0]:
        return "all seeds agree on the average, not at the end"
    return "all seeds agree at the end, not on the average" if sure[1] else "seeds disagree"


def draw(cases: Mapping[str, Mapping[str, Arm]]) -> None:
    """Draw the returns over steps: the mean of the seeds, and from the worst to the best of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    panels = list(axes.flat)
    for panel, (case, arms) in zip(panels, cases.items(), strict=False):
        for name, arm in arms.items():
            panel.plot(arm.steps, arm.returns.mean(axis=0), color=COLOURS[name], linewidth=1.6)
            low, high = arm.returns.min(axis=0), arm.returns.max(axis=0)
            panel.fill_between(arm.steps, low, high, color=COLOURS[name], alpha=0.12, linewidth=0)
        panel.set_title(TITLES[case], fontsize=10)
        panel.set_xlabel("environment steps trained", fontsize=8)
        panel.tick_params(labelsize=8)
    for panel in panels[::3]:
        panel.set_ylabel("return", fontsize=9)
    for panel in panels[len(cases) :]:
        panel.axis("off")
    lines = [pyplot.Line2D([], [], color=COLOURS[name], linewidth=2) for name in ARMS]
    note = "mean of the seeds; bands from the worst to the best"
    panels[-1].legend(lines, ARMS.values(), loc="center", frameon=False, title=note, fontsize=10, title_fontsize=9)
    figure.savefig(PLOT, dpi=80, pil_kwargs={"optimize": True}, metadata={"Software": None})
    pyplot.close(figure)
