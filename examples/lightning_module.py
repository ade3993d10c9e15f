"""Lightning: one more callback. Resume with ``trainer.fit(module, ckpt_path="healthy.ckpt")``."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from checkpoint_doctor.callbacks.lightning import DoctorCallback


class Regression(pl.LightningModule):
    """Learns the sum of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        [inputs] = batch
        return (self.network(inputs)[:, 0] - inputs.sum(1)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(epochs: int = 20, healthy: str = "healthy.ckpt") -> DoctorCallback:
    """Train, and return the callback with all that it saw."""
    doctor = DoctorCallback(check_every=50, on_error="stop", save_healthy=healthy)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(640, 8)), batch_size=32)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[doctor], accelerator="cpu", logger=False)
    trainer.fit(Regression(), data)
    return doctor


if __name__ == "__main__":
    main()
