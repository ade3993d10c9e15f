"""The callback for the Trainer of Lightning, as ``lightning`` and as ``pytorch_lightning``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from checkpoint_doctor.callbacks.requirements import require

PACKAGE = "pytorch_lightning" if find_spec("lightning") is None and find_spec("pytorch_lightning") else "lightning"
require(PACKAGE, "lightning", "the callback for Lightning")

if PACKAGE == "lightning":
    import lightning.pytorch as pl
else:
    import pytorch_lightning as pl

from checkpoint_doctor.callbacks.live_checkpoint import LiveModel  # noqa: E402
from checkpoint_doctor.callbacks.torch import Monitor, OnError, Optimizers  # noqa: E402
from checkpoint_doctor.results.report import Report  # noqa: E402


class DoctorCallback(pl.Callback):  # type: ignore[misc,unused-ignore]
    """Runs the rules and causes of ``ckdoc scan`` while a module is trained.

    One more callback is all it takes::

        trainer = Trainer(callbacks=[DoctorCallback(on_error="stop", save_healthy="healthy.ckpt")])

    Its figures go to the trainer's loggers as ``doctor/…``. ``on_error="stop"`` sets ``trainer.should_stop``. Resume
    with ``trainer.fit(module, ckpt_path="healthy.ckpt")``.

    Args:
        check_every: optimizer steps from one check to the next.
        on_error: ``"warn"``, ``"stop"`` or ``"raise"``, see ``Monitor``.
        options: all that ``Monitor`` takes besides: ``save_healthy``, ``series``, ``config``, ``verbose`` …
    """

    def __init__(self, check_every: int = 1000, on_error: OnError = "warn", **options: Any) -> None:
        self.monitor: ModuleMonitor | None = None
        """The monitor, from the beginning of the training on."""
        self._options: dict[str, Any] = {"check_every": check_every, "on_error": on_error, **options}
        self._checked_at = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the optimizers."""
        self.monitor = ModuleMonitor(trainer, pl_module, **self._options)
        self._checked_at = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Check where that is due, log the figures, and stop where an error was found."""
        assert self.monitor is not None
        if trainer.global_step - self._checked_at >= self.monitor.check_every:
            self._checked_at = trainer.global_step
            self.monitor.check()
        figures = {name: value for name, value in self.monitor.take_values().items() if isinstance(value, float)}
        for logger in trainer.loggers if figures else ():
            logger.log_metrics(figures, step=trainer.global_step)
        if self.monitor.should_stop:
            trainer.should_stop = True

    def on_train_end(self, *_: Any) -> None:
        """Report."""
        if self.monitor is not None:
            self.monitor.close()

    def on_exception(self, *_: Any) -> None:
        """Detach, and write what was seen until the training failed."""
        if self.monitor is not None:
            self.monitor.finish()

    @property
    def report(self) -> Report | None:
        """The report on all checks so far, ``None`` before the training."""
        return None if self.monitor is None else self.monitor.report


class ModuleMonitor(Monitor):
    """The monitor of a ``LightningModule``: what ``trainer.save_checkpoint`` would write is what it examines."""

    saves_sharded = False
    counts_updates = False

    def __init__(self, trainer: Any, module: Any, **options: Any) -> None:
        self.trainer = trainer
        super().__init__(module, trainer.optimizers, **options)

    def bind(self, model: Any, optimizer: Optimizers | None) -> LiveModel:
        """See ``Monitor.bind``."""
        return LiveModel(
            model, {f"optimizer_states/{place}": each for place, each in enumerate(self.trainer.optimizers)}
        )

    def facts(self) -> dict[str, Any]:
        """See ``Monitor.facts``."""
        plain = {
            name: value
            for name, value in dict(getattr(self.live.model, "hparams", {})).items()
            if isinstance(value, (bool, int, float, str))
        }
        return {"hyperparameters": plain, "step": self.position, "versions": {"pytorch_lightning": pl.__version__}}

    @property
    def position(self) -> int:
        """See ``Monitor.position``: the trainer's optimizer steps."""
        return int(self.trainer.global_step)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint as the trainer does."""
        self.trainer.save_checkpoint(path)
