"""What a maintainer relies on: version and address are set once, the guide's example works, the workflow is pinned."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import api_reference
import pytest
import yaml
from conftest import ROOT

import checkpoint_doctor
from checkpoint_doctor import discover, testing
from checkpoint_doctor.builtin.analyzers.values import extremes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_version_is_set_in_one_place() -> None:
    assert "version" not in PROJECT
    assert version("checkpoint-doctor") == checkpoint_doctor.__version__, "run `make dev`"


def test_every_address_and_version_is_the_one_that_is_set(generate: ModuleType) -> None:
    for file, text in generate.render_addressed().items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run `make docs`"


def test_another_address_changes_all_that_mention_it(generate: ModuleType) -> None:
    owner, repository = SOURCE.split("/")[-2:]
    elsewhere = f"https://github.com/{owner}-moved/{repository}"
    for file in (generate.README, *generate.ADDRESSED):
        moved = generate.address(file.read_text(encoding="utf-8"), elsewhere, "9.8.7")
        assert f"{owner}-moved" in moved, f"{file.name} does not mention the address"
        assert not re.search(rf"\b{re.escape(owner)}(/|\.github\.io/){re.escape(repository)}\b", moved), file.name
        assert f"@v{checkpoint_doctor.__version__}" not in moved
        assert f"rev: v{checkpoint_doctor.__version__}" not in moved


def test_no_other_file_mentions_the_address(generate: ModuleType) -> None:
    slug = SOURCE.removeprefix("https://github.com/")
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.yml"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.*")]
    mentioning = {file for file in files if slug in file.read_text(encoding="utf-8")}
    assert mentioning <= {generate.README, *generate.ADDRESSED}


def test_the_api_reference_has_every_public_name() -> None:
    names = [name for group in api_reference.GROUPS.values() for name in group]
    assert sorted(names) == sorted({*checkpoint_doctor.__all__} - {"__version__"})
    assert sorted(api_reference.TESTING) == sorted(testing.__all__)


def test_the_api_reference_is_what_the_docstrings_say() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert api_reference.render() == page, "run `make docs`"
    assert "- `first_nonfinite: int | None`: Flat, row-major index of the first NaN or infinity." in page
    assert "\n- `updates_of(name: str) -> int | None`: " in page


@pytest.mark.parametrize("name", sorted({*checkpoint_doctor.__all__} - {"__version__"}))
def test_everything_public_says_what_it_is(name: str) -> None:
    public = getattr(checkpoint_doctor, name)
    assert inspect.getdoc(public)
    if isinstance(public, type):
        assert [entry.name for entry in api_reference.list_members(public) if not entry.docstring] == []


@pytest.mark.parametrize("loader", ["sb3", "torch", "safetensors", "numpy", "gguf", "onnx", "keras", "flax"])
def test_the_page_of_a_format_names_the_files_that_are_looked_at(loader: str) -> None:
    page = (ROOT / "docs" / "formats" / f"{loader}.md").read_text(encoding="utf-8")
    [found] = [each for each in discover().loaders if each.name == loader]
    assert {suffix for suffix in found.suffixes if f"`{suffix}`" not in page} == set()


def test_the_rule_in_the_guide_passes_the_tests_in_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    rule_code, test_code = re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
    written: dict[str, Any] = {"__name__": extremes.__name__}
    exec(rule_code, written)
    rule = written["subnormal_weights"]
    assert rule.code not in {each.code for each in discover().rules}, "the example's code is taken"
    monkeypatch.setattr(extremes, "subnormal_weights", rule, raising=False)
    tests: dict[str, Any] = {"__name__": "test_in_the_guide"}
    exec(test_code, tests)
    functions = [each for name, each in tests.items() if name.startswith("test_")]
    assert len(functions) == 2
    for function in functions:
        function()


def test_the_guide_names_targets_that_exist() -> None:
    for target in re.findall(r"`make (\w+)`", CONTRIBUTING):
        assert f"\n{target}:" in MAKEFILE, target


def test_the_workflow_is_pinned_and_covers_the_versions_that_are_promised() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    actions = re.findall(r"uses: (\S+)( # v[\d.]+)?", text)
    assert actions
    assert all(re.search(r"@[0-9a-f]{40}$", action) and comment for action, comment in actions)
    matrix = jobs["test"]["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    for step in (step for job in jobs.values() for step in job["steps"] if "run" in step):
        assert f"\n{step['run'].removeprefix('make ')}:" in MAKEFILE


@pytest.mark.parametrize("form", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[0-9]*.yml")), ids=lambda form: form.stem)
def test_an_issue_form_is_one_that_github_takes(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= content.keys()
    identifiers = [field["id"] for field in content["body"]]
    assert len(identifiers) == len(set(identifiers))
    for field in content["body"]:
        assert field["type"] in ("input", "textarea", "dropdown")
        assert field["attributes"]["label"]
        assert all(isinstance(option, str) for option in field["attributes"].get("options", ()))
