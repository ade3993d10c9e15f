"""What others may build on: documented name by name, typed, and light to import."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from pkgutil import iter_modules

import pytest
from conftest import ROOT

import checkpoint_doctor
from tests.corpus import user_cache

LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def test_the_docs_list_exactly_the_public_names() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", LIBRARY, re.MULTILINE)
    assert sorted(listed) == sorted(checkpoint_doctor.__all__)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", sorted(set(checkpoint_doctor.__all__) - {"__version__"}))
def test_every_public_name_says_what_it_is(name: str) -> None:
    documentation = getattr(checkpoint_doctor, name).__doc__
    assert documentation
    assert documentation.partition("\n")[0].endswith((".", ":")), documentation
    assert not documentation.startswith(f"{name}("), f"{name} has only the docstring that dataclasses generate"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scann'"):
        checkpoint_doctor.scann  # noqa: B018
    assert {"scan", "Report"} <= set(dir(checkpoint_doctor))


def run(code: str, folder: Path = ROOT) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_it_imports_nothing_but_itself_and_a_little_of_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import checkpoint_doctor; print(*(set(sys.modules) - before))"
    imported = set(run(code).split())
    assert {name for name in imported if name.startswith("checkpoint_doctor")} == {"checkpoint_doctor"}
    assert {name.partition(".")[0] for name in imported} <= {"checkpoint_doctor", *sys.stdlib_module_names}


def test_no_module_has_the_name_of_something_public() -> None:
    """Python binds a module to its package once it is loaded, in the place of a function of the same name."""
    modules = {module.name for module in iter_modules(checkpoint_doctor.__path__)}
    assert modules
    assert not modules & set(checkpoint_doctor.__all__)


def test_it_says_that_it_is_typed() -> None:
    assert files("checkpoint_doctor").joinpath("py.typed").is_file()


def test_a_type_checker_sees_the_public_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from checkpoint_doctor import Report, open_checkpoint, scan\n"
        "report: Report = scan(['model.zip'])\n"
        "reveal_type(report.findings)\n"
        "reveal_type(open_checkpoint('model.zip').tensors[0].statistics.zeros)\n"
        "scan(report)\n"
    )
    cache = user_cache() / "tests" / "mypy"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache), program]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert 'Sequence[checkpoint_doctor.results.findings.Finding]"' in result.stdout
    assert 'Revealed type is "int"' in result.stdout.replace("builtins.", "")
    assert [line.rpartition("[")[2] for line in result.stdout.splitlines() if " error: " in line] == ["arg-type]"]


EXAMPLES = re.findall(r"```python\n(.*?)```", LIBRARY, re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=[f"example {number}" for number in range(1, len(EXAMPLES) + 1)])
def test_the_examples_run(code: str, tmp_path: Path, fixtures: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "configs").mkdir()
    for name in ("model.zip", "latest.zip"):
        (tmp_path / "runs" / name).write_bytes((fixtures / "case_1_healthy.zip").read_bytes())
    run(code, tmp_path)
