"""The examples run, and show what they say that they show."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> ModuleType:
    """The example of that name, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    specification = importlib.util.spec_from_file_location(request.param, ROOT / "examples" / f"{request.param}.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def of(name: str) -> Any:
    return pytest.mark.parametrize("example", [name], indirect=True)


@of("prevention")
def test_the_prevention_tells_and_stops(example: ModuleType) -> None:
    monitor = example.main(steps=240)
    assert [each.what for each in monitor.news] == ["began", "healed", "began"]
    assert [each.alert.title for each in monitor.news] == ["overwritten", "overwritten", "nonfinite-gradient"]
    assert all(bool(torch.isfinite(each).all()) for each in monitor.live.tensors().values())
    assert torch.load("healthy.pt")["step"] == 200


def test_the_prevention_is_five_lines() -> None:
    text = (ROOT / "examples" / "prevention.py").read_text(encoding="utf-8")
    assert [text.count(f"# {number}\n") for number in range(1, 7)] == [1, 1, 1, 1, 1, 0]


@of("sb3_ppo")
def test_ppo_writes_a_series(example: ModuleType) -> None:
    example.main(steps=256)
    assert json.loads(Path("ppo.json").read_text(encoding="utf-8"))["checkpoints"]


@of("sb3_sac")
def test_sac_resumes_from_the_last_healthy_agent(example: ModuleType) -> None:
    resumed = example.main(steps=240)
    assert 150 < resumed.num_timesteps < 240
    assert all(bool(torch.isfinite(each).all()) for each in resumed.policy.parameters())


@of("sb3_recurrent_ppo")
def test_recurrent_ppo_has_figures_of_each_layer(example: ModuleType) -> None:
    doctor = example.main(steps=64)
    assert any(name.startswith("doctor/grad_norm/lstm_actor") for name in doctor.monitor.values)


def test_lightning_keeps_a_healthy_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import lightning_module  # type: ignore[import-not-found]

    assert lightning_module.main(epochs=3).monitor.news == []
    assert Path("healthy.ckpt").is_file()


def test_transformers_keeps_a_healthy_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import transformers_trainer  # type: ignore[import-not-found]

    assert transformers_trainer.main(steps=20).monitor.news == []
    assert Path("healthy/trainer_state.json").is_file()
