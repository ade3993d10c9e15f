"""A diagnosis always arrives: whatever became of the streams, the encoding, the working directory or the patience."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from checkpoint_doctor.cli.application import app

COMMAND = [sys.executable, "-m", "checkpoint_doctor"]
NAME = "mödel·模型.zip"


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    shutil.copy(fixtures / "case_1_healthy.zip", tmp_path / "a.zip")
    shutil.copy(fixtures / "case_1_head_v6.zip", tmp_path / NAME)
    return tmp_path


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of the shell in which ``ckdoc`` is a function."""
    script = f'ckdoc() {{ "{sys.executable}" -m checkpoint_doctor "$@"; }}\n{command}'
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, timeout=60, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("ckdoc scan a.zip >&-", 2, "standard output is closed"),
        ("ckdoc scan a.zip -o r.txt >&-", 0, "18 tensors"),
        ("ckdoc scan a.zip 2>&-", 0, ""),
        ("ckdoc scan *模型.zip 2>&-", 1, ""),
        ("ckdoc scan a.zip <&- >&- 2>&-", 2, ""),
        ("ckdoc fix a.zip >&-", 2, "standard output is closed"),
        ("ckdoc rules >&-", 2, "standard output is closed"),
        ("ckdoc --help >&-", 2, "standard output is closed"),
        ("ckdoc scan --help > /dev/full", 2, "cannot be printed: no space left"),
        ("set -o pipefail; ckdoc fix --help | true", 141, ""),
        ("ckdoc scan a.zip > /dev/full", 2, "no space left"),
        ("ckdoc scan a.zip 2> /dev/full", 0, ""),
        ("ckdoc scan missing.zip 2>&-", 2, ""),
    ],
)
def test_closed_streams(command: str, code: int, words: str, folder: Path) -> None:
    result = shell(folder, command)
    assert result.returncode == code, result.stderr.decode()
    said = (result.stdout + result.stderr).decode()
    assert words in said
    assert "Traceback" not in said
    assert "bug" not in said
    assert "Exception ignored" not in said


@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- 2>&-"])
def test_no_file_takes_the_number_of_a_closed_stream(streams: str, folder: Path) -> None:
    program = "from checkpoint_doctor.cli.output import guard_streams; guard_streams(); print(open('a.zip').fileno())"
    result = shell(folder, f'{shlex.quote(sys.executable)} -c "{program}" {streams}')
    assert int(result.stdout) > 2


COMMANDS = {
    "scan": ("scan *.zip", 1), "fix": ("fix *.zip -n", 0), "compare": ("compare *.zip", 1), "log": ("log log.csv", 0),
    "watch": ("watch . --once --settle 0", 1), "rules": ("rules", 0), "causes": ("causes", 0),
    "explain": ("explain ZER003", 0), "plugins": ("plugins", 0), "config": ("config", 0),
}  # fmt: skip


def test_every_command_is_tried_here() -> None:
    assert set(COMMANDS) == {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_without_streams_and_with_a_reader_that_leaves(name: str, folder: Path) -> None:
    command, code = COMMANDS[name]
    (folder / "log.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    runs = [f"ckdoc {command} 2>&-", f"ckdoc {command} >&-", f"set -o pipefail; ckdoc {command} | true"]
    results = shell(folder, "\n".join(f"({each}) > {at}.txt 2>&1; echo $?" for at, each in enumerate(runs)))
    codes = [int(word) for word in results.stdout.split()]
    said = [(folder / f"{at}.txt").read_text() for at in range(len(runs))]
    assert codes == [code, 2, 141], said
    assert "standard output is closed" in said[1]
    assert not [word for text in said for word in ("Traceback", "this is a bug", "Exception ignored") if word in text]


HOMELESS = {
    "no environment": "env -i",
    "no home": "env HOME=/nonexistent",
    "a narrow dumb one": "env TERM=dumb COLUMNS=1",
}


@pytest.mark.parametrize("prefix", HOMELESS.values(), ids=HOMELESS)
def test_no_variable_is_needed(prefix: str, folder: Path) -> None:
    paths = f"PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}"
    result = shell(folder, f"{prefix} {paths} {shlex.quote(sys.executable)} -m checkpoint_doctor scan *.zip")
    assert result.returncode == 1, result.stderr
    assert {b"HEALTHY", b"ILL"} <= set(result.stdout.split())
    assert result.stderr == b""


def test_a_name_that_is_no_utf_8_is_spelt_in_what_is_written_too(folder: Path) -> None:
    name = os.fsdecode(b"n\xff.zip")
    shutil.copy(folder / "a.zip", folder / name)
    result = shell(folder, "ckdoc scan $'n\\xff.zip' --report json=$'r\\xff.json' --write-baseline b.json")
    assert result.returncode == 0, result.stderr
    assert rb"n\udcff.zip" in result.stdout
    written = json.loads((folder / os.fsdecode(b"r\xff.json")).read_text())
    assert written["checkpoints"][0]["path"] == name
    again = shell(folder, "ckdoc scan $'n\\xff.zip' --baseline b.json -f concise -q")
    assert (again.returncode, again.stdout) == (0, b"")


def test_a_reader_that_leaves_early_is_told_nothing(folder: Path) -> None:
    result = shell(folder, "set -o pipefail; ckdoc scan a.zip -f json | true")
    assert (result.returncode, result.stdout, result.stderr) == (141, b"", b"")


def test_other_reports_are_written_where_nobody_reads_standard_output(folder: Path) -> None:
    assert shell(folder, "ckdoc scan a.zip --report json=r.json >&-").returncode == 2
    assert json.loads((folder / "r.json").read_text())["checkpoints"][0]["verdict"] == "healthy"


ENVIRONMENTS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C"},
    "plain C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.parametrize("encoding", ENVIRONMENTS)
def test_any_encoding_is_enough(encoding: str, folder: Path) -> None:
    result = shell(folder, f"ckdoc scan '{NAME}'", **ENVIRONMENTS[encoding])
    assert result.returncode == 1
    assert b"ILL" in result.stdout
    assert b"NRM001" in result.stdout
    assert b"bug" not in result.stderr
    assert shell(folder, f"ckdoc fix '{NAME}' -n", **ENVIRONMENTS[encoding]).returncode == 0
    assert shell(folder, "ckdoc explain NET001", **ENVIRONMENTS[encoding]).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_programs_read_is_utf_8_in_any_encoding(encoding: str, folder: Path) -> None:
    [found] = json.loads(shell(folder, f"ckdoc scan '{NAME}' -f json", **ENVIRONMENTS[encoding]).stdout)["checkpoints"]
    assert found["path"] == NAME
    [suite] = ElementTree.fromstring(shell(folder, f"ckdoc scan '{NAME}' -f junit", **ENVIRONMENTS[encoding]).stdout)
    assert suite.get("name") == NAME
    [repair] = json.loads(shell(folder, f"ckdoc fix '{NAME}' -n -f json", **ENVIRONMENTS[encoding]).stdout)[
        "operations"
    ]
    assert repair["path"] == NAME


@pytest.mark.parametrize("command", ["scan a.zip", "scan {0}/a.zip", "fix a.zip", "config"])
def test_a_deleted_working_directory_is_said(command: str, folder: Path) -> None:
    result = shell(folder, f"mkdir gone && cd gone && rmdir ../gone && ckdoc {command.format(folder)}")
    assert result.returncode == 2
    assert b"the working directory does not exist" in result.stderr
    assert b"Traceback" not in result.stderr


def test_an_interruption_of_the_imports_is_one_sentence(tmp_path: Path, fixtures: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [*COMMAND, "scan", fixtures / "case_1_healthy.zip"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        # A shell starts what it runs in the background with interrupts ignored, and a test run may be that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (result.returncode, result.stderr) == (128 + signal.SIGINT, "ckdoc: interrupted\n")


def test_nothing_is_imported_before_interruptions_are_awaited() -> None:
    program = "import sys; old = {*sys.modules}; import checkpoint_doctor.cli; print(*sorted({*sys.modules} - old))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert set(result.stdout.split()) <= {"__future__", "checkpoint_doctor", "checkpoint_doctor.cli"}


def test_a_missing_library_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no typer here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [*COMMAND, "rules"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("ckdoc: a part of ckdoc is missing: no typer here\n")


def test_a_working_directory_is_no_place_for_plugins(folder: Path) -> None:
    (folder / "sneaky.py").write_text("raise SystemExit('loaded')\n")
    (folder / "sneaky-1.0.dist-info").mkdir()
    (folder / "sneaky-1.0.dist-info" / "entry_points.txt").write_text("[checkpoint_doctor.analyzers]\nx = sneaky\n")
    (folder / "rich.py").write_text("raise SystemExit('loaded')\n")
    result = shell(folder, "ckdoc scan a.zip && ckdoc plugins")
    assert result.returncode == 0, result.stderr
    assert b"sneaky" not in result.stdout + result.stderr
    assert b"HEALTHY" in result.stdout
