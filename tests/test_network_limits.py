"""Zeros of units, tables and heads: what is said of which, and the nearest case that is said to be sound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.layers.network import disconnected_units, zero_output_layer
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of
from tests.test_thresholds import draw, stack, trained

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


def network(rows: Iterable[int] = (), columns: Iterable[int] = (), bias: float = 0.0) -> dict[str, NDArray]:
    """Three layers: some units of the first without incoming weights, some that the second does not read."""
    weights = stack(draw(12, 6), draw(10, 12), draw(4, 10)) | {"net.0.bias": draw(12, seed=5)}
    weights["net.0.weight"][list(rows)] = 0
    weights["net.0.bias"][list(rows)] = bias
    weights["net.2.weight"][:, list(columns)] = 0
    return weights


@pytest.mark.parametrize("build", [build_checkpoint, trained], ids=["weights", "optimizer"])
@pytest.mark.parametrize(
    ("weights", "incoming", "outgoing"),
    [
        (network([1, 3], [1, 3]), NOTE, NOTE),
        (network([1], [1, 3]), NOTE, WARNING),
        (network([1, 3], [1]), WARNING, NOTE),
        (network([1], [1], bias=0.5), WARNING, WARNING),
        (network([], [1]), None, WARNING),
        (network([1], []), WARNING, None),
    ],
)
def test_units_that_were_removed_as_a_whole_are_notes(
    build: Any, weights: dict[str, NDArray], incoming: Severity | None, outgoing: Severity | None
) -> None:
    found = {each.evidence["side"]: each.severity for each in findings_of(disconnected_units, build(weights))}
    assert (found.get("incoming"), found.get("outgoing")) == (incoming, outgoing)


def test_the_last_layer_may_begin_at_zero_unless_it_was_trained() -> None:
    weights = stack(draw(12, 6), draw(10, 12))
    weights["net.2.weight"][:, 3] = 0
    for checkpoint, severity in ((build_checkpoint(weights), NOTE), (trained(weights), WARNING)):
        (finding,) = findings_of(disconnected_units, checkpoint)
        assert (finding.severity, finding.evidence) == (
            severity,
            {"units": [3], "layer_units": 12, "side": "outgoing"},
        )
        assert finding.message == "1 unit of 12 that this layer reads has no outgoing weights here"


def table(name: str, columns: int, *rows: int) -> dict[str, NDArray]:
    weights = draw(50, columns)
    weights[list(rows)] = 0
    return {f"{name}.weight": weights, "net.weight": draw(4, columns)}


WORDS, UNUSED = "words without a vector", "rows never in use"
WRITTEN = "its second moment is not zero after 1,000 updates, so it was trained and then overwritten"


@pytest.mark.parametrize(
    ("checkpoint", "severity", "words"),
    [
        (build_checkpoint(table("embedding", 8, 5, 9)), WARNING, WORDS),
        (build_checkpoint(table("embedding", 2, 5, 9)), WARNING, WORDS),
        (build_checkpoint(table("embedding", 1, 5, 9)), NOTE, UNUSED),
        (build_checkpoint(table("table", 8, 5, 9)), NOTE, UNUSED),
        (build_checkpoint(table("embedding", 8, 5)), NOTE, WORDS),
        (trained(table("embedding", 8, 5, 9)), WARNING, WRITTEN),
        (trained(table("table", 8, 5, 9)), WARNING, WRITTEN),
        (trained(table("embedding", 8, 5)), NOTE, WRITTEN),
    ],
)
def test_rows_of_a_table(checkpoint: Checkpoint, severity: Severity, words: str) -> None:
    (finding,) = findings_of(disconnected_units, checkpoint)
    count = len(finding.evidence["units"])
    quantity = "1 row" if count == 1 else f"{count} rows"
    assert (finding.severity, finding.message) == (severity, f"{quantity} of 50 are exactly zero: {words}")


@pytest.mark.parametrize(
    ("rows", "reported"),
    [
        ([0], []),
        ([1], []),
        ([2], []),
        ([3], []),
        ([4], [4]),
        ([0, 1], []),
        ([0, 2], [0, 2]),
        ([1, 2], [1, 2]),
        ([49], []),
        ([47, 48, 49], []),
        ([1, 48, 49], []),
        ([5, 48, 49], [5]),
        ([5, 47, 49], [5, 47]),
    ],
)
def test_padding_rows_are_expected(rows: list[int], reported: list[int]) -> None:
    found = findings_of(disconnected_units, build_checkpoint(table("embedding", 8, *rows)))
    assert [each.evidence["units"] for each in found] == ([reported] if reported else [])


def test_rows_that_were_never_looked_up_are_a_note() -> None:
    weights = table("embedding", 8, 5, 9)
    squares = np.ones((50, 8))
    squares[[5, 9]] = 0
    (finding,) = findings_of(disconnected_units, trained(weights, second={"embedding.weight": squares}))
    assert (finding.severity, finding.message) == (NOTE, f"2 rows of 50 are exactly zero: {UNUSED}")


def head(kind: Any = np.float32) -> dict[str, NDArray]:
    return stack(draw(12, 6), np.zeros((4, 12), kind)) | {"net.2.bias": draw(4)}


def heads() -> dict[str, NDArray]:
    weights = {"body.weight": draw(12, 6), "heads.0.weight": draw(4, 12)}
    return weights | {"heads.1.weight": np.zeros((4, 12), np.float32)}


WAITS = "; nothing in the file shows that it was ever in use"


@pytest.mark.parametrize(
    ("checkpoint", "severity", "cause", "end"),
    [
        (build_checkpoint(head()), WARNING, "unknown", "so the cause is unknown"),
        (trained(head()), ERROR, "overwritten", WRITTEN),
        (build_checkpoint(heads()), NOTE, "unknown", WAITS),
        (
            trained(heads(), second={"heads.1.weight": np.zeros((4, 12))}),
            ERROR,
            "never trained",
            "so it never received a gradient",
        ),
    ],
)
def test_heads_of_zeros(checkpoint: Checkpoint, severity: Severity, cause: str, end: str) -> None:
    (finding,) = findings_of(zero_output_layer, checkpoint)
    assert (finding.severity, finding.evidence["cause"]) == (severity, cause)
    assert finding.message.startswith("all 48 weights of this output layer are exactly zero: ")
    assert finding.message.endswith(end)


def test_a_repaired_head_has_a_bias_of_zero() -> None:
    (finding,) = findings_of(zero_output_layer, build_checkpoint(head()))
    weight, bias = finding.repairs
    random = np.random.default_rng(0)
    assert (weight.tensor, bias.tensor) == ("net.2.weight", "net.2.bias")
    assert not bias.renew(draw(4), random).any()
    assert weight.renew(np.zeros((4, 12), np.float32), random).all()


def test_a_head_of_integers_is_not_judged() -> None:
    assert findings_of(zero_output_layer, build_checkpoint(head(np.int64))) == []
