"""Packages of others: the example is installed and used, the broken and the colliding are named, the rest works."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from checkpoint_doctor.results.diagnosis import Certainty
from checkpoint_doctor.testing import (
    build_checkpoint,
    check_cause,
    check_loader,
    check_reporter,
    check_rule,
    diagnoses_of,
    findings_of,
)
from tests.command import run_command

EXAMPLE = ROOT / "tests" / "plugin_example"

Doctor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def with_packages(tmp_path: Path) -> Callable[..., Doctor]:
    """Return ``ckdoc`` as it runs where further packages are installed in these folders."""

    def see(*folders: Path) -> Doctor:
        def ckdoc(*arguments: str) -> subprocess.CompletedProcess[str]:
            result = run_command(*arguments, cwd=tmp_path, packages=folders)
            assert "Traceback" not in result.stderr
            return result

        return ckdoc

    return see


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package as pip installs it."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(EXAMPLE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.npz"
    generator = np.random.default_rng(0)
    np.savez_compressed(
        path,
        **{
            "embedding.weight": generator.normal(0, 99, (8, 4)).astype(np.float32),
            "head.weight": generator.normal(0, 0.1, (3, 4)).astype(np.float32),
            "vocabulary": np.array(["a", "b"]),
            "leftover": np.array([{"pickled": True}], dtype=object),
        },
    )
    return path


def pretend_to_install(folder: Path, name: str, code: str, **entry_points: str) -> Path:
    """Write a module and the metadata that pip would leave, into a folder of its own."""
    site = folder / f"site-{name}"
    metadata = site / f"{name}-0.3.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{name}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    groups = (f"[checkpoint_doctor.{group}]\n{entry}\n" for group, entry in entry_points.items())
    (metadata / "entry_points.txt").write_text("".join(groups))
    return site


_RULE = '''
from checkpoint_doctor import Severity, Tensor, rule

@rule("{code}", "{name}", Severity.ERROR, on=Tensor)
def {function}(tensor):
    """It finds something."""
    {body}
    yield {function}.finding("found", tensor)
'''


def declare(code: str, name: str, body: str = "pass") -> str:
    """The source of a rule that finds something in every tensor, unless its body prevents it."""
    return _RULE.format(code=code, name=name, body=body, function=name.replace("-", "_"))


def findings(result: subprocess.CompletedProcess[str]) -> list[dict]:
    return [finding for each in json.loads(result.stdout)["checkpoints"] for finding in each["findings"]]


# --- the example ------------------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return lambda name: importlib.import_module(f"ckdoc_acme.{name}")


def test_the_rule_fits_into_twenty_lines_and_keeps_the_contract(example: Callable[[str], ModuleType]) -> None:
    assert len((EXAMPLE / "ckdoc_acme" / "embeddings.py").read_text().splitlines()) <= 20
    rule = example("embeddings").huge_embedding
    check_rule(rule)
    checkpoint = build_checkpoint({"embedding.weight": np.full((2, 2), 12.0), "head.weight": np.full((2, 2), 12.0)})
    assert [finding.tensor for finding in findings_of(rule, checkpoint)] == ["embedding.weight"]
    assert findings_of(rule, checkpoint, limit=20.0) == []


def test_the_cause_keeps_the_contract(example: Callable[[str], ModuleType]) -> None:
    cause, rule = example("causes").tokens_without_decay, example("embeddings").huge_embedding
    check_cause(cause)
    checkpoint = build_checkpoint({"embedding.weight": np.full((2, 2), 12.0)})
    [diagnosis] = diagnoses_of(cause, checkpoint, findings_of(rule, checkpoint))
    assert (diagnosis.cause, diagnosis.certainty, diagnosis.explains) == (
        "tokens-without-decay",
        Certainty.LIKELY,
        (0,),
    )
    assert diagnoses_of(cause, checkpoint, []) == ()


def test_the_loader_keeps_the_contract(example: Callable[[str], ModuleType], weights: Path) -> None:
    checkpoint = check_loader(example("npz").loader, weights)
    assert [tensor.name for tensor in checkpoint.tensors] == ["embedding.weight", "head.weight"]
    assert [skipped.what for skipped in checkpoint.skipped] == ["array vocabulary", "array leftover"]


def test_the_reporter_keeps_the_contract(example: Callable[[str], ModuleType]) -> None:
    check_reporter(example("csv_report").reporter)


def test_the_installed_example_works(with_packages: Callable, installed: Path, weights: Path, tmp_path: Path) -> None:
    ckdoc = with_packages(installed)
    listed = [line.split("\t") for line in ckdoc("plugins").stdout.splitlines()]
    assert [line for line in listed if line[2] == "ckdoc-acme"] == [
        ["analyzers", "acme", "ckdoc-acme", "1.2.0"],
        ["causes", "acme", "ckdoc-acme", "1.2.0"],
        ["engines", "pool", "ckdoc-acme", "1.2.0"],
        ["loaders", "acme", "ckdoc-acme", "1.2.0"],
        ["loaders", "npz", "ckdoc-acme", "1.2.0"],
        ["reporters", "csv", "ckdoc-acme", "1.2.0"],
    ]
    assert ckdoc("--version").stdout.splitlines()[1:] == ["with ckdoc-acme 1.2.0"]
    result = ckdoc("scan", "weights.npz", "--format", "csv", "--fail-on", "warning", "--select", "ACM")
    assert result.returncode == 1, result.stderr
    [row] = csv.DictReader(io.StringIO(result.stdout))
    assert (row["checkpoint"], row["severity"], row["code"]) == ("weights.npz", "warning", "ACM001")
    assert "tokens-without-decay (likely)" in ckdoc("scan", "weights.npz", "--select", "ACM").stdout
    assert "tokens-without-decay" in ckdoc("causes").stdout
    assert "weight decay" in ckdoc("explain", "tokens-without-decay").stdout
    assert "2 not looked at" in result.stderr
    assert "ACM001" in ckdoc("rules").stdout
    assert "Look at the tokens" in ckdoc("explain", "huge-embedding").stdout

    (tmp_path / "ckdoc.toml").write_text('[options.ACM001]\nlimit = 1000.0\n[severity]\n"huge-embedding" = "error"\n')
    assert ckdoc("scan", "weights.npz", "--select", "ACM").returncode == 0
    (tmp_path / "ckdoc.toml").write_text('[severity]\n"huge-embedding" = "error"\n')
    sarif = json.loads(ckdoc("scan", str(tmp_path), "--select", "ACM", "--format", "sarif").stdout)
    assert [each["ruleId"] for each in sarif["runs"][0]["results"]] == ["tokens-without-decay"]


def test_the_engine_of_the_example_comes_to_the_same_report(
    with_packages: Callable, installed: Path, fixtures: Path
) -> None:
    ckdoc = with_packages(installed)
    files = [str(fixtures / name) for name in ("case_1_head_v6.zip", "case_3_healthy.pt", "case_5_zero_head.pt")]
    here, there = (
        ckdoc("scan", *files, "--format", "json", "--jobs", "2", "--engine", engine) for engine in ("threads", "pool")
    )
    assert (there.stdout, there.returncode) == (here.stdout, 1)


def test_the_loader_of_the_example_comes_before_our_own_of_the_same_format(
    with_packages: Callable, installed: Path, weights: Path
) -> None:
    for packages, expected in (((), "numpy"), ((installed,), "npz")):
        report = json.loads(with_packages(*packages)("scan", "weights.npz", "--format", "json").stdout)
        assert [each["format"] for each in report["checkpoints"]] == [expected]


# --- a rule that crashes ----------------------------------------------------------------------------------------------


def test_a_crashing_rule_is_named_and_changes_nothing_else(
    with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = declare("ACM666", "crashing-rule", "raise ZeroDivisionError('no tensor has a size')")
    site = pretend_to_install(tmp_path, "acmecrash", code, analyzers="crash = acmecrash")
    for name, exit_code, verdict in (("case_1_head_v6.zip", 1, "ill"), ("case_1_healthy.zip", 0, "incomplete")):
        without = with_packages()("scan", str(fixtures / name), "--format", "json")
        beside = with_packages(site)("scan", str(fixtures / name), "--format", "json")
        assert (without.returncode, beside.returncode) == (exit_code, 2)
        crashes = [finding for finding in findings(beside) if finding["code"] == "CKD001"]
        assert [finding for finding in findings(beside) if finding not in crashes] == findings(without)
        [crash] = crashes
        assert crash["severity"] == "warning"
        for said in ("ACM666", "acmecrash", "ZeroDivisionError", "no tensor has a size"):
            assert said in crash["message"]
        ours, theirs = (json.loads(result.stdout)["checkpoints"][0] for result in (without, beside))
        assert (theirs["verdict"], theirs["crashed_rules"]) == (verdict, ["ACM666"])
        of_the_crash = {"findings", "verdict", "crashed_rules", "asked", "provenance"}
        assert {key: value for key, value in theirs.items() if key not in of_the_crash} == {
            key: value for key, value in ours.items() if key not in of_the_crash
        }


@pytest.mark.parametrize("form", ["terminal", "json", "sarif", "junit", "github", "markdown"])
def test_a_crashing_rule_is_in_every_report_and_cannot_be_hidden(
    form: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = declare("ACM666", "crashing-rule", "raise ZeroDivisionError('no tensor has a size')")
    site = pretend_to_install(tmp_path, "acmecrash", code, analyzers="crash = acmecrash")
    hidden = tmp_path / "ckdoc.toml"
    hidden.write_text('[[ignore]]\ncode = "ALL"\nreason = "Everything is fine."\n')
    arguments = ("--format", form, "--config", str(hidden), "--fail-on", "never")
    result = with_packages(site)("scan", str(fixtures / "case_1_healthy.zip"), *arguments)
    assert result.returncode == 2
    assert "ACM666" in result.stdout
    assert "ZeroDivisionError" in result.stdout
    assert "1 rule crash" in (result.stdout if form == "terminal" else result.stderr)
    words = {
        "terminal": "INCOMPLETE",
        "json": '"verdict": "incomplete"',
        "sarif": '"executionSuccessful": false',
        "junit": '<error message="rule ACM666',
        "github": "::error",
        "markdown": "incomplete",
    }
    assert words[form] in result.stdout


def test_a_fix_beside_a_crashed_rule_is_no_success(with_packages: Callable, tmp_path: Path, fixtures: Path) -> None:
    code = declare("ACM666", "crashing-rule", "raise ZeroDivisionError('no tensor has a size')")
    site = pretend_to_install(tmp_path, "acmecrash", code, analyzers="crash = acmecrash")
    assert with_packages(site)("fix", "--dry-run", str(fixtures / "case_1_healthy.zip")).returncode == 2


# --- a loader that crashes --------------------------------------------------------------------------------------------

LOADER = """
class Loader:
    name, suffixes = "aaa", (".aaa",)
    def recognizes(self, source):
        {recognizes}
    def open(self, source):
        raise KeyError("a surprise")
    def patch(self, checkpoint, changes): ...
loader = Loader()
"""


def test_a_loader_that_cannot_even_look_leaves_the_file_to_the_others(
    with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = LOADER.format(recognizes='raise KeyError("a surprise")')
    site = pretend_to_install(tmp_path, "acmeblind", code, loaders="aaa = acmeblind:loader")
    result = with_packages(site)("scan", str(fixtures / "case_1_head_v6.zip"), "--format", "json")
    assert result.returncode == 2
    assert [finding["code"] for finding in findings(result) if finding["severity"] == "error"] == ["NRM001"]
    assert "1 not looked at, 1 rule crash" in result.stderr
    assert "a surprise" in with_packages(site)("scan", str(fixtures / "case_1_head_v6.zip")).stdout


def test_a_search_passes_over_nothing_that_a_loader_could_not_look_at(
    with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = LOADER.format(recognizes='raise KeyError("a surprise")')
    site = pretend_to_install(tmp_path, "acmeblind", code, loaders="aaa = acmeblind:loader")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.dat").write_bytes(bytes(range(256)) * 9)
    result = with_packages(site)("scan", "models", "--format", "json")
    assert result.returncode == 2
    (examination,) = json.loads(result.stdout)["checkpoints"]
    assert "a surprise" in examination["error"]


def test_a_loader_that_crashes_costs_its_own_files_only(
    with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = LOADER.format(recognizes='return source.read(0, 3) == b"aaa"')
    site = pretend_to_install(tmp_path, "acmefall", code, loaders="aaa = acmefall:loader")
    (tmp_path / "some.aaa").write_text("aaa, and more")
    result = with_packages(site)("scan", "some.aaa", str(fixtures / "case_1_head_v6.zip"), "--format", "json")
    assert result.returncode == 2
    theirs, ours = json.loads(result.stdout)["checkpoints"]
    assert theirs["verdict"] == "unreadable"
    for said in ("aaa", "some.aaa", "KeyError", "a surprise"):
        assert said in theirs["error"]
    assert ours["verdict"] == "ill"


# --- packages that cannot be used -------------------------------------------------------------------------------------

BROKEN = {
    "raises": ("raise ImportError('tensorflow is missing')", "analyzers", "it = {0}", "tensorflow is missing"),
    "exits": ("import sys\nsys.exit(7)", "loaders", "it = {0}:loader", "SystemExit"),
    "lacks": ("", "reporters", "it = {0}:reporter", "reporter"),
    "empty": ("", "analyzers", "it = {0}", "holds no rule"),
    "classy": ("class Loader: ...", "loaders", "it = {0}:Loader", "is a class"),
    "syntax": ("def broken(:", "analyzers", "it = {0}", "SyntaxError"),
    "stale": ("", "analysers", "it = {0}", "nothing reads the group"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_named_and_the_rest_works(
    kind: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code, group, entry, complaint = BROKEN[kind]
    site = pretend_to_install(tmp_path, f"acme{kind}", code, **{group: entry.format(f"acme{kind}")})
    ckdoc = with_packages(site)
    [line] = [line for line in ckdoc("plugins").stdout.splitlines() if f"acme{kind}" in line.split("\t")[2]]
    assert complaint in line.split("\t")[4]
    result = ckdoc("scan", str(fixtures / "case_1_head_v6.zip"), "--format", "json")
    is_missed = group in ("loaders", "analyzers")
    assert result.returncode == (2 if is_missed else 1)
    assert [finding["code"] for finding in findings(result) if finding["severity"] == "error"] == ["NRM001"]
    remarks = json.loads(result.stdout)["remarks"]
    assert [each["evidence"]["package"] for each in remarks] == [f"acme{kind}"] * is_missed


@pytest.mark.parametrize("form", ["terminal", "json", "sarif", "junit", "github", "markdown", "concise"])
@pytest.mark.parametrize("group", ["loaders", "analyzers", "causes"])
def test_a_broken_package_is_in_every_report_and_cannot_be_hidden(
    group: str, form: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    site = pretend_to_install(tmp_path, "acmelost", "raise ImportError('no acme here')", **{group: "it = acmelost"})
    hidden = tmp_path / "ckdoc.toml"
    hidden.write_text('[severity]\nCKD003 = "off"\n[[ignore]]\ncode = "ALL"\nreason = "Everything is fine."\n')
    arguments = ("--format", form, "--fail-on", "never", "--select", "NRM")
    result = with_packages(site)("scan", str(fixtures / "case_1_healthy.zip"), *arguments)
    assert result.returncode == 2
    assert "acmelost" in result.stdout
    assert "no acme here" in result.stdout
    assert "1 plugin left out" in (result.stdout if form in ("terminal", "concise") else result.stderr)
    words = {
        "terminal": "CKD003 plugin-left-out",
        "concise": "ckdoc: warning CKD003 plugin-left-out",
        "json": '"code": "CKD003"',
        "sarif": '"executionSuccessful": false',
        "junit": '<error message="the ',
        "github": "::error title=CKD003",
        "markdown": "incomplete",
    }
    assert words[form] in result.stdout
    assert with_packages(site)("fix", "--dry-run", str(fixtures / "case_1_healthy.zip")).returncode == 2


ENDINGS = {
    "exits": "__import__('sys').exit(0)",
    "ends": "raise type('Ending', (BaseException,), {})('on purpose')",
    "generates": "raise GeneratorExit",
    "cannot be said": "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
    "exits when it is said": "raise type('Mute', (Exception,), {'__str__': lambda self: __import__('sys').exit(0)})",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_rule_that_ends_the_program_is_a_crash(
    ending: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = declare("ACM666", "ending-rule", ENDINGS[ending])
    site = pretend_to_install(tmp_path, "acmeend", code, analyzers="it = acmeend")
    result = with_packages(site)("scan", str(fixtures / "case_1_head_v6.zip"), "--format", "json")
    assert result.returncode == 2
    [checkpoint] = json.loads(result.stdout)["checkpoints"]
    assert (checkpoint["verdict"], checkpoint["crashed_rules"]) == ("ill", ["ACM666"])
    assert with_packages(site)("fix", "-n", str(fixtures / "case_1_head_v6.zip")).returncode == 2


@pytest.mark.parametrize("error", ["NotACheckpoint", "UnknownFormat"])
def test_a_rule_cannot_say_that_a_file_is_no_checkpoint(
    error: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    body = f"raise __import__('checkpoint_doctor').errors.{error}('it is none')"
    site = pretend_to_install(tmp_path, "acmedeny", declare("ACM666", "denying-rule", body), analyzers="it = acmedeny")
    (tmp_path / "models").mkdir()
    shutil.copy(fixtures / "case_1_head_v6.zip", tmp_path / "models")
    result = with_packages(site)("scan", "models", "--format", "json")
    assert result.returncode == 2
    [checkpoint] = json.loads(result.stdout)["checkpoints"]
    assert (checkpoint["verdict"], checkpoint["crashed_rules"]) == ("ill", ["ACM666"])


def test_a_rule_that_yields_no_findings_but_something_else_is_a_crash(
    with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = declare("ACM666", "odd-rule", "yield 'this is ill'")
    site = pretend_to_install(tmp_path, "acmeodd", code, analyzers="it = acmeodd")
    result = with_packages(site)("scan", str(fixtures / "case_1_healthy.zip"), "--format", "json")
    assert result.returncode == 2
    [crash] = [finding for finding in findings(result) if finding["code"] == "CKD001"]
    assert "it yields str, and not a finding" in crash["message"]


CAUSE = """
from checkpoint_doctor import Prognosis, cause

@cause("acme-cause", Prognosis.POINTLESS)
def acme_cause(checkpoint, symptoms):
    \"\"\"It is always so.\"\"\"
    {body}
    yield from ()
"""


@pytest.mark.parametrize("body", [*ENDINGS.values(), "yield 'a claim'"])
def test_a_cause_that_ends_the_program_is_a_crash(
    body: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    site = pretend_to_install(tmp_path, "acmecause", CAUSE.format(body=body), causes="it = acmecause")
    result = with_packages(site)("scan", str(fixtures / "case_1_head_v6.zip"), "--format", "json")
    assert result.returncode == 2
    assert json.loads(result.stdout)["checkpoints"][0]["crashed_rules"] == ["acme-cause"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("place", ["recognizes", "open", "claim_folder"])
def test_a_loader_that_ends_the_program_is_no_clean_run(
    place: str, ending: str, with_packages: Callable, tmp_path: Path
) -> None:
    methods = {"recognizes": "return source.read(0, 3) == b'aaa'", "open": "...", "claim_folder": "return ()"}
    methods[place] = ENDINGS[ending]
    code = f"""
class Loader:
    name, suffixes = "aaa", (".aaa",)
    def recognizes(self, source): {methods["recognizes"]}
    def open(self, source): {methods["open"]}
    def claim_folder(self, folder): {methods["claim_folder"]}
    def open_folder(self, folder): ...
    def patch(self, checkpoint, changes): ...
loader = Loader()
"""
    site = pretend_to_install(tmp_path, "acmeload", code, loaders="aaa = acmeload:loader")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "some.aaa").write_text("aaa, and more")
    result = with_packages(site)("scan", "models", "--format", "json")
    assert result.returncode == 2
    [checkpoint] = json.loads(result.stdout)["checkpoints"]
    assert checkpoint["verdict"] == "unreadable"
    assert "aaa" in checkpoint["error"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_reporter_that_ends_the_program_is_no_clean_run(
    ending: str, with_packages: Callable, tmp_path: Path, fixtures: Path
) -> None:
    code = f"class Reporter:\n    def render(self, report, rules, page): {ENDINGS[ending]}\nreporter = Reporter()\n"
    site = pretend_to_install(tmp_path, "acmereport", code, reporters="odd = acmereport:reporter")
    result = with_packages(site)("scan", str(fixtures / "case_1_healthy.zip"), "--format", "odd")
    assert result.returncode == 2
    assert "the reporter odd failed" in result.stderr


def test_a_stranger_cannot_take_one_of_our_codes(with_packages: Callable, tmp_path: Path, fixtures: Path) -> None:
    code = declare("NRM001", "other-name") + declare("ACM002", "zero-bias")
    site = pretend_to_install(tmp_path, "acmerival", code, analyzers="rival = acmerival", reporters="json = acmerival")
    ckdoc = with_packages(site)
    problems = {
        line.split("\t")[1]: line.split("\t")[4] for line in ckdoc("plugins").stdout.splitlines() if "acmerival" in line
    }
    assert "NRM001" in problems["rival"]
    assert "zero-bias" in problems["rival"]
    assert "both name a reporter json" in problems["json"]
    result = ckdoc("scan", str(fixtures / "case_1_head_v6.zip"), "--format", "json")
    assert "acmerival" in result.stderr
    errors = [finding for finding in findings(result) if finding["severity"] == "error"]
    assert [(finding["code"], finding["name"]) for finding in errors] == [("NRM001", "norm-gain-zeros")]


def test_of_two_strangers_with_one_code_both_are_named(with_packages: Callable, tmp_path: Path) -> None:
    sites = [
        pretend_to_install(tmp_path, name, declare("ACM003", f"rule-of-{name}"), analyzers=f"it = {name}")
        for name in ("acmeone", "acmetwo")
    ]
    ckdoc = with_packages(*sites)
    [line] = [line for line in ckdoc("plugins").stdout.splitlines() if "\tacmetwo\t" in line]
    assert "acmeone" in line.split("\t")[4]
    assert "rule-of-acmeone" in ckdoc("rules").stdout
    assert "rule-of-acmetwo" not in ckdoc("rules").stdout


# --- the page about plugins -------------------------------------------------------------------------------------------


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for module in ("embeddings", "causes", "files", "csv_report", "pool"):
        assert f"```python\n{(EXAMPLE / 'ckdoc_acme' / f'{module}.py').read_text(encoding='utf-8')}```" in page
    declared = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    found = re.findall(r"```toml\n(\[project\.entry-points.*?)```", page, re.DOTALL)
    entries = [entry for entry in found if "log_readers" not in entry]  # the example reads no logs
    assert len(entries) == 3
    assert all(entry in declared for entry in entries)


def test_the_tests_on_the_page_pass(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    example("embeddings")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if "def test_" in code:
            exec(code, names)
    names["test_huge_embedding"]()
    names["test_acme_files"](tmp_path)


def test_the_package_on_the_page_declares_what_the_example_declares() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    [declared] = re.findall(r"```toml\n(\[build-system\].*?)```", page, re.DOTALL)
    on_page = tomllib.loads(declared)["project"]
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (on_page["name"], on_page["dependencies"]) == (project["name"], project["dependencies"])
    [(group, entries)] = on_page["entry-points"].items()
    assert project["entry-points"][group] == entries
