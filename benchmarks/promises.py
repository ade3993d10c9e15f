"""Breaks seven promises on purpose, one at a time in a copy of the checkout, and checks that a test notices each.

Run as ``python -m benchmarks.promises``. The exit code is 1 where a promise can be broken and no test fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "checkpoint_doctor"


@dataclass(frozen=True)
class Break:
    """A promise, the code that keeps it, and code that does not."""

    promise: str
    file: str
    """Path inside the package."""
    before: str
    after: str
    tests: str
    """Test files that concern the file, by their names after ``test_``."""


BREAKS = (
    Break(
        "a rule that crashes is reported, and the run is not a clean one",
        "examination/rules.py",
        "                findings.append(settings.judge(report_crash(rule, error), checkpoint.path))\n",
        "",
        "promises plugin_example",
    ),
    Break(
        "a repaired copy holds the same tensors",
        "repair/verification.py",
        "    if [_header(each) for each in before.tensors] != [_header(each) for each in after.tensors]:\n",
        "    if False:\n",
        "promises verification",
    ),
    Break(
        "an unreadable file beside an ill one gives exit code 2",
        "cli/scanning.py",
        "    if not report.is_complete:\n        return FAILED\n    return ILL if report.failed else HEALTHY\n",
        "    if report.failed:\n        return ILL\n    return HEALTHY if report.is_complete else FAILED\n",
        "exit_codes",
    ),
    Break(
        "shards are examined through their index and not again beside it",
        "sources/search.py",
        "                if name not in claimed and not is_shard:\n",
        "                if name not in claimed:\n",
        "promises search",
    ),
    Break(
        "biases that no optimizer holds are no error",
        "builtin/analyzers/values/zeros.py",
        "all(each.why.held and each.why.cause is not Cause.UNKNOWN for each in learned)",
        "all(each.why.cause is not Cause.UNKNOWN for each in learned)",
        "promises rule_findings",
    ),
    Break(
        "a threshold lies where the documentation says",
        "builtin/analyzers/values/zeros.py",
        "warning: float = 0.10, error: float = 0.30",
        "warning: float = 0.11, error: float = 0.30",
        "thresholds",
    ),
    Break(
        "three findings that say the same are shown as one, and two are not",
        "builtin/reporters/_grouping.py",
        "SMALLEST_GROUP = 3\n",
        "SMALLEST_GROUP = 2\n",
        "promises identity",
    ),
)


def copy_checkout(folder: Path) -> Path:
    """Copy what the tests need and return the copy."""
    copy = folder / "checkout"
    left_out = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "site", "build")
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


def run_tests(copy: Path, names: str) -> bool:
    """Return whether the tests pass in a copy."""
    files = [f"tests/test_{name}.py" for name in names.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False).returncode == 0


def try_breaks(copy: Path) -> Iterator[tuple[Break, bool]]:
    """Break each promise and yield whether a test noticed.

    Raises:
        ValueError: the code that keeps a promise is no longer there, so that the break must be written anew.
    """
    for each in BREAKS:
        file = copy / PACKAGE / each.file
        whole = file.read_text(encoding="utf-8")
        if each.before not in whole:
            raise ValueError(f"{each.file} no longer has the code that keeps this promise: {each.promise}")
        file.write_text(whole.replace(each.before, each.after, 1), encoding="utf-8")
        noticed = not run_tests(copy, each.tests)
        file.write_text(whole, encoding="utf-8")
        yield each, noticed


def main() -> int:
    """Print what came of each promise."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_checkout(Path(folder))
        everything = " ".join(dict.fromkeys(name for each in BREAKS for name in each.tests.split()))
        if not run_tests(copy, everything):
            print("the tests fail before anything is broken")
            return 1
        outcomes = list(try_breaks(copy))
    for each, noticed in outcomes:
        print(f"{'noticed' if noticed else 'MISSED '}  {each.promise}")
    print(f"{sum(noticed for _, noticed in outcomes)} of {len(outcomes)} broken promises noticed")
    return 0 if all(noticed for _, noticed in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
