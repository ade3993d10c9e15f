"""What is examined where the command line names nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command import run_command


def scan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("scan", *arguments, "--format", "concise", cwd=folder)


@pytest.fixture
def project(tmp_path: Path, fixtures: Path) -> Path:
    """A folder with a healthy checkpoint beside an ill one, and a folder without any."""
    for folder, name in (("well", "case_1_healthy.zip"), ("ill", "case_1_head_v6.zip")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.zip").write_bytes((fixtures / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(("files", "code"), [('"well"', 0), ('["well", "ill"]', 1), ('["*/model.zip"]', 1)])
def test_the_files_of_the_configuration_are_examined(files: str, code: int, project: Path) -> None:
    (project / "ckdoc.toml").write_text(f"files = {files}\n")
    assert scan(project).returncode == code
    assert scan(project / "well").returncode == code  # the paths start at the configuration's folder
    assert scan(project, "well").returncode == 0  # what is named counts


def test_they_are_named_as_in_the_working_directory(project: Path) -> None:
    (project / "ckdoc.toml").write_text('files = ["ill"]\n')
    assert scan(project).stdout.startswith(f"{Path('ill', 'model.zip')}: error overwritten")
    assert scan(project / "well").stdout.startswith(f"{project / 'ill' / 'model.zip'}: error overwritten")


def test_an_address_among_them_stays_one(project: Path) -> None:
    (project / "ckdoc.toml").write_text('files = ["nothing://bucket/model.zip"]\n')
    result = scan(project)
    assert result.returncode == 2
    assert "reads nothing://" in result.stderr


def test_without_files_anywhere_it_says_what_to_do(project: Path) -> None:
    (project / "ckdoc.toml").write_text("")
    result = scan(project)
    assert (result.returncode, result.stdout) == (2, "")
    assert "nothing to examine is named" in result.stderr
    assert "`files`" in result.stderr


@pytest.mark.parametrize("files", ["[1]", "3", '[""]'])
def test_files_of_another_type_are_refused(files: str, project: Path) -> None:
    (project / "ckdoc.toml").write_text(f"files = {files}\n")
    result = scan(project)
    assert result.returncode == 2
    assert "files" in result.stderr
    assert "Traceback" not in result.stderr
