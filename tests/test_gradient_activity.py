"""Which units receive a gradient, and for how many updates they have not, as moments of known ages show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log, nan
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import (
    GradientActivity,
    input_activity,
    unit_activity,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.testing import build_checkpoint

RATIO = 1e-6
STEP = 200_000
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999)}
LIMIT = log(1 / RATIO) / (-log(0.9) + log(0.999) / 2)
"""Updates after which a unit without gradient is inactive, about 132."""


def spread(lines: Sequence[float] | NDArray) -> NDArray:
    """A row for each number, its largest entry; the other entries differ, as those of gradients do."""
    return np.outer(np.asarray(lines, np.float64), [0.7, 1.0, 0.9, 0.8])


def decayed(size: float, factor: float, ages: Sequence[float]) -> NDArray:
    return size * factor ** np.asarray(ages, np.float64)


def adam(ages: Sequence[float], *, first: float = 1e-3, root: float = 1e-2, betas: Sequence[float] = (0.9, 0.999)):
    """Moments of rows whose last gradients came so many updates ago."""
    return {
        "exp_avg": spread(decayed(first, betas[0], ages)),
        "exp_avg_sq": spread(decayed(root, betas[1] ** 0.5, ages)) ** 2,
    }


def holding(state: Mapping[str, NDArray], *, options: Mapping[str, Any] = ADAM, step: int | None = STEP) -> Checkpoint:
    shape = next(iter(state.values())).shape
    counted = {} if step is None else {"step": step}
    return build_checkpoint(
        {"net.0.weight": np.ones(shape)}, optimizer={"net.0.weight": counted | state}, optimizer_options=options
    )


def measured(state: Mapping[str, NDArray], **fields: Any) -> GradientActivity:
    checkpoint = holding(state, **fields)
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    return activity


def inactive(state: Mapping[str, NDArray], **fields: Any) -> list[bool]:
    return list(measured(state, **fields).inactive)


def ages(activity: GradientActivity) -> Any:
    return pytest.approx(list(activity.updates_since), rel=1e-6, nan_ok=True)


def test_units_without_gradient_are_told_with_the_age_of_their_last_one() -> None:
    activity = measured(adam([0, 0, 0, 150, 300, inf]))
    assert list(activity.never_active) == [False, False, False, False, False, True]
    assert list(activity.inactive) == [False, False, False, True, True, True]
    assert list(activity.active) == [True, True, True, False, False, False]
    assert list(activity.stopped) == [False, False, False, True, True, False]
    assert [nan, nan, nan, 150, 300, nan] == ages(activity)
    assert not activity.at_least.any()
    assert not activity.replaced.any()
    assert activity.step == STEP


def test_no_age_is_larger_than_the_optimizers() -> None:
    assert [nan, nan, 900] == ages(measured(adam([0, 0, 1000]), step=900))
    assert [nan, nan, 1000] == ages(measured(adam([0, 0, 1000]), step=None))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.7, 0.999), (0.7, 0.99)])
def test_how_long_a_unit_must_have_been_without_gradient_does_not_depend_on_faster_decay(betas: tuple[float, float]):
    state = adam([0, 0, 0.999 * LIMIT, 1.001 * LIMIT], betas=betas, first=1e-2)
    assert inactive(state, options={"betas": betas}) == [False, False, False, True]


def test_slower_decay_keeps_the_limit_of_the_ratio() -> None:
    needed = log(1 / RATIO) / (-log(0.99) + log(0.999) / 2)
    state = adam([0, 0, 0.999 * needed, 1.001 * needed], betas=(0.99, 0.999), first=1e-2)
    assert inactive(state, options={"betas": (0.99, 0.999)}) == [False, False, False, True]


@pytest.mark.parametrize(("ratio", "limit"), [(0.3, RATIO), (0.1, RATIO), (0.05, RATIO / 2), (0.01, RATIO / 10)])
def test_where_all_gradients_shrink_the_limit_shrinks_with_them(ratio: float, limit: float) -> None:
    state = adam([0, 0, 0, 0, 0, 0], first=ratio * 1e-2)
    state["exp_avg"][4] = spread([1.01 * limit * 1e-2])
    state["exp_avg"][5] = spread([0.99 * limit * 1e-2])
    assert inactive(state) == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("state", "options", "needed"),
    [
        (adam([0, 0, 250], first=1e-2), ADAM, 1.5 * LIMIT),
        (
            adam([0, 0, 4000], first=1e-2, betas=(0.99, 0.999)),
            {"betas": (0.99, 0.999)},
            1.5 * log(1 / RATIO) / (-log(0.99) + log(0.999) / 2),
        ),
        (adam([0, 0, 250], first=1e-5), ADAM, 1.5 * log(100 / RATIO) / (-log(0.9) + log(0.999) / 2)),
        (adam([0, 0, 250], first=1e-2, betas=(0.7, 0.999)), {"betas": (0.7, 0.999)}, 1.5 * LIMIT),
    ],
    ids=["default", "slow", "shrinking", "fast"],
)
def test_a_young_optimizer_tells_only_units_that_never_learned(
    state: Mapping[str, NDArray], options: Mapping[str, Any], needed: float
) -> None:
    assert inactive(state, options=options, step=int(needed)) == [False, False, False]
    assert inactive(state, options=options, step=int(needed) + 1) == [False, False, True]


def test_a_first_moment_that_decays_no_further_leaves_the_second_to_tell_the_age() -> None:
    state = adam([0, 0, 2000, 400, 0])
    state["exp_avg"][2:4] = spread([1e-42, 1e-42])
    state["exp_avg"][4] = spread([1.1e-42])
    activity = measured(state)
    lowest = log(1e-3 / 1e-42) / -log(0.9)
    by_ratio = log(1e-1 / 1.1e-40) / (-log(0.9) + log(0.999) / 2)
    assert [nan, nan, 2000, lowest, by_ratio] == ages(activity)
    assert list(activity.at_least) == [False, False, False, True, False]


def test_a_second_moment_that_decays_no_further_is_no_gradient_of_today() -> None:
    state = adam([0, 0, 0, 0])
    state["exp_avg_sq"][2:] = spread([1.39e-42, 1.42e-42])
    state["exp_avg"][2:] = spread([1e-22, 1e-22])
    narrow = state | {"exp_avg_sq": state["exp_avg_sq"].astype(np.float32)}
    activity = measured(narrow)
    assert list(activity.inactive) == [False, False, True, False]
    assert list(activity.at_least) == [False, False, True, False]
    lowest = log(1e-2 / float(narrow["exp_avg_sq"].max(axis=1)[2]) ** 0.5) / (-log(0.999) / 2)
    assert [nan, nan, lowest, nan] == ages(activity)
    assert inactive(state) == [False] * 4, "float64 decays further"


def test_without_any_active_unit_the_age_is_counted_from_small_gradients() -> None:
    since = measured(adam([0, 0], first=1e-9)).updates_since
    assert list(since) == pytest.approx([log(1e7) / (-log(0.9) + log(0.999) / 2)] * 2)
    faded = {"exp_avg": spread([1e-42, 1e-42]), "exp_avg_sq": spread([1e-10, 1e-30]) ** 2}
    activity = measured(faded)
    by_ratio = [log(root / 1e-42) / (-log(0.9) + log(0.999) / 2) for root in (1e-10, 1e-30)]
    assert by_ratio == ages(activity)
    assert log(1e-6 / 1e-42) / -log(0.9) == pytest.approx(786.7, abs=0.1)
    assert list(activity.at_least) == [each <= 786.7 for each in by_ratio] == [True, True]
    floor = {"exp_avg": spread([1e-23]), "exp_avg_sq": spread([1e-42]).astype(np.float32)}
    (since,) = measured(floor).updates_since
    assert since == pytest.approx(log(1e-6 / float(floor["exp_avg_sq"].max()) ** 0.5) / (-log(0.999) / 2))


RMSPROP = {"alpha": 0.99, "foreach": None}
SGD = {"momentum": 0.9}


def rmsprop(ages: Sequence[float], dtype: type = np.float64) -> dict[str, NDArray]:
    return {"square_avg": (spread(decayed(1e-2, 0.99**0.5, ages)) ** 2).astype(dtype)}


@pytest.mark.parametrize(
    ("state", "options", "since"),
    [
        (rmsprop([0, 0, 0, 5000, inf]), RMSPROP, [nan, nan, nan, 5000, nan]),
        ({"momentum_buffer": spread(decayed(1.0, 0.9, [0, 0, 0, 300, inf]))}, SGD, [nan, nan, nan, 300, nan]),
        (
            {"exp_avg": spread(decayed(1.0, 0.99, [0, 0, 0, 3000, inf]))},
            {"betas": (0.9, 0.99)},
            [nan, nan, nan, 3000, nan],
        ),
        (
            {
                "exp_avg": spread(decayed(1.0, 1e-9, [0, 0, 0, 9, inf])),
                "exp_avg_sq": rmsprop([0, 0, 0, 5000, inf])["square_avg"],
            },
            {"betas": (0.0, 0.99)},
            [nan, nan, nan, 5000, nan],
        ),
        ({"sum": spread([1e-2, 1e-2, 1e-2, 1e-30, 0.0]).astype(np.float32)}, {}, [nan] * 5),
    ],
    ids=["RMSprop", "momentum", "Lion", "Adam without first moments", "Adagrad"],
)
def test_other_optimizers_tell_the_age_too(
    state: Mapping[str, NDArray], options: Mapping[str, Any], since: list[float]
) -> None:
    activity = measured(state, options=options)
    assert list(activity.never_active) == [False] * 4 + [True]
    assert list(activity.stopped) == [not np.isnan(each) for each in since]
    assert since == ages(activity)


@pytest.mark.parametrize(
    ("state", "options", "never"),
    [
        ({"sum": spread([0.5, 0.5, 0.5]) ** 0 * 0.25}, {"initial_accumulator_value": 0.25}, [True, True, True]),
        ({"sum": 0.25 + spread([0.0, 1e-3, 0.0])}, {"initial_accumulator_value": 0.25}, [True, False, True]),
        (
            {"exp_avg": spread([0, 1e-3, 0]), "exp_inf": 1e-8 + spread([0, 1e-2, 0])},
            {"betas": (0.9, 0.999), "eps": 1e-8},
            [True, False, True],
        ),
    ],
)
def test_what_starts_above_zero_never_learned_while_it_stays_there(
    state: Mapping[str, NDArray], options: Mapping[str, Any], never: list[bool]
) -> None:
    assert list(measured(state, options=options).never_active) == never


@pytest.mark.parametrize(
    ("state", "options", "rate"),
    [
        ("square_avg", RMSPROP, -log(0.99) / 2),
        ("square_avg", {"alpha": 0.5, "foreach": None}, log(2) / 2),
        ("momentum_buffer", SGD, -log(0.9)),
        ("momentum_buffer", {"momentum": 0.99}, -log(0.99)),
    ],
)
def test_the_limit_of_one_moment_is_relative_to_the_largest_line(
    state: str, options: Mapping[str, Any], rate: float
) -> None:
    limit = min(RATIO, exp(-rate * LIMIT))
    lines = spread([2e-2, 2e-3, 2.02e-2 * limit, 1.98e-2 * limit])
    lines = lines**2 if state == "square_avg" else lines
    assert inactive({state: lines}, options=options) == [False, False, False, True]


def test_lines_that_a_repair_replaced_are_neither_active_nor_inactive() -> None:
    state = adam([0, 0, 0, 300, inf, 0])
    state["exp_avg"][2:4], state["exp_avg_sq"][2:4] = 0.0, 1e-4
    activity = measured(state)
    assert list(activity.replaced) == [False, False, True, True, False, False]
    assert list(activity.inactive) == [False, False, False, False, True, False]
    assert list(activity.never_active) == [False, False, False, False, True, False]
    assert list(activity.active) == [True, True, False, False, False, True]
    assert np.isnan(activity.updates_since).all()


# Whose lines


def two(weight: Sequence[float], bias: Sequence[float], steps: Sequence[int | None] = (STEP, STEP)) -> Checkpoint:
    moments = adam(weight), {key: value[:, 1] for key, value in adam(bias).items()}
    names = ("net.0.weight", "net.0.bias")
    states = [state if step is None else {"step": step, **state} for state, step in zip(moments, steps, strict=True)]
    tensors = {"net.0.weight": np.ones((len(weight), 4)), "net.0.bias": np.ones(len(bias))}
    return build_checkpoint(tensors, optimizer=dict(zip(names, states, strict=True)))


def test_a_unit_is_inactive_where_its_weights_and_its_bias_are() -> None:
    checkpoint = two([0, 300, 300, inf, inf, 300], [0, 0, 200, inf, 200, inf])
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert list(activity.inactive) == [False, False, True, True, True, True]
    assert list(activity.never_active) == [False, False, False, True, False, False]
    assert [nan, 300, 200, nan, 200, 300] == ages(activity)


@pytest.mark.parametrize(("steps", "step"), [((900, None), 900), ((None, 900), 900), ((800, 900), 900)])
def test_the_steps_of_a_unit_are_those_that_were_counted(steps: tuple[int | None, int | None], step: int) -> None:
    checkpoint = two([0, 0, 300], [0, 0, 300], steps)
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert activity.step == step


def test_both_moments_must_have_reached_the_smallest_number_for_a_lower_bound() -> None:
    weight, bias = adam([0, 0, 400, 400]), adam([0, 0, 400, 400])
    weight["exp_avg"][2:], bias["exp_avg"][2] = 1e-42, 1e-42
    states = {"net.0.weight": weight, "net.0.bias": {key: value[:, 1] for key, value in bias.items()}}
    checkpoint = build_checkpoint(
        {"net.0.weight": np.ones((4, 4)), "net.0.bias": np.ones(4)},
        optimizer={name: {"step": STEP, **state} for name, state in states.items()},
    )
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert list(activity.at_least) == [False, False, True, False]


def test_a_recurrent_unit_is_inactive_where_all_its_gates_are() -> None:
    rows = np.zeros(16)
    rows[[0, 4, 8]] = 300, 300, 300  # three of the first unit's four gates
    rows[[1, 5, 9, 13]] = 300, 200, 250, 400
    rows[[2, 6, 10, 14]] = inf, inf, inf, inf
    state = {"step": STEP, **adam(rows)}
    names = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
    checkpoint = build_checkpoint({name: np.ones((16, 4)) for name in names}, optimizer=dict.fromkeys(names, state))
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert list(activity.inactive) == [False, True, True, False]
    assert list(activity.never_active) == [False, False, True, False]
    assert activity.updates_since[1] == pytest.approx(200)


def test_gates_that_are_lower_bounds_or_replaced_are_told_of_their_unit() -> None:
    rows = np.zeros(16)
    rows[[1, 5, 9, 13]] = rows[[2, 6, 10, 14]] = 400
    state = adam(rows)
    state["exp_avg"][[1, 5, 9, 13, 2]] = spread([1e-42] * 5)
    state["exp_avg"][3], state["exp_avg_sq"][3] = 0.0, 1e-4
    names = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
    checkpoint = build_checkpoint(
        {name: np.ones((16, 4)) for name in names}, optimizer={name: {"step": STEP, **state} for name in names}
    )
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert list(activity.at_least) == [False, True, False, False]
    assert list(activity.replaced) == [False, False, False, True]


def test_the_inputs_of_a_layer_are_the_columns_of_its_weight() -> None:
    state = {key: value.T for key, value in adam([0, 300, inf]).items()}
    checkpoint = holding(state)
    activity = input_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert [nan, 300, nan] == ages(activity)
    assert list(activity.inactive) == [False, True, True]


def test_a_projection_of_the_hidden_state_has_units_of_its_own() -> None:
    ages_of = {"weight_ih_l0": (16, 0), "weight_hh_l0": (16, 0), "weight_hr_l0": (3, 300)}
    columns = {"weight_ih_l0": 4, "weight_hh_l0": 3, "weight_hr_l0": 4}
    tensors = {f"lstm.{role}": np.ones((rows, columns[role])) for role, (rows, _) in ages_of.items()}
    states = {
        f"lstm.{role}": {"step": STEP} | {key: value[:, : columns[role]] for key, value in adam([age] * rows).items()}
        for role, (rows, age) in ages_of.items()
    }
    checkpoint = build_checkpoint(tensors, optimizer=states)
    activity = unit_activity(checkpoint.layers[0], checkpoint, RATIO)
    assert activity is not None
    assert activity.inactive.shape == (4,)
    assert not activity.inactive.any()


def test_the_units_of_a_transposed_weight_are_its_columns() -> None:
    turned = {key: value.T for key, value in adam([0, 300, inf]).items()}
    bias = {key: value[:, 1] for key, value in adam([0, 0, inf]).items()}
    checkpoint = build_checkpoint(
        {"net.0.weight": np.ones((4, 3)), "net.0.bias": np.ones(3)},
        optimizer={"net.0.weight": {"step": STEP, **turned}, "net.0.bias": {"step": STEP, **bias}},
    )
    layer = replace(checkpoint.layers[0], transposed=True)
    activity = unit_activity(layer, checkpoint, RATIO)
    assert activity is not None
    assert list(activity.inactive) == [False, False, True]
    inputs = input_activity(layer, checkpoint, RATIO)
    assert inputs is not None
    assert inputs.inactive.shape == (4,)


def test_layers_without_a_matrix_have_neither_units_nor_inputs() -> None:
    vector = {"step": STEP, "exp_avg": np.full(3, 1e-3), "exp_avg_sq": np.full(3, 1e-4)}
    names = ("scale", "norm.weight", "norm.bias")
    checkpoint = build_checkpoint({name: np.ones(3) for name in names}, optimizer=dict.fromkeys(names, vector))
    scale, norm = (checkpoint.layer_of[name] for name in names[:2])
    assert unit_activity(scale, checkpoint, RATIO) is None
    assert input_activity(scale, checkpoint, RATIO) is None
    assert input_activity(norm, checkpoint, RATIO) is None


def test_a_layer_whose_tensors_disagree_about_its_units_says_nothing() -> None:
    checkpoint = two([0, 0, 300], [0, 0, 300, 300, 300])
    assert unit_activity(checkpoint.layer_by_name["net.0"], checkpoint, RATIO) is None
    checkpoint = holding(adam([0, 0, 300]))
    assert unit_activity(replace(checkpoint.layers[0], kind=Kind.LSTM), checkpoint, RATIO) is None
    without = build_checkpoint({each.name: each.array for each in checkpoint.tensors})
    assert unit_activity(replace(without.layers[0], kind=Kind.LSTM), without, RATIO) is None


def unlearned() -> Checkpoint:
    return build_checkpoint({"net.0.weight": np.ones((3, 4))})


def with_one(key: str, value: float) -> Checkpoint:
    state = adam([0, 0, 300])
    state[key][0, 0] = value
    return holding(state)


def bias_alone() -> Checkpoint:
    checkpoint = two([0, 0, 300], [0, 0, 300])
    names = [name for name in checkpoint.moments if name.endswith("bias")]
    states = {name: {"step": STEP, "exp_avg": np.ones(3), "exp_avg_sq": np.ones(3)} for name in names}
    return build_checkpoint({each.name: each.array for each in checkpoint.tensors}, optimizer=states)


@pytest.mark.parametrize(
    "checkpoint",
    [
        unlearned(),
        with_one("exp_avg", np.nan),
        with_one("exp_avg_sq", np.inf),
        holding(adam([0, 0, 300]), options={}),
        holding(adam([0, 0, 300]), step=19),
        holding({key: value[:0] for key, value in adam([0]).items()}),
        bias_alone(),
        holding({"other": np.ones((3, 4))}),
    ],
    ids=[
        "no optimizer",
        "NaN",
        "infinity",
        "unknown decay",
        "young",
        "no rows",
        "no moments of the weight",
        "other state",
    ],
)
def test_a_file_that_cannot_tell_says_nothing(checkpoint: Checkpoint) -> None:
    assert unit_activity(checkpoint.layers[0], checkpoint, RATIO) is None


def test_twenty_updates_tell_units_that_never_learned() -> None:
    assert inactive(adam([0, 0, inf]), step=20) == [False, False, True]
    assert inactive(adam([0, 0, inf]), step=None) == [False, False, True]
