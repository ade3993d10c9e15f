"""Plugins are found as pip leaves them; what is broken or collides is named, and the rest works."""

from __future__ import annotations

import itertools
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.catalogue import ANALYZERS, LOADERS, OURS, REPORTERS, Catalogue, Plugin, discover
from checkpoint_doctor.plugins.entry_points import find_entry_points

RULE = """
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.plugins.rule import rule

@rule({code!r}, {name!r}, Severity.WARNING, on=Tensor)
def {function}(tensor{options}):
    '''Something is wrong.'''
    return iter(())
"""

LOADER = """
class Reads:
    name = {name!r}
    suffixes = {suffixes!r}
    def recognizes(self, source): return False
    def open(self, source): raise NotImplementedError
    def patch(self, checkpoint, changes): raise NotImplementedError
loader = Reads()
"""

REPORTER = """
class Writes:
    def render(self, report, rules, page): return {text!r}
reporter = Writes()
"""


def write_rule(code: str = "ACM001", name: str = "acme-illness", function: str = "ill", options: str = "") -> str:
    return RULE.format(code=code, name=name, function=function, options=options)


class Site:
    """A folder of installed packages."""

    _serial = itertools.count()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str, group: str = ANALYZERS, entry: str = "", attribute: str = "") -> str:
        """Install a package of one module with one entry point; return the module's name, which no other test uses."""
        module = f"installed_{next(self._serial)}"
        (self.folder / f"{module}.py").write_text(code)
        self.declare(name, f"[{group}]\n{entry or 'main'} = {module}{':' + attribute if attribute else ''}\n")
        return module

    def declare(self, name: str, text: str, version: str = "1.5") -> None:
        metadata = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "entry_points.txt").write_text(text)

    def discover(self, *, lazily: bool = True) -> Catalogue:
        return discover([str(self.folder)], lazily=lazily)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A folder with an installed checkpoint-doctor of one loader, one rule and one reporter."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ours.py").write_text(
        write_rule("ZZZ001", "our-illness")
        + LOADER.format(name="torch", suffixes=(".pt",))
        + REPORTER.format(text="ours")
    )
    monkeypatch.delitem(sys.modules, "ours", raising=False)
    site = Site(tmp_path)
    site.declare(
        OURS, f"[{LOADERS}]\ntorch = ours:loader\n[{ANALYZERS}]\nmain = ours\n[{REPORTERS}]\nterminal = ours:reporter\n"
    )
    return site


def codes(catalogue: Catalogue) -> list[str]:
    return [rule.code for rule in catalogue.rules]


def plugin_of(catalogue: Catalogue, distribution: str) -> Plugin:
    return next(plugin for plugin in catalogue.plugins if plugin.distribution == distribution)


def test_a_strangers_plugins_stand_beside_ours(site: Site) -> None:
    site.install("ckdoc-acme", write_rule())
    site.install("ckdoc-npz", LOADER.format(name="npz", suffixes=(".npz",)), LOADERS, "npz", "loader")
    site.install("ckdoc-csv", REPORTER.format(text="a,b"), REPORTERS, "csv", "reporter")
    catalogue = site.discover()
    assert codes(catalogue) == ["ACM001", "CKD001", "CKD002", "CKD003", "ZZZ001"]
    assert [loader.name for loader in catalogue.loaders] == ["npz", "torch"]
    assert list(catalogue.reporters) == ["csv", "terminal"]
    assert catalogue.reporters["csv"].render(None, (), None) == "a,b"
    assert catalogue.broken == ()
    assert plugin_of(catalogue, "ckdoc-acme").version == "1.5"
    assert [plugin.distribution for plugin in catalogue.plugins][:3] == [OURS] * 3


def test_a_rule_says_which_package_it_comes_from(site: Site) -> None:
    module = site.install("ckdoc-acme", write_rule())
    assert next(rule for rule in site.discover().rules if rule.code == "ACM001").package == module


def test_the_loader_of_foreign_files_is_asked_last(site: Site) -> None:
    for name in ("foreign", "zebra", "alpha"):
        site.install(f"ckdoc-{name}", LOADER.format(name=name, suffixes=()), LOADERS, name, "loader")
    assert [loader.name for loader in site.discover().loaders] == ["alpha", "torch", "zebra", "foreign"]


@pytest.mark.parametrize(
    ("group", "attribute", "code", "problem"),
    [
        (ANALYZERS, "", "import a_module_that_nobody_has", "ModuleNotFoundError"),
        (ANALYZERS, "", "1 / 0", "ZeroDivisionError: division by zero"),
        (ANALYZERS, "", "import sys; sys.exit('no')", "SystemExit: no"),
        (ANALYZERS, "", "def broken(:", "SyntaxError"),
        (ANALYZERS, "", "rules = []", "holds no rule"),
        (ANALYZERS, "absent", write_rule(), "AttributeError"),
        (ANALYZERS, "", write_rule(code="acm1"), "three capitals"),
        (ANALYZERS, "", write_rule(options=", *, limit"), "without a plain default: limit"),
        (ANALYZERS, "", write_rule(options=", *, limit={}"), "without a plain default: limit"),
        (LOADERS, "loader", "class loader: pass", "is a class"),
        (LOADERS, "loader", "loader = object()", "no method recognizes and no open and no patch"),
        (LOADERS, "loader", LOADER.format(name="other", suffixes=()), "has the name 'other'"),
        (LOADERS, "loader", LOADER.format(name="main", suffixes=".npz"), "file name endings"),
        (REPORTERS, "reporter", "reporter = 3", "no method render"),
        (REPORTERS, "Writes", REPORTER.format(text=""), "is a class"),
    ],
)
def test_a_broken_plugin_is_named_and_the_rest_works(
    site: Site, group: str, attribute: str, code: str, problem: str
) -> None:
    site.install("ckdoc-broken", code, group, attribute=attribute)
    catalogue = site.discover(lazily=False)
    assert [plugin.distribution for plugin in catalogue.broken] == ["ckdoc-broken"]
    assert problem in (catalogue.broken[0].problem or "")
    assert codes(catalogue) == ["CKD001", "CKD002", "CKD003", "ZZZ001"]
    assert [loader.name for loader in catalogue.loaders] == ["torch"]
    assert catalogue.reporters["terminal"].render(None, (), None) == "ours"


@pytest.mark.parametrize("value", ["", "not a module", "module:", "a-b:c", "ours:loader:name"])
def test_an_entry_that_is_no_reference_is_a_problem_of_its_package(site: Site, value: str) -> None:
    site.declare("ckdoc-broken", f"[{LOADERS}]\nnpz = {value}\n")
    assert "is not of the form package.module:attribute" in (site.discover().broken[0].problem or "")


def test_a_group_that_nothing_reads_is_a_problem(site: Site) -> None:
    site.declare("ckdoc-acme", "[checkpoint_doctor.analysers]\nmain = ours\n")
    assert "nothing reads the group checkpoint_doctor.analysers" in (site.discover().broken[0].problem or "")


def test_a_reporter_is_imported_when_it_is_asked_for(site: Site) -> None:
    module = site.install("ckdoc-broken", "1 / 0", REPORTERS, "csv", "reporter")
    working = site.install("ckdoc-text", REPORTER.format(text="text"), REPORTERS, "text", "reporter")
    catalogue = site.discover()
    assert catalogue.broken == ()
    assert working not in sys.modules
    assert catalogue.reporters["text"] is catalogue.reporters["text"]
    assert working in sys.modules
    with pytest.raises(
        UsageError, match=f"reporter csv of ckdoc-broken 1.5 cannot be used: {module}:reporter"
    ) as caught:
        catalogue.reporters["csv"]
    assert "ckdoc-broken" in caught.value.hint


@pytest.mark.parametrize(("code", "name"), [("ZZZ001", "acme-illness"), ("ACM001", "our-illness"), ("CKD001", "x")])
def test_our_rules_win_over_a_strangers(site: Site, code: str, name: str) -> None:
    site.install("acme", write_rule("ACM002", "another") + write_rule(code, name, "second"))
    catalogue = site.discover()
    assert codes(catalogue) == ["ACM002", "CKD001", "CKD002", "CKD003", "ZZZ001"]
    problem = catalogue.broken[0].problem or ""
    assert catalogue.broken[0].distribution == "acme"
    assert OURS in problem
    assert "acme" in problem
    assert f"{code} {name}" in problem


def test_of_two_strangers_the_first_by_name_wins(site: Site) -> None:
    for package in ("zebra", "alpha"):
        site.install(package, write_rule("ACM001", f"{package}-illness"))
    catalogue = site.discover()
    assert [rule.name for rule in catalogue.rules if rule.code == "ACM001"] == ["alpha-illness"]
    assert catalogue.broken[0].distribution == "zebra"
    assert "alpha" in (catalogue.broken[0].problem or "")


def test_our_loader_and_reporter_win_over_a_strangers(site: Site) -> None:
    site.install("acme-a", LOADER.format(name="torch", suffixes=(".acme",)), LOADERS, "torch", "loader")
    site.install("acme-b", REPORTER.format(text="theirs"), REPORTERS, "terminal", "reporter")
    catalogue = site.discover()
    assert [loader.suffixes for loader in catalogue.loaders] == [(".pt",)]
    assert catalogue.reporters["terminal"].render(None, (), None) == "ours"
    problems = {plugin.distribution: plugin.problem or "" for plugin in catalogue.broken}
    assert "checkpoint-doctor and acme-a both name a loader torch" in problems["acme-a"]
    assert "checkpoint-doctor and acme-b both name a reporter terminal" in problems["acme-b"]


def test_a_rule_that_two_modules_share_is_no_collision(site: Site) -> None:
    module = site.install("ckdoc-acme", write_rule())
    site.install("ckdoc-reuse", f"from {module} import ill\n" + write_rule("ACM002", "another"))
    catalogue = site.discover()
    assert codes(catalogue) == ["ACM001", "ACM002", "CKD001", "CKD002", "CKD003", "ZZZ001"]
    assert catalogue.broken == ()


def test_an_entry_may_name_one_rule(site: Site) -> None:
    site.install("ckdoc-acme", write_rule() + write_rule("ACM002", "another", "other"), attribute="other")
    assert codes(site.discover()) == ["ACM002", "CKD001", "CKD002", "CKD003", "ZZZ001"]


def test_without_an_installation_it_says_so(tmp_path: Path) -> None:
    Site(tmp_path).declare("ckdoc-acme", f"[{ANALYZERS}]\nmain = ours\n")
    with pytest.raises(UsageError, match="checkpoint-doctor is not installed") as caught:
        discover([str(tmp_path)])
    assert "pip install" in caught.value.hint


def test_the_first_installation_on_the_path_counts(tmp_path: Path) -> None:
    for folder, version in (("first", "2.0"), ("second", "1.0")):
        (tmp_path / folder).mkdir()
        Site(tmp_path / folder).declare("Some_Package", f"[x.a]\nname = module{version[0]}\n", version)
    path = [str(tmp_path / "absent"), str(tmp_path / "first"), str(tmp_path / "second")]
    found = find_entry_points("x.", path)
    assert [(each.distribution, each.version, each.value) for each in found] == [("some-package", "2.0", "module2")]


def test_comments_other_groups_and_half_deleted_packages_are_passed_over(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.declare("a", "# x.\n[console_scripts]\nx.y = a:b\n[ x.a ]\n; no\n one=m : f [extra] \n\n[y]\ntwo = m\n")
    site.declare("~b", "[x.a]\nthree = m\n")
    found = find_entry_points("x.", [str(tmp_path)])
    assert [(each.group, each.name) for each in found] == [("x.a", "one")]


def test_a_source_tree_and_an_archive_count_as_installed(tmp_path: Path) -> None:
    (tmp_path / "dev.egg-info").mkdir()
    (tmp_path / "dev.egg-info" / "entry_points.txt").write_text("[x.a]\none = m\n")
    (tmp_path / "dev.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: dev\nVersion: 0.3.dev1\n")
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("packed-4.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: packed\nVersion: 4.0\n")
        file.writestr("packed-4.0.dist-info/entry_points.txt", "[x.a]\ntwo = m\n")
    found = find_entry_points("x.", [str(tmp_path), str(archive)])
    assert {(each.distribution, each.version, each.name) for each in found} == {
        ("dev", "0.3.dev1", "one"), ("packed", "4.0", "two"),
    }  # fmt: skip


def test_every_group_is_read_as_the_standard_library_reads_it() -> None:
    ours = {(each.group, each.name, each.value) for each in find_entry_points("")}
    groups = entry_points().groups
    theirs = {(each.group, each.name, each.value) for group in groups for each in entry_points(group=group)}
    assert len(theirs) > 10
    assert ours == theirs


def test_everything_that_is_installed_here_works() -> None:
    catalogue = discover(lazily=False)
    assert [plugin for plugin in catalogue.plugins if plugin.is_ours and plugin.problem] == []
    assert {"sb3", "torch", "safetensors"} <= {loader.name for loader in catalogue.loaders}
    assert {"terminal", "json"} <= set(catalogue.reporters)
    assert codes(catalogue) == sorted(set(codes(catalogue)))
    assert {"VAL001", "ZER003", "CKD001"} <= set(codes(catalogue))
