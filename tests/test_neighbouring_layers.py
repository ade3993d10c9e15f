"""What layers read and give, and which stand beside each other: the sizes from which it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Kind, Layer, Severity
from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import updates_without_gradient
from checkpoint_doctor.builtin.analyzers._evidence.initial_copies import _count_outside
from checkpoint_doctor.builtin.analyzers._evidence.model_inputs import find_first_layers
from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.builtin.analyzers._evidence.tables import is_table
from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._evidence.travel import find_travelled_farther
from checkpoint_doctor.builtin.analyzers._evidence.widths import widths_given
from checkpoint_doctor.builtin.analyzers._zeros.by_design import is_padded_head
from checkpoint_doctor.builtin.analyzers._zeros.waiting import (
    _are_listed_heads,
    _are_siblings,
    _is_live,
    _is_only_one_of_single_output,
    _is_second_factor,
)
from checkpoint_doctor.builtin.analyzers.layers.copies import duplicate_units
from checkpoint_doctor.builtin.analyzers.optimizer._dispensable_parts import TrainedNetwork
from checkpoint_doctor.builtin.analyzers.optimizer._unused_parts import _are_alternatives, all_candidates_were_trained
from checkpoint_doctor.builtin.analyzers.values.nonfinite import nonfinite_values
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING = Severity.NOTE, Severity.WARNING
Weights = dict[str, NDArray]


def draw(*shape: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def layers(**shapes: tuple[int, ...]) -> dict[str, Layer]:
    """Layers with a weight of these shapes, by name; ``__`` stands for a dot."""
    named = {name.replace("__", "."): shape for name, shape in shapes.items()}
    checkpoint = build_checkpoint({f"{name}.weight": draw(*shape) for name, shape in named.items()})
    return {name: checkpoint.layer_by_name[name] for name in named}


def test_a_transposed_weight_has_its_inputs_first() -> None:
    (layer,) = layers(net=(6, 4)).values()
    assert (count_inputs(layer), count_units(layer)) == (4, 6)
    turned = replace(layer, transposed=True)
    assert (count_inputs(turned), count_units(turned)) == (6, 4)
    (vector,) = layers(net=(6,)).values()
    assert (count_inputs(vector), count_units(vector), widths_given(vector)) == (0, 0, set())


def recurrent(hidden: int, projected: int = 0) -> Weights:
    given = projected or hidden
    weights = {"lstm.weight_ih_l0": draw(4 * hidden, 5), "lstm.weight_hh_l0": draw(4 * hidden, given)}
    return weights | ({"lstm.weight_hr_l0": draw(projected, hidden)} if projected else {})


@pytest.mark.parametrize(
    ("before", "inputs", "is_first"),
    [
        (recurrent(8), 8, False),
        (recurrent(8), 7, True),
        (recurrent(8), 3, True),
        (recurrent(8, projected=3), 3, False),
        (recurrent(8, projected=3), 2, True),
        ({"embedding.weight": draw(50, 6)}, 6, False),
        ({"embedding.weight": draw(50, 6)}, 5, True),
    ],
)
def test_what_a_layer_may_read_is_not_the_models_inputs(before: Weights, inputs: int, is_first: bool) -> None:
    after = {"other.0.weight": draw(6, inputs), "other.2.weight": draw(2, 6)}
    checkpoint = build_checkpoint(before | after)
    assert ("other.0" in [layer.name for layer in find_first_layers(checkpoint)]) is is_first


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"m__value_1": (4, 6)}, {"m__value_2": (4, 6)}, True),
        ({"m__value_1": (4, 6)}, {"m__value_2": (4, 5)}, False),
        ({"m__value_1": (4, 6)}, {"n__value_2": (4, 6)}, False),
        ({"m__q_proj": (4, 6)}, {"m__k_proj": (4, 6)}, False),
        ({"value_1": (4, 6)}, {"value_2": (4, 6)}, True),
        ({"value_1": (4, 4)}, {"value_2": (4, 4)}, False),
        ({"value_1": (4, 6)}, {"other": (4, 6)}, False),
    ],
)
def test_layers_of_equal_shapes_in_one_module_are_siblings(one: Any, other: Any, expected: bool) -> None:
    first, second = layers(**one, **other).values()
    assert _are_siblings(first, second) is expected
    assert _are_siblings(replace(first, tensors={}), replace(second, tensors={})) is False


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"seg__0": (4, 6)}, {"seg__1": (4, 5)}, True),
        ({"seg__0": (4, 6)}, {"seg__1": (3, 5)}, False),
        ({"seg__a": (4, 6)}, {"seg__b": (4, 5)}, False),
        ({"seg__0": (4, 6)}, {"other__1": (4, 5)}, False),
    ],
)
def test_unlinked_members_of_a_list_with_as_many_outputs_are_heads(one: Any, other: Any, expected: bool) -> None:
    first, second = (replace(each, previous=None, followers=()) for each in layers(**one, **other).values())
    assert _are_listed_heads(first, second) is expected
    for changes in ({"followers": ("x",)}, {"previous": "x"}, {"kind": Kind.CONV}, {"tensors": {}}):
        assert _are_listed_heads(first, replace(second, **changes)) is False
    for changes in ({"previous": "x"}, {"tensors": {}}):
        assert _are_listed_heads(replace(first, **changes), second) is False


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"m.pos_A.weight": draw(3, 8), "m.pos_B.weight": np.zeros((8, 3))}, True),
        ({"m.pos_A.weight": draw(4, 8), "m.pos_B.weight": np.zeros((8, 3))}, False),
        (
            {"m.pos_A.weight": draw(32, 64) + np.outer(np.ones(32), np.ones(64)), "m.pos_B.weight": np.zeros((8, 32))},
            False,
        ),
        ({"m.pos_C.weight": draw(3, 8), "m.pos_B.weight": np.zeros((8, 3))}, False),
        ({"m.pos_A.weight": draw(3), "m.pos_B.weight": np.zeros(8)}, False),
    ],
)
def test_the_second_factor_of_an_adapter_reads_what_the_first_gives(weights: Weights, expected: bool) -> None:
    checkpoint = build_checkpoint(weights)
    assert _is_second_factor(checkpoint.layer_by_name["m.pos_B"], checkpoint) is expected


TURNS = {"x.0.weight": draw(8, 6), "x.2.weight": draw(4, 8), "y.0.weight": draw(8, 6), "y.2.weight": draw(4, 8)}
SQUARE = {"x.0.weight": draw(6, 6), "y.0.weight": draw(6, 6)}
GAINS = {"x.0.weight": np.ones(6), "x.0.bias": np.ones(6), "y.0.weight": np.ones(6), "y.0.bias": np.ones(6)}


@pytest.mark.parametrize(
    ("weights", "module", "expected"),
    [
        (TURNS, "x", True),
        (SQUARE, "x", False),
        (SQUARE, "experts.x", True),
        ({**TURNS, "y.0.weight": draw(8, 5)}, "x", False),
        ({"x.0.scale": np.ones(6), "y.0.scale": np.ones(6)}, "x", False),
        (GAINS, "x", True),
    ],
)
def test_modules_that_cannot_follow_one_another_take_turns(weights: Weights, module: str, expected: bool) -> None:
    checkpoint = build_checkpoint(weights)
    own = [layer for layer in checkpoint.layers if layer.name.startswith("x")]
    assert _are_alternatives(module, own, "y", checkpoint) is expected


def test_a_table_needs_no_name_nor_neighbour() -> None:
    checkpoint = build_checkpoint({"net.0.weight": draw(6, 4), "net.2.weight": draw(3, 6), "lone.weight": draw(9, 5)})
    named = checkpoint.layer_by_name
    assert [is_table(named[name], checkpoint) for name in ("net.0", "lone")] == [False, False]
    assert is_table(replace(named["net.0"], kind=Kind.EMBEDDING), checkpoint)
    assert not is_table(replace(named["lone"], tensors={}), checkpoint)


def test_a_copy_of_numbers_that_are_not_finite_says_nothing() -> None:
    checkpoint = build_checkpoint({"net.weight": 99 * draw(6, 4), "copy.weight": np.zeros((6, 4), np.float32)})
    copy, online = checkpoint.by_name["copy.weight"], checkpoint.by_name["net.weight"]
    assert _count_outside(copy, online, 1.0, checkpoint) == 24
    biased = build_checkpoint({"net.weight": draw(6, 4), "net.bias": np.full(6, 99.0), "copy.bias": np.zeros(6)})
    assert _count_outside(biased.by_name["copy.bias"], biased.by_name["net.bias"], 1.0, biased) == 0
    spoiled = build_checkpoint({"net.weight": np.where(np.eye(6, 4), np.inf, 99.0), "copy.weight": np.zeros((6, 4))})
    copy, online = spoiled.by_name["copy.weight"], spoiled.by_name["net.weight"]
    assert _count_outside(copy, online, 1.0, spoiled) == 0
    assert _count_outside(online, copy, 1.0, spoiled) == 0


def silent(first: Any = 1e-9, second: Any = 1.0, **options: Any) -> Checkpoint:
    """An optimizer with one weight whose last gradient lies far back."""
    state = {"step": 1000, "exp_avg": np.full((6, 4), first), "exp_avg_sq": np.full((6, 4), second)}
    return build_checkpoint({"0.weight": np.ones((6, 4))}, optimizer={"0.weight": state}, optimizer_options=options)


BETAS = {"lr": 1e-3, "betas": (0.9, 0.999)}


@pytest.mark.parametrize(
    ("checkpoint", "updates"),
    [
        (silent(**BETAS), 197),
        (silent(np.where(np.eye(6, 4), np.nan, 1e-9), **BETAS), None),
        (silent(1e-9, np.where(np.eye(6, 4), np.inf, 1.0), **BETAS), None),
        (silent(lr=1e-3), None),
        (silent(lr=1e-3, betas=(0.5, 0.25)), None),
        (silent(lr=1e-3, betas=(0.9, 0.7)), None),
    ],
)
def test_the_age_of_the_last_gradient_needs_finite_moments_that_decay(
    checkpoint: Checkpoint, updates: int | None
) -> None:
    assert updates_without_gradient(checkpoint.optimizers[0]) == updates


def test_a_bias_of_another_kind_may_begin_anywhere() -> None:
    names = {"attn.in_proj_weight": (12, 4), "attn.in_proj_bias": (12,), "net.weight": (6, 4), "net.bias": (6,)}
    weights = {name: np.full(shape, 50.0, np.float32) for name, shape in names.items()}
    state = {name: {"step": 9, "exp_avg": each, "exp_avg_sq": each} for name, each in weights.items()}
    checkpoint = build_checkpoint(weights, optimizer=state, optimizer_options=BETAS)
    assert find_travelled_farther(checkpoint.optimizers[0], checkpoint, 9) == ["net.bias"]
    spoiled = build_checkpoint(
        weights | {"net.bias": np.array([np.inf] + [50.0] * 5)}, optimizer=state, optimizer_options=BETAS
    )
    assert find_travelled_farther(spoiled.optimizers[0], spoiled, 9) == []


def test_a_target_network_was_trained_as_its_online_network_was() -> None:
    weights = {f"{name}.{n}.weight": draw(8, 8, seed=n) for name in ("q_net", "q_net_target") for n in (0, 2)}
    ones = np.ones((8, 8))
    state: dict[str, Any] = {"q_net.0.weight": {"step": 9, "exp_avg": ones, "exp_avg_sq": ones}, "q_net.2.weight": {}}
    state |= {"q_net_target.0.weight": {}, "q_net_target.2.weight": {}}
    checkpoint = build_checkpoint(weights, optimizer=state, updates=9)
    assert {name: was_trained(checkpoint.by_name[name], checkpoint) for name in weights} == {
        "q_net.0.weight": True,
        "q_net.2.weight": False,
        "q_net_target.0.weight": True,
        "q_net_target.2.weight": False,
    }


def strong(rows: int, columns: int, seed: int = 0) -> NDArray:
    """A weight with a strong direction, as training leaves it."""
    random = np.random.default_rng(seed)
    return fresh(rows, columns, seed) + np.outer(random.normal(size=rows), random.normal(size=columns)) / columns**0.5


def fresh(rows: int, columns: int, seed: int = 0) -> NDArray:
    """A weight as PyTorch draws it."""
    return np.random.default_rng(seed).uniform(-1, 1, (rows, columns)) / columns**0.5


@pytest.mark.parametrize(("moved", "initial", "expected"), [(3, 0, True), (3, 1, True), (2, 1, False), (0, 1, False)])
def test_what_no_optimizer_holds_was_trained_before_where_few_values_are_initial(
    moved: int, initial: int, expected: bool
) -> None:
    weights = {f"a.{n}.weight": strong(64, 32 + n, n) for n in range(moved)}
    weights |= {f"b.{n}.weight": fresh(64, 32 + n, n) for n in range(initial)}
    assert all_candidates_were_trained(build_checkpoint(weights)) is expected
    held = {f"c.{n}.weight": fresh(64, 48 + n, n) for n in range(4)}
    state = {name: {"step": 1, "exp_avg": each, "exp_avg_sq": each**2} for name, each in held.items()}
    assert all_candidates_were_trained(build_checkpoint(weights | held, optimizer=state)) is expected


def test_a_layer_is_live_by_its_matrices() -> None:
    (layer,) = layers(net=(4, 6)).values()
    zero, ones = (build_checkpoint({"x": each}).tensors[0] for each in (np.zeros((4, 6)), np.ones(4)))
    assert _is_live(layer)
    assert not _is_live(replace(layer, tensors={"weight": zero, "weight_g": ones, "bias": ones}))


CRITIC = {"net.0.weight": draw(8, 6), "net.2.weight": draw(5, 8), "net.4.weight": draw(1, 5), "net.4.bias": np.zeros(1)}


@pytest.mark.parametrize(
    ("biases", "expected"),
    [
        ({"net.0.bias": draw(8), "net.2.bias": draw(5)}, True),
        ({"net.0.bias": draw(8)}, True),
        ({"net.0.bias": draw(8), "net.2.bias": np.zeros(5)}, False),
        ({}, False),
        ({"net.0.bias": draw(8), "net.4.weight": draw(2, 5), "net.4.bias": np.zeros(2)}, False),
    ],
)
def test_the_bias_of_a_single_output_is_excused_where_all_before_it_are_live(biases: Weights, expected: bool) -> None:
    checkpoint = build_checkpoint({**CRITIC, **biases})
    assert _is_only_one_of_single_output(checkpoint.layer_by_name["net.4"], checkpoint) is expected


def test_a_head_whose_outputs_come_last_is_filled_up_there() -> None:
    checkpoint = build_checkpoint({"net.0.weight": draw(5, 4), "net.2.weight": draw(16, 5)})
    head = checkpoint.layers[-1]
    tensor = build_checkpoint({"x": draw(5, 16)}).tensors[0]
    assert is_padded_head(replace(head, transposed=True), tensor, [15])
    assert not is_padded_head(head, tensor, [15])


def test_a_table_has_no_twin() -> None:
    names = {"embedding.weight": (50, 6), "net.0.weight": (8, 6), "net.2.weight": (4, 8)}
    checkpoint = build_checkpoint({name: draw(*shape) for name, shape in names.items()})
    table, *trained = checkpoint.layers
    assert TrainedNetwork(checkpoint, set(trained))._has_twin([table]) is False


def test_other_moments_are_reported_where_they_are_not_finite() -> None:
    for value, count in ((1.0, 0), (np.inf, 1)):
        state = {"step": 9, "exp_avg": np.ones((6, 4)), "exp_avg_sq": np.ones((6, 4))}
        state["max_exp_avg_sq"] = np.full((6, 4), value)
        checkpoint = build_checkpoint({"0.weight": draw(6, 4)}, optimizer={"0.weight": state})
        assert len(findings_of(nonfinite_values, checkpoint)) == count


@pytest.mark.parametrize(("equal", "severity"), [(1, None), (2, NOTE), (3, NOTE), (4, WARNING)])
def test_a_head_with_two_kinds_of_rows_may_have_unseen_classes(equal: int, severity: Severity | None) -> None:
    head = draw(4, 30)
    head[:equal] = head[0]
    found = findings_of(duplicate_units, build_checkpoint({"net.0.weight": draw(30, 10), "net.2.weight": head}))
    assert [each.severity for each in found] == ([] if severity is None else [severity])
