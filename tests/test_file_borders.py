"""Rules about files, adapters and gates at their borders, and which names in a pickle can run code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.nonfinite import describe_nonfinite
from checkpoint_doctor.builtin.analyzers.files import containers
from checkpoint_doctor.builtin.analyzers.files._executable_names import can_execute, describes_settings
from checkpoint_doctor.builtin.analyzers.layers import adapters, recurrent
from checkpoint_doctor.builtin.analyzers.values import nonfinite
from checkpoint_doctor.checkpoint import Checkpoint, Flaw, PickledName
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import draw, found, gated, mlp, rows_of, trained, zeroed

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]


def named(qualified: str, member: str = "", **fields: Any) -> PickledName:
    module, _, name = qualified.rpartition(".")
    return PickledName(module, name, member, **fields)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (named("os.system"), True),
        (named("posix.system"), True),
        (named("subprocess.Popen"), True),
        (named("os.system", known=True), False),
        (named("builtins.eval"), True),
        (named("builtins.getattr"), True),
        (named("builtins.getattr", "data"), False),
        (named("builtins.eval", "data"), True),
        (named("types.CodeType", "data"), False),
        (named("types.FunctionType", "data"), False),
        (named("cloudpickle.cloudpickle._make_function", "data"), False),
        (named("dill._dill._create_function", "data"), False),
        (named("os.system", "data"), True),
        (named("builtins.dict"), False),
        (named("my_project.Network"), False),
        (PickledName("my_project", "os.system"), True),
        (PickledName("my_project", "Network.os"), False),
        (PickledName("my_project", "Network.__globals__"), True),
        (PickledName("my_project", "__subclasses__"), True),
        (PickledName("my_project", "Network.forward"), False),
        (named("joblib.numpy_pickle.NumpyArrayWrapper"), False),
        (named("dill._dill._create_array"), False),
        (named("dill._dill._create_code"), True),
    ],
)
def test_names_that_can_run_code(name: PickledName, expected: bool) -> None:
    assert can_execute(name, build_checkpoint(mlp())) is expected


def test_settings_are_those_of_stable_baselines3() -> None:
    for format, member, expected in (("sb3", "data", True), ("torch", "data", False), ("sb3", "policy.pth", False)):
        checkpoint = build_checkpoint(mlp(), format=format)
        assert describes_settings(named("my_project.Network", member), checkpoint) is expected


def pickled(*names: PickledName, **fields: Any) -> Checkpoint:
    return replace(build_checkpoint(mlp(), **fields), pickled_names=names)


def test_what_a_pickle_would_run_is_told() -> None:
    (finding,) = found(
        containers.unsafe_pickle, pickled(named("os.system", "a.pkl"), named("builtins.dict", known=True))
    )
    assert (finding.severity, finding.evidence["called"]) == (ERROR, False)
    assert finding.message == "loading it with pickle would import os.system; ckdoc did not"
    many = [named(f"os.{letter}", "b.pkl", called=letter == "c") for letter in "edcba"]
    (finding,) = found(containers.unsafe_pickle, pickled(*many, named("os.a", "a.pkl")))
    assert finding.message == "loading it with pickle would call os.a, os.b, os.c, os.d and 1 more; ckdoc did not"
    assert finding.evidence["members"] == ["a.pkl", "b.pkl"]
    (finding,) = found(containers.unsafe_pickle, pickled(*many[:4]))
    assert "os.b, os.c, os.d, os.e; ckdoc" in finding.message


@pytest.mark.parametrize(
    ("name", "format", "severity"),
    [
        (named("my_project.Network"), "torch", NOTE),
        (named("my_project.Network", known=True), "torch", None),
        (named("my_project.Network", "data"), "sb3", None),
        (named("os.system"), "torch", ERROR),
    ],
)
def test_classes_of_the_program_are_a_note(name: PickledName, format: str, severity: Severity | None) -> None:
    findings = found(containers.unsafe_pickle, pickled(name, format=format))
    assert [each.severity for each in findings] == ([] if severity is None else [severity])


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (Flaw("the checksum is wrong", "a.pth"), "a.pth: the checksum is wrong"),
        (Flaw("the checksum of a.pth is wrong", "a.pth"), "the checksum of a.pth is wrong"),
        (Flaw("its size is wrong", "", 1000, 999), "its size is wrong: expected 1,000, found 999"),
        (Flaw("its size is wrong", "", 1000), "its size is wrong: expected 1,000, found 0"),
        (Flaw("its size is wrong", "", 0, 5), "its size is wrong: expected 0, found 5"),
    ],
)
def test_damage_is_told_with_its_place_and_sizes(flaw: Flaw, message: str) -> None:
    (finding,) = found(containers.damaged_container, replace(build_checkpoint(mlp()), flaws=(flaw,)))
    assert (finding.severity, finding.message) == (ERROR, message)


EMPTY = np.zeros(0, np.float32)


@pytest.mark.parametrize(
    ("weights", "tensors"),
    [
        ({"0.weight": EMPTY, "2.weight": draw(4, 4)}, [["0.weight"]]),
        ({"0.weight": EMPTY, "0.bias": EMPTY, "2.weight": draw(4, 4)}, [["0.weight"], ["0.bias"]]),
        ({"0.weight": EMPTY, "2.weight": EMPTY}, [["0.weight", "2.weight"]]),
        ({"0.weight": EMPTY}, [["0.weight"]]),
        ({"0.weight": np.zeros((0, 4), np.float32), "0.bias": EMPTY, "2.weight": draw(4, 4)}, []),
        ({"0.weight": np.zeros((4, 0), np.float32), "0.bias": EMPTY, "2.weight": draw(4, 4)}, [["0.bias"]]),
        ({"mask": EMPTY, "2.weight": draw(4, 4)}, []),
        ({"0.weight": np.zeros(0, np.int64), "2.weight": draw(4, 4)}, []),
    ],
)
def test_placeholders_are_told_one_by_one_or_all_at_once(weights: Weights, tensors: list[list[str]]) -> None:
    assert [each.evidence["tensors"] for each in found(containers.empty_tensor, weights)] == tensors


def test_many_placeholders_are_counted() -> None:
    (finding,) = found(containers.empty_tensor, {f"{number}.weight": EMPTY for number in range(6)})
    assert finding.message.startswith(
        "none of its 6 weights has elements (0.weight, 1.weight, 2.weight, 3.weight and 2 more)"
    )


@pytest.mark.parametrize(
    ("settings", "versions", "words"),
    [
        ({"clip_range": {"stored_as": "code", "value": 0.2}}, {}, "clip_range stored as Python code; if loading fails"),
        ({"clip_range": {"stored_as": "code"}}, {"python": "3.9"}, "clip_range stored as Python code of Python 3.9"),
        (
            {"lr": {"stored_as": "code", "value": 0.1}}, {"stable_baselines3": "2.0", "python": "3.9"},
            'of SB3 2.0 and Python 3.9; if loading fails, pass custom_objects={"lr": lambda _: 0.1}',
        ),
        ({"lr": {"stored_as": "value"}, "clip_range": 0.2}, {}, None),
    ],
)  # fmt: skip
def test_schedules_that_are_code(settings: dict[str, Any], versions: dict[str, str], words: str | None) -> None:
    checkpoint = replace(build_checkpoint(mlp(), hyperparameters=settings), versions=versions)
    findings = found(containers.code_in_schedule, checkpoint)
    assert [words in each.message for each in findings] == ([True] if words else [])


# Adapters


def adapted(
    *names: str, zero: tuple[str, ...] = (), steps: Mapping[str, int] | None = None, second: float = 1e-4, **fields: Any
) -> Checkpoint:
    """Adapters of these names on two layers; so many updates of the named ones."""
    weights: Weights = {}
    for name in names:
        suffix = f".{name}" if name else ""
        for layer in ("q", "v"):
            weights[f"{layer}.lora_A{suffix}.weight"] = draw(2, 8, seed=ord(layer))
            weights[f"{layer}.lora_B{suffix}.weight"] = draw(8, 2) * (name not in zero)
    states = {
        key: {"step": count, "exp_avg": np.full(array.shape, second), "exp_avg_sq": np.full(array.shape, second)}
        if count
        else {}
        for name, count in (steps or {}).items()
        for key, array in weights.items()
        if (key.split(".")[2] if key.count(".") > 2 else "") == name
    }
    return build_checkpoint(weights, optimizer=states if steps is not None else None, **fields)


@pytest.mark.parametrize(
    ("checkpoint", "found_"),
    [
        (adapted("default"), []),
        (adapted("default", zero=("default",)), [("default", WARNING, None)]),
        (adapted("default", zero=("default",), steps={"default": 500}), [("default", ERROR, 500)]),
        (adapted("default", zero=("default",), steps={"default": 0}, updates=0), []),
        (adapted("default", zero=("default",), steps={"default": 0}, updates=9), []),
        (adapted("one", "other", zero=("other",)), [("other", WARNING, None)]),
        (adapted("one", "other", zero=("other",), steps={"one": 500, "other": 0}), []),
        (adapted("one", "other", zero=("other",), steps={"one": 500, "other": 300}), [("other", ERROR, 300)]),
        (adapted("one", "other", zero=("one", "other")), [("one", WARNING, None), ("other", WARNING, None)]),
        (adapted("", zero=("",)), [("", WARNING, None)]),
    ],
    ids=["trained", "nobody knows", "after updates", "untrained", "state removed", "one of two",
         "its turn has not come", "both had a turn", "both", "without a name"],
)  # fmt: skip
def test_adapters_that_change_nothing(checkpoint: Checkpoint, found_: list[tuple[str, Severity, int | None]]) -> None:
    findings = found(adapters.no_op_adapter, checkpoint)
    assert [(each.evidence["adapter"], each.severity, each.evidence["updates"]) for each in findings] == found_
    for each in findings:
        assert "all 2 second factors (lora_B) are exactly zero" in each.message
        assert each.layer is None


def test_a_first_factor_alone_is_no_adapter() -> None:
    weights = {"q.lora_A.weight": draw(2, 8), "v.lora_A.weight": draw(2, 8), "v.lora_B.weight": np.zeros((8, 2))}
    (finding,) = found(adapters.no_op_adapter, weights)
    assert finding.evidence["tensors"] == ["v.lora_B.weight"]


# Gates

INPUT, FORGET, CELL = slice(0, 8), slice(8, 16), slice(16, 24)


def biased(*values: float, gate: slice = INPUT) -> Weights:
    """An LSTM with these sums of both biases in the first units of a gate."""
    first, second = np.full(32, 0.1), np.full(32, 0.1)
    for number, value in enumerate(values):
        first[gate.start + number] = second[gate.start + number] = value / 2
    return gated(bias_ih=first, bias_hh=second)


@pytest.mark.parametrize(
    ("weights", "units"),
    [
        (biased(15.1, -15.1), [0, 1]),
        (biased(15.1), None),
        (biased(15.1, 14.9), None),
        (biased(15.1, 15.1, 15.1), [0, 1, 2]),
        (biased(20, 20, gate=CELL), None),
        (biased(20, 20, gate=FORGET), [0, 1]),
        (gated(bias_ih=np.full(32, np.nan)), None),
    ],
)
def test_gates_are_saturated_from_a_quarter_of_their_units_on(weights: Weights, units: list[int] | None) -> None:
    findings = found(recurrent.gate_saturation, weights)
    assert [each.evidence["units"] for each in findings] == ([] if units is None else [units])
    for each in findings:
        assert f"{len(units or ())} of 8" in each.message


BOTH = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
WHOLE = slice(0, 32)


def seconds(rows: slice, *names: str) -> dict[str, NDArray]:
    return {name: rows_of(gated()[name], rows, 0.0) for name in names or BOTH}


@pytest.mark.parametrize(
    ("subject", "gates"),
    [
        (gated(), []),
        (gated(weight_ih=zeroed(draw(32, 5), FORGET), weight_hh=zeroed(draw(32, 8), FORGET)), [("forget", None)]),
        (gated(weight_hh=zeroed(draw(32, 8), FORGET)), []),
        (gated(weight_ih=np.zeros((32, 5)), weight_hh=np.zeros((32, 8))), []),
        (gated(weight_ih=zeroed(draw(32, 5), slice(8, 15)), weight_hh=zeroed(draw(32, 8), slice(8, 15))), []),
        (trained(gated(), seconds(FORGET)), [("forget", "never trained")]),
        (trained(gated(), seconds(FORGET, BOTH[1])), []),
        (trained(gated(), seconds(WHOLE)), []),
        (trained(gated(), seconds(WHOLE, BOTH[1]) | seconds(FORGET, BOTH[0])), []),
        (
            trained(
                gated(weight_ih=zeroed(draw(32, 5), FORGET), weight_hh=zeroed(draw(32, 8), FORGET)), seconds(FORGET)
            ),
            [("forget", None)],
        ),
        (trained(gated(), without=BOTH), []),
    ],
    ids=["alive", "zero", "zero in one weight", "all zero", "all units but one", "untrained", "untrained in one weight",
         "nothing trained", "the recurrence was never used", "zero and untrained", "no state"],
)  # fmt: skip
def test_a_dead_gate_is_told_by_both_weights(subject: Any, gates: list[tuple[str, str | None]]) -> None:
    findings = found(recurrent.dead_gate, subject)
    assert [(each.evidence["gate"], each.evidence.get("cause")) for each in findings] == gates


@pytest.mark.parametrize(
    ("scale", "gates"),
    [(49.0, 0), (51.0, 1), (1.1e-3, 0), (0.9e-3, 1), (0.0, 0)],
)
def test_the_spectral_radius_of_a_gate(scale: float, gates: int) -> None:
    weight = np.linalg.qr(draw(8, 8))[0]
    whole = np.concatenate([scale * weight, *[draw(8, 8) / 4] * 3])
    findings = found(recurrent.recurrent_norm, gated(weight_hh=whole))
    assert [each.evidence["gate"] for each in findings] == ["input"] * gates


def test_a_plain_recurrent_layer_has_one_radius() -> None:
    weights = gated(1, "rnn", weight_hh=60 * np.linalg.qr(draw(8, 8))[0])
    (finding,) = found(recurrent.recurrent_norm, weights)
    assert "hidden" in finding.message


# NaN


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([np.nan], "1 NaN of 12 values, first NaN at [1, 1]"),
        ([np.inf], "1 infinite of 12 values, first infinity at [1, 1]"),
        ([np.nan, -np.inf], "1 NaN and 1 infinite of 12 values, first of them at [1, 1]"),
    ],
)
def test_values_that_are_not_finite_are_described(entries: list[float], words: str) -> None:
    array = np.ones((3, 4))
    array.reshape(-1)[5 : 5 + len(entries)] = entries
    assert describe_nonfinite(build_checkpoint({"a": array}).tensors[0]) == words
    scalar = build_checkpoint({"a": np.array(np.nan)}).tensors[0]
    assert describe_nonfinite(scalar) == "1 NaN of 1 values"


@pytest.mark.parametrize(
    ("key", "value", "count", "repaired"),
    [
        ("exp_avg", np.nan, 1, "become 0"),
        ("exp_avg", np.inf, 1, "become 0"),
        ("exp_avg_sq", np.nan, 1, "become the median"),
        ("exp_avg_sq", np.inf, 0, ""),
        ("max_exp_avg_sq", np.inf, 1, None),
    ],
)
def test_moments_that_are_not_finite_are_told(key: str, value: float, count: int, repaired: str | None) -> None:
    state: dict[str, Any] = {each: np.ones((8, 12)) for each in {"exp_avg", "exp_avg_sq", key}}
    state[key][2, 3] = value
    checkpoint = build_checkpoint(mlp(), optimizer={"net.2.weight": {"step": 9, **state}})
    findings = found(nonfinite.nonfinite_values, checkpoint)
    assert [(each.severity, each.tensor, each.evidence["moment"]) for each in findings] == [
        (ERROR, "net.2.weight", key)
    ] * count
    for each in findings:
        assert (each.evidence["first_index"], each.evidence["parameter"]) == ([2, 3], None)
        assert [repaired in repair.init_rule for repair in each.repairs if repaired] == ([True] if repaired else [])
        assert bool(each.repairs) is (repaired is not None)


def test_moments_of_an_unknown_parameter_are_told_by_its_position() -> None:
    state = {"step": 9, "exp_avg": np.full((8, 12), np.nan), "exp_avg_sq": np.ones((8, 12))}
    checkpoint = build_checkpoint(mlp(), optimizer={"net.2.weight": state})
    (whole,) = checkpoint.optimizers
    nameless = replace(whole, parameters=(replace(whole.parameters[0], tensor=None),))
    (finding,) = nonfinite.nonfinite_values.examine(replace(checkpoint, optimizers=(nameless,)))
    assert (finding.tensor, finding.evidence["parameter"]) == (None, "parameter 0")
    assert "in exp_avg of parameter 0 of optimizer" in finding.message
