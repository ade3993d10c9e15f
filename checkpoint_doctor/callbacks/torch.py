"""The monitor for any training loop of PyTorch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, TextIO

from checkpoint_doctor.callbacks.requirements import require

require("torch", "torch", "the monitor")

import torch  # noqa: E402
from msgspec.structs import replace  # noqa: E402

from checkpoint_doctor.callbacks import clipping  # noqa: E402
from checkpoint_doctor.callbacks.course import Course, News  # noqa: E402
from checkpoint_doctor.callbacks.gathered_states import gather_model, gather_optimizer  # noqa: E402
from checkpoint_doctor.callbacks.gradient_watch import GradientWatch  # noqa: E402
from checkpoint_doctor.callbacks.live_checkpoint import LiveModel, parameters_of  # noqa: E402
from checkpoint_doctor.callbacks.live_repair import LiveRepair  # noqa: E402
from checkpoint_doctor.callbacks.live_tensors import is_sharded  # noqa: E402
from checkpoint_doctor.callbacks.outside_writes import OutsideWrites  # noqa: E402
from checkpoint_doctor.callbacks.processes import Processes  # noqa: E402
from checkpoint_doctor.callbacks.replacing import replacing  # noqa: E402
from checkpoint_doctor.callbacks.series import Series  # noqa: E402
from checkpoint_doctor.callbacks.values import summarize, summarize_layers  # noqa: E402
from checkpoint_doctor.checkpoint import Checkpoint  # noqa: E402
from checkpoint_doctor.config.file import load_config  # noqa: E402
from checkpoint_doctor.config.settings import Config  # noqa: E402
from checkpoint_doctor.errors import DoctorError, UsageError  # noqa: E402
from checkpoint_doctor.examination.measuring import measure_checkpoint  # noqa: E402
from checkpoint_doctor.examination.rules import run_rules, with_ranges  # noqa: E402
from checkpoint_doctor.examination.unreached import with_unreached  # noqa: E402
from checkpoint_doctor.plugins.opening import discover_working  # noqa: E402
from checkpoint_doctor.results.findings import Severity  # noqa: E402
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict  # noqa: E402

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Mapping[str, torch.optim.Optimizer]
OnError = Literal["warn", "stop", "raise"]


class TrainingIsIll(DoctorError):
    """Raised out of the training loop by a monitor with ``on_error="raise"``."""


class Monitor:
    """Runs the rules and causes of ``ckdoc scan`` on a model while it is trained.

    It attaches itself to the optimizers' hooks: every ``check_every`` steps it examines the live tensors and moments,
    and at every step the gradients, before they reach the weights. It observes and changes nothing, and draws no random
    numbers, so that a run is the same to the last bit with and without it::

        monitor = Monitor(model, optimizer)
        for batch in batches:
            ...
            optimizer.step()
            if monitor.should_stop:
                break
        monitor.close()

    Without an optimizer, call ``step`` after each update.

    Args:
        model: what is trained. Wrapped by DDP, ``torch.compile`` or ``fully_shard`` it is examined all the same.
        optimizer: its optimizer, or several, as a sequence or by name.
        check_every: optimizer steps from one check to the next, 1000 by default.
        on_error: what an illness of severity error does. ``"warn"`` tells of it. ``"stop"`` also sets ``should_stop``,
            and ``"raise"`` raises ``TrainingIsIll``; both keep a step whose gradients are not finite from being made.
        gradients: whether the gradients are watched at every step, which costs one to three percent of a small model's
            step. Without it, only what is left of them in the moments is judged, at the checks.
        config: a configuration file, or a ``Config``; by default the nearest ``ckdoc.toml`` or ``[tool.ckdoc]``.
        save_healthy: where the latest checkpoint that passed a check is kept: ``{"model": …, "optimizer": …, "step":
            …}``; several optimizers are in one dictionary under ``"optimizers"``. What ``fully_shard`` spreads over
            processes is gathered and written by the first of them.
        series: where all checks are written at the end, as ``ckdoc scan --format json`` prints them and
            ``ckdoc compare`` reads them.
        repair: whether proven illness is repaired in place by the init rules of ``ckdoc fix``. Off by default: a repair
            in the middle of a run destroys learning where what looks ill is normal. Not for what ``fully_shard``
            spreads over processes.
        repair_cooldown: checks after which a tensor may be repaired again.
        per_layer: whether ``values`` has the figures of each layer too.
        verbose: 0 tells nothing, 1 warnings and errors, 2 notes as well.
        stream: where it tells it; standard error by default.

    Raises:
        UsageError: an argument has a value that does not exist, or the configuration does not fit the rules.
    """

    format = "torch"
    """The loader that opens what is saved of this run."""
    saves_sharded = True
    """Whether what ``fully_shard`` spreads over processes can be saved by one of them."""
    counts_updates = True
    """Whether checks are due by the optimizer's steps; otherwise whoever owns the monitor calls ``check``."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Optimizers | None = None,
        *,
        check_every: int = 1000,
        on_error: OnError = "warn",
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
        if on_error not in ("warn", "stop", "raise"):
            raise UsageError(f"on_error is {on_error!r}", 'it is "warn", "stop" or "raise"')
        if check_every < 1:
            raise UsageError(f"check_every is {check_every}", "it is a number of steps from 1 on")
        self.live = self.bind(model, optimizer)
        self.check_every, self.on_error, self.verbose = check_every, on_error, verbose
        self.should_stop = False
        """True from the first error on, with ``on_error="stop"``."""
        self.steps = 0
        """Steps of the optimizer that made the most of them, or calls of ``step``."""
        self.values: dict[str, float | str] = {}
        """Figures of the latest check, for a logger: ``doctor/zero_fraction``, ``doctor/grad_norm`` …"""
        self._new_values: Mapping[str, float | str] = {}
        self._per_layer = per_layer
        self._stream, self._save_healthy, self._series_path = stream, save_healthy, series
        self._catalogue = discover_working()
        self._config = config if isinstance(config, Config) else load_config(
            self._catalogue.rules, causes=self._catalogue.causes, file=None if config is None else os.fspath(config)
        )  # fmt: skip
        self._processes = Processes.find()
        self._course = Course(Severity.NOTE if verbose > 1 else Severity.WARNING)
        self._series = Series(self._catalogue, self._config)
        self._repair = LiveRepair(self.live, repair_cooldown) if repair else None
        self._outside = OutsideWrites()
        self._watches = [GradientWatch(*each) for each in self.live.optimizers.items()] if gradients else []
        self._made = dict.fromkeys(self.live.optimizers, 0)
        self._checked_at: int | None = None
        self._is_ill = False
        self._dead_inputs: dict[str, frozenset[int]] = {}
        self._handles: list[Any] = []
        self._leave_out_what_is_sharded()
        self._attach()

    def bind(self, model: Any, optimizer: Optimizers | None) -> LiveModel:
        """Return what is examined. Callbacks of libraries say here where their models keep it."""
        return LiveModel(model, name_optimizers(optimizer))

    def _leave_out_what_is_sharded(self) -> None:
        if not self._is_sharded:
            return
        left_out = []
        if self._repair is not None:
            left_out.append("repair")
            self._repair = None
        if self._save_healthy is not None and not self.saves_sharded:
            left_out.append("save_healthy")
            self._save_healthy = None
        if left_out and self._processes.reports:
            self.tell(f"{' and '.join(left_out)} left out: the model is spread over {self._processes.count} processes")

    def _attach(self) -> None:
        watches = {watch.name: watch for watch in self._watches}
        for name, optimizer in self.live.optimizers.items():
            before = partial(self._before_step, watches.get(name))
            self._handles.append(optimizer.register_step_pre_hook(before))
            self._handles.append(optimizer.register_step_post_hook(partial(self._after_step, name)))
        for watch in self._watches:
            clipping.listen(watch)
        self._outside.look_anew(self.live.tensors())

    @property
    def examination(self) -> Examination | None:
        """What the latest check found, ``None`` before the first one."""
        return self._series.latest

    def take_values(self) -> Mapping[str, float | str]:
        """Return the figures of the latest check once, nothing where there was none since the last call."""
        new, self._new_values = self._new_values, {}
        return new

    @property
    def news(self) -> Sequence[News]:
        """All that began, worsened or healed so far."""
        return self._course.news

    @property
    def report(self) -> Report:
        """The report on all checks so far, in their order."""
        return self._series.report()

    # At every step

    def _before_step(
        self, watch: GradientWatch | None, optimizer: Any, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._outside.find() and not self._is_sharded and self._examine():
            # The other processes of a distributed run hear of it at the next check.
            self._is_ill = True
            if self._processes.count == 1 and self.on_error != "warn":
                self._give_up()
        if watch is None:
            return None
        # The arguments begin with the optimizer itself.
        closure = named.get("closure", given[1] if len(given) > 1 else None)
        if closure is None:
            self._look_at(watch)
            return None

        def look_after() -> Any:
            # The gradients come into being inside of the step: Lightning trains in this way, and LBFGS.
            loss = closure()
            self._look_at(watch)
            return loss

        rest = {key: value for key, value in named.items() if key != "closure"}
        return (given[0], look_after, *given[2:]), rest

    def _look_at(self, watch: GradientWatch) -> None:
        if watch.before_step():
            self._meet_spoiled_gradients(watch)

    def _after_step(self, name: str, *_: Any) -> None:
        made = self._made[name] = self._made[name] + 1
        if made > self.steps:
            self.steps = made
            if self.counts_updates and made % self.check_every == 0:
                self.check()

    def _meet_spoiled_gradients(self, watch: GradientWatch) -> None:
        """Tell of gradients that are not finite. Every process knows of them, and all act alike."""
        if self.on_error != "warn":
            watch.prevent_step()
        if watch.is_first_event:
            self._examine()
        if self.on_error != "warn":
            self._give_up()

    def step(self) -> None:
        """Count an update that no optimizer of PyTorch made, and check the model where that is due."""
        self.steps += 1
        if self.steps % self.check_every == 0:
            self.check()

    # At a check

    def check(self, *, is_last: bool = False) -> Examination | None:
        """Examine the model now, unless no update was made since the last check.

        Returns the latest examination, on every process but the first of a distributed run ``None``.

        Args:
            is_last: whether the run ends here, so that a model without a single update is judged too.

        Raises:
            TrainingIsIll: an error was found, and ``on_error`` is ``"raise"``.
        """
        late = [watch.read_waiting() for watch in self._watches]
        if self._checked_at != self.steps and (self.steps or not self.live.optimizers or is_last):
            self._is_ill |= self._examine()
            # What is watched on another device is known now, after it has reached the weights.
            is_ill = self._processes.any(self._is_ill or any(late)) if self.on_error != "warn" else False
            self._is_ill = False
            if is_ill:
                self._give_up()
        for watch in self._watches:
            watch.begin_anew()
        return self.examination

    def _examine(self) -> bool:
        """Examine the model, and return whether it is ill. Only one process reports; a sharded model needs them all."""
        self._checked_at = self.steps
        reports = self._processes.reports
        if not reports and not self._is_sharded:
            return False
        checkpoint = self._describe()
        verdict = self._judge(checkpoint).verdict if reports else None
        if self._save_healthy is not None:
            is_healthy = verdict is Verdict.HEALTHY
            # What is sharded can only be saved by all processes together.
            if self._processes.any(is_healthy) if self._is_sharded else is_healthy:
                self.keep_healthy(self._save_healthy)
        return verdict is Verdict.ILL

    def _describe(self) -> Checkpoint:
        checkpoint = self.live.describe(f"step {self.position}", format=self.format, **self.facts())
        names = {id(tensor): name for name, tensor in reversed(self.live.tensors().items())}
        awakened = self._find_awakened(checkpoint)
        seen = tuple(watch.describe(names, awakened.get(watch.name, {})) for watch in self._watches)
        return replace(checkpoint, gradients=seen)

    def facts(self) -> dict[str, Any]:
        """Return further fields of the checkpoint: settings and counters, where the library has them."""
        return {}

    @property
    def position(self) -> int:
        """How far the run is, as reports count it."""
        return self.steps

    def _judge(self, checkpoint: Checkpoint) -> Examination:
        settings = self._config.for_path(checkpoint.path)
        checkpoint = with_ranges(checkpoint, settings)
        measure_checkpoint(checkpoint)
        examination = replace(run_rules(checkpoint, self._catalogue, settings), step=self.position)
        self._remember_dead_inputs(examination)
        self.values = summarize(checkpoint, examination)
        if self._per_layer:
            self.values |= summarize_layers(checkpoint, examination)
        self._new_values = self.values
        if self._series_path is not None:
            examination = with_unreached(examination, checkpoint)
        news = self._course.follow(examination, self.position)
        self._series.add(examination, has_news=bool(news))
        for each in news if self.verbose else ():
            self.tell(str(each))
        if self._repair is not None:
            for line in self._repair.apply(checkpoint, examination, len(self._series)):
                self.tell(f"step {self.position:,}: {line}")
        self._outside.look_anew(self.live.tensors())
        return examination

    def _find_awakened(self, checkpoint: Checkpoint) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the inputs that were dead at the last check and have a gradient now, by optimizer and layer."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, inputs in self._dead_inputs.items():
            layer = checkpoint.layer_by_name.get(name)
            weight = layer and (layer.weight or layer.tensors.get("weight_ih"))
            second = checkpoint.moments[weight.name].second if weight and weight.name in checkpoint.moments else None
            if weight and second is not None and len(second.shape) == 2:
                columns: list[bool] = (second.array != 0).any(axis=0).tolist()
                alive = tuple(place for place in sorted(inputs) if place < len(columns) and columns[place])
                if alive:
                    found.setdefault(checkpoint.optimizer_of[weight.name].name, {})[name] = alive
        return found

    def _remember_dead_inputs(self, examination: Examination) -> None:
        self._dead_inputs = {
            each.layer: frozenset(each.evidence["inputs"])
            for each in examination.findings
            if each.name == "dead-inputs" and each.layer is not None
        }

    def _give_up(self) -> None:
        self.should_stop = True
        if self.on_error == "raise":
            worst = next(iter(self.examination.alerts), None) if self.examination is not None else None
            what = f"{worst.title}: {worst.message}" if worst is not None else "another process found an error"
            self.finish()
            raise TrainingIsIll(f"step {self.position:,}: {what}", "see `ckdoc explain`")

    @property
    def _is_sharded(self) -> bool:
        return any(is_sharded(each) for each in self.live.tensors().values())

    def keep_healthy(self, path: str | os.PathLike[str]) -> None:
        """Write what has just passed a check over the one that passed before."""
        gathered = self._gather_state() if self._is_sharded else None
        if not self._processes.reports:
            return
        with replacing(path) as temporary:
            if gathered is None:
                self.save(temporary)
            else:
                torch.save(gathered, temporary)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model and its optimizers as they are now."""
        optimizers = {name: each.state_dict() for name, each in self.live.optimizers.items()}
        torch.save(self._join_states(self.live.model.state_dict(), optimizers), path)

    def _gather_state(self) -> dict[str, Any]:
        model, keep = self.live.model, self._processes.reports
        optimizers = {name: gather_optimizer(model, each, keep=keep) for name, each in self.live.optimizers.items()}
        return self._join_states(gather_model(model, keep=keep), optimizers)

    def _join_states(self, model: Mapping[str, Any], optimizers: Mapping[str, Any]) -> dict[str, Any]:
        several: dict[str, Any] = {"optimizers": dict(optimizers)} if len(optimizers) > 1 else {}
        single: dict[str, Any] = {"optimizer": next(iter(optimizers.values()))} if len(optimizers) == 1 else {}
        return {"model": model, **single, **several, "step": self.position}

    # At the end

    def tell(self, text: str) -> None:
        """Print a line to the console."""
        stream = self._stream or sys.stderr
        stream.write("".join(f"[ckdoc] {line}\n" for line in text.splitlines()))
        stream.flush()

    def close(self) -> Report:
        """Detach from the optimizers, examine the model once more, and report as ``ckdoc scan`` does.

        Raises:
            OSError: the series cannot be written.
        """
        on_error, self.on_error = self.on_error, "warn"
        try:
            if self._handles or not self.live.optimizers:
                self.check(is_last=True)
        finally:
            self.on_error = on_error
        self.finish()
        if self.verbose and self._processes.reports:
            self.tell(self.render())
        return self.report

    def finish(self) -> None:
        """Detach from the optimizers and write the series. Nothing is examined any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for watch in self._watches:
            clipping.stop_listening(watch)
        if self._series_path is not None and self._processes.reports:
            self._series.write(self._series_path)

    def render(self, width: int = 100) -> str:
        """Return the report on the latest check, as ``ckdoc scan`` prints it, and what happened in the run."""
        report = self._series.report(only_latest=True)
        text = self._catalogue.reporters["terminal"].render(report, self._catalogue.rules, Page(width=width))
        events = [str(each).partition("\n")[0] for each in self.news]
        return "\n".join(["In the course of the run:", *events, "", text] if events else [text])

    def __enter__(self) -> Monitor:
        """Return itself: the monitor closes at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, or only detach where the training loop failed."""
        if kind is None:
            self.close()
        else:
            self.finish()


def name_optimizers(given: Optimizers | None) -> dict[str, torch.optim.Optimizer]:
    """Return optimizers by the names that a file would give them.

    Raises:
        UsageError: one of them is no optimizer of PyTorch.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        named: dict[str, Any] = dict(given)
    else:
        listed = list(given) if isinstance(given, Sequence) else [given]
        named = (
            {"optimizer": listed[0]} if len(listed) == 1 else {f"optimizers/{n}": each for n, each in enumerate(listed)}
        )
    found = {name: _unwrap(each) for name, each in named.items()}
    for each in found.values():
        if not hasattr(each, "register_step_pre_hook") or not hasattr(each, "param_groups"):
            what = f"{type(each).__name__} is no optimizer of PyTorch"
            raise UsageError(what, "leave it out and call monitor.step() after each update")
    return found


def _unwrap(optimizer: Any) -> Any:
    """Return the optimizer inside wrappers such as Accelerate's."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


__all__ = ["Monitor", "OnError", "Optimizers", "TrainingIsIll", "parameters_of"]
