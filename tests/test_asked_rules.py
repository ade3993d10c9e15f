"""A gate says what it asked, and who told it to be silent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from checkpoint_doctor import UsageError, discover, load_config, scan
from checkpoint_doctor.plugins.catalogue import Catalogue
from tests.command import run_command

ILL, HEALTHY = "case_1_head_v6.zip", "case_1_healthy.zip"
FORMATS = ("terminal", "json", "sarif", "junit", "github", "markdown", "concise", "statistics")
IGNORE = '[[ignore]]\ncode = "NRM001"\nreason = "known"\n'


@pytest.fixture
def catalogue() -> Catalogue:
    return discover()


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (ILL, HEALTHY):
        shutil.copy(fixtures / name, tmp_path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ckdoc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, cwd=folder)


# --- the rules that are asked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--select", "NET003", "--ignore", "NET003"),
        ("--select", "NET", "--ignore", "NET"),
        ("--ignore", "ALL"),
        ("--select", "CKD"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["scan", "fix"])
def test_an_empty_selection_is_refused(command: str, arguments: tuple[str, ...], folder: Path) -> None:
    result = ckdoc(folder, command, HEALTHY, *arguments)
    assert result.returncode == 2
    assert f"no rule is left to examine {HEALTHY}" in result.stderr


@pytest.mark.parametrize(
    "text",
    ["select = []", 'select = ["NET003"]\n[severity]\nNET003 = "off"', f'[paths."{HEALTHY}"]\nselect = []'],
)
def test_an_empty_selection_in_a_file_is_refused(text: str, folder: Path, catalogue: Catalogue) -> None:
    (folder / "ckdoc.toml").write_text(text)
    with pytest.raises(UsageError, match=r"no rule is left|neither a string nor"):
        scan([folder / ILL, HEALTHY], config=load_config(catalogue.rules))


def test_a_report_counts_and_lists_the_rules_that_were_asked(folder: Path, catalogue: Catalogue) -> None:
    config = load_config(catalogue.rules, select=["NET"], ignore=["NET003"])
    report = scan([HEALTHY], config=config)
    expected = tuple(rule.code for rule in catalogue.rules if rule.family == "NET" and rule.code != "NET003")
    assert report.asked == report.checkpoints[0].asked == expected
    assert report.rules == len(expected)
    assert f"{len(expected)} rules" in report.summary_line


def test_sections_for_paths_are_told_apart(folder: Path, catalogue: Catalogue) -> None:
    (folder / "ckdoc.toml").write_text(f'select = ["NET"]\n[paths."{HEALTHY}"]\nselect = ["ZER"]\n')
    report = scan([ILL, HEALTHY], config=load_config(catalogue.rules))
    families = [{code[:3] for code in each.asked or ()} for each in report.checkpoints]
    assert families == [{"NET"}, {"ZER"}]
    assert {code[:3] for code in report.asked or ()} == {"NET", "ZER"}


def test_reports_for_programs_list_what_was_asked_and_nothing_else(folder: Path) -> None:
    reports = [f"--report={form}={form}.out" for form in ("json", "junit", "sarif")]
    assert ckdoc(folder, "scan", HEALTHY, "--select", "NET", *reports).returncode == 0
    asked = json.loads((folder / "json.out").read_text())["asked"]
    assert {code[:3] for code in asked} == {"NET"}
    suites = ElementTree.fromstring((folder / "junit.out").read_text())
    assert [case.get("name", "").split()[0] for case in suites.iter("testcase")] == asked
    [run] = json.loads((folder / "sarif.out").read_text())["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == asked


# --- the configuration that silences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_configuration_found_upward_is_named_where_it_silences(form: str, folder: Path) -> None:
    (folder / "ckdoc.toml").write_text(IGNORE)
    result = ckdoc(folder / "below", "scan", f"../{ILL}", "--format", form)
    assert result.returncode == 0
    words = f"configured by {folder / 'ckdoc.toml'}: 1 finding hidden"
    assert words in " ".join(result.stdout.replace("\\_", "_").split()).replace("/ ", "/")
    assert words in (result.stdout if form in ("terminal", "concise", "statistics") else result.stderr)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (IGNORE, "1 finding hidden"),
        ('select = ["NRM"]', "rules not asked"),
        ('[severity]\nNRM001 = "off"', "1 rule not asked"),
        ('[severity]\nNRM001 = "warning"', "severity of NRM001 set"),
        ("[options.ZER002]\nerror = 0.9", "options of ZER002 set"),
        ('fail-on = "never"', "fail-on never"),
        (f'[paths."{ILL}".severity]\nNRM001 = "note"', "severity of NRM001 set"),
    ],
)
def test_what_is_silenced_is_said(text: str, words: str, folder: Path, catalogue: Catalogue) -> None:
    (folder / "ckdoc.toml").write_text(text)
    assert words in scan([ILL], config=load_config(catalogue.rules)).configuration


@pytest.mark.parametrize(
    "text",
    ["", 'fail-on = "warning"', '[severity]\nNRM001 = "error"', f'[paths."{ILL}".severity]\nNRM001 = "note"'],
)
def test_a_configuration_that_silences_nothing_is_not_named(text: str, folder: Path, catalogue: Catalogue) -> None:
    (folder / "ckdoc.toml").write_text(text)
    assert scan([HEALTHY], config=load_config(catalogue.rules)).configuration == ""


def test_the_command_line_is_no_configuration_file(folder: Path, catalogue: Catalogue) -> None:
    config = load_config(catalogue.rules, select=["NET"], fail_on="never")
    assert scan([HEALTHY], config=config).configuration == ""


# --- whom to trust ----------------------------------------------------------------------------------------------------


def test_a_configuration_where_anybody_may_write_is_not_trusted(folder: Path) -> None:
    (folder / "ckdoc.toml").write_text(IGNORE)
    folder.chmod(0o777)
    assert_refused(folder, "lies where anybody may write")
    folder.chmod(0o1777)
    assert_refused(folder, "lies where anybody may write")
    folder.chmod(0o700)
    (folder / "ckdoc.toml").chmod(0o666)
    assert_refused(folder, "lies where anybody may write")
    (folder / "ckdoc.toml").chmod(0o644)
    assert ckdoc(folder / "below", "scan", f"../{ILL}").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
@pytest.mark.parametrize("name", ["ckdoc.toml", "pyproject.toml"])
def test_another_users_configuration_is_not_trusted(name: str, folder: Path) -> None:
    text = IGNORE.replace("[[ignore]]", "[[tool.ckdoc.ignore]]") if name == "pyproject.toml" else IGNORE
    (folder / name).write_text(text)
    os.chown(folder / name, 12345, 12345)
    assert_refused(folder, "belongs to another user", name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
def test_another_users_link_to_a_configuration_is_not_trusted(folder: Path) -> None:
    (folder / "lenient.toml").write_text(IGNORE)
    (folder / "ckdoc.toml").symlink_to("lenient.toml")
    assert ckdoc(folder / "below", "scan", f"../{ILL}").returncode == 0
    os.lchown(folder / "ckdoc.toml", 12345, 12345)
    assert_refused(folder, "belongs to another user")


def assert_refused(folder: Path, words: str, name: str = "ckdoc.toml") -> None:
    for command in ("scan", "fix"):
        result = ckdoc(folder / "below", command, f"../{ILL}")
        assert result.returncode == 2
        assert words in result.stderr
        assert "--config" in result.stderr
    assert ckdoc(folder / "below", "scan", f"../{ILL}", "--config", f"../{name}").returncode == 0
    assert ckdoc(folder / "below", "scan", f"../{ILL}", "--config", os.devnull).returncode == 1
