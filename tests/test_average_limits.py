"""Every limit of the rules about copies that do not follow, from both sides, and each of their conditions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.resuming.averages import stale_average
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

Tensors = dict[str, NDArray]


def weights(seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)
    return {"0.weight": random.normal(0, 0.4, (8, 8)), "0.bias": random.normal(0, 0.4, 8)}


def named(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: each.copy() for name, each in tensors.items()}


def run(model: Tensors, *copies: Tensors, updates: int = 300, **settings: Any) -> Checkpoint:
    """A model under Adam, beside copies of it that the optimizer does not hold."""
    state = {
        name: {"step": updates, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-4)}
        for name, each in model.items()
    }
    tensors = {name: each for part in (model, *copies) for name, each in part.items()}
    return build_checkpoint(tensors, optimizer=state, **settings)


def equal(*, average: str = "ema/", updates: int = 300, **settings: Any) -> Checkpoint:
    """A model beside an average that equals it."""
    return run(named("model/", weights()), named(average, weights()), updates=updates, **settings)


def found(checkpoint: Checkpoint) -> list[Finding]:
    return list(findings_of(stale_average, checkpoint))


def test_after_how_many_updates_an_average_is_judged() -> None:
    assert [each.message for each in found(equal(updates=20))] == [
        "ema is identical to the model after 20 updates of the model"
    ]
    assert found(equal(updates=19)) == []


def test_an_average_of_a_model_that_no_gradient_reached_is_not_judged() -> None:
    model = named("model/", weights())
    state = {name: {"step": 300, "exp_avg": 0 * each, "exp_avg_sq": 0 * each} for name, each in model.items()}
    checkpoint = build_checkpoint(model | named("ema/", weights()), optimizer=state)
    assert found(checkpoint) == []


def counted(tensors: Tensors | None = None, *parts: Part) -> Checkpoint:
    return run(named("model/", weights()), named("ema/", weights()), tensors or {}, parts=parts)


@pytest.mark.parametrize(
    ("checkpoint", "count", "severity"),
    [
        (counted(None, Part("ema", Content.STATE_DICT, {"step": 7})), 7, Severity.WARNING),
        (counted(None, Part("ema", Content.STATE_DICT, {"step": 0})), 0, Severity.NOTE),
        (counted(None, Part("ema/inner", Content.STATE_DICT, {"n_averaged": 7})), 7, Severity.WARNING),
        (counted(None, Part("ema", Content.SCHEDULER, {"step": 0})), None, Severity.WARNING),
        (counted(None, Part("other", Content.STATE_DICT, {"step": 0})), None, Severity.WARNING),
        (counted(None, Part("ema", Content.STATE_DICT, {"step": 0.5})), None, Severity.WARNING),
        (counted({"ema/n_averaged": np.array(0)}), 0, Severity.NOTE),
        (counted({"ema/n_averaged": np.array([7])}), 7, Severity.WARNING),
        (counted({"ema.n_averaged": np.array(0)}), 0, Severity.NOTE),
        (counted({"ema/n_averaged": np.array([0, 0])}), None, Severity.WARNING),
        (counted({"ema/n_averaged": np.zeros(0, int)}), None, Severity.WARNING),
    ],
)
def test_where_the_updates_of_an_average_are_counted(
    checkpoint: Checkpoint, count: int | None, severity: Severity
) -> None:
    (finding,) = found(checkpoint)
    assert (finding.evidence["averaged"], finding.severity) == (count, severity)
    words = "" if count is None else f", and counts {count} updates"
    assert finding.message == f"ema is identical to the model after 300 updates of the model{words}"


def test_an_average_equals_the_model_to_the_last_bit() -> None:
    model = named("model/", weights())
    for change in (
        {"ema/0.weight": np.nextafter(weights()["0.weight"], 9)},
        {"ema/0.weight": weights()["0.weight"][::-1]},  # of the same norm
        {name: each.astype(np.float32) for name, each in named("ema/", weights()).items()},
    ):
        assert found(run(model, named("ema/", weights()) | change)) == []
    broken = {name: np.full_like(each, np.nan) for name, each in model.items()}
    assert found(run(broken, named("ema/", {name[6:]: each for name, each in broken.items()}))) == []


def test_biases_alone_are_no_average() -> None:
    bias = {"0.bias": weights()["0.bias"]}
    assert found(run(named("model/", bias), named("ema/", bias))) == []


def test_running_statistics_and_empty_tensors_are_no_part_of_an_average() -> None:
    """Both may differ though the average was never updated."""
    model = named("model/", weights() | {"1.weight": np.ones(8), "1.bias": np.ones(8), "2.weight": np.zeros((0, 8))})
    statistics = {"model/1.running_mean": np.ones(8), "model/1.running_var": np.ones(8)}
    copies = {name.replace("model/", "ema/"): each.copy() for name, each in model.items()}
    other = {name.replace("model/", "ema/"): 2 * each for name, each in statistics.items()}
    (finding,) = found(run(model, copies, statistics | other))
    assert finding.evidence["tensors"] == ["ema/0.weight", "ema/0.bias", "ema/1.weight", "ema/1.bias"]


def test_a_second_name_of_the_same_bytes_is_no_average() -> None:
    checkpoint = equal()
    tensors = tuple(replace(each, storage=each.name.rpartition("/")[2]) for each in checkpoint.tensors)
    assert found(replace(checkpoint, tensors=tensors)) == []


def test_averages_that_are_lists_follow_the_order_of_the_optimizer() -> None:
    model = named("model/", weights() | {"1.weight": weights(1)["0.weight"]})
    lists = {f"ema/shadow_params/{number}": each.copy() for number, each in enumerate(model.values())}
    (finding,) = found(run(model, lists))
    assert finding.evidence["tensors"] == list(lists)
    turned = {f"ema/shadow_params/{number}": each for number, each in enumerate(reversed(list(model.values())))}
    assert found(run(model, turned)) == []
    # Other lists are none, and neither are names in an average.
    assert found(run(model, {name.replace("ema/shadow_params", "old"): each for name, each in lists.items()})) == []
    words = ("first", "second", "third")
    named_ones = {f"ema/x/{word}": each for word, each in zip(words, lists.values(), strict=True)}
    assert found(run(model, named_ones)) == []


def test_a_parameter_that_the_file_does_not_hold_is_left_out_of_the_order() -> None:
    model = named("model/", weights())
    lists = {f"ema/shadow_params/{number}": each.copy() for number, each in enumerate(model.values())}
    checkpoint = run(model, lists)
    (optimizer,) = checkpoint.optimizers
    unknown = tuple(replace(optimizer.parameters[0], index=2 + number, tensor=name) for number, name in
                    enumerate((None, "elsewhere")))  # fmt: skip
    longer = replace(optimizer, parameters=(*optimizer.parameters, *unknown))
    assert len(found(replace(checkpoint, optimizers=(longer,)))) == 1


# An average that is still the initial model


def interval(rows: int, columns: int, seed: int = 0) -> NDArray:
    """A matrix as PyTorch draws it, which reaches its limit."""
    values = np.random.default_rng(seed).permutation(np.linspace(-1, 1, rows * columns)) * columns**-0.5
    drawn: NDArray = values.reshape(rows, columns).astype(np.float32)
    return drawn


def beside_initial(outside: int, updates: int = 5000) -> Checkpoint:
    """A model with so many entries outside of the initial interval, beside its initial copy."""
    matrix = interval(32, 16)
    online = matrix.copy()
    online.reshape(-1)[:outside] = 0.5
    online.reshape(-1)[outside:] *= 0.9
    bias = interval(1, 16).reshape(-1)
    return run(
        {"model/0.weight": online, "model/0.bias": np.resize(0.9 * bias, 32)},
        {"ema/0.weight": matrix, "ema/0.bias": np.resize(bias, 32)},
        updates=updates,
    )


def test_how_many_entries_must_have_left_the_initial_interval() -> None:
    assert [each.message for each in found(beside_initial(10))] == [
        "ema is still the initial model after 5,000 updates of the model"
    ]
    assert found(beside_initial(9)) == []


@pytest.mark.parametrize(("reach", "speaks"), [(0.93, False), (0.94, True)])
def test_an_average_may_follow_as_slowly_as_with_a_decay_of_0_999(reach: float, speaks: bool) -> None:
    """After 300 updates, it has gone a quarter of the way: from 0.01 beyond the limit of 0.25 for 0.936 and more."""
    start = interval(32, 16).reshape(-1)
    online = 0.9 * start
    online[:12] = np.sign(start[:12]) * reach
    start[:12] = np.sign(start[:12]) * 0.01
    checkpoint = run({"model/0.weight": online.reshape(32, 16)}, {"ema/0.weight": start.reshape(32, 16)})
    assert bool(found(checkpoint)) == speaks
