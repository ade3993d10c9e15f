"""The configuration: found upward, checked to the last key, and each value knows where it comes from."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.config.file import find_config_file, load_config
from checkpoint_doctor.config.globs import match_path
from checkpoint_doctor.config.schema import build_schema, describe_config
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.rule import Rule, rule
from checkpoint_doctor.plugins.self_checks import RULES as OWN_RULES
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Report, Verdict
from tests.gathering import follow_ignores


@rule("ZER003", "zero-bias", Severity.WARNING, on=Tensor)
def zero_bias(tensor: Tensor) -> Iterator[Finding]:
    """A bias is exactly zero."""
    return iter(())


@rule("ZER002", "partial-zeros", Severity.WARNING, on=Tensor)
def partial_zeros(
    tensor: Tensor, *, from_share: float = 0.1, least: int = 8, strict: bool = False, kind: str = "any",
    layers: tuple[str, ...] = ("linear",),
) -> Iterator[Finding]:  # fmt: skip
    """Zeros are scattered in a dense weight."""
    return iter(())


@rule("NET001", "dormant-units", Severity.NOTE, on=Tensor)
def dormant_units(tensor: Tensor) -> Iterator[Finding]:
    """Hidden units receive no gradient."""
    return iter(())


RULES = (*OWN_RULES, dormant_units, partial_zeros, zero_bias)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, **overrides: Any) -> Config:
    """Load a text as the ``ckdoc.toml`` of the working directory."""
    Path("ckdoc.toml").write_text(text)
    return load_config(RULES, **overrides)


def selected(config: Config, path: str = "model.zip") -> set[str]:
    return {each.code for each in RULES if config.for_path(path).selects(each)}


def finding(tensor: str | None = "actor.mu.bias", layer: str | None = "actor.mu", code: str = "ZER003") -> Finding:
    name = next(each.name for each in RULES if each.code == code)
    return Finding(code, name, Severity.WARNING, "It is zero.", tensor=tensor, layer=layer)


def refusal(text: str, **overrides: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(text, **overrides)
    return caught.value


class TestFinding:
    def test_the_nearest_file_upward_wins(self, folder: Path) -> None:
        inner = folder / "a" / "b"
        inner.mkdir(parents=True)
        (folder / "ckdoc.toml").write_text("")
        assert find_config_file(str(inner)) == str(folder / "ckdoc.toml")
        (folder / "a" / "pyproject.toml").write_text("[tool.ckdoc]\n")
        assert find_config_file(str(inner)) == str(folder / "a" / "pyproject.toml")
        (folder / "a" / "ckdoc.toml").write_text("")
        assert find_config_file(str(inner)) == str(folder / "a" / "ckdoc.toml")

    @pytest.mark.parametrize(
        "text", ["[tool.other]\n", "# ckdoc\n[tool]\nother = 1\n", "tool = 3 # ckdoc", "broken = ["]
    )
    def test_a_pyproject_without_our_section_is_passed_over(self, folder: Path, text: str) -> None:
        (folder / "ckdoc.toml").write_text("")
        (folder / "a").mkdir()
        (folder / "a" / "pyproject.toml").write_text(text)
        assert find_config_file("a") == str(folder / "ckdoc.toml")

    def test_nothing_found_means_the_defaults(self, folder: Path) -> None:
        config = load_config(RULES)
        assert selected(config) == {each.code for each in RULES}
        assert config.fail_on is Severity.ERROR
        assert selected(Config()) == selected(config)

    def test_a_pyproject_section_is_read_and_its_keys_are_told_in_full(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text('[tool.ckdoc]\nfail-on = "warning"\n')
        assert load_config(RULES).fail_on is Severity.WARNING
        (folder / "pyproject.toml").write_text('[tool.ckdoc.severity]\nZER003 = "bad"\n')
        with pytest.raises(
            UsageError, match=r"^pyproject.toml: tool.ckdoc.severity.ZER003: there is no severity 'bad'"
        ):
            load_config(RULES)

    def test_a_named_file_replaces_the_search(self, folder: Path) -> None:
        Path("other.toml").write_text('fail-on = "never"')
        assert load('fail-on = "note"', file="other.toml").fail_on is None

    @pytest.mark.parametrize("name", ["absent.toml", "."])
    def test_a_named_file_that_cannot_be_read_is_an_error(self, folder: Path, name: str) -> None:
        with pytest.raises(UsageError, match="cannot read the configuration"):
            load_config(RULES, file=name)

    def test_a_named_pyproject_needs_our_section(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text("[tool.other]\n")
        with pytest.raises(UsageError, match=r"pyproject.toml has no section \[tool.ckdoc\]"):
            load_config(RULES, file="pyproject.toml")


class TestSelection:
    @pytest.mark.parametrize(
        ("selectors", "expected"),
        [
            (["ZER003"], {"ZER003"}),
            (["ZER"], {"ZER002", "ZER003"}),
            (["zer"], {"ZER002", "ZER003"}),
            (["dormant-units", "CKD001"], {"NET001", "CKD001"}),
            (["ALL"], {each.code for each in RULES}),
        ],
    )
    def test_rules_are_selected_by_code_prefix_or_name(
        self, folder: Path, selectors: list[str], expected: set[str]
    ) -> None:
        assert selected(load(f"select = {selectors}")) == expected
        assert selected(load("", select=selectors)) == expected
        assert selected(load("", ignore=selectors)) == {each.code for each in RULES} - expected

    def test_the_command_line_wins_also_over_sections_for_paths(self, folder: Path) -> None:
        text = 'select = ["ZER"]\nfail-on = "never"\n[paths."*.zip"]\nselect = ["NET"]'
        assert selected(load(text)) == {"NET001"}
        assert selected(load(text), "model.pt") == {"ZER002", "ZER003"}
        config = load(text, select=["CKD001"], fail_on="note")
        assert selected(config) == {"CKD001"}
        assert config.fail_on is Severity.NOTE

    def test_a_rule_that_is_off_is_not_asked(self, folder: Path) -> None:
        assert "ZER003" not in selected(load('[severity]\nzero-bias = "off"'))


class TestSeverity:
    def test_a_severity_replaces_the_one_that_was_found(self, folder: Path) -> None:
        settings = load('[severity]\nZER003 = "error"').for_path("model.zip")
        assert settings.judge(finding(), "model.zip").severity is Severity.ERROR
        assert settings.judge(finding(code="NET001"), "model.zip").severity is Severity.WARNING

    def test_no_severity_makes_a_finding_milder_than_its_evidence(self, folder: Path) -> None:
        settings = load('[severity]\nNET001 = "warning"\nZER003 = "note"').for_path("model.zip")

        def judged(rule: Rule) -> list[Severity]:
            found = [replace(finding(code=rule.code), severity=each) for each in Severity]
            return [settings.judge(each, "model.zip", rule.severity).severity for each in found]

        assert judged(dormant_units) == [Severity.WARNING, Severity.WARNING, Severity.ERROR]
        assert judged(zero_bias) == [Severity.NOTE, Severity.NOTE, Severity.ERROR]
        found = replace(finding(), severity=Severity.ERROR)
        assert settings.judge(found, "model.zip", Severity.WARNING).severity is Severity.ERROR

    def test_sections_for_paths_go_over_the_general_one_in_order(self, folder: Path) -> None:
        config = load(
            '[severity]\nZER003 = "error"\n[paths."runs/**".severity]\nZER003 = "warning"\n'
            '[paths."runs/old".severity]\nZER003 = "note"'
        )
        found = {
            path: config.for_path(path).judge(finding(), path).severity
            for path in ("a.pt", "runs/a.pt", "runs/old/a.pt")
        }
        assert list(found.values()) == [Severity.ERROR, Severity.WARNING, Severity.NOTE]

    @pytest.mark.parametrize(("word", "fails"), [("error", "E"), ("warning", "WE"), ("note", "NWE"), ("never", "")])
    def test_fail_on_is_the_least_severity_that_fails(self, folder: Path, word: str, fails: str) -> None:
        least = load(f'fail-on = "{word}"').fail_on
        assert {each.name[0] for each in Severity if least is not None and each >= least} == set(fails)


class TestOptions:
    def test_values_arrive_in_the_type_of_the_default(self, folder: Path) -> None:
        config = load(
            '[options.ZER002]\nfrom-share = 1\nleast = 3\nstrict = true\nkind = "conv"\nlayers = ["conv", "linear"]'
        )
        options = config.for_path("x.pt").options(partial_zeros)
        assert options == {
            "from_share": 1.0, "least": 3, "strict": True, "kind": "conv", "layers": ("conv", "linear"),
        }  # fmt: skip
        assert isinstance(options["from_share"], float)
        list(partial_zeros.check(None, **options))

    def test_only_what_is_set_is_passed(self, folder: Path) -> None:
        config = load('[options.partial-zeros]\nfrom_share = 0.5\n[paths."*.pt".options.ZER002]\nleast = 2')
        assert config.for_path("x.pt").options(partial_zeros) == {"from_share": 0.5, "least": 2}
        assert config.for_path("x.zip").options(partial_zeros) == {"from_share": 0.5}
        assert config.for_path("x.zip").options(zero_bias) == {}

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("from-share = true", "a number"),
            ('from-share = "0.1"', "a number"),
            ("from-share = nan", "a number"),
            (f"from-share = {10**400}", "a number"),
            ("least = 0.5", "an integer"),
            ("least = true", "an integer"),
            (f"kind = 0x{'f' * 5000}", "a string"),
            ("strict = 1", "true or false"),
            ("kind = 2020-01-01", "a string"),
            ('layers = "linear"', "a list"),
            ("layers = [1]", "a string"),
        ],
    )
    def test_a_value_of_another_type_is_refused_with_the_default(self, folder: Path, line: str, expected: str) -> None:
        error = refusal("[options.ZER002]\n" + line)
        assert error.message.startswith(f"ckdoc.toml: options.ZER002.{line.partition(' ')[0]}: ")
        assert error.message.endswith(f"is not {expected}")
        assert "default" in error.hint


class TestIgnore:
    @pytest.mark.parametrize(
        ("entry", "hidden"),
        [
            ('code = "ZER003"', True),
            ('code = ["NET", "ZER"]', True),
            ('code = "zero-bias"', True),
            ('code = "NET"', False),
            ('code = "ALL"\npath = "runs/*.zip"', True),
            ('code = "ALL"\npath = "*.pt"', False),
            ('code = "ALL"\npath = ["*.pt", "model.zip"]', True),
            ('code = "ALL"\ntensor = "*.bias"', True),
            ('code = "ALL"\ntensor = "actor.mu"', True),
            ('code = "ALL"\ntensor = ["critic.*", "x"]', False),
            ('code = "ALL"\npath = "runs"\ntensor = "critic.*"', False),
        ],
    )
    def test_a_finding_is_hidden_by_code_path_and_tensor(self, folder: Path, entry: str, hidden: bool) -> None:
        config = load(f'[[ignore]]\n{entry}\nreason = " Known since May. "')
        judged = config.for_path("runs/model.zip").judge(finding(), "runs/model.zip")
        assert judged.ignored == ("Known since May." if hidden else None)

    def test_a_tensor_pattern_does_not_mean_what_has_no_name(self, folder: Path) -> None:
        config = load('[[ignore]]\ncode = "ALL"\ntensor = "*"\nreason = "x"')
        assert config.general.ignore_reason(finding(tensor=None, layer=None), "a.pt") is None
        assert config.general.ignore_reason(finding(tensor=None), "a.pt") == "x"

    def test_the_first_reason_is_given(self, folder: Path) -> None:
        config = load('[[ignore]]\ncode = "ZER"\nreason = "a"\n[[ignore]]\ncode = "ZER"\nreason = "b"')
        assert config.general.ignore_reason(finding(), "a.pt") == "a"

    def test_an_ignore_for_some_paths_stays_with_them(self, folder: Path) -> None:
        config = load('[paths."old/**"]\nignore = [{ code = "ZER", reason = "old" }]')
        assert config.for_path("old/a.pt").judge(finding(), "old/a.pt").ignored == "old"
        assert config.for_path("new/a.pt").judge(finding(), "new/a.pt").ignored is None


def report(*findings: Finding, path: str = "model.zip", verdict: Verdict = Verdict.ILL) -> Report:
    return Report((Examination(path=path, format="sb3", verdict=verdict, findings=findings),), rules=len(RULES))


def unused(config: Config, about: Report) -> tuple[Finding, ...]:
    return tuple(follow_ignores(about, config, RULES).remark_unused())


class TestUnusedIgnores:
    TEXT = '[[ignore]]\ncode = "ZER003"\npath = "*.zip"\nreason = "Known."'

    def test_an_ignore_that_hid_something_is_silent(self, folder: Path) -> None:
        assert unused(load(self.TEXT), report(finding())) == ()

    def test_one_that_hid_nothing_is_named_with_its_place(self, folder: Path) -> None:
        (remark,) = unused(load(self.TEXT), report(finding(code="NET001")))
        assert (remark.code, remark.severity) == ("CKD002", Severity.NOTE)
        assert "ckdoc.toml: ignore[0] (ZER003: Known.) matched nothing" in remark.message

    @pytest.mark.parametrize(
        "about", [report(path="model.pt"), report(verdict=Verdict.UNREADABLE), Report((), rules=4)]
    )
    def test_one_that_could_not_match_is_not_judged(self, folder: Path, about: Report) -> None:
        assert unused(load(self.TEXT), about) == ()

    def test_one_for_rules_that_were_not_asked_is_not_judged(self, folder: Path) -> None:
        assert unused(load(self.TEXT, select=["NET", "CKD"]), report()) == ()
        assert unused(load('[severity]\nZER003 = "off"\n' + self.TEXT), report()) == ()

    @pytest.mark.parametrize(
        ("path", "searched", "told"),
        [
            ("modles/*.zip", [], True),
            ("modles/legacy.zip", [], True),
            ("models/*.zip", [], False),
            ("models/*.zip", ["models"], True),
            ("models/old/**", ["models"], True),
            ("models/old/**", ["."], True),
            ("models/**", ["models/old"], False),
            ("*.zip", ["models"], False),
            ("*.zip", ["."], True),
            ("/nowhere/*.zip", [], True),
        ],
    )
    def test_a_path_that_leads_nowhere_is_named(self, folder: Path, path: str, searched: list[str], told: bool) -> None:
        (folder / "models" / "old").mkdir(parents=True)
        for text in (f'[[ignore]]\ncode = "ALL"\npath = "{path}"', f'[[paths."{path}".ignore]]\ncode = "ALL"'):
            config = load(f'{text}\nreason = "Known."')
            remarks = follow_ignores(report(path="run.pt"), config, ()).remark_unmatched(searched)
            assert [f"the path {path!r} of" in each.message for each in remarks] == [True] * told
            where = path.replace("**", "x").replace("*", "x")
            assert not follow_ignores(report(path=where), config, ()).remark_unmatched(searched)

    def test_its_own_severity_can_be_set(self, folder: Path) -> None:
        (remark,) = unused(load(self.TEXT + '\n[severity]\nCKD002 = "error"'), report())
        assert remark.severity is Severity.ERROR
        assert unused(load(self.TEXT + '\n[severity]\nCKD002 = "off"'), report()) == ()


WORDS = [
    "select",
    "ignore",
    "severity",
    "options",
    "paths",
    "fail-on",
    "code",
    "reason",
    "path",
    "tensor",
    "ZER002",
    "ZER003",
    "least",
    "from-share",
    "layers",
    "kind",
    "runs/*",
    "error",
    "off",
    "warning",
]


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "place", "hint"),
        [
            ('selct = ["ZER"]', "ckdoc.toml: there is no key 'selct'", "did you mean 'select'?"),
            ('fail_on = "error"', "ckdoc.toml: there is no key 'fail_on'", "did you mean 'fail-on'?"),
            ('fail-on = "warn"', "ckdoc.toml: fail-on: there is no severity 'warn'", "did you mean 'warning'?"),
            ("fail-on = [1]", "ckdoc.toml: fail-on: there is no severity [1]", "choose from error"),
            ('select = ["ZER009"]', "ckdoc.toml: select: there is no rule 'ZER009'", "did you mean 'ZER00"),
            ('select = ["silent-unit"]', "ckdoc.toml: select: there is no rule 'silent-unit'", "'dormant-units'?"),
            ("select = [3]", "ckdoc.toml: select: ", "quotes"),
            ("select = []", "ckdoc.toml: select: ", ""),
            ('[severity]\nzer003 = "error"', "severity.zer003: there is no rule 'zer003'", "did you mean 'ZER003'?"),
            ('[severity]\nZER003 = "Error"', "severity.ZER003: there is no severity 'Error'", "did you mean 'error'?"),
            ("[severity]\nZER003 = {}", "severity.ZER003: there is no severity {}", "choose from error"),
            ("severity = 3", "ckdoc.toml: severity: 3 is not a table", "section"),
            ("[options.ZER02]\nleast = 1", "options.ZER02: there is no rule 'ZER02'", "did you mean 'ZER002'?"),
            ("[options.ZER002]\nlest = 1", "options.ZER002: there is no option 'lest'", "did you mean 'least'?"),
            ("[options.ZER003]\nleast = 1", "options.ZER003.least: ZER003 has no options", "remove"),
            ('ignore = ["ZER003"]', "ckdoc.toml: ignore[0]: an ignore needs a reason", 'code = "ZER003"'),
            ('[[ignore]]\ncode = "ZER003"', "ignore[0].reason: an ignore needs a reason", "why"),
            ('[[ignore]]\ncode = "ZER003"\nreason = " "', "ignore[0].reason: an ignore needs a reason", "why"),
            ('[[ignore]]\nreason = "x"', "ignore[0].code: an ignore needs the code", "ALL"),
            ('[[ignore]]\ncode = "ZER9"\nreason = "x"', "ignore[0].code: there is no rule 'ZER9'", ""),
            ('[[ignore]]\ncodes = "ZER"\nreason = "x"', "ignore[0]: there is no key 'codes'", "did you mean 'code'?"),
            ('[[ignore]]\ncode = "ZER"\nreason = "x"\npath = 3', "ignore[0].path: 3 is neither", "quotes"),
            ('[paths."a"]\nfail-on = "never"', 'paths."a".fail-on: fail-on is for the whole run', "severities"),
            ('[paths."a"]\nignored = 1', "paths.\"a\": there is no key 'ignored'", "did you mean 'ignore'?"),
            ("paths = [1]", "ckdoc.toml: paths: [1] is not a table", "section"),
        ],
    )
    def test_what_does_not_exist_is_named_with_the_nearest_right_name(
        self, folder: Path, text: str, place: str, hint: str
    ) -> None:
        error = refusal(text)
        assert place in error.message
        assert hint in error.hint
        assert "\n" not in error.message + error.hint

    def test_the_command_line_is_checked_too(self, folder: Path) -> None:
        assert refusal("", select=["ZER9"]).message == "--select: there is no rule 'ZER9'"
        assert refusal("", ignore=["nothing"]).message == "--ignore: there is no rule 'nothing'"
        assert refusal("", fail_on="errors").hint == "did you mean 'error'?"

    def test_broken_toml_is_told_with_the_line(self, folder: Path) -> None:
        assert "line 2" in refusal('select = ["ZER"]\nfail-on error').message

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"x = " + b"[" * 5000 + b"]" * 5000, b"x = " + b"9" * 5000])
    def test_a_file_that_no_parser_takes_is_one_sentence(self, folder: Path, content: bytes) -> None:
        Path("ckdoc.toml").write_bytes(content)
        with pytest.raises(UsageError, match=r"^ckdoc.toml (is|holds) "):
            load_config(RULES)

    @settings(deadline=None)  # a schema is built for each table
    @given(
        st.recursive(
            st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(WORDS),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_table_is_read_or_refused_and_the_schema_agrees(self, table: Any) -> None:
        from checkpoint_doctor.config.reader import Names, Reader

        reader = Reader("ckdoc.toml", "/", "", Names(RULES))
        accepted = True
        try:
            reader.read_file(table)
        except UsageError:
            accepted = False
        if accepted:
            jsonschema.validate(table, build_schema(RULES))


class TestDescription:
    def rows(self, config: Config, path: str | None = None) -> dict[str, tuple[Any, str]]:
        return {row.key: (row.value, row.origin) for row in describe_config(config, RULES, path)}

    def test_every_value_says_where_it_comes_from(self, folder: Path) -> None:
        config = load(
            '[severity]\nZER003 = "error"\nNET001 = "off"\n[options.ZER002]\nleast = 3\n'
            '[[ignore]]\ncode = "NET"\nreason = "x"\ntensor = "a.*"\n[paths."old/*".severity]\nZER003 = "note"',
            fail_on="warning",
            ignore=["CKD001"],
        )
        rows = self.rows(config)
        assert rows["select"] == (["ALL"], "default")
        assert rows["fail-on"] == ("warning", "command line")
        assert rows["--ignore"] == (["CKD001"], "command line")
        assert rows["severity.ZER003"] == ("error", "ckdoc.toml")
        assert rows["severity.NET001"] == ("off", "ckdoc.toml")
        assert rows["severity.ZER002"] == ("warning", "default")
        assert rows["options.ZER002.least"] == (3, "ckdoc.toml")
        assert rows["options.ZER002.from-share"] == (0.1, "default")
        assert rows["ignore[0]"] == ({"code": ["NET"], "tensor": ["a.*"], "reason": "x"}, "ckdoc.toml")
        assert rows['paths."old/*".severity.ZER003'] == ("note", "ckdoc.toml")

    def test_for_one_path_it_is_what_holds_there(self, folder: Path) -> None:
        config = load('[severity]\nZER003 = "error"\n[paths."old/*".severity]\nZER003 = "note"')
        assert self.rows(config, "old/a.pt")["severity.ZER003"][0] == "note"
        assert self.rows(config, "new/a.pt")["severity.ZER003"][0] == "error"


class TestSchema:
    def test_it_is_a_schema_of_what_is_installed(self) -> None:
        schema = build_schema(discover().rules)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert "CKD001" in schema["properties"]["severity"]["properties"]
        share = schema["properties"]["options"]["properties"]["ZER002"]["properties"]["warning"]
        assert share == {
            "type": "number",
            "default": 0.1,
            "description": "The share of zeros from which it is reported; this project's experience.",
        }

    def test_it_takes_what_the_reader_takes_and_refuses_what_it_refuses(self, folder: Path) -> None:
        validator = jsonschema.Draft202012Validator(build_schema(RULES))
        good = {
            "select": ["ZER", "dormant-units"],
            "fail-on": "never",
            "severity": {"ZER003": "off"},
            "options": {"partial-zeros": {"from-share": 0.2, "layers": ["conv"]}},
            "ignore": [{"code": "ZER003", "reason": "Known.", "path": "a/*"}],
            "paths": {"old/*": {"ignore": [{"code": ["ZER"], "reason": "Old."}]}},
        }
        validator.validate(good)
        for bad in (
            {"selct": ["ZER"]},
            {"fail-on": "warn"},
            {"severity": {"ZER003": "bad"}},
            {"options": {"ZER002": {"least": 0.5}}},
            {"ignore": [{"code": "ZER003"}]},
            {"ignore": [{"code": "ZER003", "reason": " "}]},
            {"paths": {"a": {"fail-on": "never"}}},
        ):
            assert not validator.is_valid(bad), bad


class TestPathPatterns:
    @pytest.mark.parametrize(
        ("pattern", "path", "expected"),
        [
            ("*.zip", "model.zip", True),
            ("*.zip", "runs/a/model.zip", True),
            ("runs/*.zip", "runs/model.zip", True),
            ("runs/*.zip", "runs/a/model.zip", False),
            ("runs/**", "runs/a/b/model.zip", True),
            ("runs/**/model.zip", "runs/model.zip", True),
            ("runs/**/model.zip", "runs/a/b/model.zip", True),
            ("**/model.zip", "model.zip", True),
            ("runs", "runs/a/model.zip", True),
            ("runs/", "runs/a/model.zip", True),
            ("./runs/a", "runs/a/model.zip", True),
            ("run", "runs/a/model.zip", False),
            ("runs/a", "old/runs/a/model.zip", False),
            ("model_?.pt", "model_1.pt", True),
            ("model_?.pt", "model_12.pt", False),
            ("model_[0-4].pt", "model_3.pt", True),
            ("model_[!0-4].pt", "model_3.pt", False),
            ("model_[z-a].pt", "model_3.pt", False),
            ("a+b(1).pt", "a+b(1).pt", True),
            ("*.zip", "./model.zip", True),
            ("runs/*", "runs/../runs/model.zip", True),
            ("*.ZIP", "model.zip", False),
            ("**", "runs/a/model.zip", True),
            ("runs/**", "runs", False),
            ("runs/**/old/**/*.pt", "runs/1/old/2/3/a.pt", True),
            ("runs/**/old/**/*.pt", "runs/1/new/2/3/a.pt", False),
            ("runs/*a*b.pt", "runs/xaxb.pt", True),
            ("runs/*a*b.pt", "runs/xa/b.pt", False),
        ],
    )
    def test_they_mean_what_they_mean_in_gitignore(self, folder: Path, pattern: str, path: str, expected: bool) -> None:
        assert match_path(pattern, path) is expected
        assert match_path(pattern, os.path.abspath(path)) is expected

    @pytest.mark.parametrize(
        ("pattern", "path"),
        [
            ("*a" * 60 + "b", "a" * 20_000),
            ("**/a/" * 60 + "b", "a/" * 500 + "c"),
            ("/".join(["*a*a*a*a*b"] * 30), "/".join(["a" * 200] * 30)),
        ],
    )
    def test_no_pattern_takes_long(self, pattern: str, path: str) -> None:
        start = time.process_time()
        assert not match_path(pattern, path)
        assert time.process_time() - start < 0.5

    def test_they_start_at_the_folder_of_the_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "a").mkdir()
        load('[[ignore]]\ncode = "ZER"\npath = "a/*.pt"\nreason = "x"')
        monkeypatch.chdir("a")
        config = load_config(RULES)
        assert config.general.ignore_reason(finding(), "model.pt") == "x"
        assert config.general.ignore_reason(finding(), str(folder / "a" / "model.pt")) == "x"
        assert config.general.ignore_reason(finding(), "../model.pt") is None

    @given(st.text(alphabet="ab*?[]!^-/.\\|&~", max_size=12), st.text(alphabet="ab/.", min_size=1, max_size=8))
    def test_no_pattern_is_an_error(self, pattern: str, path: str) -> None:
        match_path(pattern, path)


class TestSearching:
    TEXT = 'exclude = ["data/**", "old"]\ninclude = "*.pt"'

    def test_the_table_shows_the_patterns_with_their_origin(self, folder: Path) -> None:
        rows = describe_config(load(self.TEXT, exclude=["tmp"]), RULES)
        shown = [(row.key, row.value, row.origin) for row in rows if row.key in ("exclude", "include")]
        assert shown == [
            ("exclude", ["data/**", "old"], "ckdoc.toml"),
            ("exclude", ["tmp"], "command line"),
            ("include", ["*.pt"], "ckdoc.toml"),
        ]

    def test_the_schema_knows_them(self) -> None:
        validator = jsonschema.Draft202012Validator(build_schema(RULES))
        assert validator.is_valid({"exclude": ["data/**"], "include": "*.pt"})
        assert not validator.is_valid({"exclude": [3]})
        assert not validator.is_valid({"paths": {"a": {"exclude": "b"}}})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("exclude = 3", "ckdoc.toml: exclude: 3 is neither a string nor a list of strings"),
            ('include = [""]', "ckdoc.toml: include: [''] is neither a string nor a list of strings"),
            ('[paths."a"]\nexclude = "b"', "there is no key 'exclude'"),
        ],
    )
    def test_what_is_no_pattern_is_refused(self, folder: Path, text: str, message: str) -> None:
        assert message in refusal(text).message
