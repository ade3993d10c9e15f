"""The callback for the Trainer of transformers, where transformers and accelerate are installed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from checkpoint_doctor.callbacks.transformers import DoctorCallback  # noqa: E402
from tests.monitored_loops import told  # noqa: E402


class Data(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Sequences that repeat themselves."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.arange(8).add(index).remainder(16)
        return {"input_ids": tokens, "labels": tokens}


def train(folder: Path, *callbacks: Any, steps: int = 30, resume: Any = None, **settings: Any) -> tuple[Any, Any]:
    transformers.set_seed(0)
    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    options = {"save_strategy": "no", **settings}
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=8, use_cpu=True, report_to=[], disable_tqdm=True,
        logging_steps=5, learning_rate=1e-3, **options,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=Data(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}])
def test_a_healthy_training_is_the_same_and_nothing_is_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    logged: list[dict[str, float]] = []

    class Logger(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            logged.append(dict(logs))

    callback = DoctorCallback(check_every=10, stream=io.StringIO())
    watched, _ = train(tmp_path, callback, Logger(), **settings)
    alone, _ = train(tmp_path, **settings)
    assert all(torch.equal(*pair) for pair in zip(watched.parameters(), alone.parameters(), strict=True))
    assert told(callback.monitor) == []
    assert callback.report
    assert [each.step for each in callback.report.checkpoints] == [10, 20, 30]
    [figures, *_] = [each for each in logged if "doctor/grad_norm" in each]
    assert figures["doctor/grad_norm"] == pytest.approx(figures["grad_norm"], rel=1e-4)


def test_nan_stops_the_training_and_the_healthy_folder_resumes(tmp_path: Path) -> None:
    healthy = tmp_path / "healthy"

    class Spoil(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 14:
                weight = given["model"].transformer.h[0].mlp.c_fc.weight
                weight.register_hook(lambda gradient: gradient * float("nan"))

    callback = DoctorCallback(check_every=5, on_error="stop", save_healthy=healthy, stream=io.StringIO())
    model, trainer = train(tmp_path / "run", callback, Spoil())
    assert told(callback.monitor) == ["began nonfinite-gradient"]
    assert trainer.state.global_step < 20
    assert all(bool(torch.isfinite(each).all()) for each in model.parameters())
    _, resumed = train(tmp_path / "again", resume=str(healthy), steps=12)
    assert resumed.state.global_step == 12
