"""No rule crashes or overflows, whatever numbers a checkpoint holds: damage is what the rules are there for."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.testing import build_checkpoint, findings_of

RULES = [rule for rule in discover().rules if rule.package == "checkpoint_doctor"]

Shapes = Mapping[str, tuple[int, ...]]


def network(inputs: int, units: int, outputs: int) -> Shapes:
    """A model with a layer of every kind."""
    return {
        "embedding.weight": (units, inputs),
        "net.0.weight": (units, inputs),
        "net.0.bias": (units,),
        "net.2.weight": (units, units),
        "net.2.bias": (units,),
        "net.4.weight": (outputs, units),
        "net.4.bias": (outputs,),
        "conv.weight": (units, inputs, 3, 3),
        "bn.weight": (units,),
        "bn.bias": (units,),
        "bn.running_mean": (units,),
        "bn.running_var": (units,),
        "ln.weight": (units,),
        "ln.bias": (units,),
        "lstm.weight_ih_l0": (4 * units, inputs),
        "lstm.weight_hh_l0": (4 * units, units),
        "lstm.bias_ih_l0": (4 * units,),
        "lstm.bias_hh_l0": (4 * units,),
        "gru.weight_ih_l0": (3 * units, inputs),
        "gru.weight_hh_l0": (3 * units, units),
        "gru.bias_ih_l0": (3 * units,),
        "gru.bias_hh_l0": (3 * units,),
        "h.0.attn.c_attn.weight": (units, 3 * units),
        "h.1.attn.c_attn.weight": (units, 3 * units),
        "q.lora_A.weight": (2, inputs),
        "q.lora_B.weight": (units, 2),
        "critic.qf0.0.weight": (units, inputs),
        "critic.qf1.0.weight": (units, inputs),
        "critic_target.qf0.0.weight": (units, inputs),
        "critic_target.qf1.0.weight": (units, inputs),
        "log_std": (outputs,),
        "log_ent_coef": (1,),
        "scale": (),
    }


NETWORKS: Mapping[str, Shapes] = {
    "ordinary": network(6, 20, 3),
    "wide": network(33, 32, 32),
    "one of everything": network(1, 1, 1),
    "no inputs": network(0, 16, 2),
    "no units": network(4, 0, 2),
    "biases that do not fit": {
        "critic.0.weight": (20, 6),
        "critic.0.bias": (3, 3),
        "critic.2.weight": (20, 20),
        "critic.2.bias": (20, 1),
        "critic.4.weight": (3, 20),
        "critic.4.bias": (),
    },
    "an average of odd shapes": {
        f"{prefix}/{name}": shape
        for prefix in ("model", "ema")
        for name, shape in {"0.weight": (20, 6), "0.bias": (20,), "1.weight": (), "2.weight": (0, 6)}.items()
    },
}

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

CONTENTS = (
    *("ordinary", "flipped bits", "random bits", "all zero", "constant", "largest", "denormal", "vanished", "gridded"),
    *("all NaN", "some NaN", "infinite", "zero rows", "equal rows", "one huge", "negative"),
)


def fill(shape: tuple[int, ...], content: str, dtype: np.dtype, seed: int) -> NDArray:
    """Return a tensor of a shape and type, with numbers of a kind."""
    random = np.random.default_rng(seed)
    wide = random.normal(0, 0.3, shape)
    finite = ml_dtypes.finfo(dtype)
    some_entries = random.random(shape) < 0.1
    if content == "all zero":
        wide = np.zeros(shape)
    elif content == "constant":
        wide = np.full(shape, 0.02)
    elif content == "largest":
        wide = np.full(shape, 1e300 if dtype == np.float64 else float(finite.max)) * random.choice([-1, 1], shape)
    elif content == "denormal":
        wide = wide * float(finite.smallest_normal)
    elif content == "vanished":
        wide = wide * 1e-15
    elif content == "gridded":
        wide = np.round(wide, 1)
    elif content == "all NaN":
        wide = np.full(shape, np.nan)
    elif content == "some NaN":
        wide = np.where(some_entries, np.nan, wide)
    elif content == "infinite":
        wide = np.where(some_entries, np.inf, wide)
    elif content == "negative":
        wide = -np.abs(wide)
    elif content == "one huge" and wide.size:
        wide.reshape(-1)[0] = 1e300 if dtype == np.float64 else float(finite.max)
    elif content == "zero rows" and wide.ndim:
        wide[: len(wide) // 2] = 0
    elif content == "equal rows" and wide.size and wide.ndim:
        wide[:] = wide[0]
    with np.errstate(over="ignore"):
        array = np.asarray(wide).astype(dtype)
    if content in ("flipped bits", "random bits"):
        raw = np.atleast_1d(array).copy().view(np.uint8)
        flips = random.integers(0, 256, raw.shape, dtype=np.uint8)
        if content == "flipped bits":
            flips[random.random(raw.shape) < 0.99] = 0
        array = (raw ^ flips).view(dtype).reshape(shape)
    return array


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint is made of."""

    network: str
    dtype: str
    contents: tuple[str, ...]
    """Its tensors hold these in turn."""
    optimizer: str
    first: str
    """What the first moments hold."""
    second: str
    step: int
    updates: int | None
    algorithm: str | None
    seed: int

    def build(self) -> Checkpoint:
        dtype = DTYPES[self.dtype]
        tensors = {
            name: fill(shape, self.contents[(self.seed + at) % len(self.contents)], dtype, self.seed + at)
            for at, (name, shape) in enumerate(NETWORKS[self.network].items())
        }
        held = {
            name: self.state(array.shape, self.seed + at)
            for at, (name, array) in enumerate(tensors.items())
            if not name.startswith(("bn.running", "critic_target"))
        }
        return build_checkpoint(
            tensors,
            optimizer=None if self.optimizer == "none" else held,
            optimizer_kind=self.optimizer,
            hyperparameters={"max_grad_norm": 0.5, "ent_coef": "auto"},
            algorithm=self.algorithm,
            step=self.step,
            updates=self.updates,
        )

    def state(self, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
        first = fill(shape, self.first, np.dtype(np.float32), seed + 500)
        second = np.abs(fill(shape, self.second, np.dtype(np.float32), seed + 900))
        return {
            "none": {},
            "empty": {},
            "Adam": {"step": self.step, "exp_avg": first, "exp_avg_sq": second},
            "Adamax": {"step": self.step, "exp_avg": first, "exp_inf": second},
            "RMSprop": {"step": self.step, "square_avg": second},
            "SGD": {"momentum_buffer": first},
            "Adagrad": {"step": self.step, "sum": second},
        }[self.optimizer]


RECIPES = some.builds(
    Recipe,
    network=some.sampled_from(sorted(NETWORKS)),
    dtype=some.sampled_from(sorted(DTYPES)),
    contents=some.lists(some.sampled_from(CONTENTS), min_size=1, max_size=3).map(tuple),
    optimizer=some.sampled_from(["none", "empty", "Adam", "Adamax", "RMSprop", "SGD", "Adagrad"]),
    first=some.sampled_from(CONTENTS),
    second=some.sampled_from(CONTENTS),
    step=some.sampled_from([0, 1, 30, 300, 10**9]),
    updates=some.sampled_from([None, 0, 300]),
    algorithm=some.sampled_from([None, "PPO", "SAC"]),
    seed=some.integers(0, 99),
)


def examine(checkpoint: Checkpoint) -> list[str]:
    """Run all rules with warnings as errors, and return how those fail that do."""
    failures = []
    for rule in RULES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                findings_of(rule, checkpoint)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(
                f"{rule.code}: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
            )
    return failures


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RECIPES)
def test_every_rule_stands_all_numbers(recipe: Recipe) -> None:
    assert examine(recipe.build()) == []


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("content", CONTENTS)
def test_every_rule_stands_numbers_of_one_kind(content: str, network: str) -> None:
    """Every kind in every network, so that none depends on what is drawn."""
    recipe = Recipe(network, "float32", (content,), "Adam", content, content, 300, 300, None, 7)
    assert examine(recipe.build()) == []
    assert examine(replace(recipe, optimizer="none").build()) == []
