"""The help of every command, as a newcomer reads it."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.testing import CliRunner

from checkpoint_doctor.cli.application import app
from checkpoint_doctor.cli.help import EXAMPLES

COMMANDS = ("scan", "fix", "rules", "causes", "explain", "plugins", "config", "watch")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_and_an_address(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    examples = re.findall(r"^  (ckdoc .*)$", text.partition("Examples:\n")[2], re.MULTILINE)
    assert examples
    assert re.search(r"^Docs: https://\S+/$", text, re.MULTILINE)


@pytest.mark.parametrize("example", [each for examples in EXAMPLES.values() for each in examples])
def test_examples_use_options_that_exist(example: str) -> None:
    _, command, *rest = shlex.split(example)
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    for option in (each for each in rest if each.startswith("--")):
        assert re.search(rf"(^|[ ,]){option}\b", text, re.MULTILINE), option


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == {info.name or info.callback.__name__ for info in app.registered_commands}
