"""The bench of healthy models writes the files it says, and passes only where nothing is called ill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.healthy import Alarm, Bench, Verdict, as_json, false_alarms, summary
from benchmarks.healthy_models.variants import make_variants
from tests.zoo.saving import state_dict, training_state
from tests.zoo.tasks import smooth_functions, squared_error
from tests.zoo.training import HealthyModel, Run, fit

SILENT = Verdict("mlp", "saved", (), ())
ERROR = Alarm("mlp", "saved", "ZER001", "error", "0.weight", "all weights are exactly zero")
WARNING = replace(ERROR, severity="warning")


def train() -> Run:
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), squared_error(model, smooth_functions(4, 1)), 200)


def test_a_model_is_saved_in_all_ways(tmp_path: Path) -> None:
    files = make_variants(HealthyModel("mlp", train, training_state, ".pt"), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "mlp/bfloat16.pth",
        "mlp/float16.pth",
        "mlp/fresh.pt",
        "mlp/saved.pt",
        "mlp/weights.pth",
        "mlp/weights.safetensors",
    ]
    saved, fresh = (torch.load(tmp_path / "mlp" / name) for name in ("saved.pt", "fresh.pt"))
    assert (saved["step"], len(saved["optimizer"]["state"])) == (200, 4)
    assert (fresh["step"], len(fresh["optimizer"]["state"])) == (0, 0)
    assert not torch.equal(saved["model"]["0.weight"], fresh["model"]["0.weight"])
    assert torch.load(tmp_path / "mlp" / "bfloat16.pth")["0.weight"].dtype == torch.bfloat16


def test_a_conversion_that_overflows_is_left_out(tmp_path: Path) -> None:
    def with_large_values() -> Run:
        run = train()
        run.model[2].bias.data.fill_(1e6)
        return run

    files = make_variants(HealthyModel("large", with_large_values, state_dict, ".pth"), tmp_path)
    names = {path.name for path in files}
    assert {"bfloat16.pth", "resumable.pt", "saved.pth"} <= names
    assert "float16.pth" not in names


def test_a_model_whose_files_are_there_is_not_trained_again(tmp_path: Path) -> None:
    first = make_variants(HealthyModel("mlp", train, training_state, ".pt"), tmp_path)

    def fail() -> Run:
        raise AssertionError("trained again")

    assert make_variants(HealthyModel("mlp", fail, training_state, ".pt"), tmp_path) == first


def test_an_error_a_repair_an_unreadable_file_or_many_warnings_fail() -> None:
    silent = [SILENT] * 40
    assert Bench(tuple(silent)).passes
    assert not Bench((*silent, replace(SILENT, alarms=(ERROR,)))).passes
    assert not Bench((*silent, replace(SILENT, changed=("0.bias",)))).passes
    assert not Bench((*silent, replace(SILENT, failure="truncated"))).passes
    assert not Bench(tuple(silent), not_trained=("mlp keeps 90%",)).passes
    warned = replace(SILENT, alarms=(WARNING,))
    assert Bench((*silent, warned)).passes
    assert not Bench((*silent, warned, warned, warned)).passes
    assert Bench((*silent, *[replace(warned, variant="fresh")] * 3)).passes, "warnings are counted on trained models"


def test_false_alarms_are_told_one_by_one_and_by_rule() -> None:
    bench = Bench((SILENT, replace(SILENT, alarms=(ERROR, WARNING), changed=("0.weight",))))
    assert list(false_alarms(bench)) == [
        "mlp saved ZER001 error 0.weight: all weights are exactly zero",
        "mlp saved ZER001 warning 0.weight: all weights are exactly zero",
        "mlp saved fix would change 0.weight",
    ]
    assert "files with errors: 1\n  ZER001 1" in summary(bench)
    assert (as_json(bench)["files"], as_json(bench)["files_with_errors"]) == (2, 1)
