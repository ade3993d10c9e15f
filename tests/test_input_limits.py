"""The limits of INP001 from both sides, on signals that are given and not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor.builtin.analyzers.layers.inputs import input_scale
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
UNITS = 20


def signal(
    overall: float | None, features: Sequence[float] | None = None, constant: Sequence[bool] | None = None
) -> SimpleNamespace:
    rms = None if features is None else np.array(features, dtype=float)
    same = np.array(constant if constant is not None else [False] * len(features or ()))
    return SimpleNamespace(input_rms=overall, feature_rms=rms, constant_features=None if features is None else same)


def network(*, inputs: int = 6, dormant: int = 0, second: float = 1e-6, weight: float = 0.2) -> Checkpoint:
    """Two layers that were trained for a while; the first units of the first have no gradient now."""
    shapes = {"net.0.weight": (UNITS, inputs), "net.0.bias": (UNITS,), "net.2.weight": (3, UNITS), "net.2.bias": (3,)}
    state = {}
    for name, shape in shapes.items():
        squares = np.full(shape, second if name.startswith("net.0") else 1e-6)
        first = 0.3 * np.sqrt(squares)
        if name.startswith("net.0"):
            first[:dormant] *= 1e-8
        state[name] = {"step": 1000, "exp_avg": first, "exp_avg_sq": squares}
    return build_checkpoint({name: np.full(each, weight) for name, each in shapes.items()}, optimizer=state, updates=1)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is said of a checkpoint whose layers have these signals."""

    def say(checkpoint: Checkpoint, signals: Mapping[str, SimpleNamespace], **options: Any) -> list[Finding]:
        known = {layer.name: signals.get(layer.name, signal(None)) for layer in checkpoint.layers}
        monkeypatch.setattr(Checkpoint, "signals", known)
        return findings_of(input_scale, checkpoint, **options)

    return say


@pytest.mark.parametrize(
    ("overall", "dormant", "severity"),
    [
        (9.9, 0, None),
        (10.0, 0, NOTE),
        (99.9, 10, NOTE),
        (100.0, 10, WARNING),
        (100.0, 9, NOTE),
        (999.0, 0, NOTE),
        (1000.0, 0, WARNING),
    ],
)
def test_how_large_inputs_must_be(say: Any, overall: float, dormant: int, severity: Severity | None) -> None:
    found = say(network(dormant=dormant), {"net.0": signal(overall)})
    assert [each.severity for each in found] == [severity] * (severity is not None)
    assert all(each.evidence["dormant_fraction"] == dormant / UNITS for each in found)
    assert all(("dormant" in each.message) == (dormant > 0) for each in found)
    assert all("features" not in each.evidence for each in found)


@pytest.mark.parametrize(
    ("features", "words", "large"),
    [
        ([10.0, 1, 1, 1, 1, 1], "feature 0 has an RMS of 10; the other 5 have 1", [0]),
        ([20.0, 9.9, 0, 0, 0, 0], "feature 0 has an RMS of 20; the other 1 has 9.9", [0]),
        ([20.0, 0, 0, 0, 0, 0], "feature 0 has an RMS of 20", [0]),
        ([20.0, 30, 40, 50, 1, 2], "feature 3 has an RMS of 50, feature 2 has an RMS of 40", [0, 1, 2, 3]),
        ([20.0, 30, 40, 50, 60, 2], "5 features have an RMS of 20 to 60, the largest is feature 4", [0, 1, 2, 3, 4]),
        ([20.0] * 6, "inputs have an RMS of 20 (20 each) and should be near 1", [0, 1, 2, 3, 4, 5]),
        ([10.0] * 6, "inputs have an RMS of 20 (10 each) and should be near 1", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_how_large_features_are_named(say: Any, features: list[float], words: str, large: list[int]) -> None:
    [finding] = say(network(), {"net.0": signal(20.0, features)})
    assert finding.message.startswith(words)
    assert finding.evidence["features"] == large
    if words.endswith("an RMS of 20"):
        assert "other" not in finding.message


def test_a_feature_counts_that_is_larger_than_all_together(say: Any) -> None:
    assert not say(network(), {"net.0": signal(5.0, [9.9, 0, 0, 0, 0, 0])})
    [finding] = say(network(), {"net.0": signal(5.0, [12.0, 0, 0, 0, 0, 0])})
    assert finding.evidence["input_rms"] == 5.0


@pytest.mark.parametrize(
    ("constant", "features", "speaks"),
    [
        ([True] * 6, [1.0] * 6, True),
        ([True] * 5 + [False], [1.0] * 6, False),
        ([True] * 5 + [False], [1.0] * 5 + [0.0], True),
        ([False] * 6, [0.0] * 6, False),
        (None, None, False),
    ],
)
def test_inputs_that_never_change(say: Any, constant: list[bool] | None, features: list[float] | None, speaks: bool):
    found = say(network(), {"net.0": signal(1.0, features, constant)})
    assert [(each.severity, each.evidence["cause"]) for each in found] == [(WARNING, "constant")] * speaks


ALL_ONES = signal(1.0, [1.0] * UNITS)


@pytest.mark.parametrize(
    ("read", "speaks"),
    [
        (signal(1.0, [1.0] * UNITS), True),
        (signal(1.0, [1.0] * 19 + [1.00009]), True),
        (signal(1.0, [1.0] * 19 + [0.99991]), True),
        (signal(1.0, [1.0] * 19 + [1.000105]), False),
        (signal(1.0, []), False),
        (signal(1.0), False),
    ],
)
def test_what_reads_saturated_units_always_read_one(say: Any, read: SimpleNamespace, speaks: bool) -> None:
    found = say(network(second=0.0), {"net.2": read})
    assert [(each.severity, each.evidence["cause"]) for each in found] == [(ERROR, "saturating")] * speaks


def test_how_large_saturating_inputs_must_have_been(say: Any) -> None:
    [finding] = say(network(inputs=4, second=0.0, weight=0.5), {"net.2": ALL_ONES})
    assert finding.evidence["input_rms"] == pytest.approx(9.0 / (0.5 * 2.0) / 2.0)
    assert "every unit of net.0 is saturated" in finding.message
    [finding] = say(network(second=0.0, weight=0.0), {"net.2": ALL_ONES})
    assert finding.evidence["input_rms"] == 0.0


def test_gradients_that_pass_are_of_no_saturated_unit(say: Any) -> None:
    assert not say(network(second=1e-12), {"net.2": ALL_ONES})
    bare = network(second=0.0)
    assert not say(build_checkpoint({each.name: each.array for each in bare.tensors}), {"net.2": ALL_ONES})
    alone = {each.name: each.array for each in bare.tensors if "net.2" not in each.name}
    state = {name: {"step": 9, "exp_avg": 0 * each, "exp_avg_sq": 0 * each} for name, each in alone.items()}
    assert not say(build_checkpoint(alone, optimizer=state), {})


def test_networks_that_are_saturated_together_are_counted(say: Any) -> None:
    shapes = {"weight": (UNITS, 6), "bias": (UNITS,)}
    heads = {"weight": (3, UNITS), "bias": (3,)}
    tensors, state = {}, {}
    for part in ("actor.mu", "critic.qf0"):
        for number, each in ((0, shapes), (2, heads)):
            for role, shape in each.items():
                name = f"{part}.{number}.{role}"
                tensors[name] = np.full(shape, 0.2)
                squares = np.full(shape, 1e-6 if number else 0.0)
                state[name] = {"step": 1000, "exp_avg": 0.3 * np.sqrt(squares), "exp_avg_sq": squares}
    checkpoint = build_checkpoint(tensors, optimizer=state, format="sb3")
    [finding] = say(checkpoint, {"actor.mu.2": ALL_ONES, "critic.qf0.2": ALL_ONES})
    assert "every unit of actor.mu.0 and 1 more is saturated" in finding.message
    assert finding.evidence["layers"] == ["actor.mu.0", "critic.qf0.0"]
