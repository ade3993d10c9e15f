"""What the engines make of a fleet of small checkpoints, and of one that is large.

Run as ``python -m benchmarks.engines [--count 2000] [--gigabytes 1] [--engines NAME …] [--jobs N]``, on a machine that
does nothing else. Each engine scans both with ``ckdoc``; the reports must be the same to the byte.

For the fleet the throughput per core is printed, as checkpoints a second divided by the cores that were at work, and
its ratio to that of ``threads``, which must be at least 0.7. Small checkpoints keep one core busy with ``threads``, and
``--jobs`` cores with the others. The time in which an engine starts is measured by itself, with two checkpoints, and
left out. ``cpu`` is the processor time of the fleet's scan, which other work on the machine disturbs less (without the
workers of Ray). For the large one the seconds are printed. The exit code is 1 where a ratio or a report is not as it
must be.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from checkpoint_doctor.text import quantity

LEAST_RATIO = 0.7
"""Share of the throughput of ``threads`` on one core that each core of another engine must reach."""


def write_fleet(folder: Path, count: int) -> None:
    """Write small networks, each with other numbers: six layers of 64 units, 100 kB."""
    random = np.random.default_rng(0)
    for position in range(count):
        tensors = {}
        for layer in range(6):
            tensors[f"net.{2 * layer}.weight"] = random.normal(0, 0.125, (64, 64)).astype(np.float32)
            tensors[f"net.{2 * layer}.bias"] = random.normal(0, 0.1, 64).astype(np.float32)
        save_file(tensors, folder / f"model_{position:06}.safetensors")


def write_large(path: Path, gigabytes: float) -> None:
    """Write a network of layers of 64 MiB."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.02, (4096, 4096)).astype(np.float32)
    layers = max(1, round(gigabytes * 1e9 / weight.nbytes))
    save_file({f"layers.{layer}.weight": weight + np.float32(layer * 1e-4) for layer in range(layers)}, path)


def run(target: Path, engine: str, jobs: int, report: Path) -> float:
    """Scan with an engine, write the report, and return the seconds that it took."""
    command = [sys.executable, "-m", "checkpoint_doctor", "scan", str(target), "--engine", engine, "--quiet"]
    start = time.perf_counter()
    result = subprocess.run([*command, "--jobs", str(jobs), "--format", "json", "--output", str(report)], check=False)
    if result.returncode not in (0, 1):
        sys.exit(f"{engine} ended with exit code {result.returncode}")
    return time.perf_counter() - start


def processor_time() -> float:
    """Return the processor seconds of all processes that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure the engines and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="checkpoints of the fleet")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the large checkpoint")
    parser.add_argument("--engines", nargs="+", default=["threads", "processes", "ray"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet, large, two = folder / "fleet", folder / "large.safetensors", folder / "two"
        for each in (fleet, two):
            each.mkdir()
        write_fleet(fleet, options.count)
        write_fleet(two, 2)
        write_large(large, options.gigabytes)
        fleet_size = quantity(options.count, "checkpoint")
        print(f"{fleet_size} of 100 kB, and one of {options.gigabytes:g} GB; {options.jobs} jobs")
        names = f"{'start':>7} {'fleet':>8} {'per s':>7} {'per core':>9} {'ratio':>6} {'cpu':>7} {'large':>8}"
        print(f"{'engine':<10} {names}")
        best = None
        texts: dict[Path, bytes] = {}
        for engine in options.engines:
            report = folder / "report.json"
            start = run(two, engine, options.jobs, report)
            seconds = {}
            used = 0.0
            for target in (large, fleet):
                used = processor_time()
                seconds[target] = run(target, engine, options.jobs, report)
                if texts.setdefault(target, report.read_bytes()) != report.read_bytes():
                    failed = True
                    print(f"{engine} reports something else about the {target.stem}")
            used = processor_time() - used
            rate = options.count / (seconds[fleet] - start)
            per_core = rate / (1 if engine == "threads" else options.jobs)
            best = best or per_core
            if per_core < LEAST_RATIO * best:
                failed = True
                print(f"{engine} is below {LEAST_RATIO} of {options.engines[0]} per core")
            shown = f"{start:>6.2f}s {seconds[fleet]:>7.1f}s {rate:>7.0f} {per_core:>9.0f} {per_core / best:>6.2f}"
            print(f"{engine:<10} {shown} {used:>6.1f}s {seconds[large]:>7.2f}s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
