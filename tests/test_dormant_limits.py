"""Units without gradient and inputs without signal: what is advised, and where less is certain."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoint_doctor.builtin.analyzers.layers.dead_inputs import dead_inputs
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import findings_of
from tests.test_thresholds import draw, stack, trained, with_inputs, with_silent

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


@pytest.mark.parametrize(
    ("checkpoint", "severity", "advice"),
    [
        (with_inputs(9.5, 5), NOTE, "The inputs do not look large (RMS 9.5), so the weights or biases are: lower"),
        (
            with_inputs(10.5, 5),
            NOTE,
            "Normalise the inputs (VecNormalize, or the mean and deviation of the data): they have an RMS of 10, which "
            "saturates the activation.",
        ),
        (with_inputs(10.5, 20), ERROR, "Normalise the inputs (VecNormalize, or the mean and deviation of the data)"),
        (
            with_silent(8),
            NOTE,
            "Normalise the inputs (VecNormalize, a layer norm) where they are large: the activation is saturated.",
        ),
    ],
)
def test_large_inputs_are_told_from_large_weights(checkpoint: Checkpoint, severity: Severity, advice: str) -> None:
    (finding,) = findings_of(dormant_units, checkpoint)
    assert finding.severity is severity
    assert finding.advice.startswith(advice)


def alone(*, never: bool, bias: bool = True) -> Checkpoint:
    """A layer whose reader is not known; 19 of its 20 units stopped, or never began, to receive gradients."""
    weights = {"a.weight": draw(20, 6), "b.weight": draw(4, 7), "b.bias": draw(4)}
    weights |= {"a.bias": draw(20)} if bias else {}
    ratios = np.ones(20)
    ratios[:19] = 1e-6
    squares = np.ones(20)
    squares[:19] = 0 if never else 1
    second = {"a.weight": np.repeat(squares[:, np.newaxis], 6, axis=1), "a.bias": squares}
    return trained(weights, {"a.weight": ratios, "a.bias": ratios}, second=second)


@pytest.mark.parametrize(
    ("checkpoint", "severity"),
    [
        (alone(never=False), WARNING),
        (alone(never=True), NOTE),  # a mask may leave outputs unread
        (alone(never=False, bias=False), NOTE),  # it may be a table
    ],
)
def test_units_that_nothing_may_read_are_a_note(checkpoint: Checkpoint, severity: Severity) -> None:
    (finding,) = findings_of(dormant_units, checkpoint)
    assert (finding.severity, finding.advice) == (severity, "")


def without_signal(*columns: int) -> Checkpoint:
    squares = np.ones((20, 6))
    squares[:, list(columns)] = 0
    weights = stack(draw(20, 6), draw(4, 20)) | {"net.0.bias": draw(20)}
    return trained(weights, second={"net.0.weight": squares})


UNTRAINED = "were always zero in 1,000 updates: their weights never received a gradient"


@pytest.mark.parametrize(
    ("columns", "severity", "message"),
    [
        ((), None, ""),
        ((1,), NOTE, f"1 of 6 inputs (1) {UNTRAINED}"),
        ((0, 1, 3, 5), NOTE, f"4 of 6 inputs (0–1, 3, 5) {UNTRAINED}"),
        ((0, 1, 2, 3, 4), NOTE, f"5 of 6 inputs (0–4) {UNTRAINED}"),
        (
            range(6),
            WARNING,
            "all 6 inputs were always zero in 1,000 updates: only the layer's bias received gradients",
        ),
    ],
)
def test_inputs_without_signal(columns: tuple[int, ...], severity: Severity | None, message: str) -> None:
    found = findings_of(dead_inputs, without_signal(*columns))
    assert [(each.severity, each.message) for each in found] == ([(severity, message)] if severity else [])


def behind(inactive: int, silent: int) -> Checkpoint:
    """A layer of 12 inputs behind one of six units, so many of which have stopped; so many inputs have no signal."""
    weights = {"one.weight": draw(6, 5), "one.bias": draw(6), "two.weight": draw(4, 12), "two.bias": draw(4)}
    ratios, squares = np.ones(6), np.ones((4, 12))
    ratios[:inactive] = 1e-6
    squares[:, :silent] = 0
    return trained(weights, {"one.weight": ratios, "one.bias": ratios}, second={"two.weight": squares})


@pytest.mark.parametrize(("inactive", "silent", "speaks"), [(0, 2, True), (1, 2, False), (1, 3, True), (2, 4, False)])
def test_units_of_another_layer_that_stopped_explain_inputs_without_signal(
    inactive: int, silent: int, speaks: bool
) -> None:
    found = findings_of(dead_inputs, behind(inactive, silent))
    assert len(found) == speaks
    assert all(each.advice.startswith("Look at what these inputs are") for each in found)


@pytest.mark.parametrize(("value", "severity"), [(0.0, NOTE), (0.1, WARNING)])
def test_a_condition_that_is_not_in_use_reads_zeros(value: float, severity: Severity) -> None:
    weights = {"film.weight": np.full((8, 5), value), "film.bias": draw(8), "body.weight": draw(4, 3)}
    weights |= {"body.bias": draw(4), "head.weight": draw(2, 4), "head.bias": draw(2)}
    found = findings_of(dead_inputs, trained(weights, second={"film.weight": np.zeros((8, 5))}))
    assert [(each.layer, each.severity) for each in found] == [("film", severity)]
