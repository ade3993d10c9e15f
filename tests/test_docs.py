"""The docs are held to the code: what is derived has not drifted, what is promised exists, what is shown runs."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from conftest import ROOT

from checkpoint_doctor.cli import output

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def test_the_rules_pages_are_what_the_code_says(generate: ModuleType) -> None:
    pages = generate.render_rules()
    assert {page.name: page.read_text(encoding="utf-8") for page in generate.RULES.glob("*.md")} == pages, "`make docs`"
    links = re.findall(r"\]\((\w+\.md)\)", pages["README.md"])
    assert sorted([*links, "README.md"]) == sorted(pages)


def test_the_causes_pages_are_what_the_code_says(generate: ModuleType) -> None:
    pages = generate.render_causes()
    assert {page.name: page.read_text(encoding="utf-8") for page in generate.CAUSES.glob("*.md")} == pages, (
        "`make docs`"
    )
    links = re.findall(r"\]\(([\w-]+\.md)\)", pages["README.md"])
    assert sorted([*links, "README.md"]) == sorted(pages)


def test_the_readme_shows_what_the_command_prints(generate: ModuleType) -> None:
    assert generate.render_readme() == README, "run `make docs`"
    assert "NRM001" in README.partition("```console")[2].partition("```")[0]


def test_the_pictures_of_the_readme_are_drawn_from_today_and_load_nothing(generate: ModuleType) -> None:
    pictures = generate.render_pictures()
    drawn = {picture.name: picture.read_text(encoding="utf-8") for picture in generate.PICTURES.glob("*.svg")}
    assert drawn == pictures, "run `make docs`"
    for name, picture in pictures.items():
        assert f"docs/pictures/{name}" in README
        assert "url(http" not in picture
        assert not re.search(r"(src|href)=\"(?!#)", picture)
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert len(picture) < 40_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)(#[^)\s]+)?\)", text):
        assert (page.parent / target).exists(), target
        if anchor:
            linked = text if not target else (page.parent / target).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor[1:] in anchors


def test_the_architecture_lists_the_folders_and_files_that_stand(generate: ModuleType) -> None:
    assert generate.render_architecture() == ARCHITECTURE, "run make docs"


def shows(line: str, name: str) -> bool:
    folder, _, inside = name.rpartition(".")
    return (not folder or f"{folder}/" in line) and bool(
        re.search(rf"\b{inside}\b" if folder else rf"\b{name}(/|\.py)", line)
    )


def test_the_picture_has_the_rows_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    [rows] = [each["layers"] for each in contracts if each["name"] == "A row imports only the rows below it"]
    picture = ARCHITECTURE.partition("```\n")[2].partition("```")[0].splitlines()
    place = 0
    for row in rows:
        names = [name.strip().removeprefix("checkpoint_doctor.") for name in row.split("|")]
        lines = [number for number, line in enumerate(picture) if all(shows(line, name) for name in names)]
        assert lines, row
        assert lines[0] >= place, row
        place = lines[0]


@pytest.mark.parametrize("page", ["README.md", "docs/ci.md"])
def test_the_exit_codes_are_documented(page: str) -> None:
    documented = re.findall(r"^\| (\d) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(code) for code in documented] == [output.HEALTHY, output.ILL, output.FAILED, output.NOTHING]


def test_the_readme_names_every_command() -> None:
    command = str(Path(sysconfig.get_path("scripts")) / "ckdoc")
    overview = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60).stdout
    for name in re.findall(r"^  (\w+) ", overview.partition("Commands:")[2].partition("Examples:")[0], re.MULTILINE):
        assert f"`ckdoc {name}" in README, name


def test_the_commands_of_the_readme_are_the_ones_that_are_run() -> None:
    scan, tests, *_ = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    [file] = re.findall(r"ckdoc scan (\S+)", scan)
    assert (ROOT / file).is_file()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    targets = re.search(r"^make (.+)$", tests, re.MULTILINE)
    assert targets
    for target in targets[1].split():
        assert f"\n{target}:" in makefile
        assert f"make {target}" in check


def test_the_snippet_of_the_readme_is_a_gate(tmp_path: Path, fixtures: Path) -> None:
    [gate] = re.findall(r"# gate\nckdoc (.*)\n", README)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.zip").write_bytes((fixtures / "case_1_head_v6.zip").read_bytes())
    command = [sys.executable, "-m", "checkpoint_doctor", *gate.split()]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 1
    assert (tmp_path / "ckdoc.xml").is_file()


def test_the_page_about_settings_lists_the_ranges(generate: ModuleType) -> None:
    page = generate.SETTINGS.read_text(encoding="utf-8")
    assert generate.render_settings() == page, "run make docs"
    assert "| `learning_rate` | 0.0003 to 0.001 | tuned range | RL Baselines3 Zoo, hyperparams/sac.yml |" in page
