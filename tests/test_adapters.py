"""Adapters that change nothing: before training, after it, and where the file does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.layers.adapters import no_op_adapter
from checkpoint_doctor.testing import build_checkpoint, findings_of

WARNING, ERROR = Severity.WARNING, Severity.ERROR


def file_with(*second: float, names: tuple[str, ...] = ("",), state: str = "none", updates: int | None = None) -> Any:
    """A file with an adapter of that name beside each layer; the second factors are drawn and multiplied."""
    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    held: dict[str, Mapping[str, Any]] = {}
    for number, factor in enumerate(second):
        name = names[number % len(names)]
        for part, shape in (("A", (4, 16)), ("B", (16, 4))):
            key = ".".join(each for each in (f"layers.{number}.lora_{part}", name, "weight") if each)
            tensors[key] = random.normal(0, 0.1, shape).astype(np.float32) * (1.0 if part == "A" else factor)
            moments = {
                "step": 300,
                "exp_avg": np.zeros(shape, np.float32),
                "exp_avg_sq": np.full(shape, 1e-6 if factor else 0.0, np.float32),
            }
            held[key] = moments if state == "trained" or (state == "first only" and part == "A") else {}
    tensors["head.weight"] = random.normal(0, 0.1, (3, 16)).astype(np.float32)
    held["head.weight"] = {} if state == "empty" else {"step": 300, "exp_avg_sq": np.full((3, 16), 1e-6, np.float32)}
    return build_checkpoint(tensors, optimizer=None if state == "none" else held, updates=updates)


@pytest.mark.parametrize(
    ("checkpoint", "severity"),
    [
        (file_with(1.0, 1.0), None),
        (file_with(0.0, 1.0), None),
        (file_with(0.0, 0.0), WARNING),
        (file_with(0.0, 0.0, state="trained", updates=300), ERROR),
        (file_with(0.0, 0.0, state="first only", updates=300), ERROR),
        (file_with(1.0, 1.0, state="trained", updates=300), None),
        (file_with(0.0, 0.0, state="empty", updates=0), None),
        (file_with(0.0, 0.0, state="empty"), None),
        (file_with(0.0, 0.0, state="frozen", updates=300), WARNING),
        (build_checkpoint({"head.weight": np.zeros((3, 16), np.float32)}), None),
    ],
)
def test_no_op_adapters(checkpoint: Checkpoint, severity: Severity | None) -> None:
    assert [each.severity for each in findings_of(no_op_adapter, checkpoint)] == ([severity] if severity else [])


def test_one_finding_lists_the_layers() -> None:
    (finding,) = findings_of(no_op_adapter, file_with(0.0, 0.0, 0.0, state="trained", updates=300))
    assert finding.evidence["tensors"] == [f"layers.{number}.lora_B.weight" for number in range(3)]
    assert (
        finding.message
        == "the adapter changes nothing: all 3 second factors (lora_B) are exactly zero, after 300 updates"
    )


def test_adapters_are_judged_by_name() -> None:
    subject = file_with(1.0, 0.0, names=("trained", "idle"), state="none")
    (finding,) = findings_of(no_op_adapter, subject)
    assert finding.evidence["adapter"] == "idle"


def test_a_second_adapter_may_wait_for_its_turn() -> None:
    assert findings_of(no_op_adapter, file_with(1.0, 0.0, names=("one", "two"), state="trained", updates=300)) == []
