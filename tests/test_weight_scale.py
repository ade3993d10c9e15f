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
