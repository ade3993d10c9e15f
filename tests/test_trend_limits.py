"""The limits of the rules about series, each from both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, nan
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.trends import gradients, movement, norms, settings, zeros
from checkpoint_doctor.checkpoint.series import ColumnRecord
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_series, findings_of
from tests.test_trend_rules import BIAS, ERROR, MOVING, NOTE, OTHER, WARNING, WEIGHT, Figures, vanishing, weight

THIRD = "net.4.weight"


def said(rule: Rule, tensors: Mapping[str, Figures], **more: Any) -> dict[str | None, tuple[Severity, int]]:
    """Tensor to the severity and the onset's step of the finding about it."""
    found = findings_of(rule, build_series(tensors, **more))
    return {each.tensor: (each.severity, each.evidence["onset_step"]) for each in found}


def say(rule: Rule, tensors: Mapping[str, Figures], **more: Any) -> Finding:
    [finding] = findings_of(rule, build_series(tensors, **more))
    return finding


# Zeros


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({BIAS: (0, 0, 0.1)}, {BIAS: (WARNING, 300)}),
        ({BIAS: (0, 0, 0.099)}, {}),
        ({BIAS: (0, 0, 0.3)}, {BIAS: (ERROR, 300)}),
        ({BIAS: (0, 0, 0.299)}, {BIAS: (WARNING, 300)}),
        ({BIAS: (0, nan, 0.5)}, {}),
        ({BIAS: (0, 0.2, 0.05, 0.15)}, {}),  # four are enough to see that they come and go
        # Half of the matrices are pruned together.
        ({WEIGHT: (0, 0.5), OTHER: (0, 0)}, {WEIGHT: (WARNING, 200)}),
        ({WEIGHT: (0, 0.5), OTHER: (0, 0), THIRD: (0, 0)}, {WEIGHT: (ERROR, 200)}),
        ({WEIGHT: (0, 0.5)}, {WEIGHT: (ERROR, 200)}),
        (
            {WEIGHT: (0, 0.5), OTHER: (0, 0.5), BIAS: (0, 0.5)},
            {WEIGHT: (WARNING, 200), OTHER: (WARNING, 200), BIAS: (ERROR, 200)},
        ),
    ],
)
def test_how_far_zeros_must_grow(tensors: Mapping[str, Sequence[float]], expected: dict) -> None:
    assert said(zeros.zeros_growing, {name: {"zero_fraction": each} for name, each in tensors.items()}) == expected


@pytest.mark.parametrize(
    ("share", "onset"),
    [
        ((0.2, 0.1), 200),  # ten points, and half of them
        ((0.18, 0.09), None),
        ((0.5, 0.26), None),
        ((0.5, 0.3, 0.2), 300),
        ((0.5, 0.15, 0.1), 300),
        ((0.5, nan, 0.1), None),
        ((0.5, 0.1, 0.2), None),
    ],
)
def test_how_far_zeros_must_heal(share: Sequence[float], onset: int | None) -> None:
    tensors = {BIAS: {"zero_fraction": share}}
    assert said(zeros.zeros_healing, tensors) == ({} if onset is None else {BIAS: (NOTE, onset)})
    if onset is not None:
        assert say(zeros.zeros_healing, tensors).evidence["before"] == share[0]


# Norms


def growing(growth: Sequence[float], change: Sequence[float] | float = 0.3, first: float = 4.0) -> Figures:
    """Figures of a weight whose norm grows by these logarithms."""
    changes = [change] * len(growth) if isinstance(change, float) else change
    return {"norm": [first, *(first * np.exp(np.cumsum(growth))).tolist()], "change": [nan, *changes]}


@pytest.mark.parametrize(
    ("figures", "onset"),
    [
        (growing([0, 0, 0, 0.25, 0.25, 0.25, 0.25], 0.34), 500),  # e^0.25 - 1 is 0.284, 84 % of it
        (growing([0, 0, 0, 0.25, 0.25, 0.25, 0.25], 0.36), None),  # 79 %
        (growing([0, 0, 0, 0.25, 0.25, 0.25, 0.25], [0, 0, 0, 0.3, 0.3, 0.3, 0.3]), 500),
        (growing([0, 0, 0, 0.25, 0.25, 0.25, 0.25], first=0.5), 500),
        (growing([0, 0, 0, 0, 0.031, 0.031, 0.031, 0.031], 0.03), 600),
        (growing([0, 0, 0, 0, 0.029, 0.029, 0.029, 0.029], 0.03), None),
        # It lasts for two intervals, and begins after two.
        (growing([0, 0, 0, 0, 0, 0, 0.3, 0.3]), 800),
        (growing([0, 0, 0, 0, 0, 0, 0, 0.3]), None),
        (growing([0, 0, 0.3, 0.3, 0.3, 0.3, 0.3]), 400),
        (growing([0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]), None),
        # It goes on to the end.
        (growing([0, 0, 0, 0.3, 0.3, 0.3, 0.19], 0.2), 500),
        (growing([0, 0, 0, 0.3, 0.3, 0.3, 0.17], 0.2), None),
        # Three times as fast as before.
        (growing([0.1, 0.1, 0.1, 0.31, 0.31, 0.31, 0.31], [1.0, 1.0, 1.0, 0.35, 0.35, 0.35, 0.35]), 500),
        (growing([0.1, 0.1, 0.1, 0.29, 0.29, 0.29, 0.29], [1.0, 1.0, 1.0, 0.35, 0.35, 0.35, 0.35]), None),
        ({"norm": [0, 0, 0, 4, 5, 6, 7, 8], "change": [nan] * 8}, None),
    ],
)
def test_when_a_norm_grows_steadily(figures: Figures, onset: int | None) -> None:
    assert said(norms.norm_explosion, {WEIGHT: figures}) == ({} if onset is None else {WEIGHT: (WARNING, onset)})


def test_how_much_a_norm_has_grown_since_the_onset() -> None:
    finding = say(norms.norm_explosion, {WEIGHT: growing([0, 0.1, 0, 0.25, 0.25, 0.25, 0.25])})
    assert finding.evidence["growth"] == pytest.approx(exp(1.0))


def test_the_norm_of_a_bias_is_not_judged() -> None:
    assert not said(norms.norm_explosion, {BIAS: growing([0, 0, 0, 0.25, 0.25, 0.25, 0.25])})


@pytest.mark.parametrize(
    ("values", "onset", "growth"),
    [
        ([1, 1, 100], 300, 100),  # times as large, and 50 per output of the four, as a root
        ([1.01, 1.01, 100], None, None),
        ([0.5, 0.5, 99.9], None, None),
        ([0.5, 0.5, 100], 300, 200),
        ([4, 40, 4000], 200, 1000),
        ([4, 39, 4000], 300, 1000),
        ([4, 4000], None, None),
        ([nan, 4, 4000], None, None),
        ([0, 4, 4000], None, None),
        ([4, 4, 4000, nan], None, None),
        ([0, 0, 0, 4, 4, 2000], 600, 500),
        ([4, 8, 80, 800, 8000, 60000], None, 10000),
    ],
)
def test_when_a_norm_explodes(values: Sequence[float], onset: int | None, growth: float | None) -> None:
    figures = {WEIGHT: {"norm": values, "change": [nan, *[9.0] * (len(values) - 1)]}}
    found = findings_of(norms.norm_explosion, build_series(figures, shapes={WEIGHT: (4, 16)}))
    assert [each.evidence["growth"] for each in found] == [growth] * (growth is not None)
    if onset is not None:
        assert found[0].evidence["onset_step"] == onset


# Frozen tensors


def frozen(changes: Sequence[float], **more: Any) -> dict[str | None, tuple[Severity, int]]:
    """What is said of a weight beside one that moves on."""
    others = weight([*MOVING, *MOVING][: len(changes)])
    return said(movement.frozen_tensor, {WEIGHT: {**weight(changes), **more}, OTHER: others})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([0.1, 0.1, 0, 0], (WARNING, 400)),
        ([0.1, 0, 0, 0], None),  # one move alone
        ([0.1, 0, 0.1, 0.1, 0, 0], None),  # it rested before
        ([0.1, 0.1, 0.03, 0, 0, 0], (WARNING, 400)),  # three tenths of the move before it: it stopped on the way
        ([0.1, 0.1, 0.032, 0, 0, 0], (WARNING, 500)),
        ([0.01, 0.1, 0.02, 0, 0, 0], (WARNING, 400)),
        ([0, 0], (NOTE, 100)),
        ([0], None),
    ],
)
def test_when_a_tensor_freezes(changes: Sequence[float], expected: tuple[Severity, int] | None) -> None:
    assert frozen(changes) == ({} if expected is None else {WEIGHT: expected})


def test_what_other_rules_say_or_nobody_knows_is_not_frozen() -> None:
    changes = [0.1, 0.1, 0.1, 0, 0, 0]
    assert frozen(changes, nonfinite=[0.0] * 7) == {WEIGHT: (WARNING, 500)}
    assert not frozen(changes, nonfinite=[1.0] * 7)
    assert not frozen(changes, zero_fraction=[1.0] * 7)
    assert not frozen(changes, still_fraction=[nan, nan, 0, 0, 1, 1, 1])


def test_a_series_in_which_nothing_ever_moved_is_passed_over() -> None:
    still = {WEIGHT: weight([0, 0, 0]), OTHER: weight([0, 0, 0])}
    assert not said(movement.frozen_tensor, still)
    one = say(movement.frozen_tensor, {WEIGHT: weight([0, 0, 0]), OTHER: weight(MOVING[:3])})
    assert one.evidence["whole_network"] is False


@pytest.mark.parametrize(
    ("changes", "rates", "severity"),
    [
        ([0.5, 0.4, 0.25, 0.025, 0, 0], None, NOTE),  # a twentieth of the largest, after a half of it
        ([0.5, 0.4, 0.25, 0.026, 0, 0], None, WARNING),
        ([0.5, 0.4, 0.26, 0.025, 0, 0], None, WARNING),
        ([0.5, 0.4, 0.5, 0.5, 0, 0], [1e-3, 1e-3, 1e-3, 1e-3, 3e-4, 0, 0], NOTE),  # three tenths of the largest rate
        ([0.5, 0.4, 0.5, 0.5, 0, 0], [1e-3, 1e-3, 1e-3, 1e-3, 3.2e-4, 0, 0], WARNING),
        ([0.5, 0.4, 0.25, 0.025, 0, 0], [1e-3] * 7, WARNING),
        ([0.5, 0.4, 0.5, 0.5, 0, 0], [0.0] * 7, WARNING),
    ],
)
def test_when_a_schedule_has_finished(
    changes: Sequence[float], rates: Sequence[float] | None, severity: Severity
) -> None:
    both = {WEIGHT: weight(changes), OTHER: weight(changes)}
    settings = [{"optimizer.lr": rate} for rate in rates or ()]
    assert {each for each, _ in said(movement.frozen_tensor, both, settings=settings).values()} == {severity}


# Jumps


def beside_two(figures: Figures, name: str = WEIGHT, **more: Any) -> dict[str | None, tuple[Severity, int]]:
    """What is said of a tensor that jumps beside two that move as before."""
    length = len(figures["change"]) - 1
    others = {OTHER: weight([*MOVING, *MOVING][:length]), THIRD: weight([*MOVING, *MOVING][:length])}
    return said(movement.rewritten_tensor, {name: figures, **others}, **more)


@pytest.mark.parametrize(
    ("changes", "speaks"),
    [
        ([0.0625, 0.0625, 0.0625, 0.375, 0.3], True),  # six times as far
        ([0.0625, 0.0625, 0.0625, 0.37, 0.3], False),
        ([0.03125, 0.03125, 0.03125, 0.25, 0.2], True),  # a quarter of the norm
        ([0.03125, 0.03125, 0.03125, 0.24, 0.2], False),
    ],
)
def test_how_far_a_jump_must_be(changes: Sequence[float], speaks: bool) -> None:
    both = {WEIGHT: weight(changes), OTHER: weight(changes)}
    assert set(said(movement.update_norm_doubling, both)) == ({WEIGHT, OTHER} if speaks else set())
    assert bool(beside_two(weight(changes))) is speaks


@pytest.mark.parametrize(
    ("changes", "speaks"),
    [
        ([0.2, 0.2, 0.2, 0.5, 0.1], True),  # half of the norm, and 2.5 times as far
        ([0.19, 0.19, 0.19, 0.49, 0.1], False),
        ([0.21, 0.21, 0.21, 0.52, 0.1], False),
        ([0.05, 0.6, 0.05, 0.05, 0.05], False),  # one move before says too little
        ([0, 0.05, 0.6, 0.05, 0.05], False),
    ],
)
def test_when_a_matrix_is_another_one(changes: Sequence[float], speaks: bool) -> None:
    assert bool(beside_two(weight(changes))) is speaks


@pytest.mark.parametrize(
    ("norm", "changes", "speaks"),
    [
        ([8, 8, 8, 8, 4, 4], [0.04, 0.04, 0.04, 0.3, 0.04], True),
        ([8, 8, 8, 8, 4, 4], [0.04, 0.04, 0.04, 0.24, 0.04], False),
        ([4, 4, 4, 4, 8, 8], [0.05, 0.05, 0.05, 0.4, 0.04], False),
        ([4, 4, 16, 4, 4, 4], [0.04, 0.04, 0.01, 0.3, 0.04], True),
        ([4, 4, 4, 4, 4, 16], [0.04, 0.04, 0.04, 0.3, 0.04], True),
    ],
)
def test_a_jump_is_measured_by_the_larger_norm_around_it(
    norm: Sequence[float], changes: Sequence[float], speaks: bool
) -> None:
    assert bool(beside_two(weight(changes, norm=norm))) is speaks


@pytest.mark.parametrize(
    ("name", "shape", "norm", "change", "speaks"),
    [
        ("net.9.bias", (4,), 0.5, 0.31, True),  # 0.3 over √16, times √4
        ("net.9.bias", (4,), 0.5, 0.29, False),
        ("net.9.bias", (3,), 0.5, 0.31, False),
        ("norm.weight", (8,), 2.0, 0.43, True),  # 0.3 times √8
        ("norm.weight", (8,), 2.0, 0.42, False),
    ],
)
def test_how_far_a_vector_must_move(
    name: str, shape: tuple[int, ...], norm: float, change: float, speaks: bool
) -> None:
    figures = weight([0.02, 0.02, 0.02, change, 0.02], norm=norm)
    tensors = {
        name: figures,
        "net.9.weight": weight(MOVING[:5]),
        OTHER: weight(MOVING[:5]),
    }
    shapes = {name: shape, "net.9.weight": (4, 16)}
    assert set(said(movement.rewritten_tensor, tensors, shapes=shapes)) == ({name} if speaks else set())


def jump_at(position: int) -> Figures:
    return weight([0.8 if each == position else 0.05 for each in range(1, 8)])


@pytest.mark.parametrize(
    ("tensors", "in_common"),
    [
        ({WEIGHT: jump_at(4), OTHER: jump_at(5), THIRD: weight(MOVING)}, True),
        ({WEIGHT: jump_at(4), OTHER: jump_at(6), THIRD: weight(MOVING)}, False),
        ({WEIGHT: jump_at(4), OTHER: weight(MOVING)}, False),
        (
            {WEIGHT: jump_at(4), "net.2.bias": jump_at(4), OTHER: weight(MOVING), THIRD: weight(MOVING)},
            False,
        ),
    ],
)
def test_when_most_layers_jump(tensors: Mapping[str, Figures], in_common: bool) -> None:
    assert bool(said(movement.update_norm_doubling, tensors)) is in_common
    assert bool(said(movement.rewritten_tensor, tensors)) is not in_common


@pytest.mark.parametrize(("first", "change", "speaks"), [(4.0, 1.1, False), (4.0, 1.15, True), (0.5, 1.1, False)])
def test_growth_along_the_weights_is_no_jump(first: float, change: float, speaks: bool) -> None:
    norm = [first * each for each in (1, 1, 1, 1, 2, 4)]
    assert bool(beside_two(weight([0.05, 0.05, 0.05, change, change], norm=norm))) is speaks


def test_a_matrix_that_became_zero_is_not_rewritten() -> None:
    figures = {**weight([0.05, 0.05, 0.05, 1.0, 0.05]), "zero_fraction": [0, 0, 0, 0, 1.0, 1.0]}
    assert not beside_two(figures)


# Gradients


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ([0, 0, 0.25, 0.25, 0.25, 0.25, 0.25], (WARNING, 300)),
        ([0, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25], (NOTE, 200)),
        ([0, 0, 0, 0, 0.2, 0.2, 0.2, 0.2], (WARNING, 500)),  # at once
        ([0, 0, 0, 0, 0.19, 0.19, 0.19, 0.19], None),
        ([0, 0, 0, 0, 0.19, 0.21, 0.21, 0.21, 0.21], (NOTE, 500)),
        ([0.02, 0.04, 0.14, 0.21, 0.28, 0.35, 0.42, 0.5], (WARNING, 300)),  # half of the layer
        ([0.02, 0.04, 0.14, 0.21, 0.28, 0.35, 0.42, 0.49], (NOTE, 200)),
        ([0, 0, 0, 0, nan, 0.25, 0.25, 0.25, 0.25], None),
    ],
)
def test_how_many_units_fall_asleep(share: Sequence[float], expected: tuple[Severity, int] | None) -> None:
    found = said(gradients.dormant_units_growing, {WEIGHT: {"dormant_fraction": share}})
    assert found == ({} if expected is None else {WEIGHT: expected})


@pytest.mark.parametrize(
    ("figures", "severity"),
    [
        (vanishing(0, 0, 0, 0, 10, 10, 10, 10), WARNING),
        (vanishing(0, 0, 0, 0, 9.9, 9.9, 9.9, 9.9), None),
        (vanishing(0, 0, 0, 0, 30, 30, 30, 30), ERROR),
        (vanishing(0, 0, 0, 0, 28, 28, 28, 28), WARNING),
        # Beyond dormant units: a twentieth, or all of it.
        (vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0, 0, 0, 0, 5, 5, 5, 5]), WARNING),
        (vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0, 0, 0, 0, 4.9, 4.9, 4.9, 4.9]), None),
        (vanishing(0, 0, 0, 0, 99, 99, 99, 99, scattered=[0] * 8), ERROR),
        (vanishing(0, 0, 0, 0, 98.9, 98.9, 98.9, 98.9, scattered=[0] * 8), None),
        # Half of the rise proves that it is no matter of units.
        (vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0, 0, 0, 0, 25, 25, 25, 25]), ERROR),
        (vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0, 0, 0, 0, 24, 24, 24, 24]), WARNING),
    ],
)
def test_how_many_gradients_vanish(figures: Figures, severity: Severity | None) -> None:
    found = said(gradients.gradient_vanishing, {WEIGHT: figures})
    assert found == ({} if severity is None else {WEIGHT: (severity, 500)})


def test_the_shares_of_all_checkpoints_are_evidence() -> None:
    finding = say(gradients.gradient_vanishing, {WEIGHT: vanishing(0, 0, 0, 0, 12.3456, 12.3456, 12.3456, 12.3456)})
    assert finding.evidence["fractions"][-1] == 0.1235


def record(*columns: int) -> ColumnRecord:
    return ColumnRecord(np.array(columns, dtype=np.int64), np.array(columns, dtype=np.int64))


@pytest.mark.parametrize(
    ("columns", "reads_layer", "severity", "words"),
    [
        ((record(), record(5)), False, ERROR, ", with input column 5 as a whole"),
        ((record(), record(5)), True, WARNING, ", with input column 5 as a whole"),
        ((record(1), record(1, 2, 3, 4)), False, ERROR, ", with the input columns 2 to 4 of 8 as a whole"),
        ((record(), record(2, 3, 6)), False, ERROR, ", with 3 input columns from 2 to 6 of 8 as a whole"),
        ((record(), record(2, 3)), False, ERROR, ", with the input columns 2 to 3 of 8 as a whole"),
        ((record(), record()), False, WARNING, "beginning at step 500"),
        ((record(), None), False, WARNING, "beginning at step 500"),
        ((None, record(5)), False, WARNING, "beginning at step 500"),
    ],
)
def test_which_inputs_carry_nothing_any_more(
    columns: tuple[ColumnRecord | None, ColumnRecord | None], reads_layer: bool, severity: Severity, words: str
) -> None:
    figures = vanishing(0, 0, 0, 0, 50, 50, 50, 50, scattered=[0, 0, 0, 0, 10, 10, 10, 10])
    series = build_series({WEIGHT: figures})
    [tensor] = series.tensors
    changed = replace(series, tensors=(replace(tensor, columns=columns, reads_layer=reads_layer),))
    [finding] = findings_of(gradients.gradient_vanishing, changed)
    assert finding.severity is severity
    assert finding.message.endswith(words)


@pytest.mark.parametrize(
    ("figures", "onset"),
    [
        ({"untouched_columns": [0.05, 0.05, 0.0]}, 300),  # a twentieth of the inputs, after two checkpoints
        ({"untouched_columns": [0.049, 0.049, 0.0]}, None),
        ({"untouched_columns": [0.25, 0.0, 0.0]}, None),
        ({"untouched_columns": [0.25, 0.25, 0.2]}, None),
        ({"untouched_columns": [1.0, 1.0, 0.0]}, None),
        ({"still_columns": [nan, 0.25, 0.25, 0.0]}, 400),
        ({"still_columns": [nan, nan, nan, nan]}, None),
    ],
)
def test_when_inputs_wake_up(figures: Figures, onset: int | None) -> None:
    found = said(gradients.waking_inputs, {WEIGHT: figures})
    assert found == ({} if onset is None else {WEIGHT: (WARNING, onset)})
    assert not said(gradients.waking_inputs, {BIAS: figures})


@pytest.mark.parametrize(
    ("columns", "woken"),
    [((record(1, 2), record()), [1, 2]), ((record(1, 2), None), []), ((None, record()), []), ((None, None), [])],
)
def test_which_inputs_wake_up(columns: tuple[ColumnRecord | None, ColumnRecord | None], woken: list[int]) -> None:
    series = build_series({WEIGHT: {"untouched_columns": [0.25, 0.25, 0.25, 0.0]}})
    [tensor] = series.tensors
    changed = replace(series, tensors=(replace(tensor, columns=columns),))
    [finding] = findings_of(gradients.waking_inputs, changed)
    assert finding.evidence["columns"] == woken
    assert finding.evidence["inputs"] == 2


# Settings


@pytest.mark.parametrize(
    ("values", "onset"),
    [
        ([5, 5, 4, 3, 2], 300),
        ([2, 3, 4, 5], 200),
        ([3, 2, 3, 4, 5], 300),
        ([5, 5, 4, 3], None),
        (["a", "b", "c", "d", "e"], None),
        ([False, True, 2, 3, 4], None),
        ([2, 3, 4, None], None),
    ],
)
def test_when_a_setting_drifts(values: Sequence[Any], onset: int | None) -> None:
    found = said(
        settings.hyperparameter_drift,
        {WEIGHT: {"norm": [1.0] * len(values)}},
        settings=[{"batch_size": each} for each in values],
    )
    assert found == ({} if onset is None else {None: (WARNING, onset)})
