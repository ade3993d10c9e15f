"""What a plan makes of findings: which tensors change, to what, along with which others, and what is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, ParameterGroup, Tensor
from checkpoint_doctor.layers.init_rules import draw_all, fill, fill_zeros, where_not_finite
from checkpoint_doctor.repair.changes import Change, Plan, Purpose
from checkpoint_doctor.repair.planning import name_subject, plan_repairs, tensors_of_optimizers
from checkpoint_doctor.repair.side_effects import SideEffects, declare_side_effects, find_unjudged_layers
from checkpoint_doctor.repair.simulation import combine, simulate
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.results.identity import identify
from checkpoint_doctor.statistics.values import InMemory
from checkpoint_doctor.testing import build_checkpoint

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
ALL = frozenset(Safety)


def finding(tensor: str | None, *repairs: Repair, code: str = "ZER003", **fields: Any) -> Finding:
    return Finding(
        code, code.lower(), fields.pop("severity", WARNING), fields.pop("message", f"{tensor} is ill"), tensor,
        repairs=repairs, **fields,
    )  # fmt: skip


def to(tensor: str, value: float, safety: Safety = Safety.SAFE) -> Repair:
    return Repair(tensor, f"zeros become {value:g}", fill_zeros(value), safety)


def planned(checkpoint: Checkpoint, *findings: Finding, **options: Any) -> dict[str, Change]:
    return {each.tensor.name: each for each in plan_repairs(checkpoint, findings, **options).changes}


BIAS = np.array([0.0, 1.0, 0.0, 3.0], np.float32)
TWO = {"0.weight": np.ones((4, 2), np.float32), "0.bias": BIAS}


def test_a_repair_changes_the_entries_that_its_rule_changes() -> None:
    (change,) = planned(build_checkpoint(TWO), finding("0.bias", to("0.bias", 5.0))).values()
    assert change.new.tolist() == [5, 1, 5, 3]
    assert change.new.dtype == np.float32
    assert change.changed.tolist() == [True, False, True, False]
    assert (change.entries, change.ranges) == (2, [(0, 1), (2, 3)])
    assert (change.purpose, change.of, change.tied) == (Purpose.REPAIR, "", ())
    assert (change.rules, change.init_rule) == (("ZER003",), "zeros become 5")
    assert change.illness == "0.bias is ill"
    assert (change.before.zeros, change.after.zeros, change.after.maximum) == (2, 0, 5.0)


def test_draws_depend_on_the_seed_which_is_zero_unless_given() -> None:
    drawn = Repair("0.bias", "drawn", lambda values, generator: generator.normal(size=values.shape))
    values = [
        planned(build_checkpoint(TWO), finding("0.bias", drawn), **seed)["0.bias"].new.tolist()
        for seed in ({}, {"seed": 0}, {"seed": 1})
    ]
    assert values[0] == values[1] != values[2]


def test_repairs_of_one_tensor_are_made_in_the_order_of_their_rules() -> None:
    later = finding("0.bias", to("0.bias", 7.0), code="ZER004", message="later")
    last = finding("0.bias", Repair("0.bias", "all 2", fill(2.0)), code="ZER005", message="last")
    first = finding("0.bias", to("0.bias", 5.0), message="first")
    (change,) = planned(build_checkpoint(TWO), last, later, first).values()
    assert change.new.tolist() == [2, 2, 2, 2]
    assert change.rules == ("ZER003", "ZER004", "ZER005")
    assert change.init_rule == "zeros become 5; all 2", "the second had nothing left to do"
    assert change.illness == "first; later; last"


def test_the_same_repair_is_made_once() -> None:
    add = Repair("0.bias", "one more", lambda old, random: old + 1)
    one, other = finding("0.bias", add), finding("0.bias", replace(add), code="ZER004")
    (change,) = planned(build_checkpoint(TWO), one, other).values()
    assert change.new.tolist() == [1, 2, 1, 4]


def test_draws_depend_on_the_seed_and_the_name_alone() -> None:
    def draw(names: Sequence[str], seed: int) -> NDArray:
        checkpoint = build_checkpoint({name: np.zeros(4, np.float32) for name in ("a", "b")})
        found = [finding(name, Repair(name, "drawn", draw_all(1.0))) for name in names]
        return planned(checkpoint, *found, seed=seed)["a"].new

    assert np.array_equal(draw(["a"], 0), draw(["b", "a"], 0))
    assert not np.array_equal(draw(["a"], 0), draw(["a"], 1))


def test_a_repair_that_changes_nothing_is_no_change() -> None:
    assert planned(build_checkpoint(TWO), finding("0.weight", to("0.weight", 5.0))) == {}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (finding("0.bias"), "there is no documented repair for it"),
        (finding("0.bias", to("1.bias", 1.0)), "1.bias is not in the file"),
        (finding("0.bias", to("0.bias", 1.0, Safety.UNSAFE)), "it needs --unsafe"),
        (
            finding("0.bias", to("0.bias", 1.0, Safety.UNSAFE), to("0.weight", 1.0, Safety.ON_REQUEST)),
            "it needs --recycle and --unsafe",
        ),
    ],
)
def test_what_cannot_be_repaired_is_told_with_the_reason(found: Finding, why: str) -> None:
    plan = plan_repairs(build_checkpoint(TWO), [replace(found, advice="Look.")])
    assert plan.changes == plan.fixed == plan.upstream == ()
    (left,) = plan.unfixed
    assert (left.code, left.name, left.severity) == (found.code, found.name, found.severity)
    assert (left.subject, left.message, left.why, left.advice) == ("0.bias", found.message, why, "Look.")


def test_findings_below_the_least_severity_and_hidden_ones_are_passed_over() -> None:
    repair = to("0.bias", 5.0)
    for fields, count in (
        ({"severity": NOTE}, 0), ({"severity": WARNING}, 1), ({"severity": ERROR}, 1), ({"ignored": "known"}, 0)
    ):  # fmt: skip
        plan = plan_repairs(build_checkpoint(TWO), [finding("0.bias", repair, **fields)])
        assert (len(plan.changes), len(plan.fixed), len(plan.unfixed)) == (count, count, 0)
    assert plan_repairs(build_checkpoint(TWO), [finding("0.bias", repair, severity=NOTE)], least=NOTE).changes


def test_advice_that_is_about_the_cause_is_kept_once_for_each_subject() -> None:
    repairs = [finding(name, to(name, 1.0), code=code, advice="Look.") for name, code in (
        ("0.bias", "ZER003"), ("0.bias", "ZER004"), ("0.weight", "ZER003"),
    )]  # fmt: skip
    plan = plan_repairs(build_checkpoint(TWO), [*repairs, finding("0.bias", to("0.bias", 2.0))])
    assert [(each.subject, each.advice) for each in plan.upstream] == [("0.bias", "Look."), ("0.weight", "Look.")]
    assert len(plan.fixed) == 4


def test_a_finding_without_subject_is_about_the_whole_checkpoint() -> None:
    assert name_subject(finding(None)) == "the whole checkpoint"
    assert name_subject(finding("a")) == "a"
    assert name_subject(finding(None, layer="net.0")) == "net.0"


# Bytes that are shared


def sharing(*places: tuple[str, int, int], first: NDArray = BIAS) -> Checkpoint:
    """Tensors of one storage, each with the bytes from … to."""
    whole = build_checkpoint({name: first for name, _, _ in places})
    tensors = tuple(
        replace(tensor, storage="shared", storage_range=(start, stop))
        for tensor, (_, start, stop) in zip(whole.tensors, places, strict=True)
    )
    return replace(whole, tensors=tensors)


def test_tied_tensors_are_repaired_once_under_their_first_name() -> None:
    checkpoint = sharing(("a.bias", 0, 16), ("b.bias", 0, 16), ("c.bias", 0, 16))
    for names in (["b.bias"], ["c.bias", "b.bias", "a.bias"]):
        (change,) = planned(checkpoint, *(finding(name, to(name, 5.0)) for name in names)).values()
        assert (change.tensor.name, change.tied) == ("a.bias", ("b.bias", "c.bias"))


@pytest.mark.parametrize(
    ("start", "stop", "shares"), [(8, 24, True), (0, 8, True), (16, 32, False), (15, 31, True), (4, 12, True)]
)
def test_tensors_that_share_some_bytes_are_not_both_repaired(start: int, stop: int, shares: bool) -> None:
    checkpoint = sharing(("a.bias", 0, 16), ("b.bias", start, stop))
    for names in (("a.bias", "b.bias"), ("b.bias", "a.bias")):
        plan = plan_repairs(
            checkpoint, [finding(name, to(name, 5.0), code=f"ZER00{number}") for number, name in enumerate(names)]
        )
        words = [f"{names[1]} shares some of its bytes with {names[0]}, which is repaired already"] if shares else []
        assert [each.why for each in plan.unfixed] == words
        assert len(plan.changes) == (1 if shares else 2)


def test_a_view_of_all_bytes_in_another_shape_is_not_the_same_tensor() -> None:
    checkpoint = sharing(("a.bias", 0, 16), ("b.bias", 0, 16))
    view = replace(checkpoint.tensors[1], shape=(2, 2), values=InMemory(BIAS.reshape(2, 2)))
    checkpoint = replace(checkpoint, tensors=(checkpoint.tensors[0], view))
    plan = plan_repairs(checkpoint, [finding("a.bias", to("a.bias", 5.0)), finding("b.bias", to("b.bias", 5.0))])
    assert [each.tensor.name for each in plan.changes] == ["a.bias"]
    assert "shares some of its bytes" in plan.unfixed[0].why


@pytest.mark.parametrize("storages", [("", ""), ("one", "other")])
def test_tensors_without_a_common_storage_share_nothing(storages: tuple[str, str]) -> None:
    whole = build_checkpoint({"a.bias": BIAS, "b.bias": BIAS})
    tensors = tuple(
        replace(each, storage=storage, storage_range=(0, stop))
        for each, storage, stop in zip(whole.tensors, storages, (16, 20), strict=True)
    )
    both = planned(replace(whole, tensors=tensors), *(finding(name, to(name, 5.0)) for name in ("a.bias", "b.bias")))
    assert list(both) == ["a.bias", "b.bias"]
    assert all(each.tied == () for each in both.values())


# The optimizer

SQUARES = np.array([4.0, 1.0, 2.0, 3.0], np.float32)


def with_state(**state: Any) -> Checkpoint:
    return build_checkpoint(TWO, optimizer={"0.bias": {"step": 9, **state}})


def moment(key: str, value: NDArray = SQUARES, *findings: Finding) -> Change | None:
    found = findings or (finding("0.bias", to("0.bias", 5.0)),)
    return planned(with_state(**{key: value}), *found).get(f"optimizer/0.bias/{key}")


@pytest.mark.parametrize("key", ["exp_avg", "momentum_buffer", "grad_avg"])
def test_first_moments_of_changed_entries_start_anew(key: str) -> None:
    change = moment(key)
    assert change is not None
    assert change.new.tolist() == [0, 1, 0, 3]
    assert change.new.dtype == np.float32
    assert (change.init_rule, change.purpose, change.of) == ("0", Purpose.MOMENT, "0.bias")
    assert change.rules == ()


def test_momentum_that_is_the_only_record_of_training_stays() -> None:
    whole = build_checkpoint(
        {"0.weight": np.ones((4, 2), np.float32), "0.bias": np.zeros(4, np.float32)},
        optimizer={"0.bias": {"momentum_buffer": np.array([1.0, 2.0, 3.0, 4.0], np.float32)}},
        optimizer_kind="SGD",
    )
    assert list(planned(whole, finding("0.bias", to("0.bias", 5.0)))) == ["0.bias"]


@pytest.mark.parametrize("key", ["exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf", "sum"])
def test_second_moments_of_changed_entries_become_the_median_of_the_others(key: str) -> None:
    change = moment(key)
    assert change is not None
    assert change.new.tolist() == [2, 1, 2, 3]
    assert change.changed.tolist() == [True, False, False, False]
    assert change.init_rule == "the median of the healthy entries, 2"
    assert change.purpose is Purpose.MOMENT


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("exp_avg_sq", 1e-9, 1e-9),
        ("exp_avg_sq", 1e-17, 1.0),
        ("exp_inf", 1e-9, 1.0),
        ("exp_inf", 1e-7, 1e-7),
    ],
)
def test_faded_moments_are_not_typical(key: str, value: float, expected: float) -> None:
    checkpoint = build_checkpoint(
        {"0.bias": np.array([0.0, 1, 1, 1, 1], np.float64)},
        optimizer={"0.bias": {"step": 9, key: np.array([7.0, value, value, value, 1.0])}},
    )
    change = planned(checkpoint, finding("0.bias", to("0.bias", 5.0)))[f"optimizer/0.bias/{key}"]
    assert change.new[0] == expected


def test_a_second_moment_without_any_gradient_stays_zero() -> None:
    change = moment("exp_avg_sq", np.array([np.nan, 0, 0, 0], np.float32))
    assert change is not None
    assert change.new.tolist() == [0, 0, 0, 0]
    assert change.init_rule == "0"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("counter", SQUARES), ("exp_avg", np.ones(3, np.float32)), ("exp_avg", np.ones(4, np.int64)),
        ("exp_avg", np.zeros(4, np.float32)),
    ],
    ids=["another key", "another shape", "integers", "zeros"],
)  # fmt: skip
def test_other_state_stays(key: str, value: NDArray) -> None:
    assert moment(key, value) is None


def test_moments_of_tensors_that_stay_stay() -> None:
    names = {"0.bias": {"step": 9, "exp_avg": SQUARES}, "0.weight": {"step": 9, "exp_avg": np.ones((4, 2))}}
    checkpoint = build_checkpoint(TWO, optimizer=names)
    assert list(planned(checkpoint, finding("0.bias", to("0.bias", 5.0)))) == ["0.bias", "optimizer/0.bias/exp_avg"]


def test_a_moment_of_its_own_is_repaired_alone_or_along_with_its_tensor() -> None:
    ill = np.array([np.nan, np.nan, 2.0, 3.0], np.float32)
    name = "optimizer/0.bias/exp_avg"
    own = finding(None, Repair(name, "NaN become 7", where_not_finite(fill(7.0))), code="VAL001", message="NaN")
    alone = moment("exp_avg", ill, own)
    assert alone is not None
    assert (alone.new.tolist(), alone.of, alone.rules) == ([7, 7, 2, 3], "", ("VAL001",))
    along = moment("exp_avg", ill, own, finding("0.bias", to("0.bias", 5.0)))
    assert along is not None
    assert (along.new.tolist(), along.of) == ([0, 7, 0, 3], "0.bias")
    assert along.init_rule == "NaN become 7; 0"


def test_moments_of_another_name_of_the_same_bytes_go_along() -> None:
    tied = sharing(("a.bias", 0, 16), ("b.bias", 0, 16))
    holder = build_checkpoint({"b.bias": BIAS}, optimizer={"b.bias": {"step": 9, "exp_avg": SQUARES}})
    checkpoint = replace(tied, optimizers=holder.optimizers)
    assert list(planned(checkpoint, finding("a.bias", to("a.bias", 5.0)))) == ["a.bias", "optimizer/b.bias/exp_avg"]


def with_rates(*rates: float) -> Checkpoint:
    checkpoint = with_state(exp_avg=SQUARES)
    groups = tuple(
        ParameterGroup(
            options={"lr": rate, "eps": 0.1},
            indices=(0,) if number == 0 else (),
            settings={"lr": Tensor(f"optimizer/lr/{number}", (), "float64", InMemory(np.array(rate)))},
        )
        for number, rate in enumerate(rates)
    )
    return replace(checkpoint, optimizers=(replace(checkpoint.optimizers[0], groups=groups),))


def test_settings_that_can_be_replaced_are_repaired_like_tensors() -> None:
    checkpoint = with_rates(-1.0, 0.5)
    assert list(tensors_of_optimizers(checkpoint)) == ["optimizer/0.bias/exp_avg", "optimizer/lr/0", "optimizer/lr/1"]
    ill = finding(None, Repair("optimizer/lr/0", "0.0", fill(0.0)), code="OPT003")
    plan = plan_repairs(checkpoint, [ill])
    (change,) = plan.changes
    assert (change.tensor.name, change.purpose, float(change.new)) == ("optimizer/lr/0", Purpose.SETTING, 0.0)
    after = simulate(checkpoint, plan)
    assert [group.options for group in after.optimizers[0].groups] == [
        {"lr": 0.0, "eps": 0.1}, {"lr": 0.5, "eps": 0.1}
    ]  # fmt: skip
    assert type(after.optimizers[0].groups[0].options["lr"]) is float


# Target networks


def pair(online: NDArray = BIAS, target: NDArray = BIAS) -> Checkpoint:
    return build_checkpoint(
        {
            "q_net.q_net.0.weight": np.ones((4, 2), np.float32), "q_net.q_net.0.bias": online,
            "q_net_target.q_net.0.weight": np.ones((4, 2), np.float32), "q_net_target.q_net.0.bias": target,
        },
        algorithm="DQN",
    )  # fmt: skip


ONLINE, TARGET = "q_net.q_net.0.bias", "q_net_target.q_net.0.bias"


def test_a_target_network_gets_the_new_values_of_its_online_network() -> None:
    changes = planned(pair(target=np.array([9.0, 8, 7, 6], np.float32)), finding(ONLINE, to(ONLINE, 5.0)))
    assert list(changes) == [ONLINE, TARGET]
    assert changes[TARGET].new.tolist() == [5, 8, 5, 6]
    assert changes[TARGET].new.dtype == np.float32
    assert (changes[TARGET].purpose, changes[TARGET].of) == (Purpose.TARGET, ONLINE)
    assert changes[TARGET].init_rule == f"the values of {ONLINE}"


def test_a_target_network_of_another_type_gets_the_new_values_in_its_own() -> None:
    bias = BIAS.astype(np.float16)
    changes = planned(pair(BIAS.astype(ml_dtypes.bfloat16), bias), finding(ONLINE, to(ONLINE, 5.0)))
    assert changes[TARGET].new.dtype == np.float16
    assert changes[TARGET].new[changes[TARGET].changed].tolist() == [5.0, 5.0]


def test_an_ill_target_takes_sound_values_from_its_online_network_and_its_own_repair_for_the_rest() -> None:
    online = np.array([0.0, 1.0, np.nan, 3.0], np.float32)
    changes = planned(pair(online, np.zeros(4, np.float32)), finding(TARGET, to(TARGET, 7.0)))
    assert list(changes) == [TARGET]
    assert changes[TARGET].new.tolist() == [7, 1, 7, 3]
    assert changes[TARGET].rules == ("ZER003",)


def test_both_networks_ill_become_the_same() -> None:
    drawn = [finding(name, Repair(name, "drawn", draw_all(1.0))) for name in (ONLINE, TARGET)]
    changes = planned(pair(), *drawn)
    assert np.array_equal(changes[ONLINE].new, changes[TARGET].new)


@pytest.mark.parametrize("first", [ONLINE, TARGET])
def test_a_target_that_is_the_online_network_itself_is_one_change(first: str) -> None:
    checkpoint = pair()
    tensors = [
        replace(each, storage="shared", storage_range=(0, 16)) if each.name in (ONLINE, TARGET) else each
        for each in checkpoint.tensors
    ]
    tensors.sort(key=lambda each: each.name != first)
    changes = planned(replace(checkpoint, tensors=tuple(tensors)), finding(ONLINE, to(ONLINE, 5.0)))
    (other,) = {ONLINE, TARGET} - {first}
    assert [(name, each.tied, each.purpose) for name, each in changes.items()] == [(first, (other,), Purpose.REPAIR)]


# Simulation


def test_a_simulation_has_the_new_values_and_measures_only_them() -> None:
    checkpoint = with_state(exp_avg=SQUARES, exp_avg_sq=SQUARES)
    plan = plan_repairs(checkpoint, [finding("0.bias", to("0.bias", 5.0))])
    after = simulate(checkpoint, plan)
    assert after.by_name["0.bias"].array.tolist() == [5, 1, 5, 3]
    assert after.by_name["0.weight"] is checkpoint.by_name["0.weight"]
    assert after.optimizers[0].parameters[0].state["exp_avg"].array.tolist() == [0, 1, 0, 3]
    untouched = simulate(checkpoint, Plan())
    assert untouched.optimizers[0].parameters[0] is checkpoint.optimizers[0].parameters[0]


def test_names_of_the_same_bytes_change_together_in_a_simulation() -> None:
    checkpoint = sharing(("a.bias", 0, 16), ("b.bias", 0, 16)).with_shared_statistics()
    after = simulate(checkpoint, plan_repairs(checkpoint, [finding("b.bias", to("b.bias", 5.0))]))
    for name in ("a.bias", "b.bias"):
        assert after.by_name[name].array.tolist() == [5, 1, 5, 3]
        assert after.by_name[name].statistics.zeros == 0


def test_two_plans_become_one_from_the_original_values() -> None:
    checkpoint = build_checkpoint(TWO)
    stays = finding("0.weight", code="NET004")
    first = plan_repairs(checkpoint, [finding("0.bias", to("0.bias", 5.0), advice="Look."), stays])
    more = finding("0.bias", Repair("0.bias", "all 2", fill(2.0)), code="ZER004", message="more", advice="Look again.")
    other = finding("0.weight", Repair("0.weight", "all 3", fill(3.0)), code="ZER001")
    new = finding("0.weight", code="NET005")
    further = plan_repairs(simulate(checkpoint, first), [more, other, stays, new])
    both = combine(checkpoint, first, further)
    bias, weight = both.changes
    assert (bias.new.tolist(), bias.changed.tolist()) == ([2, 2, 2, 2], [True] * 4)
    assert bias.tensor is checkpoint.by_name["0.bias"]
    assert (bias.rules, bias.init_rule) == (("ZER003", "ZER004"), "zeros become 5; all 2")
    assert bias.illness == "0.bias is ill; more"
    assert (weight.tensor.name, weight.rules) == ("0.weight", ("ZER001",))
    assert [each.code for each in both.unfixed] == ["NET004", "NET005"]
    assert [each.advice for each in both.upstream] == ["Look.", "Look again."]
    assert [each.code for each in both.fixed] == ["ZER003", "ZER001", "ZER004"]


def test_what_the_second_plan_fixes_is_left_no_longer() -> None:
    checkpoint = build_checkpoint(TWO)
    ill = finding("0.weight", to("0.weight", 1.0), code="ZER001")
    first = plan_repairs(checkpoint, [replace(ill, repairs=()), finding("0.bias", to("0.bias", 5.0))])
    further = plan_repairs(checkpoint, [ill, finding("0.bias", to("0.bias", 5.0))])
    both = combine(checkpoint, first, further)
    assert both.unfixed == ()
    assert [each.code for each in both.fixed] == ["ZER003", "ZER001"]


# Side effects


def caused(tensor: str | None, cause: str | None, severity: Severity = WARNING, **fields: Any) -> Finding:
    evidence = {} if cause is None else {"cause": cause}
    return finding(tensor, severity=severity, evidence=evidence | fields.pop("evidence", {}), **fields)


KNOWN = finding("a", severity=WARNING)


@pytest.mark.parametrize(
    ("allowed", "found", "expected"),
    [
        ({}, finding("a", severity=NOTE), True),
        ({}, finding("a"), False),
        ({"known": {identify(KNOWN): WARNING}}, KNOWN, True),
        ({"known": {identify(KNOWN): WARNING}}, replace(KNOWN, severity=ERROR), False),
        ({"known": {identify(KNOWN): WARNING}}, finding("b"), False),
        ({"still_ill": {"a": WARNING}}, finding("a", code="NET004"), True),
        ({"still_ill": {"a": WARNING}}, finding("a", code="NET004", severity=ERROR), False),
        ({"still_ill": {"net.0": WARNING}}, finding(None, layer="net.0"), True),
        ({"same_rule": frozenset({("NET002", "a")})}, finding("a", code="NET002", severity=ERROR), True),
        ({"same_rule": frozenset({("NET002", "a")})}, finding("a", code="NET003"), False),
        ({"newly_judged": frozenset({"net.0"})}, finding("a", layer="net.0", severity=ERROR), True),
        ({"newly_judged": frozenset({"net.0"})}, finding("a", layer="net.1"), False),
        ({"still_true": {("a", "never trained"): WARNING}}, caused("a", "never trained"), True),
        ({"still_true": {("a", "never trained"): WARNING}}, caused("a", "never trained", ERROR), False),
        ({"still_true": {("a", "never trained"): WARNING}}, caused("a", "overwritten"), False),
        ({"still_true": {("a", "x"): WARNING}}, caused(None, "x", evidence={"tensors": ["a", "b"]}), False),
        (
            {"still_true": {("a", "x"): WARNING, ("b", "x"): WARNING}},
            caused(None, "x", evidence={"tensors": ["a", "b"]}),
            True,
        ),
        ({"still_true": {("a", "x"): WARNING}}, caused(None, "x"), False),
        ({"still_true": {("a", "x"): WARNING}}, caused("a", None), False),
    ],
)
def test_what_may_be_found_after_a_repair(allowed: Mapping[str, Any], found: Finding, expected: bool) -> None:
    assert SideEffects(**allowed).allows(found) is expected


def test_side_effects_are_declared_from_what_was_found_before() -> None:
    checkpoint = build_checkpoint(TWO)
    fixed = finding("0.bias", to("0.bias", 5.0), evidence={"cause": "never trained"})
    stays = [finding("0.weight", code="NET004", severity=severity) for severity in (ERROR, WARNING)]
    plan = plan_repairs(checkpoint, [fixed])
    allowed = declare_side_effects(checkpoint, [fixed, *stays], plan)
    assert allowed.known == {identify(fixed): WARNING, identify(stays[0]): ERROR}
    assert allowed.still_ill == {"0.weight": ERROR}
    assert allowed.still_true == {("0.bias", "never trained"): WARNING}
    assert allowed.same_rule == {("ZER003", "0.bias")}
    assert allowed.newly_judged == frozenset()


def test_notes_are_no_more_than_notes_afterwards() -> None:
    note = finding("0.weight", code="NET004", severity=NOTE, evidence={"cause": "never trained"})
    allowed = declare_side_effects(build_checkpoint(TWO), [note], Plan())
    assert allowed.known == {identify(note): NOTE}
    assert allowed.still_ill == {"0.weight": NOTE}
    assert allowed.still_true == {("0.weight", "never trained"): NOTE}


def test_what_asked_for_a_repair_may_be_said_of_the_target_network_too() -> None:
    checkpoint = pair()
    plan = plan_repairs(checkpoint, [finding(ONLINE, to(ONLINE, 5.0), code="NET001")])
    allowed = declare_side_effects(checkpoint, [], plan)
    assert allowed.same_rule == {("NET001", ONLINE), ("NET001", TARGET)}


@pytest.mark.parametrize(
    ("name", "key"), [("2.weight", ""), ("2.bias", ""), ("2.weight", "exp_avg"), ("2.weight", "exp_avg_sq")]
)
def test_layers_beside_what_is_not_finite_could_not_be_judged(name: str, key: str) -> None:
    weights = {
        f"{number}.{role}": np.ones(shape)
        for number in (0, 2, 4, 6)
        for role, shape in (("weight", (4, 4)), ("bias", (4,)))
    }
    state = {each: {"step": 9, "exp_avg": value.copy(), "exp_avg_sq": value.copy()} for each, value in weights.items()}
    assert find_unjudged_layers(build_checkpoint(weights, optimizer=state)) == frozenset()
    (state[name][key] if key else weights[name]).reshape(-1)[1] = np.inf
    assert find_unjudged_layers(build_checkpoint(weights, optimizer=state)) == {"0", "2", "4"}


def test_all_safeties_are_known() -> None:
    assert planned(build_checkpoint(TWO), finding("0.bias", to("0.bias", 5.0, Safety.UNSAFE)), allowed=ALL)


def test_a_norm_behind_what_is_not_finite_could_not_be_judged() -> None:
    weights = {"0.weight": np.ones((4, 4)), "1.weight": np.ones(4), "1.bias": np.ones(4), "3.weight": np.ones((4, 4))}
    weights["0.weight"][1, 1] = np.nan
    checkpoint = build_checkpoint(weights)
    assert checkpoint.layer_by_name["0"].following == "1"
    assert find_unjudged_layers(checkpoint) >= {"0", "1"}
