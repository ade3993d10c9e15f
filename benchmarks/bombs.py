"""Small files that cost much: scans and fixes each in a process of its own, and prints what it took.

Run as ``python -m benchmarks.bombs [NAME …]``. Each bomb must take less than two seconds of processor time and less
than 400 MB, must end in one sentence or a report and in the right exit code, and never in a traceback. What it takes
is the whole process, start-up included. The exit code is 1 where one does not.

This process stays small, since a child's peak memory counts from that of its parent: another child writes the bombs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SLOWEST = 2.0
"""Seconds of processor time."""
LARGEST = 400
"""MB of resident memory."""
LONGEST = 60
"""Seconds of processor time after which a bomb is stopped."""
MOST_MEMORY = 6 << 30
"""Bytes of address space that a bomb may take before it is stopped."""


@dataclass(frozen=True)
class Cost:
    """What a command on a bomb took, and what it said."""

    seconds: float
    megabytes: float
    code: int
    said: str

    def judge(self, is_refused: bool, is_fix: bool) -> str:
        """Return what is wrong with it; empty where nothing is."""
        wrong = []
        if self.seconds > SLOWEST:
            wrong.append(f"{self.seconds:.1f} s")
        if self.megabytes > LARGEST:
            wrong.append(f"{self.megabytes:.0f} MB")
        if self.code not in ((2,) if is_refused else (0, 1, 2, 3) if is_fix else (0, 1)):
            wrong.append(f"exit code {self.code}")
        wrong += [f"{word!r} in its output" for word in ("Traceback", "bug in", "failed with") if word in self.said]
        if not self.said.strip():
            wrong.append("no word")
        return ", ".join(wrong)


def run(command: Sequence[str], folder: Path) -> Cost:
    """Run a command in a folder and return what it took."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))

    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=limit
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        size = output.seek(0, os.SEEK_END)
        output.seek(0)
        said = output.read(min(size, 1 << 20)).decode("utf-8", "replace")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, process.returncode, said)


CHECKPOINT = (("scan", "--format", "json"), ("fix", "--quiet", "--unsafe", "--recycle"))
"""Commands that are tried with the path of a bomb."""
OTHERS = {
    ".result.json": (("scan", "--format", "json", "model.pt", "--resume-from"),),
    ".result.jsonl": (("scan", "--format", "json", "model.pt", "--resume-from"),),
    ".safetensors.index.json": CHECKPOINT,
    **dict.fromkeys((".csv", ".jsonl", ".json"), (("log", "--format", "json"),)),
}
"""The same for the first ending that a name has of these, because it is no checkpoint."""


def try_bomb(path: Path, is_refused: bool) -> list[tuple[str, Cost, str]]:
    """Scan and fix a bomb; return what each took and what is wrong with it."""
    found = []
    for arguments in next((commands for ending, commands in OTHERS.items() if path.name.endswith(ending)), CHECKPOINT):
        cost = run((sys.executable, "-m", "checkpoint_doctor", *arguments, path.name), path.parent)
        found.append((arguments[0], cost, cost.judge(is_refused, arguments[0] == "fix")))
    return found


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these bombs")
    options = parser.parse_args()
    wrong = tried = runs = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        listing = subprocess.run(
            [sys.executable, "-m", "benchmarks.bomb_files", place, *options.names],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        for line in listing.stdout.splitlines():
            name, is_refused = line.rsplit(" ", 1)
            path, tried = folder / name, tried + 1
            size = sum(each.stat().st_size for each in path.rglob("*")) if path.is_dir() else path.stat().st_size
            for command, cost, problem in try_bomb(path, is_refused == "refused"):
                wrong, runs = wrong + bool(problem), runs + 1
                print(
                    f"{name:<44} {size / 1000:>9,.1f} KB  {command:<4} {cost.seconds:>5.2f} s {cost.megabytes:>5.0f} MB"
                    f"  exit {cost.code}  {problem and 'WRONG: ' + problem}",
                    flush=True,
                )
    print(f"{tried} bombs, {wrong} runs of {runs} wrong; {time.strftime('%H:%M', time.gmtime())}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
