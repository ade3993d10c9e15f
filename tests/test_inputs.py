"""INP001: where inputs that were not scaled are named, and where nothing is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Finding, Severity
from checkpoint_doctor.builtin.analyzers.layers.inputs import input_scale
from checkpoint_doctor.testing import build_checkpoint, findings_of

UNITS = 20
RANDOM = np.random.default_rng(1)
NOTE, WARNING = Severity.NOTE, Severity.WARNING


def layer(name: str, units: int, sizes: NDArray, *, dormant: int = 0, constant: bool = False) -> dict[str, dict]:
    """A layer's tensors with their state: its inputs have these sizes, and its first units have fallen silent."""
    bias = np.exp(RANDOM.normal(size=units)) * 1e-6
    spread = np.ones((units, len(sizes)))
    if not constant:
        spread = RANDOM.uniform(0.8, 1.25, size=spread.shape)
        spread *= bias.sum() / (bias @ spread)
    squares = {"weight": bias[:, None] * np.square(sizes) * spread, "bias": bias}
    parts = {}
    for role, second in squares.items():
        first = np.sqrt(second) * 0.3
        first[:dormant] *= 1e-8
        parts[f"{name}.{role}"] = {"step": 1000, "exp_avg": first, "exp_avg_sq": second}
    return parts


def checkpoint(*layers: Mapping[str, dict], **fields: Any) -> Checkpoint:
    """A checkpoint of these layers."""
    state = {name: each for part in layers for name, each in part.items()}
    tensors = {
        name: RANDOM.normal(0, 0.2, np.shape(each["exp_avg_sq"])).astype(np.float32) for name, each in state.items()
    }
    return build_checkpoint(tensors, optimizer=state, updates=1000, **fields)


def fed(*sizes: float, dormant: int = 0, constant: bool = False, **fields: Any) -> Checkpoint:
    """A network of two layers whose inputs have these sizes."""
    first = layer("net.0", UNITS, np.array(sizes), dormant=dormant, constant=constant)
    return checkpoint(first, layer("net.2", 3, np.full(UNITS, 0.7)), **fields)


@pytest.mark.parametrize(
    ("subject", "severity", "words"),
    [
        (fed(1.0, 0.2, 9.0), None, ""),
        (fed(0.001, 0.0, 0.3), None, ""),
        (fed(0.5, 12.0, 4.0, 0.2), NOTE, "feature 1 has an RMS of 12; the other 3 have 0.2 to 4"),
        (fed(0.2, 4.0, 1.0, 64_000.0), WARNING, "feature 3 has an RMS of 64,000; the other 3 have 0.2 to 4"),
        (fed(900.0, 90.0, 1.0, 0.0), NOTE, "feature 0 has an RMS of 900, feature 1 has an RMS of 90"),
        (fed(50.0, 60.0), NOTE, "inputs have an RMS of 55 (50 to 60 each) and should be near 1"),
        (fed(500.0, 1.0, dormant=9), NOTE, "45% of the units of net.0 are dormant"),
        (fed(500.0, 1.0, dormant=10), WARNING, "50% of the units of net.0 are dormant"),
        (fed(90.0, 1.0, dormant=20), NOTE, ""),
        (fed(*[1000.0] * 6, 1.0), WARNING, "6 features have an RMS of 1,000, the largest is feature"),
        (fed(0.7, 0.3, 0.0, constant=True), WARNING, "all 3 inputs were one constant each"),
        (fed(0.0, 0.0, constant=True), None, ""),
    ],
)  # fmt: skip
def test_the_scale_of_inputs(subject: Checkpoint, severity: Severity | None, words: str):
    found = findings_of(input_scale, subject)
    assert [each.severity for each in found] == [severity] * (severity is not None)
    assert all(words in each.message for each in found)


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


def test_the_evidence_lists_the_large_features_and_everyone_who_reads_them():
    critics = [layer(f"critic.qf{number}.0", UNITS, np.array([1.0, 300.0, 2000.0, 0.5])) for number in (0, 1)]
    heads = [layer(f"critic.qf{number}.2", 1, np.full(UNITS, 0.7)) for number in (0, 1)]
    actor = layer("actor.mu.0", UNITS, np.array([1.0, 300.0, 2000.0]))
    for each in actor.values():
        each["exp_avg"] = each["exp_avg_sq"] = np.zeros_like(each["exp_avg_sq"])  # saturated from the start
    subject = checkpoint(
        actor, layer("actor.mu.2", 1, np.full(UNITS, 0.7)), critics[0], heads[0], critics[1], heads[1], format="sb3"
    )
    finding = only(findings_of(input_scale, subject))
    assert finding.evidence["features"] == [1, 2]
    assert finding.evidence["layers"] == ["actor.mu.0", "critic.qf0.0", "critic.qf1.0"]
    assert (finding.layer, finding.evidence["layer"]) == ("critic.qf0.0", "critic.qf0.0")
    assert finding.evidence["feature_rms"] == pytest.approx([300, 2000])
    assert "VecNormalize(env)" in finding.advice
    elsewhere = findings_of(input_scale, checkpoint(actor, critics[0], heads[0], format="torch"))
    assert only(elsewhere).evidence["layers"] == ["critic.qf0.0"]
    assert "Standardise" in only(elsewhere).advice


def test_inner_layers_and_heads_are_not_asked():
    large = np.full(UNITS, 3000.0)
    assert findings_of(input_scale, checkpoint(layer("net.0", UNITS, np.ones(4)), layer("net.2", 8, large))) == []
    assert findings_of(input_scale, checkpoint(layer("body", UNITS, np.ones(4)), layer("head", 2, large))) == []
    assert (
        findings_of(input_scale, checkpoint(layer("a.inner", UNITS, np.ones(4)), layer("a.mixer", 6, large[:10]))) != []
    )


def test_what_an_embedding_or_joined_features_feed_is_no_input():
    large = np.full(8, 3000.0)
    table = {"embedding.weight": {"step": 9, "exp_avg": np.ones((40, 8)), "exp_avg_sq": np.ones((40, 8))}}
    head = layer("net.2", 3, np.full(UNITS, 0.7))
    assert findings_of(input_scale, checkpoint(table, layer("net.0", UNITS, large), head)) == []
    branches = layer("left", 5, np.ones(4)), layer("right", 3, np.ones(4))
    assert (
        findings_of(
            input_scale, checkpoint(*branches, layer("mixed.0", UNITS, large), layer("mixed.2", 3, np.ones(UNITS)))
        )
        == []
    )


def test_a_target_network_is_not_asked():
    target = layer("critic_target.0", UNITS, np.full(4, 3000.0)), layer("critic_target.2", 2, np.ones(UNITS))
    online = layer("critic.0", UNITS, np.ones(4)), layer("critic.2", 2, np.ones(UNITS))
    assert findings_of(input_scale, checkpoint(*online, *target)) == []


def test_pixels_are_one_size_for_all_channels():
    bias = np.exp(RANDOM.normal(size=8)) * 1e-6
    spread = np.linspace(0.9, 1.1, 8)
    weight = (bias * spread * bias.sum() / (bias @ spread))[:, None, None, None] * np.full((8, 3, 3, 3), 140.0**2)
    state = {"weight": weight, "bias": bias}
    conv = {f"net.0.{role}": {"step": 900, "exp_avg": 0.3 * np.sqrt(v), "exp_avg_sq": v} for role, v in state.items()}
    finding = only(findings_of(input_scale, checkpoint(conv, layer("net.3", 4, np.ones(32)))))
    assert finding.message == "inputs have an RMS of 140 and should be near 1"
    assert finding.severity is NOTE
    assert "Divide pixels by 255" in finding.advice


def test_one_huge_gradient_says_nothing_of_the_inputs():
    subject = fed(1.0, 5000.0)
    assert findings_of(input_scale, subject) != []
    state = {}
    for moments in subject.optimizers[0].parameters:
        assert moments.first is not None
        assert moments.second is not None
        noise = RANDOM.normal(size=moments.first.shape)
        state[moments.tensor or ""] = {
            "step": 1000, "exp_avg": 1e-3 * noise, "exp_avg_sq": moments.second.array * 1e14
        }  # fmt: skip
    tensors = {tensor.name: tensor.array for tensor in subject.tensors}
    assert findings_of(input_scale, build_checkpoint(tensors, optimizer=state, updates=1000)) == []


def behind_silence(read: NDArray, *, gradient: float = 0.0) -> Checkpoint:
    """A first layer with hardly a gradient, and a second one whose inputs have these sizes."""
    silent = {
        name: {"step": 1000, "exp_avg": np.full(shape, gradient), "exp_avg_sq": np.full(shape, gradient)}
        for name, shape in (("net.0.weight", (UNITS, 4)), ("net.0.bias", (UNITS,)))
    }
    second = layer("net.2", 8, read)
    if not np.ptp(read):
        second["net.2.weight"]["exp_avg_sq"] = np.outer(second["net.2.bias"]["exp_avg_sq"], np.square(read))
    return checkpoint(silent, second, layer("net.4", 3, np.full(8, 0.7)))


def test_inputs_that_saturate_every_unit_of_the_first_layer_are_an_error():
    finding = only(findings_of(input_scale, behind_silence(np.ones(UNITS))))
    assert (finding.severity, finding.evidence["cause"]) == (Severity.ERROR, "saturating")
    assert finding.layer == "net.0"
    assert 9 / 0.8 / 2 / 2 < finding.evidence["input_rms"] < 100
    assert "saturated" in finding.message


@pytest.mark.parametrize(
    "subject",
    [
        behind_silence(np.full(UNITS, 0.9)),
        behind_silence(np.append(np.ones(UNITS - 1), 0.5)),
        behind_silence(np.ones(UNITS), gradient=1e-9),
    ],
)
def test_a_first_layer_whose_readers_read_something_else_is_not_saturated(subject: Checkpoint):
    assert [each for each in findings_of(input_scale, subject) if each.evidence["cause"] == "saturating"] == []
