"""The callback for the Trainer of Hugging Face transformers, and for what is built upon it (TRL, PEFT)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from checkpoint_doctor.callbacks.requirements import require

require("transformers", "transformers", "the callback for transformers")

import transformers  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from checkpoint_doctor.callbacks.torch import Monitor, OnError  # noqa: E402
from checkpoint_doctor.results.report import Report  # noqa: E402


class DoctorCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Runs the rules and causes of ``ckdoc scan`` while a model is trained.

    One more callback is all it takes::

        trainer = Trainer(..., callbacks=[DoctorCallback(on_error="stop", save_healthy="healthy")])

    ``on_error="stop"`` sets ``control.should_training_stop``. With ``save_healthy`` the trainer saves at each check
    that was passed, and its folder is copied there: resume with ``trainer.train(resume_from_checkpoint="healthy")``.

    Args:
        check_every: optimizer steps from one check to the next.
        on_error: ``"warn"``, ``"stop"`` or ``"raise"``, see ``Monitor``.
        options: all that ``Monitor`` takes besides: ``save_healthy``, ``series``, ``config``, ``verbose`` …
    """

    def __init__(self, check_every: int = 1000, on_error: OnError = "warn", **options: Any) -> None:
        self.monitor: TrainerMonitor | None = None
        """The monitor, from the beginning of the training on."""
        self._options: dict[str, Any] = {"check_every": check_every, "on_error": on_error, **options}
        self._checked_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach to the optimizer."""
        self.monitor = TrainerMonitor(state, given["model"], given["optimizer"], **self._options)
        self._checked_at = state.global_step

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Check where that is due, while the gradients are still there."""
        self._check(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save what passed a check, and stop where an error was found."""
        assert self.monitor is not None
        self._check(state.global_step)
        control.should_save = control.should_save or self.monitor.is_to_be_saved
        if self.monitor.should_stop:
            control.should_training_stop = True

    def _check(self, step: int) -> None:
        assert self.monitor is not None
        if step - self._checked_at >= self.monitor.check_every:
            self._checked_at = self.monitor.at = step
            self.monitor.check()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Add the figures of the latest check to what the trainer logs."""
        if self.monitor is not None and isinstance(logs, dict):
            logs.update({name: each for name, each in self.monitor.take_values().items() if isinstance(each, float)})

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Copy the folder of a state that passed a check."""
        if self.monitor is not None:
            self.monitor.copy_saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Report."""
        if self.monitor is not None:
            self.monitor.at = state.global_step
            self.monitor.close()

    @property
    def report(self) -> Report | None:
        """The report on all checks so far, ``None`` before the training."""
        return None if self.monitor is None else self.monitor.report


class TrainerMonitor(Monitor):
    """The monitor of a ``Trainer``."""

    saves_sharded = False
    counts_updates = False

    def __init__(self, state: Any, model: Any, optimizer: Any, **options: Any) -> None:
        self.at: int = state.global_step
        """The trainer's step."""
        self.is_to_be_saved = False
        """True from a check that was passed until the trainer has saved."""
        super().__init__(model, optimizer, **options)

    def facts(self) -> dict[str, Any]:
        """See ``Monitor.facts``."""
        return {"step": self.position, "versions": {"transformers": transformers.__version__}}

    @property
    def position(self) -> int:
        """See ``Monitor.position``: the trainer's steps."""
        return self.at

    def keep_healthy(self, path: str | os.PathLike[str]) -> None:
        """See ``Monitor.keep_healthy``: only the trainer can write all that a run needs, at the end of its step."""
        self.is_to_be_saved = True

    def copy_saved(self, folder: Path) -> None:
        """Copy a folder that the trainer has just written, where its state passed a check."""
        if not self.is_to_be_saved or self._save_healthy is None or not folder.is_dir():
            return
        self.is_to_be_saved = False
        target = Path(self._save_healthy)
        fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
        for each in (fresh, old):
            shutil.rmtree(each, ignore_errors=True)
        shutil.copytree(folder, fresh)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)
