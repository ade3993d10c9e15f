"""What a scan costs: wall time, processor time and peak memory beside ``cat``, ``import torch`` and other tools.

Run as ``python -m benchmarks.speed [--runs N]``; prints one table of medians with a warm page cache. weightlens
(``lens``) and model-clinic take part where they are installed beside this Python or on the path.

This process stays small and imports nothing heavy: a child's peak memory counts from the memory of its parent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    wall: float
    """Seconds from start to end."""
    cpu: float
    """Seconds of processor time, user and system."""
    peak: float
    """Largest resident memory in MiB."""
    code: int


@dataclass(frozen=True)
class Line:
    """A command to time, and the name of the line that it is measured against."""

    name: str
    command: tuple[str, ...]
    against: str
    runs: int


def measure(command: Sequence[str]) -> Cost:
    """Run a command with its output thrown away and return what it took."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode)


def lines(folder: Path, runs: int) -> Iterator[Line]:
    """Yield what is timed, each after the line it is measured against."""
    doctor = _find("ckdoc")
    if doctor is None:
        raise SystemExit("ckdoc is not installed beside this Python: pip install -e .")
    for suffix in ("safetensors", "pt"):
        file = str(folder / f"gigabyte.{suffix}")
        base = f"cat 1 GB .{suffix}"
        yield Line(base, ("cat", file), base, runs)
        yield Line(f"ckdoc scan 1 GB .{suffix}", (doctor, "scan", "--format", "json", file), base, runs)
        if lens := _find("lens"):
            yield Line(f"weightlens 1 GB .{suffix}", (lens, "analyze", file), base, 1)
        if clinic := _find("model-clinic"):
            yield Line(f"model-clinic 1 GB .{suffix}", (clinic, "exam", file), base, 1)
    base = "import torch"
    yield Line(base, (sys.executable, "-c", "import torch"), base, runs)
    agent = folder / "agent.zip"
    name = f"ckdoc scan {agent.stat().st_size / 1000:.0f} KB SB3 zip"
    yield Line(name, (doctor, "scan", "--format", "json", str(agent)), base, runs)


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def table(timed: Sequence[tuple[Line, Sequence[Cost]]]) -> str:
    """Return the medians, one command a line, with the ratio of wall times to the line it is measured against."""
    walls = {line.name: median(cost.wall for cost in costs) for line, costs in timed}
    rows = [f"{'command':<32} {'runs':>4} {'wall s':>8} {'cpu s':>8} {'MiB':>7} {'ratio':>9} against"]
    for line, costs in timed:
        cpu, peak = median(cost.cpu for cost in costs), median(cost.peak for cost in costs)
        wall = walls[line.name]
        figures = f"{len(costs):>4} {wall:>8.3f} {cpu:>8.3f} {peak:>7.0f} {wall / walls[line.against]:>8.2f}×"
        failed = "" if all(cost.code == 0 for cost in costs) else f" (exit code {costs[0].code})"
        rows.append(f"{line.name:<32} {figures} {line.against}{failed}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the files, warm the page cache, and time every command."""
    parser = argparse.ArgumentParser(description="what a scan costs")
    parser.add_argument("--runs", type=int, default=7, help="runs of each command (slow peers run once)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "benchmarks.speed_files", name], check=True)
        # A gigabyte still on its way to the disk would slow the first line.
        os.sync()
        timed = []
        for line in lines(folder, options.runs):
            # The first run warms the page and byte-code caches; a peer that takes a minute is not run for that.
            if line.runs > 1:
                measure(line.command)
            timed.append((line, [measure(line.command) for _ in range(line.runs)]))
    print(table(timed))


if __name__ == "__main__":
    main()
