"""Repairs at scale: fault twins before and after, and what a large file costs beside ``cp``.

Run as ``python -m benchmarks.fixing [--corpus FOLDER] [--gigabytes 1.0]``; prints two tables.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.faults import FAULTS, Patient, agents, networks, twins
from checkpoint_doctor.acts.fix import FixOptions, FixResult, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.results.findings import Severity
from tests.corpus import find_corpus

REPEATS = 3
STOPWATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)
"""
"""Runs a command and prints its seconds, the peak of its largest process in KiB, and its exit code."""


def repair_twins(
    patients: Iterable[Patient], options: FixOptions, folder: Path
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Write every twin, repair it, and count what came of it; the list says what went wrong."""
    catalogue = discover()
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    for patient in patients:
        ill = {}
        for number, (fault, place, state) in enumerate(twins(patient)):
            path = folder / f"twin{number}{patient.suffix}"
            patient.write(state, path)
            ill[str(path)] = fault, place
        # In one run, for which torch starts once.
        for result in fix(list(ill), options, catalogue=catalogue):
            fault, place = ill[result.path]
            outcome = _judge(result, options, catalogue)
            counts[fault.name, outcome] += 1
            if outcome == "wrong":
                wrong.append(f"{patient.name}: {fault.name} in {place[0]}: {result.error or 'still ill'}")
        for path in folder.iterdir():
            path.unlink()
    return counts, wrong


def _judge(result: FixResult, options: FixOptions, catalogue: Catalogue) -> str:
    """Say whether a twin was fixed, rightly left alone, or neither."""
    if result.outcome is Outcome.FAILED:
        return "wrong"
    path = result.output if result.outcome is Outcome.FIXED else result.path
    (examination,) = scan([path or ""], catalogue=catalogue).checkpoints
    left = any(
        finding.severity >= Severity.WARNING and {repair.safety for repair in finding.repairs} <= options.allowed
        for finding in examination.counted
        if finding.repairs
    )
    return "wrong" if left else "fixed" if result.outcome is Outcome.FIXED else "left"


def report(counts: Counter[tuple[str, str]]) -> str:
    """Return fault by fault how many twins were fixed, had no repair that was allowed, or went wrong."""
    lines = [f"{'fault':<28} {'fixed':>6} {'left':>6} {'wrong':>6}"]
    for fault in FAULTS:
        row = [counts[fault.name, outcome] for outcome in ("fixed", "left", "wrong")]
        if any(row):
            lines.append(f"{fault.name:<28} " + " ".join(f"{number:>6}" for number in row))
    return "\n".join(lines)


def measure_cost(gigabytes: float, folder: Path) -> str:
    """Return seconds of ``cp``, of ``cp`` down to the disk, of a scan and of a fix, with the fix's peak memory."""
    context = multiprocessing.get_context("spawn")
    lines = [
        f"{'file':<20} {'cp':>6} {'cp+sync':>8} {'scan':>6} {'fix':>6} {'peak MiB':>9} {'fix/cp, less a scan':>20}"
    ]
    for suffix in (".safetensors", ".pt"):
        path, copy = folder / f"large{suffix}", folder / "copy"
        # In a process of its own: what a parent ever held in memory counts as its children's peak.
        writer = context.Process(target=_write_large, args=(path, gigabytes))
        writer.start()
        writer.join()
        fixed = folder / f"large_FIXED{suffix}"
        copying = min(_time_copy(path, copy) for _ in range(REPEATS))
        syncing = min(_time_copy(path, copy, ["sync", str(copy)]) for _ in range(REPEATS))
        scanning = min(_run("scan", path)[0] for _ in range(REPEATS))
        fixing, peak = min(_run("fix", path, fixed) for _ in range(REPEATS))
        if not fixed.exists():
            raise ValueError(f"nothing was fixed in {path}, so there is no cost to measure")
        ratio = (fixing - scanning) / copying
        lines.append(
            f"{suffix:<20} {copying:>6.2f} {syncing:>8.2f} {scanning:>6.2f} {fixing:>6.2f} {peak:>9.0f} {ratio:>20.1f}"
        )
        path.unlink()
    return "\n".join(lines)


def _write_large(path: Path, gigabytes: float) -> None:
    torch.manual_seed(0)
    width = 2040
    layers = max(4, int(gigabytes * 1e9 / 4 / width**2))
    state = {f"net.{2 * layer}.weight": torch.randn(width, width) * 0.05 for layer in range(layers)}
    state |= {f"net.{2 * layer}.bias": torch.randn(width) * 0.05 for layer in range(layers)}
    state["net.4.bias"].zero_()
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)


def _time_copy(path: Path, copy: Path, afterwards: Sequence[str] = ()) -> float:
    copy.unlink(missing_ok=True)
    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", path, copy], check=True)
    if afterwards:
        subprocess.run(afterwards, check=True)
    return time.perf_counter() - start


def _run(command: str, path: Path, *results: Path) -> tuple[float, float]:
    """Return seconds and peak memory in MiB of a command."""
    for result in results:
        result.unlink(missing_ok=True)
        Path(f"{result}.ckdoc.json").unlink(missing_ok=True)
    os.sync()
    # Started from a small process: what the starting one ever held counts as its child's peak.
    arguments = [sys.executable, "-m", "checkpoint_doctor", command, str(path), "--quiet", "--fail-on", "never"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", STOPWATCH, *arguments], capture_output=True, text=True, check=True
    )
    seconds, peak, code = map(float, done.stdout.split())
    if code:
        raise RuntimeError(f"ckdoc {command} ended with {code:.0f}")
    return seconds, peak / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both tables; 0 where nothing went wrong."""
    parser = argparse.ArgumentParser(description="repairs of fault twins, and what a large file costs")
    parser.add_argument("--corpus", type=Path, default=find_corpus())
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--cost-only", action="store_true", help="leave out the twins, which take minutes")
    options = parser.parse_args(arguments)
    failures = [] if options.cost_only else repair_all_twins(options.corpus)
    print(*failures, sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        print(measure_cost(options.gigabytes, Path(folder)))
    return bool(failures)


def repair_all_twins(corpus: Path | None) -> list[str]:
    """Print what came of every twin, with safe repairs alone and with all; return what went wrong."""
    patients = list(networks(steps=120))
    if corpus is not None:
        patients += agents(corpus / "rl-trained-agents")
    failures: list[str] = []
    for title, allowed in (("safe repairs", {}), ("with --recycle --unsafe", {"recycle": True, "unsafe": True})):
        with tempfile.TemporaryDirectory() as folder:
            counts, wrong = repair_twins(patients, FixOptions(force=True, **allowed), Path(folder))
        print(f"{title}\n{report(counts)}\n", flush=True)
        failures += wrong
    return failures


if __name__ == "__main__":
    sys.exit(main())
