"""What the monitor costs, and what it says of healthy runs.

Run::

    python -m benchmarks.monitor overhead     # ratios of CPU time, each measured in turns within one process
    python -m benchmarks.monitor check        # a check of a model of 100 million parameters, in passes over them
    python -m benchmarks.monitor healthy      # six algorithms with their defaults for 20,000 steps, bit for bit

``OMP_NUM_THREADS=1`` makes CPU time and wall time the same thing.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from checkpoint_doctor.callbacks.sb3 import AgentMonitor, DoctorCallback
from checkpoint_doctor.callbacks.torch import Monitor

ROUNDS = 4
"""Turns of each variant."""
ENVIRONMENTS = {PPO: "CartPole-v1", A2C: "CartPole-v1", DQN: "CartPole-v1", RecurrentPPO: "CartPole-v1"}
CHUNK = {PPO: 4096, SAC: 1000}
"""Timesteps of a turn: whole rollouts."""


class Watching(BaseCallback):
    """A monitor that lives from turn to turn, so that attaching is not counted as training."""

    def __init__(self, monitor: AgentMonitor) -> None:
        super().__init__()
        self.monitor = monitor
        self.checked_at = 0

    def _on_step(self) -> bool:
        if self.num_timesteps - self.checked_at >= self.monitor.check_every:
            self.checked_at = self.num_timesteps
            self.monitor.check()
        for name, value in self.monitor.take_values().items():
            self.logger.record(name, value)
        return True


def build(kind: type[BaseAlgorithm], seed: int = 0) -> BaseAlgorithm:
    """A model with the defaults of Stable-Baselines3."""
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    return kind(policy, ENVIRONMENTS.get(kind, "Pendulum-v1"), seed=seed, device="cpu")


def watch_gradients_like_wandb(model: BaseAlgorithm) -> None:
    """Make a histogram of every gradient in a hook of its own, as ``wandb.watch(log_freq=1)`` does."""

    def record(gradient: torch.Tensor) -> None:
        flat = gradient.detach().reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        torch.histc(flat, bins=64, min=low, max=high if high > low else low + 1e-6).cpu().clone()

    for parameter in model.policy.parameters():
        if parameter.requires_grad:
            parameter.register_hook(record)


@contextmanager
def detecting_anomalies() -> Iterator[None]:
    """As ``torch.autograd.set_detect_anomaly``."""
    with torch.autograd.detect_anomaly(check_nan=True):
        yield


@contextmanager
def nothing() -> Iterator[None]:
    """Train as it is."""
    yield


def variants(kind: type[BaseAlgorithm]) -> dict[str, tuple[BaseAlgorithm, BaseCallback | None, Callable[[], Any]]]:
    """The ways to train that are compared: model, callback, and what surrounds a turn."""
    made: dict[str, tuple[BaseAlgorithm, BaseCallback | None, Callable[[], Any]]] = {}
    made["alone"] = build(kind), None, nothing
    made["alone again"] = build(kind), None, nothing
    for name, gradients in (("monitor, checks only", False), ("monitor, gradients at every step", True)):
        model = build(kind)
        made[name] = model, Watching(AgentMonitor(model, gradients=gradients, verbose=0)), nothing
    model = build(kind)
    watch_gradients_like_wandb(model)
    made["histograms in hooks (wandb.watch)"] = model, None, nothing
    made["detect_anomaly"] = build(kind), None, detecting_anomalies
    return made


def measure_overhead(kind: type[BaseAlgorithm]) -> None:
    """Train all variants in turns, and print the median of each turn's ratio to the first."""
    made = variants(kind)
    spent: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(ROUNDS + 1):
        names = list(made) if turn % 2 else list(made)[::-1]
        for name in names:
            model, callback, surrounding = made[name]
            with surrounding():
                began = time.process_time()
                model.learn(CHUNK[kind], callback=callback, reset_num_timesteps=False)
                spent[name].append(time.process_time() - began)
    for name, times in spent.items():
        ratios = [own / alone for own, alone in zip(times[1:], spent["alone"][1:], strict=True)]
        print(f"{kind.__name__:14} {name:36} {statistics.median(ratios):.3f}  ({sum(times):.1f} s)", flush=True)


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
