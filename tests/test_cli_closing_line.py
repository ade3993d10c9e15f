"""Where the closing line goes, and the formats that are one line for each finding or rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import run_command

ILL = "case_1_head_v6.zip"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments)


@pytest.mark.parametrize("format", ["terminal", "concise", "statistics"])
def test_a_page_for_people_that_is_piped_ends_with_the_closing_line(format: str, fixtures: Path) -> None:
    result = run("scan", fixtures / ILL, "--format", format)
    assert result.stdout.splitlines()[-1].startswith("18 tensors, ")
    assert result.stderr == ""


def test_a_page_for_programs_is_left_alone(fixtures: Path, tmp_path: Path) -> None:
    result = run("scan", fixtures / ILL, "--format", "json")
    json.loads(result.stdout)
    assert result.stderr.startswith("18 tensors, ")
    written = run("scan", fixtures / ILL, "--output", tmp_path / "page.txt")
    assert written.stdout == ""
    assert written.stderr.startswith("18 tensors, ")
    assert "18 tensors, " not in (tmp_path / "page.txt").read_text().splitlines()[-1]


def test_on_a_terminal_it_is_no_part_of_the_page(fixtures: Path) -> None:
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "checkpoint_doctor", "scan", str(fixtures / ILL), "--format", "concise"]
    result = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(terminal)
    page = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert page.startswith(str(fixtures / ILL))
    assert "18 tensors, " not in page
    assert result.stderr.splitlines()[-1].startswith("18 tensors, ")


def test_quiet_leaves_it_out(fixtures: Path) -> None:
    result = run("scan", fixtures / ILL, "--quiet", "--format", "concise")
    assert all(line.startswith(str(fixtures / ILL)) for line in result.stdout.splitlines())


def test_fix_counts_tensors_and_moments_apart(fixtures: Path, tmp_path: Path) -> None:
    planned = run("fix", fixtures / ILL, "--dry-run").stdout.splitlines()[-1]
    assert planned == "1 checkpoint: 1 planned; 1 tensor and 2 moments to change"
    fixed = run("fix", fixtures / ILL, "--output", tmp_path / "well.zip").stdout.splitlines()[-1]
    assert fixed == "1 checkpoint: 1 fixed; 1 tensor and 2 moments changed"


def test_statistics_are_a_format_with_an_option_of_their_own(fixtures: Path) -> None:
    counted = run("scan", fixtures / ILL, "--statistics").stdout
    assert counted.splitlines()[0] == "1 error   overwritten (proven) in 1 checkpoint"
    assert counted == run("scan", fixtures / ILL, "--format", "statistics").stdout
    refused = run("scan", fixtures / ILL, "--statistics", "--format", "json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--report statistics=FILE" in refused.stderr


def test_where_a_page_has_no_lines_none_is_printed(fixtures: Path) -> None:
    result = run("scan", fixtures / "case_2_healthy.zip", "--select", "ZER", "--quiet", "--format", "concise")
    assert (result.returncode, result.stdout) == (0, "")
