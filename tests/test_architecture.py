"""The picture in the docs is a test: who may import whom, and what a scan must not cost."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from conftest import ROOT

# Runs a scan in a fresh interpreter and prints the modules that it imported.
SCAN_AND_LIST = """
import sys
from checkpoint_doctor.acts.scan import scan
report = scan(sys.argv[1:])
assert all(examination.error is None for examination in report.checkpoints), report
print(*sorted(sys.modules))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_rows_import_only_the_rows_below_them() -> None:
    result = run(str(Path(sysconfig.get_path("scripts")) / "lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


def test_a_scan_imports_no_framework(fixtures: Path) -> None:
    files = [str(fixtures / name) for name in ("case_1_head_v6.zip", "case_5_zero_head.pt")]
    result = run(sys.executable, "-c", SCAN_AND_LIST, *files)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    assert "numpy" in imported
    packages = {name.partition(".")[0] for name in imported}
    assert not packages & {"torch", "stable_baselines3", "sb3_contrib", "gymnasium", "pandas", "scipy"}
    assert "numpy.ma" not in imported, "some functions of NumPy import it, which costs a tenth of a small scan"


def test_a_scan_of_a_file_does_not_import_what_reads_folders(fixtures: Path) -> None:
    result = run(sys.executable, "-c", SCAN_AND_LIST, str(fixtures / "case_1_head_v6.zip"))
    loaders = "checkpoint_doctor.builtin.loaders"
    of_folders = {
        each for each in result.stdout.split() if each.startswith((f"{loaders}.folders.", f"{loaders}.distributed."))
    }
    names = {f"{loaders}.{each}" for each in ("folders.loader", "distributed.loader", "distributed.names")}
    assert of_folders == names
