"""The facts that causes look up, each with its limits from both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from checkpoint_doctor.builtin.causes import _facts as facts
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.plugins.cause import Symptoms
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint


def finding(code: str = "ZER001", tensor: str | None = None, layer: str | None = None, **evidence: Any) -> Finding:
    return Finding(code, "name", Severity.WARNING, "message", tensor=tensor, layer=layer, evidence=evidence)


def with_second(second: ArrayLike, first: ArrayLike = 0.0, name: str = "0.weight", **others: Any) -> Checkpoint:
    """A weight of ones with these moments."""
    squares = np.asarray(second, np.float64)
    state = {name: {"step": 300, "exp_avg": np.zeros(squares.shape) + first, "exp_avg_sq": squares}}
    return build_checkpoint({name: np.ones(squares.shape), **others}, optimizer=state)


# Settings


def with_options(*groups: dict[str, Any]) -> Checkpoint:
    checkpoint = with_second(np.ones((4, 4)))
    (optimizer,) = checkpoint.optimizers
    given = tuple(replace(optimizer.groups[0], options=each) for each in groups)
    other = replace(optimizer, name="other", groups=(replace(optimizer.groups[0], options={"lr": 9.0}),))
    return replace(checkpoint, optimizers=(replace(optimizer, groups=given), other))


def test_settings_are_those_of_one_optimizer_or_of_all() -> None:
    checkpoint = with_options({"lr": 1}, {"lr": 0.5}, {"lr": True}, {"lr": "auto"}, {})
    assert facts.settings_of(checkpoint, "lr", "optimizer") == [1.0, 0.5]
    assert facts.settings_of(checkpoint, "lr") == [1.0, 0.5, 9.0]
    assert facts.largest_rate(checkpoint, "optimizer") == 1.0
    assert facts.largest_rate(with_options({"lr": 0.1, "initial_lr": 0.4}), "optimizer") == 0.4
    assert facts.largest_rate(with_options({}), "optimizer") == 0.0


# What a finding names


def test_names_are_those_of_tensors_layers_and_branches() -> None:
    named = finding(tensor="a.weight", layer="b", branch="c", tensors=["d", 5, "e"])
    assert facts.names_of(named) == {"a.weight", "b", "c", "d", "e"}
    assert facts.names_of(finding(tensors="d")) == set()
    assert facts.names_of(finding(branch=5)) == set()


def test_numbers_of_the_evidence() -> None:
    numbers = finding(share=0.5, count=3, word="4")
    assert [facts.number_of(numbers, key) for key in ("share", "count", "word", "none")] == [0.5, 3.0, 0.0, 0.0]


def test_layers_come_in_the_order_of_the_file() -> None:
    checkpoint = build_checkpoint({f"{name}.weight": np.ones((4, 4)) for name in ("b", "a", "c")})
    found = facts.layers_of(finding(tensor="a.weight", layer="c", branch="b"), checkpoint)
    assert [layer.name for layer in found] == ["b", "a", "c"]


def test_a_finding_concerns_the_modules_around_it() -> None:
    findings = [finding(tensor="net.0.weight"), finding(layer="net.1"), finding(tensor="other.weight")]
    for name, places in {"net": [0, 1], "net.0": [0], "net.0.weight": [0], "other": [2], "ne": []}.items():
        assert list(facts.about(findings, [name])) == [findings[place] for place in places]
    assert list(facts.about(findings, ["other", "net.1", "net"])) == findings


@pytest.mark.parametrize(
    ("checked", "expected"),
    [
        (finding("OPT001", without_state=[]), True),
        (finding("OPT001"), True),
        (finding("OPT001", without_state=["a"]), False),
        (finding("NET002"), False),
    ],
)
def test_gradients_that_were_zero_are_told_from_missing_ones(checked: Finding, expected: bool) -> None:
    assert facts.received_zero_gradients(checked) is expected


# Moments


def rows(*sums: float) -> NDArray:
    return np.repeat(np.asarray(sums, np.float64)[:, np.newaxis], 4, axis=1)


@pytest.mark.parametrize(
    ("second", "groups", "expected"),
    [
        (rows(1, 1), None, False),
        (rows(1, 1.0005), None, False),
        (rows(1, 1.0015), None, True),
        (rows(2, 1), None, True),
        (rows(1, 2, 1), [[0, 2]], False),
        (rows(1, 2, 1), [[0, 2], [0, 1]], True),
        (rows(0, 0), None, None),
        (rows(1), None, None),
        (rows(1, np.inf), None, None),
        (np.ones(4), None, None),
        (np.ones((2, 1)), None, False),
        (rows(0, 1), None, True),
    ],
)
def test_equal_rows_that_were_trained_apart(second: NDArray, groups: Any, expected: bool | None) -> None:
    about = None if groups is None else finding(groups=groups)
    assert facts.rows_were_trained_apart("0.weight", with_second(second), about) is expected


def test_rows_without_moments_do_not_tell() -> None:
    assert facts.rows_were_trained_apart("0.weight", build_checkpoint({"0.weight": np.ones((4, 4))})) is None
    state = {"0.weight": {"step": 3, "exp_avg": np.ones((4, 4))}}
    assert facts.rows_were_trained_apart("0.weight", build_checkpoint({"0.weight": np.ones((4, 4))},
                                                                     optimizer=state)) is None  # fmt: skip


def layer(weight: float, bias: float | None, *, second: bool = True, held: bool = True) -> Checkpoint:
    """A layer whose weight and bias have moments of these sizes; without a second one, their momentum has."""
    tensors = {"0.weight": np.ones((4, 4))} | ({} if bias is None else {"0.bias": np.ones(4)})
    key = "square_avg" if second else "momentum_buffer"
    state = {
        name: {"step": 3, key: np.full(each.shape, size)}
        for (name, each), size in zip(tensors.items(), (weight, bias or 0.0), strict=False)
        if held or name == "0.bias"
    }
    return build_checkpoint(tensors, optimizer=state, optimizer_kind="RMSprop" if second else "SGD")


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (layer(0.0, 1.0), True),
        (layer(0.0, 1.0, second=False), True),
        (layer(1e-9, 1.0), False),
        (layer(0.0, 0.0), False),
        (layer(0.0, None), False),
        (layer(0.0, 1.0, held=False), False),
        (build_checkpoint({"0.weight": np.ones((4, 4)), "0.bias": np.ones(4)}), False),
        (build_checkpoint({"0.bias": np.ones(4)}), False),
    ],
)
def test_a_layer_reads_zeros_where_only_its_bias_received_gradients(checkpoint: Checkpoint, expected: bool) -> None:
    assert facts.reads_zeros(checkpoint.layers[0], checkpoint) is expected
    assert facts.any_reads_zeros(checkpoint) is expected


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [(layer(1.0, 1.0), True), (layer(1.0, 1.0, second=False), True), (layer(0.0, 0.0), False)],
)
def test_a_gradient_leaves_a_moment(checkpoint: Checkpoint, expected: bool) -> None:
    assert facts.has_gradient("0.weight", checkpoint) is expected
    assert facts.has_gradient("1.weight", checkpoint) is False


# Values


def dense(*largest: tuple[float, float | None], inputs: int = 4) -> Checkpoint:
    """Dense layers whose weights and biases are of these sizes."""
    tensors = {}
    for number, (weight, bias) in enumerate(largest):
        tensors[f"{number}.weight"] = np.full((8, inputs), weight)
        if bias is not None:
            tensors[f"{number}.bias"] = np.full(8, bias)
    return build_checkpoint(tensors)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([(0.515, 0.1)], True),
        ([(0.505, 0.1)], False),
        ([(0.1, 0.515)], True),
        ([(-0.515, 0.1)], True),
        ([(0.6, 0.1), (0.1, 0.1)], False),  # half is not most
        ([(0.6, 0.1), (0.6, 0.1), (0.1, 0.1)], True),
        ([(0.6, 0.0)], False),
        ([(0.6, None)], False),
        ([(0.6, 0.1), (0.1, 0.0), (0.1, None)], True),
        ([], False),
    ],
)
def test_when_layers_have_left_the_initial_interval(layers: list[tuple[float, float | None]], expected: bool) -> None:
    assert facts.has_left_initial_interval(dense(*layers)) is expected


def test_the_initial_interval_depends_on_the_inputs() -> None:
    assert facts.has_left_initial_interval(dense((0.26, 0.1), inputs=16))
    assert not facts.has_left_initial_interval(dense((0.25, 0.1), inputs=16))
    assert facts.has_left_initial_interval(dense((1.03, 0.1), inputs=1))
    assert not facts.has_left_initial_interval(dense((1.01, 0.1), inputs=1))


@pytest.mark.parametrize(
    ("fields", "size", "expected"),
    [
        ({}, 0.61, True),
        ({}, 0.6, False),
        ({}, 0.59, False),
        ({"kind": "SGD"}, 9.0, False),
        ({"lr": 0.0}, 9.0, False),
        ({"lr": 0.0, "initial_lr": 1e-3}, 0.61, True),
        ({"step": 0}, 9.0, False),
        ({}, 0.0, False),
        ({}, np.nan, False),
    ],
)
def test_weights_that_no_training_can_have_made_so_large(fields: dict[str, Any], size: float, expected: bool) -> None:
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8} | {k: v for k, v in fields.items() if "lr" in k}
    state = {"step": fields.get("step", 300), "exp_avg": np.ones((8, 8)), "exp_avg_sq": np.ones((8, 8))}
    checkpoint = build_checkpoint(
        {"0.weight": np.full((8, 8), size)},
        optimizer={"0.weight": state},
        optimizer_options=options,
        optimizer_kind=fields.get("kind", "Adam"),
    )
    assert facts.was_drawn_wide(checkpoint.tensors[0], checkpoint) is expected


def test_a_weight_without_an_optimizer_was_not_drawn_wide() -> None:
    checkpoint = build_checkpoint({"0.weight": np.ones((8, 8))})
    assert facts.was_drawn_wide(checkpoint.tensors[0], checkpoint) is False


def test_a_fresh_part_has_a_matrix_or_a_zero_bias_in_its_block() -> None:
    names = {"a.b.norm.weight": (4,), "a.b.norm.bias": (4,), "norm.weight": (4,), "norm.bias": (4,), "a.b.c": (4, 4)}
    checkpoint = build_checkpoint({name: np.zeros(shape) for name, shape in names.items()})
    beside = Symptoms([finding("ZER003", tensor="a.b.norm.bias", cause="overwritten")])
    flat = Symptoms([finding("ZER003", tensor="norm.bias", cause="overwritten")])
    other = Symptoms([finding("ZER003", tensor="a.b.norm.bias", cause="step 0")])
    gain = finding("OPT010", tensor="a.b.norm.weight")
    assert facts.is_fresh_part(gain, beside, checkpoint)
    assert not facts.is_fresh_part(gain, Symptoms([]), checkpoint)
    assert not facts.is_fresh_part(gain, other, checkpoint)
    assert not facts.is_fresh_part(finding("OPT010", tensor="norm.weight"), flat, checkpoint)
    assert facts.is_fresh_part(finding("OPT010", tensor="a.b.c"), Symptoms([]), checkpoint)


def test_a_module_at_the_top_is_no_block() -> None:
    checkpoint = build_checkpoint({"norm.weight": np.ones(4), "norm.bias": np.zeros(4)})
    beside = Symptoms([finding("ZER003", layer="norm", cause="overwritten")])
    assert not facts.is_fresh_part(finding("OPT010", tensor="norm.weight"), beside, checkpoint)


@pytest.mark.parametrize(
    ("named", "expected"),
    [(["0"], False), (["0", "1"], True), (["0", "0"], False), (["0", "1", "2"], True), ([], False), (["norm"], False)],
)
def test_most_of_a_kind_is_half(named: list[str], expected: bool) -> None:
    tensors = {f"{number}.weight": np.ones((4, 4)) for number in range(4)}
    norm = {f"norm.{role}": np.ones(4) for role in ("weight", "bias", "running_mean", "running_var")}
    checkpoint = build_checkpoint({**tensors, **norm})
    assert facts.are_most_of_a_kind([finding(layer=name) for name in named], checkpoint) is expected


def zeros(shape: tuple[int, ...], start: int, count: int, kind: str = "float32") -> Tensor:
    values = np.ones(shape, kind)
    values.reshape(-1)[start : start + count] = 0
    return build_checkpoint({"weight": values}).tensors[0]


def two_runs() -> Tensor:
    values = np.ones(6000, np.float32)
    values[10:522], values[1000:1512] = 0, 0
    return build_checkpoint({"weight": values.reshape(6, 1000)}).tensors[0]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (zeros((6, 1000), 10, 1024), True),
        (zeros((6, 1000), 10, 2048), True),
        (zeros((6, 1000), 10, 1023), False),
        (zeros((6, 1000), 10, 1025), False),
        (zeros((6, 1000), 10, 1024, "float16"), False),
        (zeros((6, 1000), 10, 2048, "float16"), True),
        (zeros((6, 1024), 1024, 1024), False),  # a row
        (zeros((6, 512), 0, 1024), False),
        (zeros((6, 1000), 0, 1024), True),
        (zeros((6, 1000), 2976, 1024), True),
        (zeros((6000,), 10, 1024), False),
        (zeros((6, 1000), 0, 0), False),
        (two_runs(), False),
        (zeros((6, 1), 0, 0), False),
    ],
)
def test_zeros_of_a_torn_write(tensor: Tensor, expected: bool) -> None:
    assert facts.has_torn_page(tensor) is expected


@pytest.mark.parametrize(("rows", "expected"), [(1 << 11, True), ((1 << 11) + 1, False)])
def test_large_tensors_are_not_searched(rows: int, expected: bool) -> None:
    assert facts.has_torn_page(zeros((rows, 1 << 11), 10, 2048, "float16")) is expected


@pytest.mark.parametrize(
    ("kind", "evidence", "expected"),
    [
        ("float16", {"infinite": 1}, True),
        ("float16", {"infinite": 0}, False),
        ("float16", {"infinite": None}, False),
        ("float16", {}, False),
        ("float32", {"infinite": 1}, False),
    ],
)
def test_float16_overflows(kind: str, evidence: dict[str, Any], expected: bool) -> None:
    checkpoint = build_checkpoint({"weight": np.ones((2, 2), kind)})
    assert facts.has_overflowed(finding("VAL001", tensor="weight", **evidence), checkpoint) is expected
    assert facts.has_overflowed(finding("VAL001", **evidence), checkpoint) is False


def test_agents_are_told_by_their_algorithm_or_format() -> None:
    tensors = {"weight": np.ones((2, 2))}
    assert facts.is_reinforcement_learning(build_checkpoint(tensors, algorithm="PPO"))
    assert facts.is_reinforcement_learning(build_checkpoint(tensors, format="sb3"))
    assert not facts.is_reinforcement_learning(build_checkpoint(tensors))


@pytest.mark.parametrize(
    ("names", "twin", "size", "expected"),
    [
        (["experts.0.weight"], "experts.1.weight", 1.0, True),
        (["experts.0.weight"], "experts.1.weight", 0.0, False),
        (["experts.0.weight", "experts.1.weight"], "experts.1.weight", 1.0, False),
        (["experts.0.weight"], "experts.1.bias", 1.0, False),
        (["layers.0.weight"], "layers.1.weight", 1.0, False),
        (["heads.0.branch_2.weight"], "heads.1.branch_2.weight", 1.0, True),
        (["heads.0.branch_2.weight"], "heads.0.branch_1.weight", 1.0, True),
        (["heads.0.branch_2.weight"], "heads.1.branch_1.weight", 1.0, False),
        ([], "experts.1.weight", 1.0, False),
    ],
)
def test_a_part_that_waits_has_a_trained_twin(names: list[str], twin: str, size: float, expected: bool) -> None:
    others = {name: np.ones((4, 4)) for name in names if name != twin}
    checkpoint = with_second(np.full((4, 4), size), name=twin, **others)
    assert facts.has_trained_twin(finding("OPT001", tensors=names), checkpoint) is expected


def test_a_twin_of_another_shape_is_none() -> None:
    checkpoint = with_second(np.ones((4, 4)), name="experts.1.weight", **{"experts.0.weight": np.ones((4, 5))})
    assert facts.has_trained_twin(finding("OPT001", tensors=["experts.0.weight"]), checkpoint) is False
