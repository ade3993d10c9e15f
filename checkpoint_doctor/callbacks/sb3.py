"""The callback for the algorithms of Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

import os
import tempfile
from typing import Any, TextIO

from checkpoint_doctor.callbacks.requirements import require

require("stable_baselines3", "stable-baselines3", "the callback for Stable-Baselines3")

import torch  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.save_util import recursive_getattr, save_to_zip_file  # noqa: E402

from checkpoint_doctor.callbacks.live_checkpoint import LiveModel  # noqa: E402
from checkpoint_doctor.callbacks.torch import Monitor, OnError, Optimizers  # noqa: E402
from checkpoint_doctor.checkpoint import Checkpoint  # noqa: E402
from checkpoint_doctor.config.settings import Config  # noqa: E402
from checkpoint_doctor.plugins.catalogue import Catalogue  # noqa: E402
from checkpoint_doctor.plugins.opening import open_checkpoint  # noqa: E402
from checkpoint_doctor.results.report import Examination, Report  # noqa: E402


class DoctorCallback(BaseCallback):
    """Runs the rules and causes of ``ckdoc scan`` while an agent is trained.

    One argument of ``learn`` is all it takes::

        model.learn(100_000, callback=DoctorCallback(on_error="stop", save_healthy="healthy.zip"))

    It observes and changes nothing: the run is the same to the last bit with and without it. Its figures go to the
    logger of Stable-Baselines3 as ``doctor/…``, and each finding is told when it begins, worsens or heals.

    Args:
        check_every: timesteps from one check to the next, 1000 by default. A check without an update since the last
            one is left out.
        on_error: what an illness of severity error does: ``"warn"`` tells of it, ``"stop"`` ends the training, and
            ``"raise"`` raises ``TrainingIsIll``. The last two keep NaN in a gradient from reaching the weights.
        gradients: whether the gradients are watched at every update.
        config: a configuration file, or a ``Config``; by default the nearest ``ckdoc.toml`` or ``[tool.ckdoc]``.
        save_healthy: where the latest agent that passed a check is kept, as ``model.save`` writes it.
        series: where all checks are written at the end, for ``ckdoc compare``.
        repair: whether proven illness is repaired in place; off by default, see ``Monitor``.
        repair_cooldown: checks after which a tensor may be repaired again.
        per_layer: whether the figures of each layer go to the logger too.
        verbose: 0 tells nothing, 1 warnings and errors, 2 notes as well.
        stream: where it tells it; standard error by default.
    """

    def __init__(
        self,
        check_every: int = 1000,
        on_error: OnError = "warn",
        *,
        gradients: bool = True,
        config: str | os.PathLike[str] | Config | None = None,
        save_healthy: str | os.PathLike[str] | None = None,
        series: str | os.PathLike[str] | None = None,
        repair: bool = False,
        repair_cooldown: int = 10,
        per_layer: bool = False,
        verbose: int = 1,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(verbose)
        self.check_every = check_every
        self.monitor: AgentMonitor | None = None
        """The monitor, from the beginning of the training on."""
        self._options: dict[str, Any] = {
            "check_every": check_every, "on_error": on_error, "gradients": gradients, "config": config,
            "save_healthy": save_healthy, "series": series, "repair": repair, "repair_cooldown": repair_cooldown,
            "per_layer": per_layer, "verbose": verbose, "stream": stream,
        }  # fmt: skip
        self._checked_at = 0

    def _on_training_start(self) -> None:
        self.monitor = AgentMonitor(self.model, **self._options)
        self._checked_at = self.num_timesteps

    def _on_step(self) -> bool:
        assert self.monitor is not None
        if self.num_timesteps - self._checked_at >= self.check_every:
            self._checked_at = self.num_timesteps
            self.monitor.check()
            for name, value in self.monitor.take_values().items():
                # The table on the console cuts names, and refuses two that are the same then: totals alone are short.
                self.logger.record(name, value, exclude=("stdout", "log") if name.count("/") > 1 else None)
        return not self.monitor.should_stop

    def _on_training_end(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    @property
    def examination(self) -> Examination | None:
        """What the latest check found, ``None`` before the first one."""
        return None if self.monitor is None else self.monitor.examination

    @property
    def report(self) -> Report | None:
        """The report on all checks so far, ``None`` before the training."""
        return None if self.monitor is None else self.monitor.report


class AgentMonitor(Monitor):
    """The monitor of an algorithm of Stable-Baselines3: what ``model.save`` would write is what it examines."""

    format = "sb3"
    counts_updates = False

    def __init__(self, algorithm: Any, **options: Any) -> None:
        self.algorithm = algorithm
        super().__init__(algorithm.policy, **options)
        self._saved = read_settings(algorithm, self.live, self._catalogue)

    def bind(self, model: Any, optimizer: Optimizers | None) -> LiveModel:
        """See ``Monitor.bind``."""
        states, variables = self.algorithm._get_torch_save_params()
        held = {name: recursive_getattr(self.algorithm, name) for name in states}
        optimizers = {name: each for name, each in held.items() if isinstance(each, torch.optim.Optimizer)}
        others = {f"pytorch_variables.pth/{name}": recursive_getattr(self.algorithm, name) for name in variables}
        return LiveModel(
            model, optimizers, {name: each for name, each in others.items() if isinstance(each, torch.Tensor)}
        )

    def facts(self) -> dict[str, Any]:
        """See ``Monitor.facts``: the settings as they stand in the file, with the numbers of today."""
        settings = dict(self._saved.hyperparameters)
        for name, value in settings.items():
            now = getattr(self.algorithm, name, value)
            if isinstance(value, (int, float)) and isinstance(now, (int, float)):
                settings[name] = now
        updates = getattr(self.algorithm, "_n_updates", None)
        return {
            "hyperparameters": settings,
            "algorithm": self._saved.algorithm or type(self.algorithm).__name__,
            "step": self.position,
            "updates": updates if isinstance(updates, int) else None,
            "versions": self._saved.versions,
        }

    @property
    def position(self) -> int:
        """See ``Monitor.position``: timesteps."""
        return int(self.algorithm.num_timesteps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent as ``model.save`` does."""
        self.algorithm.save(path)


def read_settings(algorithm: Any, live: LiveModel, catalogue: Catalogue) -> Checkpoint:
    """Return the settings of an algorithm as ``ckdoc scan`` reads them from its file, without values of tensors.

    They are written by Stable-Baselines3 itself and read by our own loader, so that live and saved agents are judged by
    the same settings.
    """
    states, variables = algorithm._get_torch_save_params()
    left_out = {*algorithm._excluded_save_params(), *(name.split(".")[0] for name in (*states, *variables))}
    data = {name: value for name, value in vars(algorithm).items() if name not in left_out}
    names = {name: torch.empty(0) for name in live.tensors() if "/" not in name}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "settings.zip")
        save_to_zip_file(path, data=data, params={"policy": names})
        return open_checkpoint(path, catalogue)
