"""The gate where teams run it: the action's steps as shell, the hook through real pre-commit, the snippets of the docs.

One fresh environment is made as the action makes it, from the wheel and without PyTorch; it also tells the size.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from checkpoint_doctor import __version__, discover, load_config

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
CI_PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]

MOST_MEGABYTES = 120
"""What an installation may take, where PyTorch alone takes 700 and more."""


def snippet(language: str, beginning: str) -> str:
    """The code block of docs/ci.md that begins so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", CI_PAGE, re.DOTALL)
    [found] = [block for block in blocks if block.startswith(beginning)]
    return found


UNWANTED = ("GITHUB_", "CKDOC_", "PYTHONDONTWRITEBYTECODE")


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
    kept["PIP_COMPILE"] = "0"  # pip would compile thousands of modules of which the commands import a few
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env={**kept, **environment}, check=False
    )


def run_step(name: str, folder: Path, temporary: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the action as GitHub's runner does, with its expressions filled in."""
    step = STEPS[name]
    values = {f"inputs.{key}": str(each.get("default", "")) for key, each in ACTION["inputs"].items()}
    values |= {f"inputs.{key.replace('_', '-')}": value for key, value in inputs.items()}
    values |= {"steps.python.outputs.python-path": sys.executable, "github.action_path": str(ROOT)}
    filled = {
        name: re.sub(r"\$\{\{ (\S+) \}\}", lambda match: values[match[1]], value) for name, value in step["env"].items()
    }
    script = temporary / "step.sh"
    script.write_text(step["run"])
    return run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        folder,
        RUNNER_TEMP=str(temporary),
        GITHUB_OUTPUT=str(temporary / "output"),
        GITHUB_STEP_SUMMARY=str(temporary / "summary"),
        **filled,
    )


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner's temporary folder, with the doctor installed by the action's own step."""
    temporary = tmp_path_factory.mktemp("runner")
    result = run_step("Install the checkpoint doctor", temporary, temporary)
    assert result.returncode == 0, result.stderr
    return temporary


@pytest.fixture
def workspace(tmp_path: Path, fixtures: Path, runner: Path) -> Path:
    """A checked-out project with one healthy and one sick model."""
    folder = tmp_path / "workspace"
    (folder / "models").mkdir(parents=True)
    shutil.copy(fixtures / "case_1_healthy.zip", folder / "models" / "healthy.zip")
    shutil.copy(fixtures / "case_1_head_v6.zip", folder / "models" / "sick.zip")
    for name in ("output", "summary"):
        (runner / name).write_text("")
    return folder


def scan_step(workspace: Path, runner: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    result = run_step("Examine the checkpoints", workspace, runner, **inputs)
    outputs = dict(line.split("=", 1) for line in (runner / "output").read_text().splitlines())
    assert outputs["exit-code"] == str(result.returncode)
    assert "Traceback" not in result.stderr
    return result, outputs


# --- the installation -------------------------------------------------------------------------------------------------


def test_the_wheel_installs_small_and_without_frameworks(runner: Path) -> None:
    [packages] = (runner / "ckdoc").glob("lib/python*/site-packages")
    installer = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "wheel")
    size = sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file() and not file.relative_to(packages).parts[0].startswith(installer)
    )
    assert size < MOST_MEGABYTES * 1e6, f"{size / 1e6:.0f} MB"
    names = {folder.name for folder in packages.iterdir()}
    assert not names & {"torch", "stable_baselines3", "gymnasium", "tests", "fixtures"}
    assert (packages / "checkpoint_doctor" / "py.typed").is_file()


def test_a_fresh_installation_has_all_of_its_parts(runner: Path) -> None:
    result = run([str(runner / "ckdoc" / "bin" / "ckdoc"), "plugins"], runner)
    ours = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(ours) >= 17
    assert {len(line) for line in ours} == {4}, "a fifth column tells of a problem"


def test_it_runs_under_the_name_of_the_package_too(runner: Path) -> None:
    """So that ``pipx run checkpoint-doctor`` works."""
    result = run([str(runner / "ckdoc" / "bin" / "checkpoint-doctor"), "--version"], runner)
    assert re.fullmatch(r"ckdoc \d+\.\d+\.\d+\n", result.stdout), result.stderr


def test_a_named_version_is_asked_for_by_name(tmp_path: Path) -> None:
    python = tmp_path / "python"
    installed = "'#!/bin/sh\necho \"$@\"\n'"
    python.write_text(f'#!/bin/sh\nmkdir -p "$3/bin"\nprintf {installed} > "$3/bin/python"\nchmod +x "$3/bin/python"\n')
    python.chmod(0o755)
    step = STEPS["Install the checkpoint doctor"]
    script = tmp_path / "step.sh"
    script.write_text(step["run"])
    settings = {
        "CKDOC_PYTHON": str(python),
        "CKDOC_VERSION": "1.2.3",
        "CKDOC_SOURCE": "/action",
        "RUNNER_TEMP": str(tmp_path),
    }
    result = run(["bash", "-eo", "pipefail", str(script)], tmp_path, **settings)
    assert result.stdout.split()[-1] == "checkpoint-doctor==1.2.3", result.stderr


# --- the action -------------------------------------------------------------------------------------------------------


def test_no_input_can_become_code() -> None:
    for step in STEPS.values():
        assert "${{" not in step.get("run", ""), "expressions go through env, where the shell quotes them"


def test_only_a_pinned_setup_python_is_used_from_others() -> None:
    used = [step["uses"] for step in STEPS.values() if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/setup-python@[0-9a-f]{40}", each) for each in used)


def test_a_sick_model_fails_the_job_and_explains_itself(workspace: Path, runner: Path) -> None:
    result, outputs = scan_step(workspace, runner, paths="models")
    assert result.returncode == 1
    assert "NRM001" in result.stdout
    assert "30.9%" in result.stdout
    annotations = [line for line in result.stdout.splitlines() if line.startswith("::")]
    assert any(line.startswith("::error file=models/sick.zip,") and "NRM001" in line for line in annotations)
    sarif = json.loads(Path(outputs["sarif-file"]).read_text())
    [found] = [each for each in sarif["runs"][0]["results"] if each["level"] == "error"]
    assert found["ruleId"] == "overwritten"
    assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/sick.zip"
    summary = (runner / "summary").read_text()
    assert "models/sick.zip" in summary
    assert "NRM001" in summary


def obey(log: str) -> list[str]:
    """Return the commands that GitHub's runner takes from a log: nothing between ``stop-commands`` and its token."""
    commands, token = [], ""
    for line in log.splitlines():
        if token:
            token = "" if line.strip() == f"::{token}::" else token
        elif line.lstrip().startswith("::stop-commands::"):
            token = line.strip().removeprefix("::stop-commands::")
        elif line.lstrip().startswith("::") or "##[" in line:
            commands.append(line)
    return commands


@pytest.mark.parametrize("name", ["::stop-commands::mute", "##[stop-commands]mute", "::add-mask::e", "::mute::"])
def test_a_tensor_cannot_silence_the_annotations(workspace: Path, runner: Path, name: str) -> None:
    import torch

    torch.save({f"{name} {number}.weight": torch.full((4, 4), torch.nan) for number in range(3)}, workspace / "a.pt")
    result, _ = scan_step(workspace, runner, paths="a.pt")
    assert result.returncode == 1
    assert result.stdout.startswith("::stop-commands::")
    commands = obey(result.stdout)
    assert commands[0].startswith("::error file=a.pt")
    assert all(each.startswith(("::error ", "::warning ", "::notice ")) for each in commands)


def test_a_healthy_model_passes(workspace: Path, runner: Path) -> None:
    result, outputs = scan_step(workspace, runner, paths="models/healthy.zip")
    assert result.returncode == 0, result.stdout + result.stderr
    assert Path(outputs["sarif-file"]).is_file()
    assert "::error" not in result.stdout


def test_paths_are_lines_whatever_they_hold(workspace: Path, runner: Path) -> None:
    odd = ["with space.zip", "$(touch pwned).zip", "-dash.zip", "quote'\".zip", "ünï;ls.zip"]
    for name in odd:
        shutil.copy(workspace / "models" / "healthy.zip", workspace / name)
    result, _ = scan_step(workspace, runner, paths="\r\n".join([*odd, "", "models/h*.zip"]))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 checkpoints" in result.stdout
    assert not (workspace / "pwned").exists()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"paths": "models", "fail_on": "never"}, 0),
        ({"paths": "models/healthy.zip", "fail_on": "nothing"}, 2),
        ({"paths": "models/missing.zip"}, 2),
        ({"paths": "models", "config": "missing.toml"}, 2),
        ({"paths": "empty"}, 3),
        ({"paths": "models", "sarif_file": "no/such/folder.sarif"}, 2),
    ],
)
def test_the_exit_code_is_passed_on(workspace: Path, runner: Path, inputs: dict, code: int) -> None:
    (workspace / "empty").mkdir()
    result, outputs = scan_step(workspace, runner, **inputs)
    assert result.returncode == code, result.stdout + result.stderr
    assert result.stdout + result.stderr
    assert ("sarif-file" in outputs) is Path(outputs.get("sarif-file", "/nowhere")).is_file()


def test_inputs_reach_the_command(workspace: Path, runner: Path) -> None:
    (workspace / "gate.toml").write_text('[[ignore]]\ncode = "NRM001"\nreason = "known since the migration"\n')
    result, outputs = scan_step(
        workspace, runner, paths="models", config="gate.toml", summary="false", sarif_file="out.sarif"
    )
    assert result.returncode == 0, result.stdout
    assert "1 hidden" in result.stdout
    assert outputs["sarif-file"] == "out.sarif"
    assert (workspace / "out.sarif").is_file()
    assert (runner / "summary").read_text() == ""


# --- the snippets of docs/ci.md ---------------------------------------------------------------------------------------


@pytest.fixture
def path(runner: Path) -> str:
    return f"{runner / 'ckdoc' / 'bin'}{os.pathsep}{os.environ['PATH']}"


def test_the_workflow_uses_the_action_as_it_is() -> None:
    workflow = yaml.safe_load(snippet("yaml", "# .github/workflows"))
    steps = workflow["jobs"]["ckdoc"]["steps"]
    action = f"{SOURCE.removeprefix('https://github.com/')}@v{__version__}"
    [ours] = [step for step in steps if step["uses"] == action]
    assert set(ours["with"]) <= set(ACTION["inputs"])
    used = set(re.findall(r"steps\.ckdoc\.outputs\.([\w-]+)", json.dumps(steps)))
    assert used
    assert used <= set(ACTION["outputs"])
    for name in (*ACTION["inputs"], *ACTION["outputs"]):
        assert f"`{name}`" in CI_PAGE, f"docs/ci.md does not mention {name}"


def test_the_github_step_runs(workspace: Path, path: str) -> None:
    summary = workspace / "summary"
    script = snippet("bash", "# github step")
    result = run(["bash", "-eo", "pipefail", "-c", script], workspace, PATH=path, GITHUB_STEP_SUMMARY=str(summary))
    assert result.returncode == 1, result.stderr
    assert "::error file=models/sick.zip" in result.stdout
    assert "NRM001" in summary.read_text()
    assert json.loads((workspace / "ckdoc.sarif").read_text())["version"] == "2.1.0"
    (workspace / "models" / "sick.zip").unlink()
    again = run(["bash", "-eo", "pipefail", "-c", script], workspace, PATH=path, GITHUB_STEP_SUMMARY=str(summary))
    assert again.returncode == 0, again.stdout + again.stderr


def test_the_gitlab_job_runs(workspace: Path, path: str) -> None:
    from junitparser import JUnitXml

    job = yaml.safe_load(snippet("yaml", "# .gitlab-ci.yml"))["ckdoc"]
    result = run(["bash", "-e", "-c", "\n".join(job["script"])], workspace, PATH=path)
    assert result.returncode == 1, result.stderr
    report = JUnitXml.fromfile(str(workspace / job["artifacts"]["reports"]["junit"]))
    assert report.failures == 1
    assert report.tests > 30


def test_the_makefile_stops_before_it_resumes(workspace: Path, path: str) -> None:
    (workspace / "Makefile").write_text(snippet("make", ".PHONY"))
    (workspace / "train.py").write_text("print('resumed')")
    result = run(["make", "train"], workspace, PATH=path)
    assert result.returncode == 2
    assert "NRM001" in result.stdout
    assert "resumed" not in result.stdout
    (workspace / "models" / "sick.zip").unlink()
    (workspace / "models" / "healthy.zip").rename(workspace / "models" / "latest.zip")
    assert "resumed" in run(["make", "train"], workspace, PATH=path).stdout


def test_the_baseline_hides_what_is_known_and_nothing_else(workspace: Path, path: str, fixtures: Path) -> None:
    script = snippet("bash", "# baseline")
    result = run(["bash", "-e", "-c", script], workspace, PATH=path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "hidden" in result.stdout
    shutil.copy(fixtures / "case_2_overwritten.zip", workspace / "models" / "new.zip")
    second = script.splitlines()[-1]
    assert run(["bash", "-e", "-c", second], workspace, PATH=path).returncode == 1


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", CI_PAGE, re.DOTALL))
def test_the_configuration_examples_are_valid(text: str, tmp_path: Path) -> None:
    tomllib.loads(text)
    (tmp_path / "ckdoc.toml").write_text(text)
    known = discover()
    assert len(load_config(known.rules, causes=known.causes, file=str(tmp_path / "ckdoc.toml")).sections) >= 2


# --- many files -------------------------------------------------------------------------------------------------------


def test_a_hundred_checkpoints_are_one_command(tmp_path: Path, corpus: Path, fixtures: Path) -> None:
    from itertools import cycle, islice
    from resource import RUSAGE_CHILDREN, getrusage

    (tmp_path / "models").mkdir()
    for number, file in enumerate(islice(cycle(sorted(corpus.rglob("*.zip"))), 99)):
        shutil.copyfile(file, tmp_path / "models" / f"{number:03}_{file.name}")
    shutil.copy(fixtures / "case_1_head_v6.zip", tmp_path / "models" / "sick.zip")
    formats = ("json", "sarif", "junit", "github", "markdown", "terminal")
    reports = [f"--report={name}={name}.out" for name in formats]
    before = getrusage(RUSAGE_CHILDREN)
    result = run([sys.executable, "-m", "checkpoint_doctor", "scan", "models", *reports], tmp_path)
    after = getrusage(RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 8, "seconds of two cores' work"

    assert "100 checkpoints" in result.stdout
    said = json.loads((tmp_path / "json.out").read_text())
    ill = {each["path"] for each in said["checkpoints"] if each["verdict"] != "healthy"}
    assert "models/sick.zip" in ill
    assert result.returncode == (2 if any(each["verdict"] == "unreadable" for each in said["checkpoints"]) else 1)
    [sarif] = json.loads((tmp_path / "sarif.out").read_text())["runs"]
    in_sarif = {
        each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for each in sarif["results"]
        if each["level"] == "error"
    }
    annotations = (tmp_path / "github.out").read_text()
    assert {path for path in ill if f"::error file={path}," in annotations} == in_sarif == ill
    assert all(f"`{path}`" in (tmp_path / "markdown.out").read_text() for path in ill)
    assert all(path in (tmp_path / "terminal.out").read_text() for path in ill)
    assert 'name="models/sick.zip"' in (tmp_path / "junit.out").read_text()


# --- pre-commit -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as a git repository with a tag, as pre-commit would clone it."""
    folder = tmp_path_factory.mktemp("hooks") / "checkpoint-doctor"
    shutil.copytree(
        ROOT / "checkpoint_doctor", folder / "checkpoint_doctor", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in (".pre-commit-hooks.yaml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    commit(folder, f"v{__version__}")
    return folder


def commit(folder: Path, tag: str = "") -> None:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        [*identity, "commit", "-q", "-m", "All"],
        *([["tag", tag]] if tag else []),
    ):
        result = run(["git", *command], folder)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def pre_commit_home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("pre-commit"))


def test_the_page_names_the_endings_that_the_hook_examines() -> None:
    [endings] = re.findall(r"^  files: '\\.\((.*)\)\$'$", (ROOT / ".pre-commit-hooks.yaml").read_text(), re.MULTILINE)
    sentence = CI_PAGE.partition("The hook examines")[2].partition(";")[0]
    assert re.findall(r"`\.(\w+)`", sentence) == endings.split("|")
    assert {f".{each}" for each in endings.split("|")} <= set(discover().suffixes)


def test_the_hook_refuses_a_sick_model(workspace: Path, hooks: Path, pre_commit_home: str) -> None:
    configuration = snippet("yaml", "# .pre-commit-config.yaml")
    configuration = configuration.replace(SOURCE, hooks.as_uri())
    (workspace / ".pre-commit-config.yaml").write_text(configuration)
    (workspace / "notes.txt").write_text("no checkpoint, none of our business")
    commit(workspace)
    command = [sys.executable, "-m", "pre_commit"]
    assert run([*command, "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")], workspace).returncode == 0
    result = run([*command, "run", "--all-files"], workspace, PRE_COMMIT_HOME=pre_commit_home)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Failed" in result.stdout
    assert "NRM001" in result.stdout
    assert "2 checkpoints" in result.stdout

    (workspace / "models" / "sick.zip").unlink()
    commit(workspace)
    again = run([*command, "run", "--all-files"], workspace, PRE_COMMIT_HOME=pre_commit_home)
    assert again.returncode == 0, again.stdout
    assert "Passed" in again.stdout
