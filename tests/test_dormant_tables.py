"""What is said of dormant units and dead inputs: how long ago, and where the inputs may come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor.builtin.analyzers.layers.dead_inputs import dead_inputs
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.test_gradient_activity import STEP, adam, spread
from tests.test_rule_findings import draw, found

NOTE, WARNING = Severity.NOTE, Severity.WARNING


def aged(*ages: float, step: int = STEP, floored: Sequence[int] = ()) -> Checkpoint:
    """A hidden layer whose units had their last gradients so many updates ago, of which some moments are at the end."""
    state = adam([*ages, *[0] * 4])
    state["exp_avg"][list(floored)] = spread([1e-42] * len(floored))
    return build_checkpoint(
        {"0.weight": draw(len(ages) + 4, 4), "2.weight": draw(2, len(ages) + 4)},
        optimizer={"0.weight": {"step": step, **state}},
    )


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (aged(300), "1 has received none for about 300 updates"),
        (aged(300, 300), "2 have received none for about 300 updates"),
        (aged(234, 789), "about 230–790 updates"),
        (aged(300, 400, floored=[1]), "about 300 to more than 800 updates"),
        (aged(400, 400, floored=[0, 1]), "for more than 800 updates"),
        (aged(400, 2000, floored=[0, 1]), "about 850–2,000 updates"),
        (aged(700, step=600), "about 600 updates (at most the 600 counted)"),
        (aged(700, 300, step=600), "about 300–600 updates (at most the 600 counted)"),
        (aged(591, step=600), "about 590 updates"),
        (aged(np.inf, np.inf, 300), "2 never received one, 1 has received none"),
    ],
)
def test_the_time_since_the_last_gradient_is_told(checkpoint: Checkpoint, words: str) -> None:
    (finding,) = found(dormant_units, checkpoint)
    assert words in finding.message
    assert ("at most" in finding.message) is ("at most" in words)


def test_lower_bounds_are_part_of_the_evidence() -> None:
    (finding,) = found(dormant_units, aged(300, 400, np.inf, floored=[1]))
    assert finding.evidence["at_least"] == [False, True]
    assert finding.evidence["stopped_updates_ago"] == [300, 850]
    assert (finding.evidence["units"], finding.evidence["never_learned"]) == ([0, 1, 2], [2])
    (finding,) = found(dormant_units, aged(300))
    assert "at_least" not in finding.evidence


def test_channels_are_called_channels() -> None:
    state = {key: value.reshape(6, 1, 2, 2) for key, value in adam([300, 300, 0, 0, 0, 0]).items()}
    weights = {"0.weight": draw(6, 1, 2, 2), "2.weight": draw(5, 6, 2, 2)}
    checkpoint = build_checkpoint(weights, optimizer={"0.weight": {"step": STEP, **state}})
    (finding,) = found(dormant_units, checkpoint)
    assert finding.message.startswith("2 of 6 channels receive no gradient (33%)")


def test_a_layer_without_any_gradient_needs_another_that_has_some() -> None:
    idle, live = adam([300] * 4), adam([0] * 4)
    weights = {"0.weight": draw(4, 4), "scale": draw(4), "2.weight": draw(4, 4), "4.weight": draw(2, 4)}
    for second, dormant in ((live, ["0"]), (idle, [])):
        states = {"0.weight": {"step": STEP, **idle}, "2.weight": {"step": STEP, **second}}
        checkpoint = build_checkpoint(weights, optimizer=states)
        assert [each.layer for each in found(dormant_units, checkpoint)] == dormant


# Inputs


def state_of(shape: tuple[int, int], unfed: Sequence[int], silent: Sequence[int]) -> dict[str, Any]:
    second = np.abs(draw(*shape)) * 1e-2
    first = np.sqrt(second)
    first[list(silent)] *= 1e-8
    first[:, list(unfed)] = second[:, list(unfed)] = 0
    return {"step": 1000, "exp_avg": first, "exp_avg_sq": second}


def branches(
    shapes: Mapping[str, tuple[int, int]],
    unfed: Mapping[str, Sequence[int]],
    silent: Mapping[str, Sequence[int]] | None = None,
) -> Checkpoint:
    """Layers with biases that live on."""
    weights: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"], weights[f"{name}.bias"] = draw(*shape), draw(shape[0])
        states[f"{name}.weight"] = state_of(shape, unfed.get(name, ()), (silent or {}).get(name, ()))
        bias = np.full(shape[0], 1e-3)
        bias[list((silent or {}).get(name, ()))] *= 1e-8
        states[f"{name}.bias"] = {"step": 1000, "exp_avg": bias, "exp_avg_sq": np.full(shape[0], 1e-5)}
    return build_checkpoint(weights, optimizer=states, updates=1000)


ALL = tuple(range(10))
EXTRACTED = {"features_extractor.0": (5, 3), "mlp.0": (8, 11)}
FROM_OUTSIDE, FROM_A_LAYER = "Check these inputs in the data", "outputs of another layer"


@pytest.mark.parametrize(
    ("checkpoint", "severity", "advice"),
    [
        (branches({"net.a": (5, 3), "net.b": (8, 10)}, {"net.b": (2, 3)}), NOTE, FROM_A_LAYER),
        (branches({"net.a": (5, 3), "net.b": (8, 10)}, {"net.b": ALL}), NOTE, FROM_A_LAYER),
        (branches({"net.a": (5, 3), "net.b": (8, 10)}, {"net.b": (2, 3)}, {"net.a": [1]}), None, ""),
        (branches({"net.a": (5, 3), "net.b": (8, 10)}, {"net.b": (2, 3)}, {"net.a": [2]}), NOTE, FROM_A_LAYER),
        (branches({"net.a": (5, 3), "net.b": (8, 10)}, {"net.b": (2, 4)}, {"net.a": [1]}), NOTE, FROM_A_LAYER),
        (branches({"net.a": (1, 3), "net.b": (8, 10)}, {"net.b": ALL}), WARNING, FROM_OUTSIDE),
        (branches({"net.a": (2, 3), "net.b": (8, 10)}, {"net.b": ALL}), NOTE, FROM_A_LAYER),
        (branches({"net.a": (4, 3), "net.b": (8, 10)}, {"net.b": ALL}), WARNING, FROM_OUTSIDE),
        (branches({"net.b": (8, 10), "net.a": (5, 3)}, {"net.b": ALL}), WARNING, FROM_OUTSIDE),
        (branches({"actor.a": (5, 3), "critic.b": (8, 10)}, {"critic.b": ALL}), WARNING, FROM_OUTSIDE),
        (branches({"body.0": (5, 3), "action_net": (4, 20)}, {"action_net": (2, 3)}), None, ""),
        (branches({"action_net": (4, 20)}, {"action_net": (2, 3)}), NOTE, FROM_OUTSIDE),
        (branches(EXTRACTED, {"mlp.0": (2, 3)}), None, ""),
        (branches(EXTRACTED, {"features_extractor.0": (1,)}), NOTE, FROM_OUTSIDE),
    ],
    ids=[
        "units of a layer", "all units of a layer", "dead units", "other dead units", "some dead units",
        "a single unit", "two units", "units that do not fit", "a layer behind", "another component",
        "a head beside a body",
        "a head alone", "behind an extractor", "the extractor",
    ],
)  # fmt: skip
def test_where_dead_inputs_may_come_from(checkpoint: Checkpoint, severity: Severity | None, advice: str) -> None:
    findings = found(dead_inputs, checkpoint)
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    assert all(advice in each.advice for each in findings)
