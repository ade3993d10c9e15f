"""Initial values under trained moments: each limit from both sides, and each condition alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.optimizer.initial_values import initial_values
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.testing import build_checkpoint, findings_of

Tensors = dict[str, NDArray]


def run(
    tensors: Tensors, sizes: Mapping[str, float] | None = None, *, updates: int | None = 300, **settings: Any
) -> Checkpoint:
    """A run of Adam whose first moments have these sizes, 0.001 where none is given, beside a root of 0.01."""
    state = {}
    for name, each in tensors.items():
        if "running" in name:
            continue
        first = next((size for part, size in (sizes or {}).items() if name.startswith(part)), 1e-3)
        state[name] = {"exp_avg": np.full(each.shape, first), "exp_avg_sq": np.full(each.shape, 1e-4)}
        if updates is not None:
            state[name]["step"] = np.array(updates)
    return build_checkpoint(tensors, optimizer=state, **settings)


def reported(checkpoint: Checkpoint, **options: Any) -> list[str]:
    return [name for each in findings_of(initial_values, checkpoint, **options) for name in each.evidence["tensors"]]


def drawn(*shape: int, limit: float | None = None) -> NDArray:
    """Entries that are evenly spread between the limits, from which PyTorch draws."""
    limit = shape[-1] ** -0.5 if limit is None else limit
    size = int(np.prod(shape))
    return np.random.default_rng(0).permutation(np.linspace(-limit, limit, size)).reshape(shape)


def moved(outside: int, *shape: int) -> NDArray:
    """The same with so many entries beyond the limits."""
    weight = 0.9 * drawn(*shape)
    weight.reshape(-1)[:outside] = 3.0
    return weight


@pytest.mark.parametrize(("outside", "speaks"), [(9, False), (10, True)])
def test_how_many_entries_should_be_outside(outside: int, speaks: bool) -> None:
    tensors = {"net.0.weight": moved(outside, 16, 16), "net.2.weight": drawn(16, 16)}
    assert reported(run(tensors)) == ["net.2.weight"] * speaks
    slower = {**tensors, "net.0.weight": moved(2 * outside, 16, 16)}
    assert reported(run(slower, {"net.2": 0.5e-3})) == ["net.2.weight"] * speaks


@pytest.mark.parametrize(("shape", "speaks"), [((7, 9), False), ((8, 8), True)])
def test_how_many_entries_a_weight_must_have(shape: tuple[int, int], speaks: bool) -> None:
    tensors = {"net.0.weight": moved(100, 16, 16), "other.weight": drawn(*shape)}
    assert reported(run(tensors)) == ["other.weight"] * speaks


@pytest.mark.parametrize(("mirrored", "speaks"), [(0, True), (32, True), (56, False), (64, False)])
def test_rows_that_depend_on_one_another_are_no_draw(mirrored: int, speaks: bool) -> None:
    """Six deviations of the cosine between two rows of 64 entries are 0.75: 48 mirrored entries."""
    first, second = drawn(2, 64, limit=0.125)
    second = np.where(np.arange(64) < mirrored, -first, second)
    tensors = {"net.0.weight": moved(1000, 64, 64), "other.weight": np.stack([first, second])}
    assert reported(run(tensors)) == ["other.weight"] * speaks


@pytest.mark.parametrize(
    ("shape", "bias", "speaks"),
    [((31, 33), 1.01, False), ((31, 33), 0.99, True), ((32, 32), 1.01, True)],
    ids=["a trained bias", "a bias within the interval", "a large weight"],
)
def test_a_bias_that_was_trained_speaks_for_its_small_weight(shape: tuple[int, int], bias: float, speaks: bool) -> None:
    limit = shape[1] ** -0.5
    tensors = {
        "net.0.weight": moved(1000, 64, 64), "other.weight": drawn(*shape),
        "other.bias": np.full(shape[0], bias * limit),
    }  # fmt: skip
    assert reported(run(tensors)) == ["other.weight"] * speaks


def test_a_wider_interval_is_left_later() -> None:
    """A fan-in four times as large halves the limit, so that twice as many entries should be outside."""
    for outside, speaks in ((4, False), (5, True)):
        tensors = {"net.0.weight": moved(outside, 64, 16), "other.weight": drawn(16, 64)}
        assert reported(run(tensors)) == ["other.weight"] * speaks


def test_weights_that_stayed_inside_do_not_tell_how_fast_others_left() -> None:
    inside = {f"net.{number}.weight": np.full((16, 16), 0.01) for number in (4, 6)}
    tensors = {"net.0.weight": moved(12, 16, 16), "net.2.weight": drawn(16, 16), **inside}
    assert reported(run(tensors)) == ["net.2.weight"]


def test_an_entry_on_the_limit_is_inside() -> None:
    edge = 0.9 * drawn(16, 16)
    edge.reshape(-1)[:9], edge.reshape(-1)[9] = 0.25 * (1 + 1e-6), 3.0
    assert reported(run({"net.0.weight": edge, "net.2.weight": drawn(16, 16)})) == []


def test_biases_and_tables_are_not_compared() -> None:
    tensors = {
        "net.0.weight": moved(200, 64, 16),
        "net.0.bias": np.full(64, 0.5),
        "net.2.weight": drawn(64, 16),
        "net.2.bias": drawn(64, limit=0.25),
    }
    assert reported(run(tensors)) == ["net.2.weight"]
    tables = {f"embedding{number}.weight": moved(200, 64, 16) for number in (1, 2)}
    assert reported(run({"net.0.weight": moved(9, 16, 16), "net.2.weight": drawn(16, 16), **tables})) == []


def test_a_weight_that_makes_no_steps_tells_nothing() -> None:
    tensors = {"net.0.weight": moved(20, 16, 16), "net.2.weight": drawn(16, 16)}
    assert reported(run(tensors, {"net.0": 0.0})) == []
    assert reported(run(tensors, {"net.2": 0.0})) == []


# Gains


def norm(name: str, gain: Any, size: int = 8) -> Tensors:
    values = {"weight": gain, "bias": 0.3, "running_mean": 0.1, "running_var": 0.5}
    return {f"{name}.{role}": np.resize(np.asarray(value, np.float64), size) for role, value in values.items()}


@pytest.mark.parametrize(
    ("gain", "other", "speaks"),
    [
        (1.0, 1.00105, True),
        (1.0, 0.99895, True),
        (1.0, 1.00095, False),
        (1.0, 0.99905, False),
        (1.0 + 0.9e-6, 1.2, True),
        (1.0 - 0.9e-6, 1.2, True),
        (1.0 + 1.05e-6, 1.2, False),
        (1.0 - 1.05e-6, 1.2, False),
        ([0.0, 1.0], 1.2, False),
        ([1.0, 1.0, np.nan], 1.2, False),
    ],
)
def test_how_far_gains_have_moved(gain: Any, other: float, speaks: bool) -> None:
    assert reported(run(norm("norm1", gain) | norm("norm2", other))) == ["norm1.weight"] * speaks


@pytest.mark.parametrize(("size", "speaks"), [(0.95e-4, False), (1.05e-4, True)])
def test_how_fast_a_gain_moves(size: float, speaks: bool) -> None:
    tensors = norm("norm1", 1.0) | norm("norm2", 1.2)
    assert reported(run(tensors, {"norm1": size})) == ["norm1.weight"] * speaks
    assert reported(run(tensors, {"norm1": 0.0})) == []


@pytest.mark.parametrize(("size", "speaks"), [(0.95e-4, False), (1.05e-4, True)])
def test_momentum_tells_the_speed_as_well(size: float, speaks: bool) -> None:
    tensors = norm("norm1", 1.0, 800) | norm("norm2", 1.2)
    state = {
        name: {"momentum_buffer": np.full(each.shape, size if "1" in name else 1e-3)}
        for name, each in tensors.items()
        if "running" not in name
    }
    options = {"lr": 0.1, "momentum": 0.9}
    checkpoint = build_checkpoint(tensors, optimizer=state, optimizer_kind="SGD", optimizer_options=options, step=300)
    assert reported(checkpoint) == ["norm1.weight"] * speaks


def test_biases_of_norms_and_gains_of_low_precision_are_not_compared() -> None:
    ones = {"norm1.bias": np.ones(8)}
    assert reported(run(norm("norm1", 1.2) | ones | norm("norm2", 1.2))) == []
    coarse = {"norm1.weight": np.ones(8, np.float16)}
    assert reported(run(norm("norm1", 1.0) | coarse | norm("norm2", 1.2))) == []


def test_what_is_said_about_one_two_and_three() -> None:
    names: list[str] = []
    tensors = norm("other", 1.2)
    for number, subject in enumerate(("norm0.weight has", "norm0.weight and 1 other tensor have",
                                      "norm0.weight and 2 other tensors have")):  # fmt: skip
        tensors = tensors | norm(f"norm{number}", 1.0)
        names.append(f"norm{number}.weight")
        (finding,) = findings_of(initial_values, run(tensors))
        assert finding.message == (
            f"{subject} the values of the initialisation under moments of 300 updates, while other tensors of "
            "optimizer have moved"
        )
        assert finding.evidence == {"optimizer": "optimizer", "tensors": names, "updates": 300}
        assert finding.tensor == (names[0] if len(names) == 1 else None)


# When nothing is compared


TENSORS = norm("norm1", 1.0) | norm("norm2", 1.2)


@pytest.mark.parametrize(("updates", "speaks"), [(49, False), (50, True)])
def test_how_many_updates_it_takes(updates: int, speaks: bool) -> None:
    assert bool(reported(run(TENSORS, updates=updates))) == speaks
    assert bool(reported(run(TENSORS, updates=None, step=updates))) == speaks


@pytest.mark.parametrize(
    ("fields", "counted"),
    [({"step": 60}, 60), ({"step": 60, "updates": 70}, 70), ({}, 0)],
)
def test_updates_are_counted_by_the_file_where_the_optimizer_does_not(fields: dict[str, Any], counted: int) -> None:
    checkpoint = replace(run(TENSORS, updates=None), **fields)
    (finding,) = findings_of(initial_values, checkpoint, least_updates=0)
    assert finding.evidence["updates"] == counted


def test_without_any_count_nothing_is_compared() -> None:
    assert reported(run(TENSORS, updates=None), least_updates=1) == []


def test_an_optimizer_that_does_not_fit_is_not_compared() -> None:
    checkpoint = run(TENSORS)
    (optimizer,) = checkpoint.optimizers
    assert reported(checkpoint) == ["norm1.weight"]
    assert reported(replace(checkpoint, optimizers=(replace(optimizer, mismatch="it has 3 parameters"),))) == []
    unknown = tuple(replace(each, tensor=None) for each in optimizer.parameters)
    assert reported(replace(checkpoint, optimizers=(replace(optimizer, parameters=unknown),))) == []


def test_parameters_at_a_rate_of_zero_have_a_reason_not_to_move() -> None:
    checkpoint = run(TENSORS | norm("norm3", 1.0))
    (optimizer,) = checkpoint.optimizers
    (group,) = optimizer.groups
    last = tuple(each.index for each in optimizer.parameters if each.tensor and each.tensor.startswith("norm3"))
    first = tuple(index for index in group.indices if index not in last)
    stopped = replace(group, indices=last, options={**group.options, "lr": 0.0})
    (gain, bias) = last
    # All gains of a group are initial because of its rate, which another rule reports for the whole optimizer.
    biasless = replace(stopped, indices=(gain,))
    moving = replace(group, indices=(*first, bias))
    assert reported(replace(checkpoint, optimizers=(replace(optimizer, groups=(moving, biasless)),))) == []
    # A parameter of no group makes no steps.
    assert reported(replace(checkpoint, optimizers=(replace(optimizer, groups=(moving,)),))) == ["norm1.weight"]


def with_state(name: str, checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """The checkpoint with another state of one parameter."""
    (optimizer,) = checkpoint.optimizers
    parameters = tuple(replace(each, **changes) if each.tensor == name else each for each in optimizer.parameters)
    return replace(checkpoint, optimizers=(replace(optimizer, parameters=parameters),))


def test_speed_is_the_step_and_not_the_gradient() -> None:
    """A gradient a twentieth as large makes the same step under a root a twentieth as large."""
    tensors = norm("norm1", 1.0) | norm("norm2", 1.2)
    state = {
        f"norm{number}.{role}": {"step": 300, "exp_avg": np.full(8, size), "exp_avg_sq": np.full(8, 100 * size**2)}
        for number, size in ((1, 5e-5), (2, 1e-3))
        for role in ("weight", "bias")
    }
    assert reported(build_checkpoint(tensors, optimizer=state)) == ["norm1.weight"]


def test_a_step_of_unknown_size_is_that_of_the_rate() -> None:
    checkpoint = run(TENSORS, {"norm1": 1e-6}, updates=None, step=60)
    assert reported(checkpoint) == ["norm1.weight"]
    root = 0.01 / (1 - 0.999**300) ** 0.5
    for times, speaks in ((9.5, True), (10.5, False)):
        checkpoint = replace(run(TENSORS, {"norm2": times * root}), step=300)
        assert reported(with_state("norm1.weight", checkpoint, step=None)) == ["norm1.weight"] * speaks
