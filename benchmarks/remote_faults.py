"""Scans of files on a server at which much goes wrong: is any verdict wrong, does any scan hang or crash?

Run as ``python -m benchmarks.remote_faults [--scans 1000] [--rate 0.02] [--seed 0]``. The server is this process's own.
A part of its answers, drawn anew for each scan between the rate and twenty times it, is an error, breaks off, stalls,
comes late, or is of another file that was put in place of the first. Each scan must end with the report that the same
file has on the disk, or that the new file has, or with exit code 2 and one sentence. Every tenth scan is a run of the
command. Waiting times are scaled down, so that a stall takes a third of a second.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

from checkpoint_doctor import scan, to_json
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.sources.remote import stores
from tests.range_server import BEHAVIOURS, RangeServer, serve

SLOWEST = 30.0
"""Seconds after which a scan counts as hanging, with waiting times scaled down."""


def hurry() -> None:
    """Scale down the waiting times for servers that do not answer."""
    stores.PAUSE = 0.001
    stores.SILENCE_TIMEOUT = timedelta(seconds=0.3)
    stores.RETRIED_FOR = timedelta(seconds=2)
    stores.open_store.cache_clear()


def write_files(folder: Path, agents: Sequence[Path] = ()) -> list[str]:
    """Write checkpoints, each with the one that takes its place, and return their names."""
    generator = np.random.default_rng(0)
    healthy = {f"{at}.weight": generator.standard_normal((192, 192), np.float32) / 14 for at in range(12)}
    ill = {name: each.copy() for name, each in healthy.items()}
    ill["7.weight"][3:9] = np.nan
    large = {f"{at}.weight": generator.standard_normal((1024, 1024), np.float32) / 32 for at in range(10)}
    save_file(healthy, folder / "healthy.safetensors")
    save_file(ill, folder / "healthy.safetensors.new")
    save_file(ill, folder / "ill.safetensors")
    save_file(healthy, folder / "ill.safetensors.new")
    save_file(large, folder / "large.safetensors")
    names = ["healthy.safetensors", "ill.safetensors", "large.safetensors"]
    for agent in agents:
        (folder / agent.name).write_bytes(agent.read_bytes())
    return [*names, *(agent.name for agent in agents)]


def read_report(uri: str) -> Any:
    """Return the report on a checkpoint as JSON, without what names the file."""
    [entry] = to_json(scan(uri))["checkpoints"]
    return {name: value for name, value in entry.items() if name not in ("path", "files")}


def judge_scan(uri: str, expected: Sequence[Any]) -> str:
    """Scan a file with the library and return ``right``, ``refused`` (in one sentence) or what is wrong."""
    try:
        found = read_report(uri)
    except Exception as error:
        refused = type(error).__name__ in ("UnreadableCheckpoint", "UsageError") and "\n" not in str(error)
        return "refused" if refused else f"{type(error).__name__}: {error}"
    if found["verdict"] == "unreadable":
        return "refused" if "\n" not in found["error"] and "its library says" not in found["error"] else found["error"]
    return "right" if found in expected else f"wrong verdict {found['verdict']}"


def judge_command(uri: str, codes: Sequence[int]) -> str:
    """Scan a file with the command and return what ``judge_scan`` does."""
    result = CliRunner().invoke(app, ["scan", "--format", "concise", uri])
    if "Traceback" in result.output or not isinstance(result.exception, SystemExit | None):
        return f"traceback: {result.output[-300:]} {result.exception!r}"
    if result.exit_code == 2:
        return "refused"
    return "right" if result.exit_code in codes else f"exit code {result.exit_code}"


def run_scans(
    server: RangeServer, folder: Path, names: Sequence[str], scans: int, rate: float, seed: int
) -> Counter[str]:
    """Scan files again and again while requests fail at random, and count how the scans ended."""
    reports = {name: read_report(str(folder / name)) for name in names}
    renewed = {}
    for name in names:
        if (folder / f"{name}.new").exists():
            (folder / "renewed").mkdir(exist_ok=True)
            other = folder / "renewed" / name
            other.write_bytes((folder / f"{name}.new").read_bytes())
            renewed[name] = read_report(str(other))
    generator = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(scans):
        name = generator.choice(names)
        expected = [reports[name], *([renewed[name]] if name in renewed else [])]
        share = rate * 20 ** generator.random()
        kinds = generator.choice([BEHAVIOURS, (generator.choice(BEHAVIOURS),)])
        server.is_replaced = False
        server.has_versions = generator.random() < 0.8
        server.draw = lambda kinds=kinds, share=share: generator.choice(kinds) if generator.random() < share else ""
        began = time.perf_counter()
        if number % 10:
            outcome = judge_scan(f"{server.address}/{name}", expected)
        else:
            codes = [{"healthy": 0, "ill": 1}[each["verdict"]] for each in expected]
            outcome = judge_command(f"{server.address}/{name}", codes)
        if time.perf_counter() - began > SLOWEST:
            outcome = "hang"
        if outcome not in ("right", "refused"):
            print(f"scan {number} of {name}, {kinds} at {share:.2f}: {outcome}", file=sys.stderr)
        outcomes[outcome if outcome in ("right", "refused", "hang") else "wrong"] += 1
    server.draw = None
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scans and print how they ended; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description="scans of files on a server at which much goes wrong")
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.02, help="smallest share of the requests that fail")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    hurry()
    agents = sorted((Path(__file__).parent.parent / "fixtures").glob("case_*_head_v6.zip"))[:2]
    with tempfile.TemporaryDirectory() as name, serve(Path(name)) as server:
        names = write_files(Path(name), agents)
        began = time.perf_counter()
        outcomes = run_scans(server, Path(name), names, options.scans, options.rate, options.seed)
        seconds = time.perf_counter() - began
    words = ", ".join(f"{outcomes[each]:,} {each}" for each in ("right", "refused", "wrong", "hang"))
    print(f"{options.scans:,} scans in {seconds:.0f} s with {server.requests:,} requests: {words}")
    return int(outcomes["wrong"] + outcomes["hang"] > 0)


if __name__ == "__main__":
    sys.exit(main())
