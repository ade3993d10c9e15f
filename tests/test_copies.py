"""Blocks and rows that are copies of another, and those that may be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.layers.copies import copied_blocks, duplicate_units
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING = Severity.NOTE, Severity.WARNING
Weights = dict[str, NDArray]


def draw(*shape: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def blocks(*seeds: int) -> Weights:
    """Blocks of two layers each; those of one seed are equal."""
    return {
        f"h.{number}.{name}.weight": draw(16, 16, seed=seed * 10 + at)
        for number, seed in enumerate(seeds)
        for at, name in enumerate(("attn", "mlp"))
    }


def trained(weights: Weights, *moments: int, second: float = 1e-6) -> Checkpoint:
    """A checkpoint whose moments are drawn by these seeds, one for each block."""
    held = {}
    for at, (name, array) in enumerate(weights.items()):
        seed = moments[min(int(name.split(".")[1]), len(moments) - 1)] * 10 + at % 2
        squares = np.square(draw(*array.shape, seed=seed)) * second
        held[name] = {"step": 300, "exp_avg": squares, "exp_avg_sq": squares}
    return build_checkpoint(weights, optimizer=held, updates=300)


@pytest.mark.parametrize(
    ("checkpoint", "pairs"),
    [
        (trained(blocks(1, 2, 3), 4, 5, 6), []),
        (trained(blocks(1, 1, 3), 4, 5, 6), [["h.0", "h.1"]]),
        (trained(blocks(1, 2, 1), 4, 5, 6), [["h.0", "h.2"]]),
        (trained(blocks(1, 1, 1), 4, 5, 6), [["h.0", "h.1"], ["h.0", "h.2"]]),
        (trained(blocks(1, 1), 4, 4), []),
        (trained(blocks(1, 1), 4, 5, second=0.0), []),
        (build_checkpoint(blocks(1, 1)), []),
        (build_checkpoint(blocks(1, 1), optimizer={name: {} for name in blocks(1, 1)}, updates=0), []),
        (trained({name: np.full((16, 16), 0.1, np.float32) for name in blocks(1, 1)}, 4, 5), []),
        (trained(blocks(1, 1) | {"h.1.mlp.weight": draw(16, 16, seed=99)}, 4, 5), []),
    ],
)
def test_copied_blocks(checkpoint: Checkpoint, pairs: list[list[str]]) -> None:
    found = findings_of(copied_blocks, checkpoint)
    assert [each.evidence["blocks"] for each in found] == pairs
    assert {each.severity for each in found} <= {WARNING}


def head(moments: list[int] | None) -> Checkpoint:
    """A head of five rows of which two are equal; its moments are drawn by a seed for each row."""
    weight = draw(5, 12)
    weight[3] = weight[1]
    tensors = {"net.0.weight": draw(12, 6), "head.weight": weight}
    if moments is None:
        return build_checkpoint(tensors)
    rows = np.stack([np.square(draw(12, seed=seed)) for seed in moments])
    return build_checkpoint(tensors, optimizer={"head.weight": {"step": 300, "exp_avg": rows, "exp_avg_sq": rows}})


@pytest.mark.parametrize(("moments", "severity"), [(None, NOTE), ([0, 1, 2, 1, 4], NOTE), ([0, 1, 2, 3, 4], WARNING)])
def test_classes_that_are_not_in_the_data_stay_equal(moments: list[int] | None, severity: Severity) -> None:
    assert [each.severity for each in findings_of(duplicate_units, head(moments))] == [severity]


def repeated(*shape: int) -> NDArray:
    return np.repeat(draw(1, *shape[1:]), shape[0], axis=0)


STATE = {"step": 300, "exp_avg": np.ones((12, 6)), "exp_avg_sq": np.ones((12, 6))}


@pytest.mark.parametrize(
    ("checkpoint", "found"),
    [
        (build_checkpoint({"filters.weight": repeated(12, 1, 7, 7)}), 0),
        (build_checkpoint({"filters.weight": repeated(12, 2, 7, 7)}), 1),
        (build_checkpoint({"net.0.weight": draw(12, 6), "fixed.weight": repeated(8, 12)}), 1),
        (
            build_checkpoint(
                {"net.0.weight": draw(12, 6), "fixed.weight": repeated(8, 12)}, optimizer={"net.0.weight": STATE}
            ),
            0,
        ),
    ],
)
def test_fixed_filters_may_repeat(checkpoint: Checkpoint, found: int) -> None:
    assert len(findings_of(duplicate_units, checkpoint)) == found
