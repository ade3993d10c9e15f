"""Time and memory of `ckdoc log` on a CSV of five million rows, beside Polars and pandas reading the same file.

    python -m benchmarks.long_logs [--rows 5000000] [--file big.csv]

Each reader runs in a process of its own; the peak is the process's own (VmHWM). Readers that are not installed are left
out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

READERS = {
    "ckdoc log": "from checkpoint_doctor.log import examine_logs; examine_logs([path])",
    "pandas": "import pandas; pandas.read_csv(path)",
    "polars": "import polars; polars.read_csv(path)",
}
PEAK = "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def write_csv(path: Path, rows: int) -> None:
    """Write a log of six columns, one of them recorded in every tenth row."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("step,loss,grad_norm,lr,accuracy,val_loss\n")
        for start in range(0, rows, 100_000):
            steps = np.arange(start, min(start + 100_000, rows))
            share = steps / rows
            columns = (
                2 * np.exp(-4 * share) + 0.1 * rng.random(steps.size), 1 + rng.random(steps.size), 1e-3 * (1 - share),
                share * 0.9 + 0.05 * rng.random(steps.size), 2 * np.exp(-3 * share) + 0.1 * rng.random(steps.size),
            )  # fmt: skip
            lines = zip(steps, *columns, strict=True)
            file.write("".join(f"{s},{a:.6g},{b:.6g},{c:.6g},{d:.6g},{_every(s, e)}\n" for s, a, b, c, d, e in lines))


def _every(step: int, value: float) -> str:
    return f"{value:.6g}" if step % 10 == 0 else ""


def main() -> None:
    """Write the file unless it is there, and print a line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "long.csv"
        if not path.exists():
            write_csv(path, arguments.rows)
        print(f"{path.stat().st_size / 1e6:.0f} MB")
        for name, code in READERS.items():
            begun = time.monotonic()
            program = f"path = {str(path)!r}\n{code}{PEAK}"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                continue
            print(f"{name}: {time.monotonic() - begun:.1f} s, {int(done.stdout) / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
