"""The catalogue: every rule can be explained, configured, found on a page and completed in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

from checkpoint_doctor import Rule, Safety, discover, load_config
from checkpoint_doctor.plugins.explanation import FAMILIES, explain_rule
from checkpoint_doctor.testing import check_rule
from tests.command import run_command

CATALOGUE = discover(lazily=False)
RULES = [rule for rule in CATALOGUE.rules if rule.package == "checkpoint_doctor"]
CKDOC = str(Path(sysconfig.get_path("scripts")) / "ckdoc")

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)


def ckdoc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, cwd=ROOT, environment=environment)


@each_rule
def test_every_rule_is_declared_as_a_rule_must_be(rule: Rule) -> None:
    check_rule(rule)
    assert rule.family in FAMILIES


@each_rule
def test_every_option_says_what_it_means(rule: Rule) -> None:
    assert list(rule.option_descriptions) == list(rule.options)
    for description in rule.option_descriptions.values():
        assert re.fullmatch(r"[A-Z].{20,}\.", description), description


def test_codes_and_names_are_unique() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES) >= 30


def test_all_of_our_own_plugins_work() -> None:
    assert [plugin for plugin in CATALOGUE.broken if plugin.is_ours] == []


@each_rule
def test_a_rule_that_promises_repairs_says_so_when_explained(rule: Rule) -> None:
    text = explain_rule(rule)
    assert ("`ckdoc fix" in text.partition("## ")[0]) is (rule.fix is not None)
    assert ("--recycle" in text.partition("## ")[0]) is (rule.fix is Safety.ON_REQUEST)


def test_a_rule_whose_severity_rises_says_how_far() -> None:
    pages = {rule.code: explain_rule(rule) for rule in RULES}
    assert "**Severity** note, up to error ·" in pages["NET001"]
    assert "**Severity** note ·" in pages["NET005"]


# --- as a person sees it ----------------------------------------------------------------------------------------------


def test_rules_are_listed_one_a_line() -> None:
    lines = ckdoc("rules").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == [rule.code for rule in CATALOGUE.rules]
    [row] = [row for row in json.loads(ckdoc("rules", "--format", "json").stdout) if row["code"] == "ZER002"]
    assert (row["name"], row["severity"], row["worst"]) == ("partial-zeros", "warning", "error")
    assert ["ZER002", "partial-zeros", "warning", "error"] in [line.split("\t")[:4] for line in lines]
    assert row["options"] == {"warning": 0.1, "error": 0.3}


@pytest.mark.parametrize("wanted", ["VAL001", "val001", "nonfinite-values", "NonFinite-Values"])
def test_a_rule_is_explained_by_code_or_name_however_written(wanted: str) -> None:
    result = ckdoc("explain", wanted)
    assert result.returncode == 0
    assert result.stdout == explain_rule(next(rule for rule in RULES if rule.code == "VAL001"))
    assert "\x1b" not in result.stdout


def test_without_docstrings_nothing_is_explained() -> None:
    command = [sys.executable, "-OO", "-m", "checkpoint_doctor", "explain", "VAL001"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert "without docstrings" in result.stderr


def test_a_misspelt_rule_gets_the_nearest_name() -> None:
    result = ckdoc("explain", "zero-bais")
    assert (result.returncode, result.stdout) == (2, "")
    assert "did you mean zero-bias?" in result.stderr
    assert "Traceback" not in result.stderr


def on_a_terminal(*arguments: str, columns: int) -> str:
    """What a person sees at a terminal of that width, colours taken out."""
    import pty

    leader, follower = pty.openpty()
    try:
        environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": ""}
        process = subprocess.Popen(
            [CKDOC, *arguments], cwd=ROOT, stdout=follower, stderr=subprocess.DEVNULL, env=environment
        )
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        assert process.wait(timeout=60) == 0
    finally:
        os.close(leader)
    text = shown.decode()
    assert "\x1b[" in text, "a terminal gets colours"
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_page_fits_the_terminal(columns: int) -> None:
    page = on_a_terminal("explain", "NET001", columns=columns)
    for shown in (page, *(on_a_terminal(command, columns=columns) for command in ("rules", "plugins", "config"))):
        assert max(map(len, shown.splitlines())) <= columns, shown
    for heading in ("Why it matters", "When it is normal", "What to do", "References", "Options"):
        assert f"\r\n{heading}" in page
    assert "``" not in page
    assert "##" not in page


@pytest.mark.parametrize("columns", [30, 60, 80])
def test_a_list_breaks_no_name_on_a_narrow_terminal(columns: int) -> None:
    shown = on_a_terminal("rules", columns=columns)
    assert max(map(len, shown.splitlines())) <= columns
    assert {name for rule in RULES for name in (rule.code, rule.name)} <= set(shown.split())
    assert all(" ".join(rule.summary.split()) in " ".join(shown.split()) for rule in RULES)


def test_plugins_are_listed_with_their_versions() -> None:
    lines = [line.split("\t") for line in ckdoc("plugins").stdout.splitlines()]
    assert ["loaders", "sb3", "checkpoint-doctor", "0.1.0"] in lines
    assert {line[0] for line in lines} == {"loaders", "log_readers", "analyzers", "causes", "reporters", "engines"}
    rows = json.loads(ckdoc("plugins", "--format", "json").stdout)
    assert {row["problem"] for row in rows if row["package"] == "checkpoint-doctor"} == {None}


def test_every_command_has_help() -> None:
    overview = ckdoc("--help").stdout
    for command in ("scan", "rules", "explain", "plugins", "config"):
        assert command in overview
        assert ckdoc(command, "--help").returncode == 0
    nothing_asked = ckdoc()
    assert nothing_asked.returncode == 2
    assert nothing_asked.stderr.strip() == overview.strip()


# --- shells -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_a_real_bash_completes_a_code(tmp_path: Path) -> None:
    script = tmp_path / "complete.sh"
    script.write_text(
        f'export PATH="{Path(CKDOC).parent}:$PATH"\n'
        'eval "$(_CKDOC_COMPLETE=source_bash ckdoc)"\n'
        "function=$(complete -p ckdoc | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        "COMP_WORDS=(ckdoc explain VAL00) COMP_CWORD=2\n"
        '$function ckdoc\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    result = subprocess.run(["bash", script], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == [f"VAL00{digit}" for digit in range(1, 8)], result.stderr


@pytest.mark.parametrize("rule", [each for each in discover().rules if each.options], ids=lambda each: each.code)
def test_the_options_that_explain_prints_are_a_configuration(rule: Rule, tmp_path: Path) -> None:
    page = explain_rule(rule)
    (table,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "ckdoc.toml").write_text(table)
    settings = load_config([rule], file=str(tmp_path / "ckdoc.toml")).general
    assert settings.options(rule) == dict(rule.options)
    comments = " ".join(line.removeprefix("# ") for line in table.splitlines() if line.startswith("# "))
    assert comments == " ".join(rule.option_descriptions.values())
