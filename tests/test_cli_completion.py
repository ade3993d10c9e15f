"""The shell completes commands, options, rules, causes and formats, through the protocol of each shell's script."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.completion import completion_init, get_completion_script
from typer.testing import CliRunner

from checkpoint_doctor.cli.application import app
from checkpoint_doctor.cli.completion import leave_values_open

completion_init()


def offers(shell: str, line: str) -> str:
    """What ckdoc answers where the cursor is at the end of a line."""
    environment = {"_CKDOC_COMPLETE": f"complete_{shell}", "TERMINAL_WIDTH": "1000", "COLUMNS": "1000"}
    if shell == "bash":
        words = [*shlex.split(line), ""] if line.endswith(" ") else shlex.split(line)
        environment |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        environment |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return CliRunner().invoke(app, [], prog_name="ckdoc", env=environment).stdout


LINES = {
    "ckdoc expl": {"explain"},
    "ckdoc scan --fail": {"--fail-on"},
    "ckdoc scan --fail-on ": {"error", "warning", "note", "never"},
    "ckdoc scan --format j": {"json", "jsonl", "junit"},
    "ckdoc scan --report ju": {"junit="},
    "ckdoc scan --select ZER": {"ZER", "ZER001", "ZER002", "ZER003", "ZER004"},
    "ckdoc scan --ignore zero-b": {"zero-bias"},
    "ckdoc fix --select NET00": {f"NET00{digit}" for digit in range(1, 10)},
    "ckdoc explain unscaled": {"unscaled-inputs"},
    "ckdoc rules --format ": {"table", "json"},
}


@pytest.mark.parametrize(("line", "expected"), LINES.items(), ids=list(LINES))
def test_what_can_follow_is_offered_in_every_shell(line: str, expected: set[str]) -> None:
    assert set(offers("bash", line).split()) == expected
    fish = dict(each.partition("\t")[::2] for each in offers("fish", line).splitlines())
    assert set(fish) == expected
    zsh = offers("zsh", line)
    assert zsh.startswith("_arguments '*: :((")
    assert all(f'"{each}"' in zsh for each in expected)


@pytest.mark.parametrize("line", ["ckdoc explain ", "ckdoc scan --", "ckdoc fix --"])
def test_a_description_is_one_line_however_narrow_the_terminal_is(line: str) -> None:
    environment = {**os.environ, "COLUMNS": "40", "_CKDOC_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    result = subprocess.run(
        [str(Path(sysconfig.get_path("scripts")) / "ckdoc")],
        env={**environment, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    rows = [each.split("\t") for each in result.stdout.splitlines()]
    assert len(rows) > 10
    assert all(len(row) == 2 and " " not in row[0] for row in rows), rows


@pytest.mark.parametrize("line", ["ckdoc scan ", "ckdoc scan --output ", "ckdoc scan --config ck", "ckdoc fix run"])
def test_where_a_file_belongs_the_shell_completes_files(line: str) -> None:
    assert offers("bash", line).split() == []
    assert offers("zsh", line).strip() == "_files"
    assert offers("fish", line).split() == []


def test_a_code_comes_with_its_name() -> None:
    assert offers("fish", "ckdoc explain ZER003").strip() == "ZER003\tzero-bias"


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is found among the parents of the process")
@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_the_options_about_completion_succeed(option: str, tmp_path: Path) -> None:
    command = [f"{shlex.quote(sys.executable)} -m checkpoint_doctor {option}; echo code=$?"]
    result = subprocess.run(
        ["bash", "--norc", "-c", *command],
        cwd=Path(__file__).parent.parent,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.splitlines()[-1] == "code=0", result.stderr
    assert option != "--show-completion" or "compopt -o nospace" in result.stdout
    assert result.stderr == ""


SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("last", ["junit=", "junit"])
def test_a_shell_puts_no_space_before_a_value(last: str, shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    leave_values_open()
    script = get_completion_script(prog_name="ckdoc", complete_var="_CKDOC_COMPLETE", shell=shell)
    (tmp_path / "completion.sh").write_text(script)
    offer = last if shell == "bash" else f'_arguments \'*: :(("{last}":"checkpoint-doctor"))\''
    (tmp_path / "offer").write_text(f"{offer}\n")
    command = tmp_path / "ckdoc"
    command.write_text(f'#!/bin/sh\n[ -n "$_CKDOC_COMPLETE" ] && cat {tmp_path}/offer || echo "passed: $*."\n')
    command.chmod(0o755)
    leader, follower = os.openpty()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"}
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    prepare = "autoload -Uz compinit; compinit -D -u; " if shell == "zsh" else ""
    with subprocess.Popen(SHELLS[shell], **streams, env=environment, start_new_session=True):
        os.close(follower)
        os.write(leader, f"{prepare}source {tmp_path}/completion.sh\nckdoc scan --report ju\tX\nexit\n".encode())
        said = b""
        with contextlib.suppress(OSError):  # the shell is gone
            while piece := os.read(leader, 4096):
                said += piece
    os.close(leader)
    assert f"passed: scan --report {last}{'X' if last.endswith('=') else ' X'}.".encode() in said, said
