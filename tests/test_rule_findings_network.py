"""Rules about units, heads and norms case by case, and the patterns of zeros that somebody chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.layers import copies, network, norm_gains, norm_statistics
from checkpoint_doctor.builtin.analyzers.values import zeros
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Safety, Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of
from tests.test_rule_findings import draw, found, mlp, told, trained, zeroed

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]


def head(**changes: Any) -> Weights:
    """A network whose output layer has its name."""
    return mlp(net__4__weight=None, net__4__bias=None) | {
        "action_net.weight": np.zeros((4, 8), np.float32),
        "action_net.bias": draw(4),
        **changes,
    }


def norm(gain: Any, bias: Any = 0.5, dtype: Any = np.float32) -> Weights:
    array = np.asarray(gain, dtype)
    return {"norm.weight": array, "norm.bias": np.full(array.shape, bias, np.float32)}


def batch_norm(**changes: Any) -> Weights:
    """A trained batch norm of eight channels."""
    parts = {
        "weight": np.linspace(0.5, 1.5, 8),
        "bias": np.linspace(-1, 1, 8),
        "running_mean": np.linspace(-1, 1, 8),
        "running_var": np.linspace(0.5, 2, 8),
        "num_batches_tracked": np.array(100),
        **changes,
    }
    return {f"bn.{role}": np.asarray(array) for role, array in parts.items() if array is not None}


FRESH = {"running_mean": np.zeros(8), "running_var": np.ones(8), "num_batches_tracked": np.array(0)}
UNIFORM = np.linspace(0, 1, 8)


CENTRED = np.linspace(-0.3, 0.2, 16)
DCGAN = 1 + 0.02 * np.array([-1.5, -1, -0.5, -0.3, 0.3, 0.5, 1, 1.5])


def zero_centred(*gains: NDArray) -> Weights:
    """RMS norms with these gains."""
    return {f"layers.{n}.input_layernorm.weight": gain for n, gain in enumerate(gains)} | {
        f"layers.{n}.mlp.up_proj.weight": draw(16, 16, seed=n) for n in range(len(gains))
    }


def recycled(first: float, second: float, *others: float) -> Checkpoint:
    """Units 3 and 7 have zero outgoing columns, and these moments behind them."""
    weights = mlp(net__2__weight=zeroed(draw(8, 12), (slice(None), [3, 7])))
    squares, means = np.abs(draw(8, 12)) * 1e-4, draw(8, 12) * 1e-3
    squares[:, [3, 7]], means[:, [3, 7]] = second, first
    for place, value in enumerate(others):
        squares[place, 3] = value
    state = {"net.2.weight": {"step": 1000, "exp_avg": means, "exp_avg_sq": squares}}
    return build_checkpoint(weights, optimizer=state, updates=1000)


def half_precision_gain(second: float, *, dtype: Any = ml_dtypes.bfloat16, last: float = 1.0) -> Checkpoint:
    weights = norm([1.0] * 7 + [last], dtype=dtype)
    return trained(weights, {"norm.weight": second})


SILENT: Mapping[str, tuple[Rule, Weights | Checkpoint]] = {
    # Units
    "inputs that a first layer ignores": (
        network.disconnected_units, mlp(net__0__weight=zeroed(draw(12, 6), (slice(None), 2)))
    ),
    "a matrix of zeros is another rule's": (network.disconnected_units, mlp(net__2__weight=np.zeros((8, 12)))),
    "rows that fill a table up": (
        network.disconnected_units, {"embedding.weight": zeroed(draw(50, 8), slice(47, 50))}
    ),
    "rows that fill a table up, and the padding row": (
        network.disconnected_units, {"embedding.weight": zeroed(draw(50, 8), [0, 48, 49])}
    ),
    "rows of a mask": (network.disconnected_units, mlp(net__2__weight_mask=zeroed(np.ones((8, 12)), 2))),
    "the sine of frequency zero": (
        network.disconnected_units, {"stft.weight": np.sin(np.outer(np.arange(9), np.arange(1, 17)))}
    ),
    "zero rows of a norm's matrix": (network.disconnected_units, norm(zeroed(np.ones((4, 4)), 1))),
    "a head that has learned": (network.zero_output_layer, head(**{"action_net.weight": draw(4, 8)})),
    "a zero layer that is no head": (network.zero_output_layer, mlp(net__2__weight=np.zeros((8, 12)))),
    "a head of integers": (network.zero_output_layer, head(**{"action_net.weight": np.zeros((4, 8), np.int64)})),
    "a head before the first update": (
        network.zero_output_layer, build_checkpoint(head(), optimizer={name: {} for name in head()}, updates=0)
    ),
    "a readout that starts at zero": (
        network.zero_output_layer, mlp(net__4__weight=None, net__4__bias=None, readout__weight=np.zeros((4, 8)))
    ),
    "a constant matrix has no copies": (copies.duplicate_units, mlp(net__2__weight=np.full((8, 12), 0.5))),
    "copies in a norm": (copies.duplicate_units, norm(np.linspace(1, 2, 16).reshape(1, 16).repeat(2, 0))),
    "a matrix without rows": (copies.duplicate_units, mlp(net__2__weight=np.zeros((0, 12), np.float32))),
    "a matrix without columns": (copies.duplicate_units, mlp(net__2__weight=np.zeros((8, 0), np.float32))),
    "integers have no rank": (network.rank_collapse, mlp(net__2__weight=np.ones((32, 32), np.int64))),
    "a matrix of zeros has no rank": (network.rank_collapse, mlp(net__2__weight=np.zeros((32, 32)))),
    "a matrix of NaN has no rank": (
        network.rank_collapse, mlp(net__2__weight=np.where(np.eye(32) == 1, np.nan, np.ones((32, 32))))
    ),
    "an embedding has no rank to keep": (network.rank_collapse, {"embedding.weight": np.ones((32, 32))}),
    # Norms
    "zeros in a weight that is no norm's": (norm_gains.norm_gain_zeros, mlp(net__0__weight=np.zeros((12, 6)))),
    "zeros in a norm of integers": (norm_gains.norm_gain_zeros, norm([0, 1, 2, 3], dtype=np.int64)),
    "a norm of NaN": (norm_gains.norm_gain_drift, norm([np.nan, 100.0, *[1.0] * 8])),
    "a linear layer of large weights": (norm_gains.norm_gain_drift, mlp(net__0__weight=-100 * np.ones((12, 6)))),
    "zeros are not negative": (norm_gains.norm_gain_drift, norm([0.0] * 5 + [1.0] * 5)),
    "zero-centred norms have both signs": (norm_gains.norm_gain_drift, zero_centred(CENTRED, CENTRED)),
    "statistics of a trained norm": (norm_statistics.norm_statistics, batch_norm()),
    "statistics of a fresh norm": (norm_statistics.norm_statistics, batch_norm(**FRESH, weight=np.ones(8))),
    "statistics before the first update": (
        norm_statistics.norm_statistics,
        build_checkpoint(batch_norm(**FRESH), optimizer={"bn.weight": {}, "bn.bias": {}}, updates=0),
    ),
    "gains as DCGAN draws them": (norm_statistics.norm_statistics, batch_norm(**FRESH, weight=DCGAN)),
    "gains of zero that were never trained": (
        norm_gains.norm_gain_zeros,
        trained(norm(np.zeros(8)) | mlp(), {"norm.weight": 0.0, "norm.bias": 0.0}),
    ),
    "zero-centred gains of which some are zero": (norm_gains.norm_gain_zeros, zero_centred(zeroed(CENTRED, [2, 5]))),
    "zero gains beside zero-centred ones": (norm_gains.norm_gain_zeros, zero_centred(np.zeros(16), CENTRED)),
    "a zero head that no optimizer holds": (
        network.zero_output_layer,
        trained(mlp(net__4__weight=np.zeros((4, 8))), without=("net.4.weight", "net.4.bias")),
    ),
    "a mean that has moved": (
        norm_statistics.norm_statistics, batch_norm(**FRESH | {"running_mean": np.linspace(0, 1, 8)})
    ),
    "a variance that has moved": (
        norm_statistics.norm_statistics, batch_norm(**FRESH | {"running_var": np.linspace(0.9, 1, 8)})
    ),
    "a gain as PyTorch drew it once": (
        norm_statistics.norm_statistics, batch_norm(**FRESH, weight=UNIFORM, bias=np.zeros(8))
    ),
    "a single gain as PyTorch drew it once": (
        norm_statistics.norm_statistics,
        {"bn.weight": np.array([0.5]), "bn.bias": np.zeros(1), "bn.running_mean": np.zeros(1),
         "bn.running_var": np.ones(1)},
    ),
    "a norm without gain": (norm_statistics.norm_statistics, batch_norm(**FRESH, weight=None, bias=None)),
    "moments of zero beside fresh statistics": (
        norm_statistics.norm_statistics,
        trained(batch_norm(**FRESH, weight=np.ones(8)), {"bn.weight": 0.0}, without=(
            "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"
        )),
    ),
    "a norm without channels": (norm_statistics.norm_statistics, batch_norm(running_var=np.zeros(0))),
    "a gain of ones without gradient": (norm_gains.low_precision_stall, half_precision_gain(0.0)),
    "a gain of ones in single precision": (
        norm_gains.low_precision_stall, half_precision_gain(1e-4, dtype=np.float32)
    ),
    "a gain that has moved": (norm_gains.low_precision_stall, half_precision_gain(1e-4, last=1.0078125)),
    "a gain of twos": (
        norm_gains.low_precision_stall, trained(norm([2.0] * 8, dtype=ml_dtypes.bfloat16), {"norm.weight": 1e-4})
    ),
    "a gain of ones without moments": (
        norm_gains.low_precision_stall, build_checkpoint(norm([1.0] * 8, dtype=ml_dtypes.bfloat16))
    ),
    "a linear layer of ones": (
        norm_gains.low_precision_stall, trained(mlp(net__2__weight=np.ones((8, 12), ml_dtypes.bfloat16)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_it_is_silent(name: str):
    rule, subject = SILENT[name]
    assert found(rule, subject) == []


SPOKEN: Mapping[str, tuple[Rule, Weights | Checkpoint, Severity, str, dict[str, Any]]] = {
    "units without incoming weights": (
        network.disconnected_units, mlp(net__0__weight=zeroed(draw(12, 6), [3, 7])), WARNING, "net.0.weight",
        {"units": [3, 7], "layer_units": 12, "side": "incoming", "cause": "unknown"},
    ),
    "units without outgoing weights": (
        network.disconnected_units, mlp(net__2__weight=zeroed(draw(8, 12), (slice(None), [3, 7]))), WARNING,
        "net.2.weight", {"units": [3, 7], "layer_units": 12, "side": "outgoing"},
    ),
    "recycled units": (
        network.disconnected_units, recycled(0.0, 1e-5), NOTE, "net.2.weight",
        {"units": [3, 7], "layer_units": 12, "side": "outgoing"},
    ),
    "recycled units that were trained since": (
        network.disconnected_units, recycled(1e-6, 1e-5), WARNING, "net.2.weight",
        {"units": [3, 7], "layer_units": 12, "side": "outgoing"},
    ),
    "one recycled unit of two": (
        network.disconnected_units, recycled(0.0, 1e-5, 2e-5), WARNING, "net.2.weight",
        {"units": [3, 7], "layer_units": 12, "side": "outgoing"},
    ),
    "units that never had a gradient were not recycled": (
        network.disconnected_units, recycled(0.0, 0.0), WARNING, "net.2.weight",
        {"units": [3, 7], "layer_units": 12, "side": "outgoing"},
    ),
    "inputs that an LSTM ignores": (
        network.disconnected_units,
        {
            "lstm.weight_ih_l0": zeroed(draw(32, 5), (slice(None), 4)), "lstm.weight_hh_l0": draw(32, 8),
            "lstm.bias_ih_l0": draw(32), "lstm.bias_hh_l0": draw(32),
        },
        WARNING, "lstm.weight_ih_l0", {"units": [4], "layer_units": 5, "side": "outgoing"},
    ),
    "words without a vector": (
        network.disconnected_units, {"embedding.weight": zeroed(draw(50, 8), [0, 7, 48, 49])}, WARNING,
        "embedding.weight", {"units": [0, 7], "layer_units": 50, "side": "incoming", "cause": "unknown"},
    ),
    "a zero head": (
        network.zero_output_layer, head(), WARNING, "action_net.weight",
        {"zero_fraction": 1.0, "cause": "unknown", "updates": None, "bias_is_zero": False},
    ),
    "a zero head without bias": (
        network.zero_output_layer,
        {name: array for name, array in head().items() if name != "action_net.bias"}, WARNING, "action_net.weight",
        {"zero_fraction": 1.0, "cause": "unknown", "updates": None, "bias_is_zero": False},
    ),
    "a readout that was overwritten": (
        network.zero_output_layer,
        trained(mlp(net__4__weight=None, net__4__bias=None, readout__weight=np.zeros((4, 8)))), ERROR,
        "readout.weight", {"zero_fraction": 1.0, "cause": "overwritten", "updates": 1000, "bias_is_zero": False},
    ),
    "copies": (
        copies.duplicate_units, mlp(net__2__weight=draw(8, 12)[[0, 1, 2, 1, 4, 1, 6, 4]]), WARNING, "net.2.weight",
        {"groups": [[1, 3, 5], [4, 7]], "rows": 8},
    ),
    "copies in an embedding": (
        copies.duplicate_units, {"embedding.weight": draw(8, 12)[[0, 1, 2, 3, 4, 5, 6, 4]]}, WARNING,
        "embedding.weight", {"groups": [[4, 7]], "rows": 8},
    ),
    "a matrix of rank one": (
        network.rank_collapse, mlp(net__2__weight=np.outer(draw(32), draw(40))), NOTE, "net.2.weight",
        {"effective_rank": 1, "size": 32},
    ),
    "a kernel of rank one": (
        network.rank_collapse, {"conv.weight": np.outer(draw(40), draw(32)).reshape(40, 2, 4, 4)}, NOTE, "conv.weight",
        {"effective_rank": 1, "size": 32},
    ),
    "zero gains": (
        norm_gains.norm_gain_zeros, norm(zeroed(np.linspace(1, 2, 10), [2, 5])), WARNING, "norm.weight",
        {"zero_fraction": 0.2, "units": [2, 5], "cause": "unknown"},
    ),
    "dead channels that were overwritten": (
        norm_gains.norm_gain_zeros,
        trained(batch_norm(weight=zeroed(np.linspace(1, 2, 8), 2), bias=np.zeros(8)), without=(
            "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"
        )),
        WARNING, "bn.weight", {"zero_fraction": 0.125, "units": [2], "cause": "overwritten"},
    ),
    "a lone batch norm of zeros": (
        norm_gains.norm_gain_zeros, batch_norm(weight=np.zeros(8)), WARNING, "bn.weight",
        {"zero_fraction": 1.0, "units": list(range(8)), "cause": "unknown"},
    ),
    "a lone batch norm of zeros that was overwritten": (
        norm_gains.norm_gain_zeros,
        trained(batch_norm(weight=np.zeros(8)), without=(
            "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"
        )),
        ERROR, "bn.weight", {"zero_fraction": 1.0, "units": list(range(8)), "cause": "overwritten"},
    ),
    "gains that lead down to zero": (
        norm_gains.norm_gain_zeros, batch_norm(weight=[0, 0.01, *np.linspace(0.5, 1.5, 6)]), NOTE, "bn.weight",
        {"zero_fraction": 0.125, "units": [0], "cause": "unknown"},
    ),
    "zero gains alone": (
        norm_gains.norm_gain_zeros, zero_centred(np.zeros(16)), WARNING, "layers.0.input_layernorm.weight",
        {"zero_fraction": 1.0, "units": list(range(16)), "cause": "unknown"},
    ),
    "zero gains beside ones that are not zero-centred": (
        norm_gains.norm_gain_zeros, zero_centred(np.zeros(16), 1 + CENTRED), WARNING,
        "layers.0.input_layernorm.weight", {"zero_fraction": 1.0, "units": list(range(16)), "cause": "unknown"},
    ),
    "small gains of one sign": (
        norm_gains.norm_gain_zeros, zero_centred(zeroed(0.5 + CENTRED, 2)), WARNING,
        "layers.0.input_layernorm.weight", {"zero_fraction": 0.0625, "units": [2], "cause": "unknown"},
    ),
    "a dead channel": (
        norm_gains.norm_gain_zeros, batch_norm(weight=zeroed(np.linspace(1, 2, 8), 2), bias=np.zeros(8)), NOTE,
        "bn.weight", {"zero_fraction": 0.125, "units": [2], "cause": "unknown"},
    ),
    "a channel without gain whose bias is alive": (
        norm_gains.norm_gain_zeros, batch_norm(weight=zeroed(np.linspace(1, 2, 8), 2)), WARNING,
        "bn.weight", {"zero_fraction": 0.125, "units": [2], "cause": "unknown"},
    ),
    "a layer norm with zeros decayed with its bias": (
        norm_gains.norm_gain_zeros, norm(zeroed(np.linspace(1, 2, 10), [2, 5]), bias=0), WARNING, "norm.weight",
        {"zero_fraction": 0.2, "units": [2, 5], "cause": "unknown"},
    ),
    "large gains": (
        norm_gains.norm_gain_drift, norm([-30, *[1.0] * 9]), NOTE, "norm.weight", {"largest": 30.0}
    ),
    "flipped gains": (
        norm_gains.norm_gain_drift, norm([-1.0] * 3 + [1.0] * 7), NOTE, "norm.weight", {"negative": 0.3}
    ),
    "a negative variance": (
        norm_statistics.norm_statistics, batch_norm(running_var=[1, -0.5, 0, 1, -0.25, 1, 1, 1]), ERROR,
        "bn.running_var",
        {"cause": "negative", "negative": 2, "minimum": -0.5},
    ),
    "channels that never vary": (
        norm_statistics.norm_statistics, batch_norm(running_var=[1, 0, 0, 1, 2, 1, 1, 1]), NOTE, "bn.running_var",
        {"cause": "zero", "units": [1, 2]},
    ),
    "no channel varies": (
        norm_statistics.norm_statistics, batch_norm(running_var=np.zeros(8)), ERROR, "bn.running_var",
        {"cause": "zero", "units": list(range(8))},
    ),
    "statistics that did not move in a batch": (
        norm_statistics.norm_statistics, batch_norm(**FRESH | {"num_batches_tracked": np.array(1)}), WARNING,
        "bn.running_var", {"cause": "momentum 0", "batches": 1},
    ),
    "statistics that did not move while the gain was trained": (
        norm_statistics.norm_statistics,
        trained(batch_norm(**FRESH | {"num_batches_tracked": np.array(900)}), without=(
            "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"
        )),
        ERROR, "bn.running_var", {"cause": "momentum 0", "batches": 900},
    ),
    "statistics that were never updated": (
        norm_statistics.norm_statistics, batch_norm(**FRESH), WARNING, "bn.running_var", {"cause": "never updated"}
    ),
    "statistics that were never updated, of a file without counts": (
        norm_statistics.norm_statistics, batch_norm(**FRESH | {"num_batches_tracked": None}), WARNING, "bn.running_var",
        {"cause": "never updated"},
    ),
    "a uniform gain beside a bias that was trained": (
        norm_statistics.norm_statistics, batch_norm(**FRESH, weight=UNIFORM), WARNING, "bn.running_var",
        {"cause": "never updated"},
    ),
    "a uniform gain without bias": (
        norm_statistics.norm_statistics, batch_norm(**FRESH, weight=UNIFORM, bias=None), WARNING, "bn.running_var",
        {"cause": "never updated"},
    ),
    "gains beyond a uniform draw": (
        norm_statistics.norm_statistics, batch_norm(**FRESH, weight=UNIFORM + 0.1, bias=np.zeros(8)), WARNING,
        "bn.running_var", {"cause": "never updated"},
    ),
    "gains below a uniform draw": (
        norm_statistics.norm_statistics, batch_norm(**FRESH, weight=UNIFORM - 0.1, bias=np.zeros(8)), WARNING,
        "bn.running_var", {"cause": "never updated"},
    ),
    "gains of one that received gradient": (
        norm_statistics.norm_statistics,
        trained(batch_norm(**FRESH, weight=np.ones(8)), without=(
            "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"
        )),
        ERROR, "bn.running_var", {"cause": "never updated"},
    ),
    "a gain that bfloat16 rounds away": (
        norm_gains.low_precision_stall, half_precision_gain(1e-4), WARNING, "norm.weight", {"updates": 1000}
    ),
    "a gain that float16 rounds away": (
        norm_gains.low_precision_stall, half_precision_gain(1e-4, dtype=np.float16), WARNING, "norm.weight",
        {"updates": 1000},
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
    ("rows", "words"),
    [
        ([0, 1, 2, 1, 4, 1, 6, 4], "3 rows of 8 are copies of another (such as 1 and 3)"),
        ([0, 1, 2, 3, 4, 5, 6, 4], "1 row of 8 is a copy of another (such as 4 and 7)"),
    ],
)
def test_copies_are_counted_without_their_originals(rows: list[int], words: str):
    (finding,) = found(copies.duplicate_units, mlp(net__2__weight=draw(8, 12)[rows]))
    assert words in finding.message


def test_all_but_the_first_of_equal_rows_are_drawn_anew_where_that_is_allowed():
    rows = [0, 1, 2, 1, 4, 1, 6, 4]
    weight = draw(8, 12)[rows]
    (finding,) = found(copies.duplicate_units, mlp(net__2__weight=weight))
    assert finding.fix is Safety.UNSAFE
    (repair,) = finding.repairs
    renewed = repair.renew(weight, np.random.default_rng(0))
    changed = (renewed != weight).all(axis=1)
    assert changed.tolist() == [False, False, False, True, False, True, False, True]
    assert len(np.unique(renewed, axis=0)) == 8
    assert np.abs(renewed[changed]).max() <= 1 / np.sqrt(12)


def pruned_network(count: int) -> Weights:
    """A pruned network; of one layer so many weights beside a zero row are zero."""
    scattered = {f"net.{2 * n}.weight": zeroed(draw(20, 20, seed=n), *((k, k) for k in range(20))) for n in range(4)}
    last = draw(21, 20)
    last[0] = 0
    last[range(1, 1 + count), range(count)] = 0
    return scattered | {"net.8.weight": last}


@pytest.mark.parametrize(("count", "severity"), [(20, NOTE), (19, WARNING)])
def test_units_that_lost_all_weights_are_pruned_where_their_layer_is(count: int, severity: Severity):
    (finding,) = found(network.disconnected_units, pruned_network(count))
    assert told(finding) == (severity, "net.8.weight")


def test_scattered_zeros_alone_do_not_excuse_a_cut_in_a_network_that_is_not_pruned():
    weight = zeroed(draw(20, 20), 0, *((k, k) for k in range(1, 20)))
    (finding,) = found(network.disconnected_units, mlp(net__2__weight=weight))
    assert finding.severity is WARNING


def repairs_of(rule: Rule, subject: Weights | Checkpoint) -> list[tuple[str, Safety]]:
    return [(each.tensor, each.safety) for finding in found(rule, subject) for each in finding.repairs]


@pytest.mark.parametrize(
    ("activation", "bias", "recycled"),
    [("ReLU", 0.0, True), ("Tanh", 0.0, True), ("Sigmoid", 0.0, False), ("", 0.0, False), ("ReLU", 0.5, False)],
)
def test_units_without_incoming_weights_are_recycled_where_their_output_is_zero(
    activation: str, bias: float, recycled: bool
):
    weights = mlp(net__0__weight=zeroed(draw(12, 6), [3, 7]), net__0__bias=np.full(12, bias, np.float32))
    subject = build_checkpoint(weights, hyperparameters={"activation": activation})
    wanted = [(name, Safety.ON_REQUEST) for name in ("net.0.weight", "net.0.bias", "net.2.weight")]
    assert repairs_of(network.disconnected_units, subject) == (wanted if recycled else [])


def test_recycling_draws_the_silent_rows_and_nothing_else():
    weights = mlp(net__0__weight=zeroed(draw(12, 6), [3, 7]), net__0__bias=None)
    (finding,) = found(network.disconnected_units, build_checkpoint(weights, hyperparameters={"activation": "ReLU"}))
    incoming, outgoing = finding.repairs
    new = incoming.renew(weights["net.0.weight"], np.random.default_rng(0))
    assert np.flatnonzero((new != weights["net.0.weight"]).any(axis=1)).tolist() == [3, 7]
    assert 0.8 / np.sqrt(6) < np.abs(new[[3, 7]]).max() <= 1 / np.sqrt(6)
    after = outgoing.renew(weights["net.2.weight"], np.random.default_rng(0))
    assert np.flatnonzero((after == 0).all(axis=0)).tolist() == [3, 7]
    assert ((after != weights["net.2.weight"]).any(axis=0)).sum() == 2


def test_a_zero_head_gets_its_bias_of_zero():
    assert repairs_of(network.zero_output_layer, head()) == [
        ("action_net.weight", Safety.SAFE),
        ("action_net.bias", Safety.SAFE),
    ]
    assert repairs_of(network.zero_output_layer, head(**{"action_net.bias": np.zeros(4, np.int64)})) == [
        ("action_net.weight", Safety.SAFE)
    ]


@pytest.mark.parametrize("axis", [0, 1])
def test_zeros_of_whole_rows_and_columns_are_not_scattered(axis: int):
    """In 20 rows of 12, with one row and two columns of zeros, 190 weights are left; 19 of them are a tenth."""
    weight = draw(20, 12)
    weight[0], weight[:, [0, 1]] = 0, 0
    weight[range(1, 20), [2 + row % 10 for row in range(19)]] = 0
    (finding,) = found(zeros.partial_zeros, mlp(net__2__weight=weight if axis == 0 else weight.T.copy()))
    assert (finding.evidence["zeros"], finding.evidence["zero_fraction"]) == (19, 0.1)


# Patterns of zeros


def masked(rows: int, patterns: int, columns: int = 10) -> NDArray:
    """Rows with so many different patterns of zeros."""
    matrix = draw(rows, columns)
    for row in range(rows):
        matrix[row, [row % patterns, 5 + row % patterns]] = 0
    return matrix


def autoregressive(rows: int) -> NDArray:
    """Rows of which each sees one input more than the one before last."""
    return np.where(np.arange(10)[None] <= np.arange(rows)[:, None] // 2 + 1, draw(rows, 10), 0)


def two_of_four(kept: int = 2) -> NDArray:
    matrix = draw(16, 16)
    for row in range(16):
        for group in range(4):
            matrix[row, 4 * group + (np.arange(4 - kept) * (row % 3 + 1) + row + group) % 4] = 0
    return matrix


PATTERNS: Mapping[str, tuple[Weights, str]] = {
    "a mask beside it": (
        mlp(net__2__weight=zeroed(draw(8, 12), *((n % 8, n) for n in range(12))), net__2__weight_mask=np.ones((8, 12))),
        "mask",
    ),
    "lower triangle": (mlp(net__2__weight=np.tril(draw(9, 9))), "triangular"),
    "upper triangle": (mlp(net__2__weight=np.triu(draw(9, 9))), "triangular"),
    "a triangle that is not square": (mlp(net__2__weight=np.tril(draw(7, 9))), ""),
    "nearly a triangle": (mlp(net__2__weight=np.triu(draw(9, 9)) + np.eye(9, k=-8)), ""),
    "a selection": (mlp(net__2__weight=np.eye(9)[[3, 1, 4, 1, 5, 8, 2, 6, 7, 0]]), "one-hot"),
    "two of four": (mlp(net__2__weight=two_of_four()), "2:4"),
    "three of four": (mlp(net__2__weight=two_of_four(3)), ""),
    "two masks for eight rows": (mlp(net__2__weight=masked(8, 2)), "masked or grouped"),
    "two masks for seven rows": (mlp(net__2__weight=masked(7, 2)), ""),
    "three masks for 24 rows": (mlp(net__2__weight=masked(24, 3)), "masked or grouped"),
    "three masks for 23 rows": (mlp(net__2__weight=masked(23, 3)), ""),
    "a masked kernel": (
        {"conv.weight": np.where(np.arange(9).reshape(3, 3) < 5, draw(8, 4, 3, 3), 0), "fc.weight": draw(4, 8)},
        "masked or grouped",
    ),
    "inputs that contain the previous row's": (mlp(net__2__weight=autoregressive(8)), "autoregressive"),
    "inputs that contain the previous row's, seven times": (mlp(net__2__weight=autoregressive(7)), ""),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_chosen_pattern_is_named_and_only_noted(name: str):
    weights, words = PATTERNS[name]
    (finding,) = findings_of(zeros.partial_zeros, build_checkpoint(weights))
    assert (finding.severity is NOTE) is bool(words)
    assert words in finding.evidence["pattern"]
    assert bool(finding.evidence["pattern"]) is bool(words)
