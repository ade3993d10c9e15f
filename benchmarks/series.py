"""How well ``ckdoc compare`` finds what began in a run, and what it costs: ``python -m benchmarks.series``.

Runs are trained for real: networks in plain PyTorch and agents of Stable-Baselines3, with a fault from one checkpoint
on, and without. A fault is found where a warning or an error names an affected tensor, with its onset within one
checkpoint.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.series_runs import AGENTS, KINDS, PLAIN, Fault, make_fault, train
from checkpoint_doctor.acts.compare import compare
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.series_report import SeriesRecord
from checkpoint_doctor.statistics.change_points import find_change_point


def names_fault(record: SeriesRecord, fault: Fault) -> list[str]:
    """Return the codes of the findings that name an affected tensor and the onset within one checkpoint."""
    codes = []
    for finding in record.counted:
        onset, subject = record.onset_of(finding), finding.tensor or finding.layer or ""
        affected = fault.layer in subject if fault.layer else bool(subject)
        if fault.kind == "biases reset":
            affected = "bias" in subject
        if finding.severity > Severity.NOTE and affected and onset is not None and abs(onset - fault.onset) <= 1:
            codes.append(finding.code)
    return sorted(set(codes))


def judge_runs(names: Sequence[str], seeds: int, folder: Path) -> None:
    """Train every network with every fault and without, and print what was found."""
    found = faults = alarms = healthy = 0
    for name in names:
        for seed in range(seeds):
            for kind in ("healthy", *KINDS):
                fault = None if kind == "healthy" else make_fault(kind, name, seed)
                if kind != "healthy" and fault is None:
                    continue
                place = folder / f"{name}-{kind}-{seed}".replace(" ", "_")
                try:
                    train(name, place, fault, seed)
                except ValueError as error:  # PyTorch's distributions refuse NaN, which ends the run
                    print(f"{name:10} {kind:16} seed {seed}: the run ended with {str(error)[:40]!r}")
                [record] = compare(place).series
                if fault is None:
                    warnings = [each for each in record.counted if each.severity > Severity.NOTE]
                    healthy, alarms = healthy + 1, alarms + bool(warnings)
                    print(f"{name:10} {kind:16} seed {seed}: {len(warnings)} warnings")
                    continue
                codes = names_fault(record, fault)
                faults, found = faults + 1, found + bool(codes)
                print(f"{name:10} {kind:16} seed {seed}: {' '.join(codes) or 'MISSED'}")
    print(f"found {found} of {faults} faults; warnings in {alarms} of {healthy} healthy runs")


def measure_noise(repeats: int) -> None:
    """Print how often the test of change points speaks on noise."""
    generator = np.random.default_rng(0)
    kinds = {
        "normal": lambda size: generator.normal(size=size),
        "Student's t with 2 degrees": lambda size: generator.standard_t(2, size=size),
        "exponential": lambda size: generator.exponential(size=size),
    }
    for name, draw in kinds.items():
        shares = []
        for size in (4, 6, 8, 12, 20, 50, 100, 300):
            found = sum(find_change_point(draw(size).tolist()) is not None for _ in range(repeats))
            shares.append(f"{size} points {found / repeats:.1%}")
        print(f"false alarms on {name} noise: {', '.join(shares)}")


def measure_cost(count: int, folder: Path) -> None:
    """Print time and peak memory of a comparison of many checkpoints of 3 MB each, with Adam's moments."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 400), torch.nn.ReLU(), torch.nn.Linear(400, 400), torch.nn.ReLU(),
        torch.nn.Linear(400, 160), torch.nn.ReLU(), torch.nn.Linear(160, 8),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters())
    folder.mkdir()
    for point in range(count):
        inputs = torch.randn(32, 64)
        optimizer.zero_grad()
        (network(inputs) - inputs[:, :8]).square().mean().backward()
        optimizer.step()
        saved = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "step": point}
        torch.save(saved, folder / f"step_{point}.pt")
    for part in (count // 4, count):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        compare([folder / f"step_{point}.pt" for point in range(part)])
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{part} checkpoints of 3 MB: {seconds:.1f} s, peak memory {before / 1024:.0f} -> {after / 1024:.0f} MB")


def main() -> None:
    """Read the command line and run the parts that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="runs of each network and fault")
    parser.add_argument("--networks", nargs="*", default=[*PLAIN, *AGENTS])
    parser.add_argument("--repeats", type=int, default=1000, help="series of noise of each length")
    parser.add_argument("--count", type=int, default=200, help="checkpoints of the comparison that is timed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.count:
            measure_cost(asked.count, Path(folder) / "many")
        if asked.repeats:
            measure_noise(asked.repeats)
        if asked.seeds:
            judge_runs(asked.networks, asked.seeds, Path(folder))


if __name__ == "__main__":
    main()
