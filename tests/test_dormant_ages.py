"""How long units have been without gradient, where their moments have decayed as far as numbers go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from checkpoint_doctor.testing import build_checkpoint, findings_of

ADAM: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
RMSPROP: dict[str, Any] = {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8, "foreach": None}


def without_gradient(updates: int, options: dict[str, Any], *, units: int = 16, before: float = 1.0) -> Checkpoint:
    """Two layers; so many of 32 units received no gradient in the last updates, and gradients so large before."""
    random, weights, state, idle = np.random.default_rng(0), {}, {}, {}
    for name, shape in (("0.weight", (32, 8)), ("0.bias", (32,)), ("2.weight", (4, 32)), ("2.bias", (4,))):
        weights[name] = random.normal(size=shape).astype(np.float32)
        first = (3e-4 * random.normal(size=shape)).astype(np.float32)
        second = (1e-6 * random.uniform(0.5, 2, shape)).astype(np.float32)
        idle[name] = np.zeros(shape, bool)
        if name != "2.bias":
            idle[name][(slice(None), slice(units)) if name == "2.weight" else slice(units)] = True
        first[idle[name]] *= before
        second[idle[name]] *= before**2
        state[name] = {"exp_avg": first, "exp_avg_sq": second}
    first, second = (np.concatenate([state[name][key][idle[name]] for name in state]) for key in state["0.bias"])
    for _ in range(updates):
        first -= first * np.float32(0.1)
        second *= np.float32(options.get("alpha") or 0.999)
    for name, mask in idle.items():
        count = mask.sum()
        state[name]["exp_avg"][mask], first = first[:count], first[count:]
        state[name]["exp_avg_sq"][mask], second = second[:count], second[count:]
        if "alpha" in options:
            state[name] = {"square_avg": state[name]["exp_avg_sq"]}
        state[name]["step"] = 200_000
    kind = "RMSprop" if "alpha" in options else "Adam"
    return build_checkpoint(weights, optimizer=state, optimizer_kind=kind, optimizer_options=options)


@pytest.mark.parametrize(
    ("updates", "options", "before", "words"),
    [
        (300, ADAM, 1.0, "for about 290–310 updates"),
        (2_000, ADAM, 30.0, "for more than 800 updates"),
        (20_000, ADAM, 1.0, "for about 20,000 updates"),
        (90_000, ADAM, 1.0, "for more than 80,000 updates"),
        (20_000, RMSPROP, 1.0, "for more than 8,000 updates"),
    ],
    ids=["young", "first moments at the smallest number", "old", "second moments too", "RMSprop"],
)
def test_an_age_is_a_lower_bound_where_moments_decay_no_further(
    updates: int, options: dict[str, Any], before: float, words: str
) -> None:
    (finding,) = findings_of(dormant_units, without_gradient(updates, options, before=before))
    assert words in finding.message
    assert finding.evidence.get("at_least") == ([True] * 16 if "more than" in words else None)


def test_units_at_the_floor_of_rmsprop_are_not_active() -> None:
    (finding,) = findings_of(dormant_units, without_gradient(20_000, RMSPROP, units=32))
    assert finding.evidence["dormant_fraction"] == 1.0
    assert finding.severity >= Severity.WARNING
