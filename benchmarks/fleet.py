"""Many small checkpoints in one run: how many a core examines in a second, and whether memory grows with their number.

Run as ``python -m benchmarks.fleet [--small 1000] [--large 10000] [--profile]``. It makes so many checkpoints in a
temporary folder: safetensors, state dicts of PyTorch and agents of Stable-Baselines3, most of them healthy, each with
values of its own. It scans them with ``ckdoc scan FOLDER -f jsonl``, and again with ``--resume-from``, and prints the
checkpoints per second and the peak of resident memory, which may grow by 1 KiB for each checkpoint. The exit code is 1
where it grows by more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from msgspec import Struct
from safetensors.numpy import save_file

from checkpoint_doctor import scan

LARGEST_GROWTH = 1.0
"""KiB by which the peak may be higher for each further checkpoint: its path, its task, its place in a result."""

FIXTURES = Path(__file__).parent.parent / "fixtures"
COPIED = ("case_4_healthy.pt", "case_5_zero_head.pt", "case_2_healthy.zip", "case_2_overwritten.zip")


class Run(Struct, frozen=True):
    """What a scan cost."""

    seconds: float
    """By the clock."""
    processor: float
    """Seconds of processor time."""
    peak: float
    """MiB of resident memory at most."""


def make_fleet(folder: Path, count: int) -> None:
    """Write so many checkpoints into a folder and the folders in it, a hundred in each."""
    random = np.random.default_rng(0)
    for number in range(count):
        inside = folder / f"run_{number // 100:03d}"
        inside.mkdir(exist_ok=True)
        if number % 10:
            tensors = {
                f"layers.{layer}.{name}": (random.normal(size=shape) / 4).astype(np.float32)
                for layer in range(3)
                for name, shape in (("weight", (32, 32)), ("bias", (32,)))
            }
            if number % 50 == 1:
                tensors["layers.1.weight"][3] = np.nan
            save_file(tensors, inside / f"step_{number}.safetensors")
        else:
            source = FIXTURES / COPIED[number // 10 % len(COPIED)]
            shutil.copyfile(source, inside / f"{source.stem}_{number}{source.suffix}")
    settled = time.time_ns() - 10**10
    for file in folder.rglob("*.*"):
        os.utime(file, ns=(settled, settled + 1))


def run_scan(folder: Path, result: Path, *options: str) -> Run:
    """Scan a folder into a file of JSON Lines, in a process of its own."""
    command = [sys.executable, "-m", "checkpoint_doctor", "scan", str(folder), "-q", "-f", "jsonl", "-o", str(result)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *options])
    _, _, usage = os.wait4(process.pid, 0)
    return Run(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def profile(folder: Path) -> None:
    """Print where the time of a scan in this process goes."""
    import cProfile
    import pstats

    scan(FIXTURES / COPIED[0])
    profiler = cProfile.Profile()
    profiler.enable()
    scan(folder)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="show where the time goes, of the smaller number")
    arguments = parser.parse_args()
    peaks: dict[str, list[float]] = {"scan": [], "resumed": []}
    for count in (arguments.small,) if arguments.profile else (arguments.small, arguments.large):
        with tempfile.TemporaryDirectory() as place:
            folder, result = Path(place, "fleet"), Path(place, "result.jsonl")
            folder.mkdir()
            make_fleet(folder, count)
            if arguments.profile:
                profile(folder)
                return 0
            for name, options in (("scan", ()), ("resumed", ("--resume-from", str(result)))):
                run = run_scan(folder, result, *options)
                peaks[name].append(run.peak)
                print(
                    f"{count:>7,} checkpoints, {name:<7}: {run.seconds:7.1f} s, {count / run.processor:6.0f} per"
                    f" second of a core ({1000 * run.processor / count:.2f} ms each), peak {run.peak:.0f} MiB"
                )
            print(f"{'':>7} the result has {result.stat().st_size / 2**20:.1f} MiB")
    added = arguments.large - arguments.small
    growth = {name: 1024 * (large - small) / added for name, (small, large) in peaks.items()}
    for name, (small, large) in peaks.items():
        print(
            f"{name}: the peak is {large / small:.2f} times as high, {growth[name]:.2f} KiB for each further checkpoint"
        )
    return int(max(growth.values()) > LARGEST_GROWTH)


if __name__ == "__main__":
    raise SystemExit(main())
