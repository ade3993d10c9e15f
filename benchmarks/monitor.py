"""What the monitor costs, and what it says of healthy runs.

Run::

    python -m benchmarks.monitor overhead     # ratios of wall time, within one run each
    python -m benchmarks.monitor check        # a check of a model of 100 million parameters, in passes over them
    python -m benchmarks.monitor healthy      # six algorithms with their defaults for 20,000 steps, bit for bit

Set ``OMP_NUM_THREADS=1``, as Stable-Baselines3 trains small networks best.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from checkpoint_doctor.callbacks.sb3 import AgentMonitor, DoctorCallback
from checkpoint_doctor.callbacks.torch import Monitor

TURNS = 3
"""Turns of each variant that is compared by its whole time."""
ENVIRONMENTS = {PPO: "CartPole-v1", A2C: "CartPole-v1", DQN: "CartPole-v1", RecurrentPPO: "CartPole-v1"}
CHUNK = {PPO: 8192, SAC: 2000}
"""Timesteps of a turn: whole rollouts, and at least two checks."""


class Clock:
    """Adds up the time that is spent in some calls. Of processor time, to ask alone costs more than a hook."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._depth = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, timed; calls inside of timed calls count once."""

        def timed(*given: Any, **named: Any) -> Any:
            self._depth += 1
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.spent += time.perf_counter() - began

        return timed


class TimedMonitor(AgentMonitor):
    """A monitor whose hooks, clips and checks are timed."""

    clock = Clock()

    def _before_step(self, *given: Any) -> Any:
        return self.clock.around(super()._before_step)(*given)

    def _after_step(self, *given: Any) -> None:
        self.clock.around(super()._after_step)(*given)

    def check(self, *, is_last: bool = False) -> Any:
        """See ``Monitor.check``."""
        return self.clock.around(super().check)(is_last=is_last)


class Watching(BaseCallback):
    """Checks with a monitor that is there already, so that attaching does not count."""

    def __init__(self, monitor: AgentMonitor, clock: Clock) -> None:
        super().__init__()
        self.monitor = monitor
        self.checked_at = 0
        self.check = clock.around(self._check)

    def _on_step(self) -> bool:
        if self.num_timesteps - self.checked_at >= self.monitor.check_every:
            self.checked_at = self.num_timesteps
            self.check()
        return True

    def _check(self) -> None:
        self.monitor.check()
        for name, value in self.monitor.take_values().items():
            self.logger.record(name, value)


def build(kind: type[BaseAlgorithm], seed: int = 0) -> BaseAlgorithm:
    """A model with the defaults of Stable-Baselines3."""
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    return kind(policy, ENVIRONMENTS.get(kind, "Pendulum-v1"), seed=seed, device="cpu")


def watch_gradients_like_wandb(model: BaseAlgorithm, clock: Clock) -> None:
    """Make a histogram of every gradient in a hook of its own, as ``wandb.watch(log_freq=1)`` does."""

    def record(gradient: torch.Tensor) -> None:
        flat = gradient.detach().reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        torch.histc(flat, bins=64, min=low, max=high if high > low else low + 1e-6).cpu().clone()

    for parameter in model.policy.parameters():
        if parameter.requires_grad:
            parameter.register_hook(clock.around(record))


def measure_share(kind: type[BaseAlgorithm], name: str, prepare: Callable[[BaseAlgorithm, Clock], Any]) -> None:
    """Train, and print which part of the time is spent in what was added, over the rest of it."""
    model, clock = build(kind), Clock()
    model.learn(CHUNK[kind] // 4)
    callback = prepare(model, clock)
    clock.spent = 0.0
    began = time.perf_counter()
    model.learn(CHUNK[kind], callback=callback, reset_num_timesteps=False)
    total = time.perf_counter() - began
    print(f"{kind.__name__:5} {name:36} {1 + clock.spent / (total - clock.spent):.4f}", flush=True)


def attach(gradients: bool) -> Callable[[BaseAlgorithm, Clock], BaseCallback]:
    """Return what attaches a timed monitor."""

    def prepare(model: BaseAlgorithm, clock: Clock) -> BaseCallback:
        TimedMonitor.clock = clock
        monitor = TimedMonitor(model, gradients=gradients, verbose=0)
        for watch in monitor._watches:
            watch.before_clipping = clock.around(watch.before_clipping)  # type: ignore[method-assign]
        return Watching(monitor, clock)

    return prepare


def measure_anomaly_detection(kind: type[BaseAlgorithm]) -> None:
    """Train with and without ``detect_anomaly`` in turns, and print the median of the ratios."""
    plain, watched = build(kind), build(kind)
    ratios = []
    for _ in range(TURNS):
        times = []
        for model, anomaly in ((plain, False), (watched, True)):
            began = time.perf_counter()
            with torch.autograd.set_detect_anomaly(anomaly):
                model.learn(CHUNK[kind] // 4, reset_num_timesteps=False)
            times.append(time.perf_counter() - began)
        ratios.append(times[1] / times[0])
    print(f"{kind.__name__:5} {'detect_anomaly':36} {statistics.median(ratios):.4f}", flush=True)


def measure_overhead(kind: type[BaseAlgorithm]) -> None:
    """Print the ratio of the time with and without each way to watch."""
    measure_share(kind, "monitor, checks only", attach(gradients=False))
    measure_share(kind, "monitor, gradients at every step", attach(gradients=True))
    measure_share(kind, "histograms in hooks (wandb.watch)", watch_gradients_like_wandb)
    measure_anomaly_detection(kind)


def measure_check() -> None:
    """Check a model of 100 million parameters, and compare with passes over its parameters."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(2048, 2048) for _ in range(24)]
    model = torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.ReLU())])
    count = sum(each.numel() for each in model.parameters())
    monitor = Monitor(model, gradients=False, verbose=0)
    passes, checks = [], []
    for _ in range(5):
        began = time.perf_counter()
        for each in model.parameters():
            float(each.detach().abs().max())
        passes.append(time.perf_counter() - began)
        monitor.steps += 1
        began = time.perf_counter()
        monitor.check()
        checks.append(time.perf_counter() - began)
    best, check = min(passes), min(checks)
    print(f"{count / 1e6:.0f} M parameters: a pass {best:.3f} s, a check {check:.3f} s, {check / best:.2f} passes")


def run_healthy(kind: type[BaseAlgorithm], steps: int) -> None:
    """Train with and without the callback, and print whether both are the same and what was told."""
    stream = io.StringIO()
    callback = DoctorCallback(stream=stream)
    watched = build(kind).learn(steps, callback=callback)
    alone = build(kind).learn(steps)
    pairs = zip(watched.policy.state_dict().values(), alone.policy.state_dict().values(), strict=True)
    same = all(torch.equal(*pair) for pair in pairs)
    returns = [list(each.ep_info_buffer or ())[-1]["r"] for each in (watched, alone)]
    told = [str(each).partition("\n")[0] for each in callback.monitor.news] if callback.monitor else []
    checks = len(callback.report.checkpoints) if callback.report else 0
    print(f"{kind.__name__:14} {steps:,} steps, {checks} checks: same to the last bit {same}, last returns {returns}")
    for each in told:
        print(f"    {each}")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Run what is asked for."""
    what = arguments[0] if arguments else "overhead"
    if what == "overhead":
        for kind in (PPO, SAC):
            measure_overhead(kind)
    elif what == "check":
        measure_check()
    else:
        steps = int(arguments[1]) if len(arguments) > 1 else 20_000
        named = {each.__name__: each for each in (PPO, A2C, DQN, RecurrentPPO, SAC, TD3)}
        for kind in [named[name] for name in arguments[2:]] or named.values():
            run_healthy(kind, steps)


if __name__ == "__main__":
    main(sys.argv[1:])
