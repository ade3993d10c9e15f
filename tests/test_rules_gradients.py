"""Rules about the gradients of a running training loop, by what the noun says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.gradients import live
from checkpoint_doctor.checkpoint import Checkpoint, Gradients, GradientSpike, NonfiniteGradient, Spoiled
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of

RULES = (
    live.nonfinite_gradient,
    live.silent_gradients,
    live.gradient_spike,
    live.inputs_switched_on,
    live.stopped_part,
)


def watched(**seen: Any) -> Checkpoint:
    """A trained network whose gradients were watched."""
    random = np.random.default_rng(0)
    tensors = {"body.weight": random.normal(size=(8, 20)), "body.bias": random.normal(size=8)}
    tensors |= {"head.weight": random.normal(size=(2, 8)), "head.bias": random.normal(size=2)}
    state = {
        name: {"step": seen.pop(f"step_{name}", 2000), "exp_avg": each * 0 + 0.1, "exp_avg_sq": each * 0 + 0.1}
        for name, each in tensors.items()
    }
    checkpoint = build_checkpoint(tensors, optimizer=state)
    return replace(checkpoint, gradients=(Gradients("optimizer", 2000, **seen),))


def event(tensors: dict[str, Spoiled], parameters: int = 4, *, prevented: bool = False) -> dict[str, Any]:
    return {"nonfinite": (NonfiniteGradient(7, tensors, parameters, prevented),), "nonfinite_steps": 1}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_nothing_is_said_of_a_file_or_of_gradients_that_flow(rule: Rule) -> None:
    check_rule(rule)
    assert findings_of(rule, replace(watched(), gradients=())) == []
    assert findings_of(rule, watched(norm=1.0)) == []


EVERYWHERE = {name: Spoiled(8, 0, 8) for name in ("body.weight", "body.bias", "head.weight", "head.bias")}


@pytest.mark.parametrize(
    ("seen", "kind", "words"),
    [
        (event(EVERYWHERE), "loss", "every entry of every gradient was NaN"),
        (event({"body.weight": Spoiled(1, 0, 160)}), "operation", "1 of 160 entries in the gradient of body.weight"),
        (event({"body.bias": Spoiled(0, 2, 8)}), "overflow", "were infinite"),
        (
            event({"body.weight": Spoiled(160, 0, 160), "head.bias": Spoiled(1, 1, 2)}),
            "operation",
            "of head.bias and 1",
        ),
        (event({"body.bias": Spoiled(1, 0, 8)}, prevented=True), "operation", "the step was not made"),
        (event({}), "operation", "another process"),
    ],
)
def test_a_gradient_that_is_not_finite_is_located(seen: dict[str, Any], kind: str, words: str) -> None:
    [finding] = findings_of(live.nonfinite_gradient, watched(**seen))
    assert finding.severity is Severity.ERROR
    assert finding.evidence["kind"] == kind
    assert words in finding.message


@pytest.mark.parametrize(("steps", "count"), [(9, 0), (10, 1)])
def test_silence_counts_from_ten_steps_on(steps: int, count: int) -> None:
    found = findings_of(live.silent_gradients, watched(silent_steps=steps))
    assert len(found) == count
    assert all(each.evidence["since_step"] == 2000 - steps + 1 for each in found)


def test_the_largest_spike_is_told() -> None:
    spikes = (GradientSpike(5, 100.0, 1.0, 7.0), GradientSpike(9, 900.0, 1.0, 9.0))
    [finding] = findings_of(live.gradient_spike, watched(spikes=spikes))
    assert finding.severity is Severity.NOTE
    assert finding.message.startswith("at step 9 and 1 other step")


@pytest.mark.parametrize(
    ("inputs", "updates", "severity"),
    [((3,), 2000, Severity.NOTE), ((3, 4), 2000, Severity.WARNING), ((3, 4), 200, Severity.NOTE)],
)
def test_inputs_that_begin_together_are_a_shift(inputs: tuple[int, ...], updates: int, severity: Severity) -> None:
    checkpoint = watched(awakened_inputs={"body": inputs}, **{"step_body.weight": updates})
    [finding] = findings_of(live.inputs_switched_on, checkpoint)
    assert finding.severity is severity
    assert finding.evidence["inputs"] == list(inputs)


@pytest.mark.parametrize(("steps", "count"), [(99, 0), (100, 1)])
def test_a_part_without_gradient_counts_from_a_hundred_steps_on(steps: int, count: int) -> None:
    found = findings_of(live.stopped_part, watched(stopped={"head.weight": steps, "head.bias": steps}))
    assert [(each.layer, each.evidence["cause"]) for each in found] == [("head", "no path")] * count


@pytest.mark.parametrize(("silent", "count"), [(0, 1), (5, 0)])
def test_a_part_whose_gradients_are_zeros_is_named_unless_all_are(silent: int, count: int) -> None:
    found = findings_of(live.stopped_part, watched(zeroed={"head.weight": 100}, silent_steps=silent))
    assert [each.evidence["cause"] for each in found] == ["no path"] * count
    assert all("head.weight had gradients and has had zeros alone for 100 steps" in each.message for each in found)


def test_a_frozen_part_is_named_at_once() -> None:
    [finding] = findings_of(live.stopped_part, watched(frozen=frozenset({"head.bias"})))
    assert finding.tensor == "head.bias"
    assert finding.evidence["cause"] == "requires_grad"


def test_a_part_of_every_gradient_is_no_loss_that_is_nan() -> None:
    [finding] = findings_of(live.nonfinite_gradient, watched(**event(EVERYWHERE, parameters=5)))
    assert finding.evidence["kind"] == "operation"
    almost = {**EVERYWHERE, "head.bias": Spoiled(7, 0, 8)}
    [finding] = findings_of(live.nonfinite_gradient, watched(**event(almost)))
    assert finding.evidence["kind"] == "operation"


@pytest.mark.parametrize(
    ("steps", "words"),
    [(1, "were NaN"), (2, "were NaN; so it was at 1 later step"), (3, "were NaN; so it was at 2 later steps")],
)
def test_how_often_a_gradient_was_not_finite(steps: int, words: str) -> None:
    seen = {**event({"body.bias": Spoiled(1, 0, 8)}), "nonfinite_steps": steps}
    [finding] = findings_of(live.nonfinite_gradient, watched(**seen))
    assert finding.message.endswith(f"in the gradient of body.bias {words}")


def test_one_spike_is_told_without_others() -> None:
    [finding] = findings_of(live.gradient_spike, watched(spikes=(GradientSpike(5, 100.0, 1.0, 7.0),)))
    assert finding.message.startswith("at step 5 the gradients")


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        (("body.weight",), "body.weight had gradients and has had none"),
        (("body.weight", "body.bias"), "body.weight, body.bias had gradients and have had none"),
        (("body.weight", "body.bias", "head.weight"), "body.weight, body.bias, head.weight had gradients"),
        (
            ("body.weight", "body.bias", "head.weight", "head.bias"),
            "body.weight, body.bias, head.weight and 1 other tensor had gradients",
        ),
    ],
)
def test_the_tensors_of_a_part_are_named(stopped: tuple[str, ...], words: str) -> None:
    [finding] = findings_of(live.stopped_part, watched(stopped=dict.fromkeys(stopped, 150)))
    assert finding.message.startswith(words)
    assert (finding.tensor or finding.layer) == ("body.weight" if len(stopped) == 1 else "body")
    assert finding.evidence["steps"] == 150


def test_a_part_of_two_layers_is_that_of_the_first() -> None:
    [finding] = findings_of(live.stopped_part, watched(stopped={"body.bias": 150, "head.weight": 150}))
    assert finding.layer == "body"
    [finding] = findings_of(live.stopped_part, watched(frozen=frozenset({"head.bias"})))
    assert finding.evidence["steps"] == 0


def test_inputs_of_a_layer_that_is_not_known_are_a_note() -> None:
    checkpoint = watched(awakened_inputs={"gone": (3, 4)})
    for updates in (0, 1):
        [finding] = findings_of(live.inputs_switched_on, checkpoint, least_updates=updates)
        assert finding.severity is (Severity.NOTE if updates else Severity.WARNING)
    uncounted = replace(watched(awakened_inputs={"body": (3, 4)}), optimizers=())
    assert findings_of(live.inputs_switched_on, uncounted, least_updates=1)[0].severity is Severity.NOTE
