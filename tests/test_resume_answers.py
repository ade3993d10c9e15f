"""``ckdoc scan --resume``: one line per checkpoint that says from where its run resumes, or what would go wrong."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import save_trainer, train
from torch import nn

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Examination
from tests.command import run_command

CATALOGUE = discover()
STEPS = 300


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


@cache
def trained(steps: int = STEPS) -> dict[str, Any]:
    """Return what training code saves: a model with its average, optimizer, schedule, loss scaler and counters."""
    torch.manual_seed(0)
    model = build()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(steps):
        x = torch.randn(32, 6)
        loss = nn.functional.mse_loss(model(x), torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), x.sum(1)], 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
    return {
        "model": model.state_dict(),
        "ema": average.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000},
        "global_step": steps,
    }


Content = dict[str, Any]


def rate_differs(content: Content) -> None:
    content["optimizer"]["param_groups"][0]["lr"] = 3e-3


def schedule_restarted(content: Content) -> None:
    begun = trained(7)
    content["scheduler"] = begun["scheduler"]
    content["optimizer"]["param_groups"][0]["lr"] = begun["optimizer"]["param_groups"][0]["lr"]


def moments_begun_anew(content: Content) -> None:
    content["global_step"] = content["scheduler"]["last_epoch"] = 9_000


def state_is_empty(content: Content) -> None:
    content["optimizer"]["state"].clear()


def average_is_the_model(content: Content) -> None:
    content["ema"] = {name: each.clone() for name, each in content["model"].items()}


def average_is_initial(content: Content) -> None:
    torch.manual_seed(0)
    content["ema"] = build().state_dict()


def head_is_new(content: Content) -> None:
    torch.manual_seed(1)
    fresh = nn.LayerNorm(24), nn.Linear(24, 3)
    for number, module in zip((1, 5), fresh, strict=True):
        for name, each in module.state_dict().items():
            content["model"][f"{number}.{name}"] = each


def scale_collapsed(content: Content) -> None:
    content["scaler"]["scale"] = 1.2e-38


FAULTS: dict[str, tuple[Callable[[Content], None], str]] = {
    "rate of the schedule": (rate_differs, "has set a learning rate of"),
    "schedule begun anew": (schedule_restarted, "has made 7 steps, while optimizer counts 300 updates"),
    "moments out of step": (moments_begun_anew, "counts 300 updates where the file counts 9,000"),
    "empty state": (state_is_empty, "no state"),
    "average is the model": (average_is_the_model, "ema is identical to the model"),
    "average is initial": (average_is_initial, "ema is still the initial model"),
    "new head": (head_is_new, "initial"),
    "loss scale": (scale_collapsed, "the loss scale of scaler is 1.2e-38"),
}


def examine(content: Content, path: Path) -> Examination:
    torch.save(content, path)
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    return examination


@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_go_wrong_is_said(fault: str, tmp_path: Path) -> None:
    change, words = FAULTS[fault]
    content = copy.deepcopy(trained())
    change(content)
    examination = examine(content, tmp_path / "last.pt")
    assert examination.resume_answer.startswith("does not resume as it was, at step ")
    assert words in examination.resume_answer
    assert examination.resumption is not None
    assert not examination.resumption.goes_on(examination.findings)


HEALTHY: dict[str, Callable[[Content], Any]] = {
    "all together": lambda content: None,
    "schedule per epoch": lambda content: content.update(
        scheduler={**content["scheduler"], "last_epoch": 30, "T_max": 40}, epoch=30
    ),
    "gradients accumulated": lambda content: content.update(
        global_step=1200, scheduler={**content["scheduler"], "last_epoch": 300}
    ),
    "without state": lambda content: content.update(
        optimizer={"state": {}, "param_groups": [{"lr": 1e-2, "momentum": 0, "params": list(range(8))}]},
        scheduler={**content["scheduler"], "_last_lr": [1e-2]},
    ),
    "without an average": lambda content: content.pop("ema"),
    "average of one update": lambda content: content.update(
        ema={**content["model"], "n_averaged": torch.tensor(1)},
    ),
    "at its start": lambda content: content.update(copy.deepcopy(trained(0))),
    "small loss scale": lambda content: content["scaler"].update(scale=128.0),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_run_resumes(kind: str, tmp_path: Path) -> None:
    content = copy.deepcopy(trained())
    HEALTHY[kind](content)
    examination = examine(content, tmp_path / "last.pt")
    assert examination.resume_answer.startswith(f"resumes at step {content['global_step']:,} with a learning rate of ")
    assert not [each for each in examination.findings if each.severity > Severity.NOTE]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command("scan", "--resume", "-q", *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_trainer(folder / "checkpoint-40", *train())
    content = copy.deepcopy(trained())
    torch.save(content, folder / "a.pt")
    torch.save(content["model"], folder / "b.pt")
    rate_differs(content)
    torch.save(content, folder / "c.pt")
    (folder / "d.pt").write_bytes((folder / "c.pt").read_bytes()[:3000])
    return folder


def test_the_command_answers_in_one_line_per_checkpoint(runs: Path) -> None:
    result = run(runs)
    assert result.returncode == 2
    answers = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert len(answers) == result.stdout.count("\n") == 5
    assert answers[f"{runs}/checkpoint-40"] == "resumes at step 40 with a learning rate of 0.0015"
    assert answers[f"{runs}/a.pt"] == "resumes at step 300 with a learning rate of 0.000439"
    assert answers[f"{runs}/b.pt"].startswith("there is no run to resume: it does not hold a model and the state of")
    assert answers[f"{runs}/c.pt"] == (
        "does not resume as it was, at step 300 with a learning rate of 0.003: scheduler has set a learning rate of "
        "0.000439, but optimizer has 0.003 (RES001 schedule-mismatch)"
    )
    assert answers[f"{runs}/d.pt"].startswith("does not resume, because it is unreadable: ")


def test_the_exit_code_is_that_of_any_scan(runs: Path) -> None:
    assert run(runs / "a.pt").returncode == 0
    assert run(runs / "c.pt").returncode == 0
    assert run(runs / "c.pt", "--fail-on", "warning").returncode == 1


def test_json_has_all_parts_of_the_answer(runs: Path) -> None:
    good, bad, none = (json.loads(run(runs / f"{name}.pt", "-f", "json").stdout)["checkpoints"][0] for name in "acb")
    assert none["resume"] is None
    assert good["resume"] == {
        "step": 300,
        "learning_rates": [pytest.approx(0.000439, abs=1e-6)],
        "goes_on": True,
        "problems": [],
        "answer": "resumes at step 300 with a learning rate of 0.000439",
    }
    assert bad["resume"]["goes_on"] is False
    assert [bad["findings"][position]["code"] for position in bad["resume"]["problems"]] == ["RES001"]


def test_a_format_that_cannot_answer_is_refused(runs: Path) -> None:
    result = run(runs / "a.pt", "-f", "sarif")
    assert result.returncode == 2
    assert "--resume is not answered as sarif" in result.stderr


def test_an_illness_of_the_weights_is_named_as_well(tmp_path: Path) -> None:
    content = copy.deepcopy(trained())
    content["model"]["3.weight"][0, 0] = float("nan")
    answer = examine(content, tmp_path / "last.pt").resume_answer
    assert answer.startswith("resumes at step 300 with a learning rate of 0.000439; the checkpoint is ill: ")
