"""The rule about optimizers without gradient: what it says of each cause, and healthy neighbours of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.optimizer.gradients import no_gradient
from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import untrained_tensor
from checkpoint_doctor.testing import build_checkpoint, findings_of

WARNING, ERROR = Severity.WARNING, Severity.ERROR
WEIGHTS = {
    f"net.{number}.{role}": np.random.default_rng(number).normal(size=shape).astype(np.float32)
    for number in (0, 2)
    for role, shape in (("weight", (8, 8)), ("bias", (8,)))
}
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": False}


def checkpoint(level: float = 0.0, steps: int | None = 300, *keys: str, **fields: Any) -> Checkpoint:
    """A checkpoint whose optimizer counted so many steps and has moments of this level; Adam's by default."""
    state = {
        name: {key: np.full(value.shape, level) for key in keys or ("exp_avg", "exp_avg_sq")}
        | ({} if steps is None else {"step": steps})
        for name, value in WEIGHTS.items()
    }
    return build_checkpoint(WEIGHTS, optimizer=state, **fields)


def stateless(**fields: Any) -> Checkpoint:
    return build_checkpoint(WEIGHTS, optimizer={name: {} for name in WEIGHTS}, **fields)


def unnamed(whole: Checkpoint) -> Checkpoint:
    optimizer = whole.optimizers[0]
    parameters = tuple(replace(each, tensor=None) for each in optimizer.parameters)
    return replace(whole, optimizers=(replace(optimizer, parameters=parameters, unmatched="no names"),))


def with_sibling(format: str, names: tuple[str, str], kind: str = "Adam", **options: Any) -> Checkpoint:
    """Two optimizers over the same tensors, of which the second made 600 updates."""
    idle = stateless(optimizer_kind=kind, optimizer_options=ADAM | options, format=format)
    live = checkpoint(1.0, 600)
    both = [replace(each.optimizers[0], name=name) for each, name in zip((idle, live), names, strict=True)]
    return replace(idle, optimizers=tuple(both))


def decayed(share: float, **options: Any) -> Checkpoint:
    """Moments that are weight decay, with a share of gradients added to it."""
    random, state = np.random.default_rng(9), {}
    for name, value in WEIGHTS.items():
        mean = 0.01 * (value + share * random.normal(size=value.shape))
        state[name] = {"step": 300, "exp_avg": mean, "exp_avg_sq": mean**2}
    return build_checkpoint(WEIGHTS, optimizer=state, optimizer_options=ADAM | {"weight_decay": 0.01} | options)


SPOKEN: dict[str, tuple[Checkpoint, Severity, str, str]] = {
    "Adam": (checkpoint(), ERROR, "no gradient", "in 300 updates: all moments are exactly zero"),
    "Adam without names": (unnamed(checkpoint()), ERROR, "no gradient", "all moments are exactly zero"),
    "RMSprop": (
        checkpoint(0.0, 300, "square_avg", optimizer_options={"alpha": 0.99, "foreach": None}), ERROR, "no gradient",
        "300 updates",
    ),
    "Adagrad": (
        checkpoint(0.1, 300, "sum", optimizer_options={"initial_accumulator_value": 0.1}), ERROR, "no gradient",
        "300 updates",
    ),
    "momentum, counted by the file": (
        checkpoint(0.0, None, "momentum_buffer", optimizer_options=SGD, step=300), ERROR, "no gradient", "300 updates"
    ),
    "weight decay inside the gradient": (decayed(0.0), ERROR, "no gradient", "weight decay alone"),
    "no state beside a counter": (stateless(step=300), WARNING, "empty state", "although the file counts 300 steps"),
    "no state beside a sibling": (
        with_sibling("torch", ("optimizer_d", "optimizer_g")), WARNING, "empty state", "while optimizer_g made 600"
    ),
    "an actor beside its critic": (
        with_sibling("sb3", ("actor.optimizer", "critic.optimizer")), ERROR, "empty state",
        "while critic.optimizer made 600",
    ),
    "an agent without an update": (
        stateless(format="sb3", step=2048, updates=0), WARNING, "never started", "no update was made in 2,048 timesteps"
    ),
    "learning that starts after the end": (
        stateless(step=700, updates=0, hyperparameters={"learning_starts": 1000, "_total_timesteps": 700}), WARNING,
        "never started", "700 timesteps",
    ),
}  # fmt: skip

SILENT: dict[str, Checkpoint] = {
    "Adam that learned": checkpoint(1e-6),
    "a first moment over a second moment that underflows": build_checkpoint(
        WEIGHTS,
        optimizer={
            name: {"step": 300, "exp_avg": np.full(value.shape, 1e-5), "exp_avg_sq": np.zeros(value.shape)}
            for name, value in WEIGHTS.items()
        },
    ),
    "Adagrad at construction": checkpoint(0.1, 0, "sum", optimizer_options={"initial_accumulator_value": 0.1}),
    "momentum that nobody counted": checkpoint(0.0, None, "momentum_buffer", optimizer_options=SGD),
    "one layer without gradient": build_checkpoint(
        WEIGHTS,
        optimizer={
            name: {
                "step": 300,
                "exp_avg": np.full(value.shape, "net.2" in name),
                "exp_avg_sq": np.full(value.shape, "net.2" in name),
            }
            for name, value in WEIGHTS.items()
        },
    ),
    "gradients beside the weight decay": decayed(1.0),
    "decay that does not reach the moments": decayed(0.0, decoupled_weight_decay=True),
    "step 0": stateless(step=0, updates=0),
    "a fresh model": stateless(),
    "SGD without momentum": stateless(step=300, optimizer_kind="SGD", optimizer_options={"lr": 0.1, "momentum": 0}),
    "a sibling without momentum": with_sibling("torch", ("a", "b"), kind="SGD", momentum=0),
    "an agent that still collects": stateless(
        step=500, updates=0, hyperparameters={"learning_starts": 1000, "_total_timesteps": 50_000}
    ),
    "no optimizer": build_checkpoint(WEIGHTS, step=300),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_it_names_the_cause(name: str) -> None:
    subject, severity, cause, words = SPOKEN[name]
    (finding,) = findings_of(no_gradient, subject)
    assert (finding.severity, finding.evidence["cause"]) == (severity, cause)
    assert words in finding.message
    assert findings_of(untrained_tensor, subject) == [], "it is said once"


@pytest.mark.parametrize("name", SILENT)
def test_it_is_silent(name: str) -> None:
    assert findings_of(no_gradient, SILENT[name]) == []


def test_two_idle_optimizers_of_an_agent_that_never_started_are_one_finding() -> None:
    both = with_sibling("sb3", ("actor.optimizer", "critic.optimizer"))
    idle = tuple(replace(each, parameters=both.optimizers[0].parameters) for each in both.optimizers)
    (finding,) = findings_of(no_gradient, replace(both, optimizers=idle, step=1500, updates=0))
    assert finding.evidence["cause"] == "never started"
