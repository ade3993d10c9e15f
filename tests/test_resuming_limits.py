"""Every limit of the rules about resuming, from both sides, and each of their conditions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.resuming.resuming import (
    loss_scale_collapsed,
    missing_companion,
    moments_out_of_step,
    wrong_object,
)
from checkpoint_doctor.checkpoint import Checkpoint, Content, Missing, Part
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

Tensors = dict[str, NDArray]


def layer() -> Tensors:
    random = np.random.default_rng(0)
    return {"net.weight": random.normal(0, 0.1, (8, 8)).astype(np.float32)}


def norm(distance: float, *, bias: float = 0.01) -> Tensors:
    """A batch norm whose gains are so far from 1."""
    parts = {"weight": 1 + distance, "bias": bias, "running_mean": 0.1, "running_var": 0.5}
    return {f"norm.{role}": np.full(8, value) for role, value in parts.items()}


def run(
    updates: int, count: int, tensors: Tensors | None = None, *, position: int | None = None, **settings: Any
) -> Checkpoint:
    """A run whose Adam has made so many updates at 0.001 where the file counts another number of steps."""
    tensors = layer() if tensors is None else tensors
    state = {
        name: {"step": updates, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-4)}
        for name, each in tensors.items()
        if "running" not in name
    }
    values = {} if position is None else {"last_epoch": position}
    parts = [Part("scheduler", Content.SCHEDULER, values)]
    return build_checkpoint(tensors, optimizer=state, counters={"step": count}, parts=parts, **settings)


def messages(rule: Rule, checkpoint: Checkpoint) -> list[str]:
    return [each.message for each in findings_of(rule, checkpoint)]


@pytest.mark.parametrize(
    ("updates", "count", "position", "speaks"),
    [
        (10, 20, 20, True),
        (11, 21, 21, False),  # less than twice as many
        (4, 14, 14, True),
        (4, 13, 13, False),  # less than ten more
        (10, 30, 29, True),
        (10, 30, 31, True),
        (10, 30, 28, False),
        (10, 30, 32, False),
        (10, 30, None, False),
        (10, 1280, None, False),
        (10, 1281, None, True),
    ],
)
def test_how_far_the_counters_are_apart(updates: int, count: int, position: int | None, speaks: bool) -> None:
    assert bool(messages(moments_out_of_step, run(updates, count, position=position))) == speaks


USUAL = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)


@pytest.mark.parametrize("times", range(2, 130))
def test_usual_numbers_of_accumulated_batches_explain_the_difference(times: int) -> None:
    found = messages(moments_out_of_step, run(100, 100 * times, norm(0.9)))
    assert bool(found) == (times not in USUAL)


@pytest.mark.parametrize(
    ("updates", "count", "speaks"),
    [(20, 160, True), (21, 168, False), (100, 807, False), (100, 808, True), (20, 180, True)],
)
def test_accumulation_is_no_explanation_for_young_or_uneven_counts(updates: int, count: int, speaks: bool) -> None:
    found = messages(moments_out_of_step, run(updates, count, norm(0.9)))
    assert found == (
        [
            f"optimizer counts {updates:,} updates where the file counts {count:,} (step): its state was begun anew, "
            "and norm.weight has moved farther than that many updates could have moved it"
        ]
        if speaks
        else []
    )


def linear(bias: float) -> Tensors:
    """A layer of 16 inputs, whose biases begin within a quarter."""
    return {"net.weight": np.full((8, 16), 0.1), "net.bias": np.full(8, bias)}


@pytest.mark.parametrize(
    ("tensors", "speaks"),
    [
        (norm(0.0305), False),  # ten updates of three times the learning rate, and 0.001 for rounding
        (norm(0.0315), True),
        (norm(-0.0315), True),
        (norm(0.0, bias=0.0305), False),
        (norm(0.0, bias=0.0315), True),
        (norm(np.nan), False),
        (linear(0.2805), False),
        (linear(0.2815), True),
        ({"net.weight": np.full((8, 16), 9.0)}, False),  # nothing says where a matrix began
        ({"scale": np.full(8, 9.0)}, False),
        ({"group.bias": np.full(8, 9.0)}, False),
        (norm(0.0315) | {"norm.running_mean": np.full(8, 90.0)}, True),
    ],
)
def test_how_far_updates_can_have_moved_a_parameter(tensors: Tensors, speaks: bool) -> None:
    assert bool(messages(moments_out_of_step, run(10, 70, tensors))) == speaks


@pytest.mark.parametrize(
    ("kind", "options", "distance", "speaks"),
    [
        ("RMSprop", {}, 0.1005, False),
        ("RMSprop", {}, 0.1015, True),
        ("RMSprop", {"momentum": 0.9}, 5.0, False),
        ("RMSprop", {"momentum": 0.0}, 5.0, True),
        ("SGD", {}, 5.0, False),
    ],
)
def test_which_optimizers_have_steps_of_a_known_size(
    kind: str, options: dict[str, Any], distance: float, speaks: bool
) -> None:
    settings = {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8, **options}
    checkpoint = run(10, 70, norm(distance), optimizer_kind=kind, optimizer_options=settings)
    assert bool(messages(moments_out_of_step, checkpoint)) == speaks


def test_every_step_is_bounded_up_to_a_hundred_thousand_updates() -> None:
    assert messages(moments_out_of_step, run(100_000, 700_000, norm(500.0)))
    assert not messages(moments_out_of_step, run(100_001, 700_007, norm(500.0)))


def test_a_parameter_without_a_name_or_a_rate_tells_nothing() -> None:
    checkpoint = run(10, 70, norm(0.0315))
    (optimizer,) = checkpoint.optimizers
    unknown = replace(optimizer, parameters=tuple(replace(each, tensor=None) for each in optimizer.parameters))
    assert not messages(moments_out_of_step, replace(checkpoint, optimizers=(unknown,)))
    loose = replace(optimizer, groups=(replace(optimizer.groups[0], indices=()),))
    assert not messages(moments_out_of_step, replace(checkpoint, optimizers=(loose,)))
    empty = run(10, 70, norm(0.0) | {"other.bias": np.zeros(0)})
    assert not messages(moments_out_of_step, empty)


@pytest.mark.parametrize(
    ("settings", "speaks"),
    [({}, True), ({"algorithm": "PPO"}, False), ({"hyperparameters": {"gamma": 0.99}}, False)],
)
def test_agents_count_environment_steps(settings: dict[str, Any], speaks: bool) -> None:
    assert bool(messages(moments_out_of_step, run(300, 90_000, **settings))) == speaks


def test_the_optimizer_with_most_updates_is_compared() -> None:
    one, other = run(300, 90_000), run(200, 90_000)
    older, younger = replace(one.optimizers[0], name="first"), replace(other.optimizers[0], name="second")
    both = replace(one, optimizers=(younger, older))
    (finding,) = findings_of(moments_out_of_step, both)
    assert finding.message.startswith("first counts 300 updates where the file counts 90,000 (step)")
    assert finding.evidence == {
        "optimizer": "first",
        "updates": 300,
        "counter": "step",
        "counted": 90_000,
        "tensors": [],
    }


@pytest.mark.parametrize(
    ("values", "severity", "shown"),
    [
        ({"scale": 1.0}, None, ""),
        ({"scale": 0.999}, Severity.WARNING, "0.999"),
        ({"scale": 1e-3}, Severity.WARNING, "0.001"),
        ({"scale": 0.99e-3}, Severity.ERROR, "0.00099"),
        ({"scale": float("nan")}, Severity.ERROR, "nan"),
        ({"scale": float("-inf")}, Severity.ERROR, "-inf"),
        ({"scale": False}, None, ""),
        ({"scale": "0.5"}, None, ""),
        ({"scale": False, "cur_scale": 0.5}, Severity.WARNING, "0.5"),
    ],
)
def test_scales_of_a_loss(values: dict[str, Any], severity: Severity | None, shown: str) -> None:
    parts = [Part("other", Content.SCHEDULER, {"scale": 1e-9}), Part("amp", Content.LOSS_SCALER, values)]
    found = findings_of(loss_scale_collapsed, build_checkpoint(layer(), parts=parts))
    assert [each.severity for each in found] == ([severity] if severity else [])
    for each in found:
        assert each.message.startswith(f"the loss scale of amp is {shown}: ")
        scale = float(shown)
        assert each.evidence == {"scaler": "amp", "scale": scale if np.isfinite(scale) else shown}


def test_a_missing_companion_is_a_note() -> None:
    missing = (Missing("optimizer.pt", "training goes on with a new optimizer"),)
    (finding,) = findings_of(missing_companion, replace(build_checkpoint(layer()), missing=missing))
    assert (finding.severity, finding.evidence) == (Severity.NOTE, {"file": "optimizer.pt"})
    assert finding.message == "optimizer.pt is not in the folder: training goes on with a new optimizer"


MODEL = Part("model", Content.STATE_DICT, keys=frozenset({"weight"}))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Part("optimizer", Content.OPTIMIZER), ""),
        (Part("optimizer", Content.SCHEDULER), "the state of a learning rate scheduler, not the state of an optimizer"),
        (Part("opt_sched", Content.STATE_DICT, keys=MODEL.keys), ""),  # says two things
        (Part("history", Content.SCHEDULER), ""),
        (Part("optimizer", Content.STATE_DICT, keys=MODEL.keys), "the state dict of a model, not the state of an"),
        (Part("optimizer", Content.STATE_DICT, keys=frozenset({"0.exp_avg"})), ""),
        (Part("optimizer", Content.LOSS_SCALER), ""),
        (Part("history", Content.METHOD, type_name="a.B.c"), "a bound method (a.B.c): the parentheses"),
        (Part("first", Content.SCHEDULER, file="run/optimizer.pt"), "the state of a learning rate scheduler, not"),
        (Part("optimizer/first", Content.SCHEDULER), "the state of a learning rate scheduler, not"),
    ],
)
def test_what_stands_under_a_key(part: Part, words: str) -> None:
    found = findings_of(wrong_object, build_checkpoint(layer(), parts=[MODEL, part]))
    assert [each.severity for each in found] == ([Severity.ERROR] if words else [])
    for each in found:
        assert each.message.startswith(f"under {part.name} is {words}")
        assert each.evidence == {
            "key": part.name,
            "content": part.content.name.lower(),
            "type": "a.B.c" if part.content is Content.METHOD else None,
        }
