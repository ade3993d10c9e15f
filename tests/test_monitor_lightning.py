"""The callback for Lightning, where Lightning is installed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

pl = pytest.importorskip("lightning.pytorch")

from checkpoint_doctor.acts.scan import scan  # noqa: E402
from checkpoint_doctor.callbacks.lightning import DoctorCallback  # noqa: E402
from tests.monitored_loops import build_network, told  # noqa: E402


class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
    """A small network; its loss is NaN at one step where that is asked for."""

    def __init__(self, spoiled_at: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = build_network()

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        [inputs] = batch
        loss = (self.network(inputs) - inputs[:, :2]).square().mean()
        return loss * float("nan") if self.global_step == self.hparams["spoiled_at"] else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def fit(folder: Path, *callbacks: Any, spoiled_at: int | None = None, **settings: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    module = Module(spoiled_at)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(640, 8)), batch_size=32)
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, **settings}
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", default_root_dir=folder, enable_model_summary=False,
        callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, trainer


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}])
def test_a_healthy_fit_is_the_same_and_nothing_is_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    callback = DoctorCallback(check_every=10, stream=io.StringIO())
    watched, trainer = fit(tmp_path, callback, **settings)
    alone, _ = fit(tmp_path, **settings)
    assert all(torch.equal(*pair) for pair in zip(watched.parameters(), alone.parameters(), strict=True))
    assert told(callback.monitor) == []
    assert callback.monitor
    assert callback.monitor.values["doctor/grad_norm"] > 0
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    [saved] = scan([path]).checkpoints
    live = callback.monitor.examination
    assert live
    assert live.tensors == saved.tensors
    assert [each.message for each in live.findings] == [each.message for each in saved.findings]


def test_nan_stops_the_fit_before_the_weights_and_the_healthy_checkpoint_resumes(tmp_path: Path) -> None:
    healthy = tmp_path / "healthy.ckpt"
    callback = DoctorCallback(check_every=10, on_error="stop", save_healthy=healthy, stream=io.StringIO())
    module, trainer = fit(tmp_path, callback, spoiled_at=25)
    assert told(callback.monitor) == ["began nonfinite-gradient"]
    assert trainer.global_step < 30
    assert all(bool(torch.isfinite(each).all()) for each in module.parameters())
    again = Module()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 8)), batch_size=32)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    resumed = pl.Trainer(max_steps=24, accelerator="cpu", enable_model_summary=False, **quiet)
    resumed.fit(again, data, ckpt_path=healthy)
    assert resumed.global_step == 24
