"""Vanished weights and weights on a decimal grid: where the rules stay silent and where they speak."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.values.weight_scale import gridded_values, vanished_values
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


def draw(*shape: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def network(first: float | NDArray = 1.0, second: float | NDArray = 1.0, **others: Any) -> dict[str, NDArray]:
    """Two layers and their biases, each weight as given or scaled by a factor."""
    weights = {"net.0.weight": first, "net.2.weight": second}
    shapes = {"net.0.weight": (16, 12), "net.2.weight": (4, 16)}
    tensors = {
        name: value if isinstance(value, np.ndarray) else (draw(*shapes[name]).astype(np.float64) * value)
        for name, value in weights.items()
    }
    tensors = {name: np.asarray(value, getattr(value, "dtype", None)) for name, value in tensors.items()}
    single = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in tensors.items()}
    return single | {"net.0.bias": draw(16), "net.2.bias": draw(4)} | others


def trained(tensors: dict[str, NDArray], second: float = 1e-6) -> Checkpoint:
    held = {
        name: {
            "step": 300,
            "exp_avg": np.full(array.shape, second, np.float32),
            "exp_avg_sq": np.full(array.shape, second, np.float32),
        }
        for name, array in tensors.items()
    }
    return build_checkpoint(tensors, optimizer=held, updates=300)


def worst(checkpoint: Checkpoint, rule: Any) -> Severity | None:
    return max((each.severity for each in findings_of(rule, checkpoint)), default=None)


@pytest.mark.parametrize(
    ("checkpoint", "severity"),
    [
        (trained(network()), None),
        (trained(network(1e-4)), None),
        (trained(network(1e-15)), WARNING),
        (build_checkpoint(network(1e-15)), WARNING),
        (trained(network(1e-40)), ERROR),
        (trained(network(1e-40), second=0.0), WARNING),
        (build_checkpoint(network(1e-40)), WARNING),
        (trained(network(1e-15, 1e-15)), ERROR),
        (build_checkpoint(network(1e-15, 1e-15)), ERROR),
        (build_checkpoint(network(1e-15), optimizer={}, updates=0), None),
        (trained(network(0.0)), None),
        (trained(network(0.0, 0.0)), None),
        (trained(network(**{"norm.weight": np.full(16, 1e-20, np.float32)})), None),
        (trained(network(**{"block.gamma": np.full(16, 1e-20, np.float32)})), None),
        (trained(network(**{"q.lora_A.weight": draw(2, 12), "q.lora_B.weight": draw(16, 2) * 1e-20})), None),
        (build_checkpoint(network((draw(16, 12) * 1e-5).astype(np.float16))), None),
        (build_checkpoint(network((draw(16, 12) * 1e-30).astype(ml_dtypes.bfloat16))), WARNING),
        (build_checkpoint({"net.0.weight": draw(16, 12) * 1e-15}), WARNING),
    ],
)
def test_vanished_values(checkpoint: Checkpoint, severity: Severity | None) -> None:
    assert worst(checkpoint, vanished_values) == severity


def test_a_vanished_network_is_one_finding_with_all_its_matrices() -> None:
    (finding,) = findings_of(vanished_values, trained(network(1e-15, 1e-12)))
    assert finding.subject is None
    assert finding.evidence["tensors"] == ["net.0.weight", "net.2.weight"]
    assert "all 2 weight matrices have vanished: their RMS is 2.7e-13 or less" in finding.message


def test_a_vanished_layer_says_whether_it_was_trained_and_whether_it_is_denormal() -> None:
    (finding,) = findings_of(vanished_values, trained(network(1e-40)))
    assert finding.tensor == "net.0.weight"
    assert finding.message.endswith("all of them are denormal numbers, though the optimizer recorded gradients")


def test_a_large_tensor_whose_squares_are_zero_in_float32_is_seen() -> None:
    weight = np.full((300, 1000), 1e-30, np.float32) * np.sign(draw(300, 1000))
    assert worst(build_checkpoint({"net.0.weight": weight, "net.2.weight": draw(4, 300)}), vanished_values) == WARNING


def rounded(step: float, *shape: int, seed: int = 0, scale: float = 1.0) -> NDArray:
    wide = draw(*shape, seed=seed).astype(np.float64) * scale
    return (np.round(wide / step) * step).astype(np.float32)


GRID, OTHER = rounded(0.01, 16, 12), rounded(0.01, 4, 16, seed=1)


@pytest.mark.parametrize(
    ("tensors", "severity", "words"),
    [
        (network(), None, ""),
        (network(GRID, OTHER), WARNING, "the values of all 2 weight matrices are multiples of 0.01"),
        (network(GRID), NOTE, "all its values are multiples of 0.01"),
        (network(rounded(1.0, 16, 12, scale=100), rounded(1.0, 4, 16, scale=100)), WARNING, "multiples of 1,"),
        (network(rounded(0.01, 16, 12), rounded(0.1, 4, 16)), WARNING, "multiples of 0.01 to 0.1"),
        (network(rounded(0.001, 16, 12)), None, ""),
        (network(rounded(0.001, 16, 12, scale=0.1)), NOTE, "0.001"),
        (network(np.sign(draw(16, 12)), np.sign(draw(4, 16))), None, ""),
        (network(rounded(1.0, 16, 12)), None, ""),
        (network(rounded(0.125, 16, 12), rounded(0.125, 4, 16)), None, ""),
        (network(rounded(0.01, 16, 12).astype(np.float16)), None, ""),
        (network(draw(16, 12).astype(np.float16).astype(np.float32)), None, ""),
        (network(GRID, OTHER, **{"net.0.weight_scale": draw(1)}), None, ""),
        (network(GRID, OTHER, **{"net.0.weight_fake_quant.zero_point": np.zeros(1, np.int32)}), None, ""),
        (network(GRID, OTHER, **{"packed.weight": np.ones((8, 8), np.int8)}), None, ""),
        (network(np.where(np.arange(192).reshape(16, 12) == 191, 0.0123, GRID).astype(np.float32)), None, ""),
        (network(np.where(np.arange(192).reshape(16, 12) == 191, np.nan, GRID).astype(np.float32)), None, ""),
        (network(np.full((16, 12), 0.5, np.float32)), None, ""),
        (network(rounded(0.01, 16, 12).astype(np.float64)), NOTE, "0.01"),
    ],
)  # fmt: skip
def test_gridded_values(tensors: dict[str, NDArray], severity: Severity | None, words: str) -> None:
    found = findings_of(gridded_values, build_checkpoint(tensors))
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    assert all(words in each.message for each in found)


def test_a_value_that_is_off_the_grid_behind_the_sample_counts() -> None:
    weight = rounded(0.01, 64, 64)
    assert worst(build_checkpoint({"net.0.weight": weight}), gridded_values) == NOTE
    weight[-1, -1] = 0.0123
    assert worst(build_checkpoint({"net.0.weight": weight}), gridded_values) is None


def stepped(size: float, *, kind: str = "Adam", rate: float = 1e-3, value: float | None = None) -> Checkpoint:
    """A matrix of this size after an update by the learning rate: all moments are such that m/√v is 1."""
    tensors = {"net.0.weight": np.full((16, 12), size, np.float32), "net.2.weight": draw(4, 16)}
    if value is not None:
        tensors["net.0.weight"][0, 0] = value
    held = {
        name: {"step": 10_000, "exp_avg": np.full(each.shape, 1e-3), "exp_avg_sq": np.full(each.shape, 1e-6)}
        for name, each in tensors.items()
    }
    options = {"lr": rate, "betas": (0.9, 0.999), "eps": 1e-12}
    return build_checkpoint(tensors, optimizer=held, optimizer_kind=kind, optimizer_options=options, updates=10_000)


@pytest.mark.parametrize(
    ("checkpoint", "speaks"),
    [
        (stepped(0.99e-5), True),  # a hundredth of an update
        (stepped(1.01e-5), False),
        (stepped(0.99e-5, rate=-1e-3), True),
        (stepped(0.99e-5, rate=0.0), False),
        (stepped(0.99e-5, kind="SGD"), False),
        (stepped(0.99e-5, value=np.nan), False),
        (build_checkpoint({each.name: each.array for each in stepped(0.99e-5).tensors}), False),
    ],
)
def test_weights_that_are_smaller_than_their_last_update(checkpoint: Checkpoint, speaks: bool) -> None:
    found = findings_of(vanished_values, checkpoint)
    assert [(each.tensor, each.evidence["trained"]) for each in found] == [("net.0.weight", True)] * speaks


def constant(size: float, *, dtype: str = "float32", inputs: int = 16) -> dict[str, NDArray]:
    return {"net.0.weight": np.full((16, inputs), size, dtype), "net.2.weight": draw(4, 16)}


@pytest.mark.parametrize(
    ("tensors", "speaks"),
    [
        (constant(0.99e-8), True),
        (constant(1.01e-8), False),
        (constant(0.99e-8, inputs=10_000), True),  # the gain is 0.99e-6
        (constant(0.99e-8, inputs=10_400), False),
    ],
)
def test_how_small_a_vanished_weight_is(tensors: dict[str, NDArray], speaks: bool) -> None:
    assert bool(findings_of(vanished_values, build_checkpoint(tensors))) is speaks


@pytest.mark.parametrize(("size", "denormal"), [(1.17e-38, True), (1.1754944e-38, False), (1.2e-38, False)])
def test_what_is_denormal(size: float, denormal: bool) -> None:
    (finding,) = findings_of(vanished_values, build_checkpoint(constant(size)))
    assert finding.evidence["denormal"] is denormal


def spaced(*values: float, dtype: str = "float64", shape: tuple[int, int] = (16, 12)) -> dict[str, NDArray]:
    return {"net.0.weight": np.resize(np.array(values), shape).astype(dtype)}


@pytest.mark.parametrize(
    ("tensors", "grid"),
    [
        (spaced(0.03, 0.01, 0.02, 0.05, 0.07), 0.01),
        (spaced(0.1, 0.2, 0.3, 0.7, 0.9), 0.1),
        (spaced(0.3, 0.2, 0.35, 0.7, 0.9), 0.01),
        (spaced(1.0, 2.0, 3.0, 5.0, 7.0), 1.0),
        (spaced(10.0, 20.0, 30.0, 50.0, 70.0), 10.0),
        (spaced(0.03, 0.01, 0.02, 0.05), None),  # four magnitudes
        (spaced(0.125, 0.25, 0.375, 0.5, 0.625), None),  # fixed point
        (spaced(0.03, 0.01, 0.02, 0.05, 0.07, shape=(7, 9)), None),  # few entries
        (spaced(0.03, 0.01, 0.02, 0.05, 0.07, shape=(8, 8)), 0.01),
        (spaced(0.03, 0.01, 0.02, 0.05, 0.07, np.nan), None),
        (spaced(3, 1, 2, 5, 7, dtype="int32"), None),
        (spaced(*(1e-28 * each for each in (1, 2, 3, 5, 7))), 1e-28),
        (spaced(*(1e-33 * each for each in (1, 2, 3, 5, 7))), None),
        (spaced(*(1e28 * each for each in (1, 2, 3, 5, 7))), 1e28),
        (spaced(*(1e33 * each for each in (1, 2, 3, 5, 7))), None),
        (spaced(0.0, 0.0, 0.0, 0.0, 0.0), None),
    ],
)
def test_the_grid_of_a_weight(tensors: dict[str, NDArray], grid: float | None) -> None:
    found = findings_of(gridded_values, build_checkpoint(tensors))
    assert [each.evidence["grids"] for each in found] == ([] if grid is None else [[pytest.approx(grid)]])


@pytest.mark.parametrize(
    ("other", "count"),
    [
        (np.resize([0.1, 0.2], (4, 16)), 2),  # ternary by itself, and on the grid of the other
        (np.resize([0.1, 0.25], (4, 16)), 2),
        (np.resize([0.1, 0.2512], (4, 16)), 1),
        (np.zeros((4, 16)), 1),
        (np.resize([0.1, np.inf], (4, 16)), 1),
        (np.resize([0.1, 0.2], (4, 16)).astype(np.float16), 1),
        (np.resize([1e31, 2e31], (4, 16)), 1),
    ],
)
def test_a_weight_of_few_magnitudes_was_rounded_with_the_others(other: NDArray, count: int) -> None:
    weight = spaced(0.03, 0.01, 0.02, 0.05, 0.07)["net.0.weight"]
    (finding,) = findings_of(gridded_values, build_checkpoint({"net.0.weight": weight, "net.2.weight": other}))
    assert len(finding.evidence["tensors"]) == count


@pytest.mark.parametrize(("off", "speaks"), [(2, True), (3, False)])
def test_how_far_beside_the_grid_a_value_may_be(off: int, speaks: bool) -> None:
    """The distance between float64 numbers is 2.2e-16; on a grid of 1, large values may be off by twice as much."""
    values = [1.0, 2.0, 3.0, 5.0, 7.0, 64.0 * (1 + off * 2.220446049250313e-16)]
    assert bool(findings_of(gridded_values, build_checkpoint(spaced(*values)))) is speaks
