"""Which parameters are still those of the initialisation, and what proves that an optimizer never moved them."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.initial_parameters import (
    InitialParameters,
    combine,
    find_initial_parameters,
    matrices_of,
)
from checkpoint_doctor.builtin.analyzers._evidence.unmoved_parameters import Unmoved, find_unmoved
from checkpoint_doctor.checkpoint import Checkpoint, ParameterGroup
from checkpoint_doctor.testing import build_checkpoint

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 0.0}


def spread(shape: tuple[int, ...], limit: float, *, variance: float = 1 / 3, mean: float = 0.0) -> NDArray:
    """Values between exactly ±limit with a mean of that share of the limit, and a variance of that share of limit²."""
    count = int(np.prod(shape))
    ranks, signs = (np.arange(count) // 2 + 1) / ((count + 1) // 2), np.where(np.arange(count) % 2, -1.0, 1.0)
    if count % 2:
        signs[-1] = 0.0
    low, high = 0.0, 10.0
    for _ in range(60):
        power = (low + high) / 2
        low, high = (power, high) if np.var(signs * ranks**power) > variance else (low, power)
    values = signs * ranks**power
    for index in np.argsort(values):
        # Turned round, an entry keeps its square.
        if values[index] < 0 and values.sum() - 2 * values[index] <= mean * count:
            values[index] *= -1
    return (limit * values).reshape(shape)


def holding(weights: Mapping[str, NDArray], *, ratio: float = 0.01, steps: int = 1000, **options: Any) -> Checkpoint:
    """A checkpoint whose Adam makes steps of this share of the learning rate."""
    state = {
        name: {"step": steps, "exp_avg": np.full(value.shape, ratio), "exp_avg_sq": np.ones(value.shape)}
        for name, value in weights.items()
    }
    for each in state.values():
        each["exp_avg"] = each["exp_avg"] * (1 - 0.9**steps)
        each["exp_avg_sq"] = each["exp_avg_sq"] * (1 - 0.999**steps)
    return build_checkpoint(weights, optimizer=state, optimizer_options=ADAM | options)


def sorted_(weights: Mapping[str, NDArray], name: str) -> InitialParameters | None:
    """What one tensor of a checkpoint shows."""
    checkpoint = holding(weights)
    (optimizer,) = checkpoint.optimizers
    index = next(each.index for each in optimizer.parameters if each.tensor == name)
    return find_initial_parameters(replace(optimizer.groups[0], indices=(index,)), optimizer, checkpoint)


NORM = {"norm.weight": np.ones(16), "norm.bias": np.zeros(16)}
LINEAR = {"fc.weight": spread((32, 64), 1 / 8), "fc.bias": spread((32,), 1 / 8)}


def one(value: float, rest: float) -> NDArray:
    values = np.full(16, float(rest))
    values[3] = value
    return values


@pytest.mark.parametrize(
    ("weights", "name", "kind"),
    [
        (NORM, "norm.weight", "exact"),
        (NORM | {"norm.weight": one(1 + 9e-7, 1)}, "norm.weight", "exact"),
        (NORM | {"norm.weight": one(1 - 9e-7, 1)}, "norm.weight", "exact"),
        (NORM | {"norm.weight": one(1 + 1.1e-6, 1)}, "norm.weight", "moved"),
        (NORM | {"norm.weight": one(1 - 1.1e-6, 1)}, "norm.weight", "moved"),
        (NORM | {"norm.weight": np.zeros(16)}, "norm.weight", "moved"),
        (NORM | {"norm.weight": one(np.nan, 1)}, "norm.weight", "unknown"),
        (NORM | {"norm.weight": np.ones(16, np.float16)}, "norm.weight", "unknown"),
        (NORM, "norm.bias", "zero"),
        (NORM | {"norm.bias": one(-9e-7, 0)}, "norm.bias", "zero"),
        (NORM | {"norm.bias": one(1e-6, 0)}, "norm.bias", "zero"),
        (NORM | {"norm.bias": one(1.1e-6, 0)}, "norm.bias", "moved"),
        (NORM | {"norm.bias": one(np.inf, 0)}, "norm.bias", "unknown"),
        (LINEAR, "fc.weight", "uniform"),
        (LINEAR, "fc.bias", "uniform"),
        (LINEAR | {"fc.bias": np.zeros(32)}, "fc.bias", "zero"),
        (LINEAR | {"fc.bias": spread((32,), 1 / 4)}, "fc.bias", "moved"),
        (LINEAR | {"fc.weight": LINEAR["fc.weight"] * (1 + 5e-7)}, "fc.weight", "uniform"),
        (LINEAR | {"fc.weight": LINEAR["fc.weight"] * (1 + 2e-6)}, "fc.weight", "unknown"),
        (LINEAR | {"fc.weight": LINEAR["fc.weight"].astype(np.float32)}, "fc.weight", "uniform"),
        (LINEAR | {"fc.weight": LINEAR["fc.weight"].astype(np.float16)}, "fc.weight", "unknown"),
        ({"conv.weight": spread((8, 4, 5, 5), 0.1)}, "conv.weight", "uniform"),
        ({"conv.weight": spread((8, 4, 5, 5), 0.5)}, "conv.weight", "unknown"),
        (
            {"lstm.weight_ih_l0": spread((64, 9), 0.25), "lstm.weight_hh_l0": spread((64, 16), 0.25)},
            "lstm.weight_ih_l0", "uniform",
        ),
        (
            {"lstm.weight_ih_l0": spread((64, 9), 1 / 3), "lstm.weight_hh_l0": spread((64, 16), 0.25)},
            "lstm.weight_ih_l0", "unknown",
        ),
        ({"embedding.weight": spread((32, 64), 1 / 8)}, "embedding.weight", "unknown"),
        ({"fc.weight": np.zeros((32, 0)), "fc.bias": spread((32,), 1 / 8)}, "fc.bias", "moved"),
        ({"deconv.weight": spread((8, 4, 5, 5), 0.1), "deconv.bias": spread((4,), 0.05)}, "deconv.weight", "unknown"),
        (LINEAR | {"scale": np.ones(16)}, "scale", "unknown"),
    ],
)  # fmt: skip
def test_a_tensor_is_sorted_by_its_values(weights: Mapping[str, NDArray], name: str, kind: str) -> None:
    found = sorted_(weights, name)
    assert found is not None
    assert getattr(found, kind) == (name,)
    assert len(found.exact + found.zero + found.uniform + found.unknown + found.moved) == 1
    is_uniform_weight = kind == "uniform" and "weight" in name
    assert found.draws == (weights[name].size if is_uniform_weight else 0)
    assert found.limit == pytest.approx(np.abs(weights[name]).max() if is_uniform_weight else 0.0, rel=1e-5)
    assert found.names == ([name] if kind in ("exact", "zero", "uniform") else [])


MEAN = 4 * sqrt(1 / 3) / 32
VARIANCE = 4 * sqrt(4 / 45) / 32 + 1 / (3 * 1024)


@pytest.mark.parametrize(
    ("fields", "is_uniform"),
    [
        ({"mean": 0.99 * MEAN}, True),
        ({"mean": 1.01 * MEAN}, False),
        ({"variance": 1 / 3 + 0.999 * VARIANCE}, True),
        ({"variance": 1 / 3 + 1.001 * VARIANCE}, False),
        ({"variance": 1 / 3 - 0.999 * VARIANCE}, True),
        ({"variance": 1 / 3 - 1.001 * VARIANCE}, False),
    ],
)
def test_mean_and_variance_may_differ_by_four_standard_errors(fields: Mapping[str, float], is_uniform: bool) -> None:
    values = spread((16, 64), 1 / 8, **fields)
    assert values.mean() * 8 == pytest.approx(fields.get("mean", 0.0), abs=1e-4)
    found = sorted_({"fc.weight": values}, "fc.weight")
    assert found is not None
    assert found.uniform == (("fc.weight",) if is_uniform else ())


def test_what_no_name_or_no_gradient_belongs_to_is_left_out() -> None:
    checkpoint = holding(LINEAR)
    (optimizer,) = checkpoint.optimizers
    nameless = replace(optimizer, parameters=tuple(replace(each, tensor=None) for each in optimizer.parameters))
    assert find_initial_parameters(optimizer.groups[0], nameless, checkpoint) is None
    state = {"step": 10, "exp_avg": np.zeros((32, 64)), "exp_avg_sq": np.zeros((32, 64))}
    idle = build_checkpoint({"fc.weight": LINEAR["fc.weight"]}, optimizer={"fc.weight": state})
    assert find_initial_parameters(idle.optimizers[0].groups[0], idle.optimizers[0], idle) is None


def test_groups_are_combined_with_the_mean_limit_of_their_draws() -> None:
    one = InitialParameters(("a",), ("b",), ("c",), ("d",), ("e",), 100, 0.1)
    other = InitialParameters(("A",), ("B",), ("C",), ("D",), ("E",), 300, 0.3)
    both = combine([one, other])
    assert (both.exact, both.zero, both.uniform) == (("a", "A"), ("b", "B"), ("c", "C"))
    assert (both.unknown, both.moved, both.draws) == (("d", "D"), ("e", "E"), 400)
    assert both.limit == pytest.approx(0.25)
    assert combine([]).limit == 0.0
    assert combine([InitialParameters(), one]).limit == pytest.approx(0.1)
    assert both.names == ["a", "A", "b", "B", "c", "C"]


@pytest.mark.parametrize(
    ("fields", "by_zero_biases", "alone"),
    [
        ({"exact": ("a",)}, True, True),
        ({"exact": ("a",), "moved": ("b",)}, False, False),
        ({"zero": ("a",)}, True, False),
        ({"zero": ("a",), "moved": ("b",)}, False, False),
        ({"uniform": ("a",), "draws": 256}, True, True),
        ({"uniform": ("a",), "draws": 255}, False, False),
        ({"uniform": ("a",), "draws": 256, "unknown": ("b",)}, False, False),
        ({"uniform": ("a",), "draws": 256, "moved": ("b",)}, False, False),
        ({"exact": ("a",), "unknown": ("b",)}, True, True),
        ({"unknown": ("b",)}, False, False),
    ],
)
def test_what_makes_it_certain(fields: Mapping[str, Any], by_zero_biases: bool, alone: bool) -> None:
    found = InitialParameters(**fields)
    assert found.are_certain(by_zero_biases=True) is by_zero_biases
    assert found.are_certain(by_zero_biases=False) is alone


def test_matrices_are_named_parameters_with_two_axes() -> None:
    checkpoint = holding({"fc.bias": np.ones(4), "fc.weight": np.ones((4, 4)), "conv.weight": np.ones((4, 4, 3, 3))})
    found = [
        (index, tensor.name, layer.name) for index, tensor, layer in matrices_of(checkpoint.optimizers[0], checkpoint)
    ]
    assert found == [(1, "fc.weight", "fc"), (2, "conv.weight", "conv")]


# Why nothing moved

FRESH = {"0.weight": spread((64, 16), 1 / 4), "0.bias": np.zeros(64), "2.weight": spread((64, 64), 1 / 8)}
DRAWS = 64 * 16 + 64 * 64
MEAN_LIMIT = (64 * 16 / 4 + 64 * 64 / 8) / DRAWS


def unmoved(checkpoint: Checkpoint) -> Unmoved | None:
    return find_unmoved(checkpoint.optimizers[0], checkpoint)


def cause(weights: Mapping[str, NDArray], **fields: Any) -> str | None:
    found = unmoved(holding(weights, **fields))
    assert found is None or found.is_whole
    return found.cause if found else None


@pytest.mark.parametrize(
    ("weights", "fields", "expected"),
    [
        (FRESH, {"lr": 0.0}, "learning rate"),
        (FRESH, {"lr": 0.99e-9}, "learning rate"),
        (FRESH, {"lr": -0.99e-9}, "learning rate"),
        (FRESH, {"lr": 1e-9, "ratio": 0.99}, "step size"),
        (FRESH, {"lr": 1e-3, "ratio": 0.99e-6}, "step size"),
        (FRESH, {"lr": 1e-3, "ratio": 1.01e-6}, None),
        (FRESH | {"0.bias": np.full(64, 0.5)}, {"lr": 0.0}, None),
        ({"2.weight": FRESH["2.weight"]}, {"lr": 0.0}, "learning rate"),
        ({"2.weight": np.full((64, 64), 0.1)}, {"lr": 0.0}, None),
    ],
)
def test_what_kept_parameters_where_they_were(
    weights: Mapping[str, NDArray], fields: Mapping[str, Any], expected: str | None
) -> None:
    assert cause(weights, **fields) == expected


ENOUGH = 10.0 / (0.4 * DRAWS / MEAN_LIMIT)
"""Move by a random walk that pushes ten entries out of their interval."""


@pytest.mark.parametrize("steps", [100, 10_000])
def test_initial_weights_under_steps_that_should_have_moved_them_were_saved_by_mistake(steps: int) -> None:
    rate = ENOUGH / sqrt(steps) / 0.01
    assert cause(FRESH, lr=1.01 * rate, steps=steps) == "initial weights saved"
    assert cause(FRESH, lr=0.99 * rate, steps=steps) is None


def test_gains_of_exactly_one_prove_it_too() -> None:
    rate = 1e-4 / sqrt(1000) / 0.01
    assert cause(NORM, lr=1.01 * rate) == "initial weights saved"
    assert cause(NORM, lr=0.99 * rate) is None
    assert cause({"norm.bias": np.zeros(16), "norm.weight": np.ones(16)}, lr=1.0) == "initial weights saved"


def test_zero_biases_alone_prove_a_mistake_only_with_the_learning_rate() -> None:
    weights = {"2.weight": np.full((8, 8), 0.1), "2.bias": np.zeros(8)}
    assert cause(weights, lr=0.0) == "learning rate"
    assert cause(weights, lr=1e-3, ratio=1e-7) == "step size"
    assert cause(weights, lr=1.0) is None


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Adam", {}, "initial weights saved"),
        ("AdamW", {}, "initial weights saved"),
        ("Lion", {}, None),
        ("Adam", {"d_coef": 1.0}, None),
    ],
)
def test_only_steps_of_known_size_prove_it(kind: str, options: Mapping[str, Any], expected: str | None) -> None:
    checkpoint = holding(FRESH, lr=1.0, **options)
    kinds = tuple(replace(each, kind=kind) for each in checkpoint.optimizers)
    found = unmoved(replace(checkpoint, optimizers=kinds))
    assert (found.cause if found else None) == expected


def grouped(rates: tuple[float, float], weights: Mapping[str, NDArray] = FRESH) -> Checkpoint:
    """The first tensor in a group of its own."""
    checkpoint = holding(weights)
    (optimizer,) = checkpoint.optimizers
    indices = optimizer.groups[0].indices
    groups = tuple(
        ParameterGroup(options=ADAM | {"lr": rate}, indices=part)
        for rate, part in zip(rates, (indices[:1], indices[1:]), strict=True)
    )
    return replace(checkpoint, optimizers=(replace(optimizer, groups=groups),))


def test_one_group_without_learning_rate_is_named() -> None:
    trained = FRESH | {"2.weight": 2 * FRESH["2.weight"]}
    found = unmoved(grouped((0.0, 1e-3), trained))
    assert found is not None
    assert (found.cause, found.groups, found.is_whole) == ("learning rate", [0], False)
    assert found.evidence.names == ["0.weight"]
    assert unmoved(grouped((1e-3, 1e-3), trained)) is None
    both = unmoved(grouped((0.0, 0.0)))
    assert both is not None
    assert (both.groups, both.is_whole) == ([0, 1], True)
    assert unmoved(grouped((0.0, 1e-3))) is not None, "the other group's initial parameters prove nothing else"


def test_the_largest_rate_of_all_groups_decides_about_tiny_steps() -> None:
    assert (
        unmoved(grouped((1e-8, 1e-2))) or Unmoved("", InitialParameters(), [], False)
    ).cause == "initial weights saved"


def test_a_mismatch_proves_nothing() -> None:
    checkpoint = holding(FRESH, lr=0.0)
    (optimizer,) = checkpoint.optimizers
    assert unmoved(replace(checkpoint, optimizers=(replace(optimizer, mismatch="shapes differ"),))) is None


def test_the_file_may_have_counted_the_updates_instead() -> None:
    weights = {"norm.weight": np.ones(16)}
    state = {"norm.weight": {"exp_avg": np.full(16, 0.1)}}
    options = ADAM | {"lr": 1e-9}
    for counted, still in (({"updates": 999}, True), ({"updates": 1001}, False), ({"step": 1001}, False), ({}, True)):
        checkpoint = build_checkpoint(
            weights, optimizer=state, optimizer_options=options, optimizer_kind="Lion", **counted
        )
        assert (unmoved(checkpoint) is not None) is still, counted


@pytest.mark.parametrize(("options", "rate"), [({"lr": 0.5}, 0.5), ({"lr": 0}, 0.0), ({"lr": True}, 1.0), ({}, 1.0)])
def test_a_group_without_a_rate_moves_by_its_steps(options: Mapping[str, Any], rate: float) -> None:
    assert ParameterGroup(options=dict(options), indices=()).learning_rate == rate
