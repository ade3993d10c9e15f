"""Which exit code wins where a run meets several things at once; see the table in the README."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.command import run_command

SHAPES = {"weight": (8, 8), "bias": (8,)}
HEALTHY, ILL, BROKEN = "case_1_healthy.zip", "case_1_head_v6.zip", "broken.safetensors"


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    """A folder with a healthy checkpoint, an ill one, and one that cannot be read."""
    for name in (HEALTHY, ILL):
        (tmp_path / name).write_bytes((fixtures / name).read_bytes())
    (tmp_path / BROKEN).write_bytes((1 << 40).to_bytes(8, "little") + b'{"a":1}')
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    return run_command(*arguments, cwd=folder).returncode


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ((HEALTHY,), 0),
        ((ILL,), 1),
        ((BROKEN,), 2),
        ((HEALTHY, ILL), 1),
        ((HEALTHY, BROKEN), 2),
        ((ILL, BROKEN), 2),
        ((HEALTHY, ILL, BROKEN), 2),
    ],
    ids=lambda value: "+".join(name.split(".")[0] for name in value) if isinstance(value, tuple) else None,
)
def test_what_could_not_be_read_outweighs_what_is_ill(names: tuple[str, ...], code: int, folder: Path) -> None:
    for order in itertools.permutations(names) if len(names) == 2 else [names]:
        assert run(folder, "scan", *order) == code


def test_never_failing_on_findings_does_not_excuse_an_unreadable_file(folder: Path) -> None:
    assert run(folder, "scan", ILL, "--fail-on", "never") == 0
    assert run(folder, "scan", ILL, BROKEN, "--fail-on", "never") == 2


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("warning", 1), ("note", 1), ("never", 0)])
def test_the_severity_that_fails_the_run_changes_the_exit_code_and_no_verdict(
    level: str, code: int, tmp_path: Path, fixtures: Path
) -> None:
    warned = "zero_bias.safetensors"
    (tmp_path / ILL).write_bytes((fixtures / ILL).read_bytes())
    draw = np.random.default_rng(0).normal
    tensors = {f"{layer}.{role}": draw(0, 0.3, shape) for layer in "02" for role, shape in SHAPES.items()}
    save_file({**tensors, "0.bias": np.zeros(8)}, tmp_path / warned)
    assert run(tmp_path, "scan", warned, "--fail-on", level) == code
    assert run(tmp_path, "scan", ILL, warned, "--fail-on", level, "-f", "json", "-o", "r.json") == (level != "never")
    found = {each["path"]: each["verdict"] for each in json.loads((tmp_path / "r.json").read_text())["checkpoints"]}
    assert found == {ILL: "ill", warned: "healthy"}


def test_a_folder_is_judged_by_all_that_it_holds(folder: Path) -> None:
    assert run(folder, "scan", ".") == 2
    (folder / BROKEN).unlink()
    assert run(folder, "scan", ".") == 1
    (folder / ILL).unlink()
    assert run(folder, "scan", ".") == 0
    (folder / HEALTHY).unlink()
    assert run(folder, "scan", ".") == 3
