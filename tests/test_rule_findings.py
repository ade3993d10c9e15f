"""Rules case by case: what a finding says in full, and the cases next to it where the rule has nothing to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.files import containers
from checkpoint_doctor.builtin.analyzers.layers import recurrent
from checkpoint_doctor.builtin.analyzers.values import constants, extremes, nonfinite, zeros
from checkpoint_doctor.checkpoint import Checkpoint, PickledName
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]
Second = Mapping[str, Any]


def draw(*shape: int, seed: int = 0) -> NDArray:
    """Weights between 0.02 and 1 of either sign, many of them small, as in a layer that nobody pruned."""
    random = np.random.default_rng([seed, *shape])
    return (random.uniform(0.02, 1, size=shape) * random.choice([-1, 1], size=shape)).astype(np.float32)


def mlp(**changes: NDArray | None) -> Weights:
    """A network of 6 inputs, two hidden layers of 12 and 8 units, and 4 outputs; ``None`` leaves a tensor out."""
    weights: dict[str, NDArray | None] = {
        f"net.{number}.{role}": draw(*shape, seed=number)
        for number, outputs, inputs in ((0, 12, 6), (2, 8, 12), (4, 4, 8))
        for role, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }
    weights |= {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in weights.items() if array is not None}


def zeroed(array: NDArray, *places: Any) -> NDArray:
    new = array.copy()
    for place in places or (...,):
        new[place] = 0
    return new


def gated(gates: int = 4, prefix: str = "lstm", hidden: int = 8, **changes: NDArray | None) -> Weights:
    """A recurrent layer of eight units and five inputs; ``weight_ih`` and the like replace its tensors."""
    rows = gates * hidden
    parts: dict[str, NDArray | None] = {
        "weight_ih": draw(rows, 5),
        "weight_hh": draw(rows, hidden),
        "bias_ih": draw(rows),
        "bias_hh": draw(rows, seed=1),
    }
    return {f"{prefix}.{role}_l0": array for role, array in (parts | changes).items() if array is not None}


def trained(
    weights: Weights, seconds: Second | None = None, *, without: tuple[str, ...] = (), **fields: Any
) -> Checkpoint:
    """A checkpoint with Adam's moments after a thousand updates; ``None`` for a second moment means no state."""
    state: dict[str, dict[str, Any]] = {}
    for name, array in weights.items():
        second = (seconds or {}).get(name, 1e-4)
        if name in without:
            continue
        state[name] = {}
        if second is not None:
            squares = np.broadcast_to(second, array.shape)
            state[name] = {"step": 1000, "exp_avg": np.sqrt(squares) / 2, "exp_avg_sq": squares}
    return build_checkpoint(weights, optimizer=state, **{"updates": 1000, **fields})


def rows_of(array: NDArray, rows: slice, inside: float, outside: float = 1e-4) -> NDArray:
    """Second moments of one value in some rows and of another in all others."""
    second = np.full(array.shape, outside)
    second[rows] = inside
    return second


def told(finding: Finding) -> tuple[Severity, str | None]:
    return finding.severity, finding.tensor or finding.layer


def found(rule: Rule, subject: Weights | Checkpoint) -> list[Finding]:
    return findings_of(rule, subject if isinstance(subject, Checkpoint) else build_checkpoint(subject))


FORGET, CELL = slice(8, 16), slice(16, 24)
NO_FORGET = {"bias_ih": zeroed(draw(32), FORGET), "bias_hh": zeroed(draw(32, seed=1), FORGET)}
NILPOTENT = np.diag(np.full(7, 100.0), 1).astype(np.float32)


def with_gate(gate: slice, block: NDArray) -> NDArray:
    new = draw(32, 8)
    new[gate] = block
    return new


SILENT: Mapping[str, tuple[Rule, Weights | Checkpoint]] = {
    # Gates
    "an LSTM without biases has no forget bias": (recurrent.forget_gate_bias, gated(bias_ih=None, bias_hh=None)),
    "an LSTM without biases saturates none": (recurrent.gate_saturation, gated(bias_ih=None, bias_hh=None)),
    "biases of two shapes make no sense together": (
        recurrent.forget_gate_bias, gated(bias_ih=np.zeros(32, np.float32), bias_hh=np.zeros(28, np.float32))
    ),
    "integers are no biases": (
        recurrent.forget_gate_bias, gated(bias_ih=np.zeros(32, np.int64), bias_hh=np.zeros(32, np.int64))
    ),
    "one of two biases keeps the forget gate open": (
        recurrent.forget_gate_bias, gated(bias_ih=zeroed(draw(32), FORGET))
    ),
    "a GRU has no forget gate": (
        recurrent.forget_gate_bias, gated(3, "gru", bias_ih=np.zeros(24), bias_hh=np.zeros(24))
    ),
    "forget biases before the first update": (
        recurrent.forget_gate_bias,
        build_checkpoint(gated(**NO_FORGET), optimizer={name: {} for name in gated()}, updates=0),
    ),
    "one of two biases is redundant": (recurrent.gate_bias_collapse, gated(3, "gru", bias_hh=np.zeros(24))),
    "a zero bias of a linear layer is no gate's": (recurrent.gate_bias_collapse, mlp(net__2__bias=np.zeros(8))),
    "zero gate biases are no linear layer's": (zeros.zero_bias, gated(bias_ih=np.zeros(32), bias_hh=np.zeros(32))),
    "the cell's tanh may have any bias": (
        recurrent.gate_saturation, gated(bias_ih=np.where(np.arange(32) // 8 == 2, 40, 0.5))
    ),
    "all gates zero, as random search starts": (
        recurrent.dead_gate, gated(weight_ih=np.zeros((32, 5)), weight_hh=np.zeros((32, 8)))
    ),
    "a gate that ignores its inputs alone": (recurrent.dead_gate, gated(weight_ih=zeroed(draw(32, 5), FORGET))),
    "a gate that ignores the past alone": (recurrent.dead_gate, gated(weight_hh=zeroed(draw(32, 8), FORGET))),
    "a layer with one of its two matrices": (
        recurrent.dead_gate, gated(weight_ih=None, weight_hh=zeroed(draw(32, 8), FORGET))
    ),
    "an RNN without gates": (
        recurrent.dead_gate, gated(1, "rnn", weight_ih=np.zeros((8, 5)), weight_hh=np.zeros((8, 8)))
    ),
    "an LSTM of which no gate was trained": (
        recurrent.dead_gate,
        trained(gated() | mlp(), {name: 0.0 for name in gated() if "weight" in name}),
    ),
    "a forget gate of one step from a zero state": (
        recurrent.dead_gate,
        trained(gated(), {
            "lstm.weight_hh_l0": 0.0, "lstm.weight_ih_l0": rows_of(gated()["lstm.weight_ih_l0"], FORGET, 0.0)
        }),
    ),
    "an LSTM that was trained": (recurrent.dead_gate, trained(gated())),
    "a recurrence that is not finite": (
        recurrent.recurrent_norm, gated(weight_hh=with_gate(FORGET, np.where(np.eye(8) == 1, np.nan, 100)))
    ),
    "a recurrence of zeros": (recurrent.recurrent_norm, gated(weight_hh=zeroed(draw(32, 8), FORGET))),
    "a recurrence through a projection": (recurrent.recurrent_norm, gated(weight_hh=1000 * draw(32, 3))),
    "a recurrence of ordinary size whose powers vanish": (
        recurrent.recurrent_norm, gated(weight_hh=with_gate(FORGET, NILPOTENT / 800))
    ),
    "large rows and a small radius": (
        recurrent.recurrent_norm, gated(weight_hh=with_gate(FORGET, NILPOTENT + 2 * np.eye(8, dtype=np.float32)))
    ),
    # Values
    "minus infinity in a mask": (
        nonfinite.nonfinite_values, mlp(attn_mask=np.array([[0, -np.inf], [0, 0]], np.float32))
    ),
    "running statistics of any scale": (
        extremes.exploded_values, {"bn.weight": draw(4), "bn.bias": draw(4), "bn.running_var": np.full(4, 1e7)}
    ),
    "buffers of any scale": (extremes.exploded_values, mlp(position_ids=np.full((4, 4), 1e8, np.float32))),
    "counts of any size": (extremes.exploded_values, mlp(net__0__weight=np.full((12, 6), 10**9))),
    "a matrix without entries": (extremes.exploded_values, mlp(net__0__weight=np.zeros((0, 6), np.float32))),
    "a value head with the scale of the returns": (extremes.exploded_values, mlp(net__4__weight=np.full((4, 8), 30.0))),
    "a vector with a giant": (extremes.value_spike, mlp(net__0__bias=np.array([1] * 40 + [900], np.float32))),
    "a spike among integers": (extremes.value_spike, mlp(net__0__weight=np.array([1] * 71 + [900]).reshape(12, 6))),
    "a spike in a norm": (extremes.value_spike, {"norm.weight": np.array([1.0] * 40 + [900.0])}),
    "one entry and otherwise zeros": (
        extremes.value_spike, mlp(net__0__weight=np.eye(1, 72, dtype=np.float32).reshape(12, 6))
    ),
    "a spike among infinities": (
        extremes.value_spike,
        mlp(net__0__weight=np.array([np.inf, 900, *[1.0] * 70], np.float32).reshape(12, 6)),
    ),
    "bfloat16's range is wide": (extremes.near_overflow, mlp(net__0__bias=np.full(12, 65_000, np.float32))),
    "a mask's lowest value": (extremes.near_overflow, {"mask": np.array([0, -65_504], np.float16)}),
    "a constant bias": (constants.constant_tensor, mlp(net__0__bias=np.full(12, 0.5))),
    "a matrix of zeros is another rule's": (constants.constant_tensor, mlp(net__0__weight=np.zeros((12, 6)))),
    "a matrix of NaN is another rule's": (constants.constant_tensor, mlp(net__0__weight=np.full((12, 6), np.nan))),
    "all alike but for a NaN": (
        constants.constant_tensor, mlp(net__0__weight=np.array([np.nan, *[0.5] * 71]).reshape(12, 6))
    ),
    "an observer that has seen nothing": (
        nonfinite.nonfinite_values, mlp(observer__min_val=np.array([np.inf]), observer__max_val=np.array([-np.inf, 2]))
    ),
    "a head whose bias has the scale of the targets": (
        extremes.exploded_values, mlp(net__4__weight=np.full((4, 8), 300.0), net__4__bias=np.full(4, -100_001.0))
    ),
    "offsets by index": (extremes.exploded_values, mlp(energies__weight=np.linspace(-4e4, 0, 50).reshape(50, 1))),
    "a scale of the data": (extremes.exploded_values, mlp(target_std=np.array([5000.0]))),
    "what no optimizer holds": (
        extremes.exploded_values, trained(mlp(net__2__weight=np.full((8, 12), 300.0)), without=("net.2.weight",))
    ),
    # Zeros
    "zero weights that were never trained": (
        zeros.zero_weights, trained(mlp(net__2__weight=np.zeros((8, 12))), {"net.2.weight": 0.0, "net.2.bias": 0.0})
    ),
    "zero weights that no optimizer holds": (
        zeros.zero_weights, trained(mlp(net__2__weight=np.zeros((8, 12))), without=("net.2.weight", "net.2.bias"))
    ),
    "a zero bias of a layer that was never trained": (
        zeros.zero_bias, trained(mlp(net__2__bias=np.zeros(8)), {"net.2.weight": 0.0, "net.2.bias": 0.0})
    ),
    "an output layer is another rule's": (zeros.zero_weights, mlp(action_net__weight=np.zeros((4, 8)))),
    "integers are no weights": (zeros.zero_weights, mlp(net__2__weight=np.zeros((8, 12), np.int64))),
    "zero weights before the first update": (
        zeros.zero_weights,
        build_checkpoint(
            mlp(net__2__weight=np.zeros((8, 12))), optimizer={name: {} for name in mlp()}, updates=0
        ),
    ),
    "a fresh adapter": (zeros.zero_weights, mlp(adapter__up__weight=np.zeros((8, 12)))),
    "a zero matrix has no scattered zeros": (zeros.partial_zeros, mlp(net__2__weight=np.zeros((8, 12)))),
    "scattered zeros among integers": (
        zeros.partial_zeros, mlp(net__2__weight=(np.arange(96).reshape(8, 12) % 3))
    ),
    "scattered zeros in a bias": (zeros.partial_zeros, mlp(net__0__bias=zeroed(draw(12), [1, 5, 7, 9]))),
    "zero biases beside zero weights": (
        zeros.bias_collapse,
        {name: np.zeros(array.shape) for name, array in mlp().items()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_it_is_silent(name: str):
    rule, subject = SILENT[name]
    assert found(rule, subject) == []


SPOKEN: Mapping[str, tuple[Rule, Weights | Checkpoint, Severity, str, dict[str, Any]]] = {
    "a forget gate without bias": (
        recurrent.forget_gate_bias, gated(**NO_FORGET), WARNING, "lstm.bias_ih_l0",
        {"gate": "forget", "rows": [8, 16], "tensors": ["lstm.bias_ih_l0", "lstm.bias_hh_l0"], "cause": "unknown",
         "updates": None},
    ),
    "a forget gate with a single bias": (
        recurrent.forget_gate_bias, gated(bias_ih=NO_FORGET["bias_ih"], bias_hh=None), WARNING, "lstm.bias_ih_l0",
        {"gate": "forget", "rows": [8, 16], "tensors": ["lstm.bias_ih_l0"], "cause": "unknown", "updates": None},
    ),
    "a forget gate that was overwritten": (
        recurrent.forget_gate_bias,
        trained(gated(**NO_FORGET), {"lstm.bias_hh_l0": 0.0}), ERROR, "lstm.bias_ih_l0",
        {"gate": "forget", "rows": [8, 16], "tensors": ["lstm.bias_ih_l0", "lstm.bias_hh_l0"], "cause": "overwritten",
         "updates": 1000},
    ),
    "gate biases of zeros": (
        recurrent.gate_bias_collapse, gated(3, "gru", bias_ih=None, bias_hh=np.zeros(24)), WARNING, "gru.bias_hh_l0",
        {"zero_fraction": 1.0, "gates": ["reset", "update", "new"], "cause": "unknown", "updates": None,
         "held_by_optimizer": False},
    ),
    "gate biases that were overwritten": (
        recurrent.gate_bias_collapse, trained(gated(bias_ih=np.zeros(32))), ERROR, "lstm.bias_ih_l0",
        {"zero_fraction": 1.0, "gates": ["input", "forget", "cell", "output"], "cause": "overwritten",
         "updates": 1000, "held_by_optimizer": True},
    ),
    "a saturated gate": (
        recurrent.gate_saturation, gated(bias_ih=np.where(np.isin(np.arange(32), [9, 10, 15]), -40, 0.5)), WARNING,
        "lstm.bias_ih_l0", {"gate": "forget", "units": [1, 2, 7]},
    ),
    "a gate of zeros": (
        recurrent.dead_gate,
        gated(weight_ih=zeroed(draw(32, 5), CELL), weight_hh=zeroed(draw(32, 8), CELL)), ERROR, "lstm.weight_hh_l0",
        {"gate": "cell", "rows": [16, 24]},
    ),
    "a gate that was never trained": (
        recurrent.dead_gate,
        trained(gated(), {
            f"lstm.{role}_l0": rows_of(gated()[f"lstm.{role}_l0"], CELL, 0.0) for role in ("weight_ih", "weight_hh")
        }),
        ERROR, "lstm.weight_hh_l0", {"gate": "cell", "cause": "never trained", "rows": [16, 24]},
    ),
    "a gate of zeros that was never trained": (
        recurrent.dead_gate,
        trained(gated(weight_ih=zeroed(draw(32, 5), CELL), weight_hh=zeroed(draw(32, 8), CELL)), {
            f"lstm.{role}_l0": rows_of(gated()[f"lstm.{role}_l0"], CELL, 0.0) for role in ("weight_ih", "weight_hh")
        }),
        ERROR, "lstm.weight_hh_l0", {"gate": "cell", "rows": [16, 24]},
    ),
    "a recurrence without gates": (
        recurrent.recurrent_norm, gated(1, "rnn", weight_hh=60 * np.eye(8, dtype=np.float32)), WARNING,
        "rnn.weight_hh_l0", {"gate": "hidden", "spectral_radius": 60.0},
    ),
    "a recurrence whose powers vanish": (
        recurrent.recurrent_norm, gated(weight_hh=with_gate(FORGET, NILPOTENT / 3000)), WARNING, "lstm.weight_hh_l0",
        {"gate": "forget", "spectral_radius": 0.0},
    ),
    "minus infinity beside numbers above zero": (
        nonfinite.nonfinite_values, mlp(attn_mask=np.array([[0.5, -np.inf], [0, 0]], np.float32)), ERROR, "attn_mask",
        {"nan": 0, "infinite": 1, "count": 4, "first_index": [0, 1]},
    ),
    "NaN in a mask": (
        nonfinite.nonfinite_values, mlp(attn_mask=np.array([[np.nan, -np.inf], [0, 0]], np.float32)), ERROR,
        "attn_mask",
        {"nan": 1, "infinite": 1, "count": 4, "first_index": [0, 0]},
    ),
    "minus infinity in a weight": (
        nonfinite.nonfinite_values, mlp(net__0__bias=np.full(12, -np.inf)), ERROR, "net.0.bias",
        {"nan": 0, "infinite": 12, "count": 12, "first_index": [0]},
    ),
    "an exploded layer": (
        extremes.exploded_values, mlp(net__2__weight=np.full((8, 12), 300.0)), WARNING, "net.2.weight",
        {"largest": 300.0, "rms": 300.0, "gain": 300.0 * np.sqrt(12)},
    ),
    "a hidden layer drawn too wide": (
        extremes.exploded_values, mlp(net__2__weight=np.full((8, 12), 30.0)), WARNING, "net.2.weight",
        {"largest": 30.0, "rms": 30.0, "gain": 30.0 * np.sqrt(12)},
    ),
    "an exploded scalar": (
        extremes.exploded_values, mlp(log_alpha=np.array(-2000.0)), WARNING, "log_alpha",
        {"largest": 2000.0, "rms": 2000.0, "gain": 0.0},
    ),
    "a spike": (
        extremes.value_spike, mlp(net__0__weight=np.array([1.0] * 71 + [-900]).reshape(12, 6)), WARNING, "net.0.weight",
        {"indices": [[11, 5]], "largest": 900.0, "next_largest": 1.0},
    ),
    "a spike in a table of its own": (
        extremes.value_spike, {"pos": np.array([1.0] * 71 + [1001]).reshape(1, 12, 6)}, WARNING, "pos",
        {"indices": [[0, 11, 5]], "largest": 1001.0, "next_largest": 1.0},
    ),
    "a constant matrix": (
        constants.constant_tensor, mlp(net__2__weight=np.full((8, 12), -0.5)), WARNING, "net.2.weight", {"value": -0.5}
    ),
    "a zero matrix": (
        zeros.zero_weights, mlp(net__2__weight=np.zeros((8, 12))), WARNING, "net.2.weight",
        {"zero_fraction": 1.0, "cause": "unknown", "updates": None},
    ),
    "a zero matrix that was overwritten": (
        zeros.zero_weights, trained(mlp(net__2__weight=np.zeros((8, 12)))), ERROR, "net.2.weight",
        {"zero_fraction": 1.0, "cause": "overwritten", "updates": 1000},
    ),
    "a zero matrix that was overwritten though its name excuses it": (
        zeros.zero_weights, trained(mlp(adapter__up__weight=np.zeros((8, 12)))), ERROR, "adapter.up.weight",
        {"zero_fraction": 1.0, "cause": "overwritten", "updates": 1000},
    ),
    "scattered zeros": (
        zeros.partial_zeros, trained(mlp(net__2__weight=zeroed(draw(8, 12), *((n % 8, n) for n in range(12))))),
        WARNING, "net.2.weight",
        {"zero_fraction": 0.125, "zeros": 12, "pattern": "", "cause": "overwritten"},
    ),
    "a quarter of scattered zeros that were overwritten": (
        zeros.partial_zeros, trained(mlp(net__2__weight=zeroed(draw(8, 12), *((n % 8, n % 12) for n in range(24))))),
        WARNING, "net.2.weight",
        {"zero_fraction": 0.25, "zeros": 24, "pattern": "", "cause": "overwritten"},
    ),
    "a zero bias of one unit": (
        zeros.zero_bias, mlp(net__4__weight=draw(1, 8), net__4__bias=np.zeros(1)), NOTE, "net.4.bias",
        {"zero_fraction": 1.0, "cause": "unknown", "updates": None, "held_by_optimizer": False},
    ),
    "a zero bias that alone was never trained": (
        zeros.zero_bias, trained(mlp(net__2__bias=np.zeros(8)), {"net.2.bias": 0.0}), WARNING, "net.2.bias",
        {"zero_fraction": 1.0, "cause": "never trained", "updates": 1000, "held_by_optimizer": True},
    ),
    "a zero bias": (
        zeros.zero_bias, mlp(net__2__bias=np.zeros(8)), WARNING, "net.2.bias",
        {"zero_fraction": 1.0, "cause": "unknown", "updates": None, "held_by_optimizer": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOKEN)
def test_it_says_what_is_wrong_and_where(name: str):
    rule, subject, severity, place, evidence = SPOKEN[name]
    (finding,) = found(rule, subject)
    assert told(finding) == (severity, place)
    assert finding.evidence == {
        key: pytest.approx(value) if isinstance(value, float) else value for key, value in evidence.items()
    }
    assert {each.safety for each in finding.repairs} <= {rule.fix}


@pytest.mark.parametrize(
    ("count", "size", "words"),
    [
        (4, 100, "only a few"),
        (5, 100, "5.0% of the tensor"),
        (10, 1000, "only a few"),
        (11, 1090, "1.0% of the tensor"),
        (99, 100, "99.0% of the tensor"),
        (100, 100, "every entry is NaN"),
    ],
)
def test_how_many_values_are_nan_tells_where_they_come_from(count: int, size: int, words: str):
    array = np.ones(size, np.float32)
    array[:count] = np.nan
    (finding,) = found(nonfinite.nonfinite_values, mlp(net__0__bias=array))
    assert words in finding.message
    assert finding.evidence["first_index"] == [0]


@pytest.mark.parametrize(("units", "words"), [(1, "its only bias is exactly"), (2, "all 2 biases are exactly")])
def test_one_bias_is_not_told_as_many(units: int, words: str):
    (finding,) = found(zeros.zero_bias, mlp(net__4__weight=draw(units, 8), net__4__bias=np.zeros(units)))
    assert finding.message.startswith(words)


def test_the_collapse_of_biases_is_told_with_its_members():
    weights = mlp(**{f"net__{n}__bias": np.zeros(mlp()[f"net.{n}.bias"].shape) for n in (0, 2, 4)})
    (finding,) = found(zeros.bias_collapse, trained(weights, {"net.4.bias": 0.0}))
    total = sum(array.size for array in weights.values())
    assert finding.severity is ERROR
    assert finding.evidence == {
        "biases": 3,
        "biases_in_all": 3,
        "zeros": 24,
        "parameters": total,
        "zero_fraction": 24 / total,
        "cause": "overwritten",
        "layers": ["net.0", "net.2", "net.4"],
        "tensors": ["net.0.bias", "net.2.bias", "net.4.bias"],
    }
    assert {each.tensor: each.safety for each in finding.repairs} == dict.fromkeys(
        finding.evidence["tensors"], Safety.SAFE
    )


@pytest.mark.parametrize(
    ("biases", "severity"),
    [({}, ERROR), (dict.fromkeys(("net.0.bias", "net.2.bias", "net.4.bias"), 0.0), ERROR), (None, WARNING)],
    ids=["overwritten", "never trained", "unknown"],
)
def test_the_collapse_of_biases_is_an_error_where_its_cause_is_shown(
    biases: dict[str, float] | None, severity: Severity
):
    weights = mlp(**{f"net__{n}__bias": np.zeros(mlp()[f"net.{n}.bias"].shape) for n in (0, 2, 4)})
    without_momentum = build_checkpoint(weights, optimizer={name: {} for name in weights}, optimizer_kind="SGD")
    (finding,) = found(zeros.bias_collapse, without_momentum if biases is None else trained(weights, biases))
    assert finding.severity is severity


def test_a_moment_that_is_not_finite_is_told_with_its_place():
    weights = mlp(log_alpha=np.array(0.5))
    subject = trained(weights, {"log_alpha": np.nan})
    findings = list(nonfinite.nonfinite_values.examine(subject))
    assert [(each.tensor, each.evidence["moment"], each.evidence["first_index"]) for each in findings] == [
        ("log_alpha", "exp_avg", []),
        ("log_alpha", "exp_avg_sq", []),
    ]
    first, second = (
        each.repairs[0].renew(np.array([2.0, np.nan, 4.0, 0.0]), np.random.default_rng(0)) for each in findings
    )
    assert first.tolist() == [2.0, 0.0, 4.0, 0.0]
    assert second.tolist() == [2.0, 3.0, 4.0, 0.0]
    assert {each.repairs[0].safety for each in findings} == {Safety.UNSAFE}


@pytest.mark.parametrize(
    ("format", "member", "silent"), [("sb3", "data", True), ("sb3", "policy.pth", False), ("torch", "data", False)]
)
def test_classes_in_the_settings_of_an_agent_are_no_news(format: str, member: str, silent: bool):
    name = PickledName("my.policies", "Actor", called=True, member=member)
    checkpoint = Checkpoint("model.zip", format, (), pickled_names=(name,))
    assert [each.severity for each in found(containers.unsafe_pickle, checkpoint)] == ([] if silent else [NOTE])


def test_infinity_above_zero_is_not_taken_for_a_mask():
    (finding,) = found(nonfinite.nonfinite_values, mlp(attn_mask=np.array([[0, -np.inf], [np.inf, 0]], np.float32)))
    assert told(finding) == (ERROR, "attn_mask")


@pytest.mark.parametrize(("updates", "severity"), [(0, NOTE), (300, WARNING), (None, WARNING)])
def test_equal_values_before_the_first_update_are_a_note(updates: int | None, severity: Severity):
    weights = {"net.weight": np.full((4, 12), 1 / 12, np.float32), "net.bias": np.zeros(4, np.float32)}
    state = None if updates is None else {name: {} for name in weights}
    if updates:
        state = {name: {"step": updates, "exp_avg_sq": np.ones(each.shape)} for name, each in weights.items()}
    (finding,) = findings_of(constants.constant_tensor, build_checkpoint(weights, optimizer=state, step=updates or 0))
    assert finding.severity is severity
