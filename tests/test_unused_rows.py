"""Rows that never received a gradient: which of them are a note, which a warning, and which nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.layers.unused_rows import unused_rows
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING = Severity.NOTE, Severity.WARNING


def draw(*shape: int) -> NDArray:
    return np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)


def with_table(
    name: str, rows: int, unused: Sequence[int], *, step: int = 300, second: float = 0.0, columns: int = 16
) -> Checkpoint:
    """A network with a table or head, of which these rows have this second moment and all others 1e-4."""
    tensors = {"net.0.weight": draw(16, 6), "net.0.bias": draw(16), name: draw(rows, columns)}
    squares = {key: np.full(array.shape, 1e-4, np.float32) for key, array in tensors.items()}
    squares[name][list(unused)] = second
    held = {key: {"step": step, "exp_avg": each * 0.1, "exp_avg_sq": each} for key, each in squares.items()}
    return build_checkpoint(tensors, optimizer=held, updates=step)


HEAD, TABLE, POSITIONS = "action_net.weight", "embedding.weight", "position_embeddings.weight"


@pytest.mark.parametrize(
    ("name", "rows", "unused", "severity"),
    [
        (HEAD, 4, [], None),
        (HEAD, 4, [1, 2, 3], WARNING),
        (HEAD, 10, [3], NOTE),
        (HEAD, 4, [0, 1, 2, 3], None),
        ("net.2.weight", 1, [0], None),
        (TABLE, 32, range(4, 32), WARNING),
        (TABLE, 32, [0], None),
        (TABLE, 32, [0, 1], None),
        (TABLE, 32, range(8), NOTE),
        (TABLE, 32, range(32), None),
        (TABLE, 5000, range(4000), NOTE),
        (TABLE, 2, [1], None),
        (POSITIONS, 512, range(64, 512), NOTE),
        ("transformer.wpe.weight", 512, range(64, 512), NOTE),
        ("conv.weight", 32, range(16), None),
    ],
)
def test_rows(name: str, rows: int, unused: Sequence[int], severity: Severity | None) -> None:
    found = findings_of(unused_rows, with_table(name, rows, unused))
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    assert [each.evidence["rows"] for each in found] == ([] if severity is None else [list(unused)])


def test_a_masked_action_receives_next_to_nothing() -> None:
    (finding,) = findings_of(unused_rows, with_table(HEAD, 5, [2, 4], second=1e-22))
    assert finding.severity is WARNING
    assert finding.message == "2 of 5 outputs (2, 4) received no gradient in 300 updates, and the others did"


def test_a_class_that_the_data_lacks_receives_small_gradients() -> None:
    assert findings_of(unused_rows, with_table(HEAD, 5, [2, 4], second=1e-14)) == []


def test_a_few_updates_do_not_tell() -> None:
    assert findings_of(unused_rows, with_table(HEAD, 4, [1, 2], step=19)) == []
    assert findings_of(unused_rows, with_table(HEAD, 4, [1, 2], step=20)) != []


def test_without_an_optimizer_nothing_is_said() -> None:
    assert findings_of(unused_rows, build_checkpoint({"action_net.weight": draw(4, 16)})) == []


def recurrent(columns: Sequence[int], rows: Sequence[int] = ()) -> Checkpoint:
    """An LSTM of eight units; these columns of ``weight_hh`` and these units' rows never received a gradient."""
    shapes = {"weight_ih_l0": (32, 5), "weight_hh_l0": (32, 8), "bias_ih_l0": (32,), "bias_hh_l0": (32,)}
    tensors = {f"lstm.{name}": draw(*shape) for name, shape in shapes.items()} | {"head.weight": draw(3, 8)}
    squares = {name: np.full(array.shape, 1e-4, np.float32) for name, array in tensors.items()}
    squares["lstm.weight_hh_l0"][:, list(columns)] = 0
    for unit in rows:
        for name in shapes:
            squares[f"lstm.{name}"][unit::8] = 0
    held = {name: {"step": 300, "exp_avg": each * 0.1, "exp_avg_sq": each} for name, each in squares.items()}
    return build_checkpoint(tensors, optimizer=held, updates=300)


@pytest.mark.parametrize(
    ("columns", "rows", "severity"),
    [
        ([], [], None),
        ([5], [], NOTE),
        ([0, 1, 2, 3], [], WARNING),
        (range(8), [], None),
        ([0, 1, 2, 3], [0, 1, 2, 3], None),
        ([0, 1, 2, 3, 4], [4], WARNING),
    ],
)
def test_hidden_states(columns: Sequence[int], rows: Sequence[int], severity: Severity | None) -> None:
    found = findings_of(unused_rows, recurrent(columns, rows))
    assert [each.severity for each in found] == ([] if severity is None else [severity])
