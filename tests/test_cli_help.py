"""The help of every command, as a newcomer reads it."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from checkpoint_doctor.cli.application import app
from checkpoint_doctor.cli.help import EXAMPLES

COMMANDS = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]


@pytest.mark.parametrize("command", [[], *([each] for each in COMMANDS)], ids=" ".join)
def test_help_ends_with_examples_and_an_address(command: list[str]) -> None:
    text = CliRunner().invoke(app, [*command, "--help"]).stdout
    examples = re.findall(r"^  (ckdoc .*)$", text.partition("Examples:\n")[2], re.MULTILINE)
    assert examples
    assert re.search(r"^Docs: https://\S+/$", text, re.MULTILINE)


@pytest.mark.parametrize("example", [each for examples in EXAMPLES.values() for each in examples])
def test_examples_use_options_that_exist(example: str) -> None:
    _, command, *rest = shlex.split(example)
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    for option in (each for each in rest if each.startswith("--")):
        assert re.search(rf"(^|[ ,]){option}\b", text, re.MULTILINE), option


def test_examples_belong_to_commands_that_exist() -> None:
    assert set(EXAMPLES) == {"ckdoc", *COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_and_argument_has_a_description_and_its_default(command: str) -> None:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    text = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())
    for each in found.params:
        assert each.help, each.name
        if isinstance(each.default, str | int | float) and each.default and not isinstance(each.default, bool):
            shown = getattr(each.default, "value", each.default)
            assert f"[default: {shown}" in text, each.name


def test_the_list_of_commands_cuts_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert "..." not in CliRunner().invoke(app, ["--help"]).stdout.partition("Commands:")[2]
