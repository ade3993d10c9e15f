"""Tensors that were never trained, state that does not fit and rates at the end: what is said, and when nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import (
    learning_rate_at_save,
    optimizer_mismatch,
    untrained_tensor,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

NAMES = [f"net.{number}.{role}" for number in (0, 2, 4, 6) for role in ("weight", "bias")]


def draw(name: str) -> NDArray:
    random = np.random.default_rng(NAMES.index(name))
    return random.uniform(0.02, 1, (6, 6) if name.endswith("weight") else 6)


def run(
    updates: int | None = 300, *, stateless: tuple[str, ...] = (), zero: tuple[str, ...] = (),
    outside: tuple[str, ...] = (), names: list[str] | None = None,
) -> Checkpoint:  # fmt: skip
    """Four layers under Adam, some tensors of which have no state, moments of zero, or are not in the optimizer."""
    tensors = {name: draw(name) for name in (NAMES if names is None else names)}
    state: dict[str, dict[str, Any]] = {}
    for name, each in tensors.items():
        if name in outside:
            continue
        state[name] = {}
        if name not in stateless:
            size = 0.0 if name in zero else 1e-3
            state[name] = {"exp_avg": np.full(each.shape, size), "exp_avg_sq": np.full(each.shape, size**2)}
            if updates is not None:
                state[name]["step"] = np.array(updates)
    return build_checkpoint(tensors, optimizer=state)


def found(checkpoint: Checkpoint, **options: Any) -> list[Finding]:
    return list(findings_of(untrained_tensor, checkpoint, **options))


BEGIN = "was never trained in 300 updates although optimizer holds it and trained"
NONE, ZERO = "it received no gradient", "every gradient was exactly zero"
WEIGHT, BIAS = "net.2.weight", "net.2.bias"
LOOK, FROZEN = "Look at the layers around it", "If it should learn, look for requires_grad=False"


@pytest.mark.parametrize(
    ("checkpoint", "message", "advice"),
    [
        (run(zero=(WEIGHT,)), f"{WEIGHT} {BEGIN} 7 others: {ZERO}", LOOK),
        (run(stateless=(WEIGHT,)), f"{WEIGHT} {BEGIN} 7 others: {NONE}", FROZEN),
        (run(zero=(WEIGHT, BIAS)), f"net.2 (2 tensors) {BEGIN} 6 others: {ZERO}", LOOK),
        (run(stateless=(WEIGHT, BIAS)), f"net.2 (2 tensors) {BEGIN} 6 others: {NONE}", FROZEN),
        (run(stateless=(WEIGHT,), zero=(BIAS,)), f"net.2 (2 tensors) {BEGIN} 6 others: {ZERO}", FROZEN),
        (run(zero=(BIAS,)), f"{BIAS} {BEGIN} 7 others: {ZERO}", LOOK),
        (
            run(None, zero=(WEIGHT,)),
            f"{WEIGHT} was never trained although optimizer holds it and trained 7 others: {ZERO}",
            LOOK,
        ),
    ],
)
def test_what_is_said_of_tensors_without_gradient(checkpoint: Checkpoint, message: str, advice: str) -> None:
    (finding,) = found(checkpoint)
    assert (finding.severity, finding.message) == (Severity.WARNING, message)
    assert finding.advice.startswith(advice)
    tensors = finding.evidence["tensors"]
    assert (finding.tensor, finding.layer) == ((tensors[0], None) if len(tensors) == 1 else (None, "net.2"))
    assert finding.evidence["updates"] == (300 if "300" in message else None)
    assert finding.evidence["cause"] == "never trained"


@pytest.mark.parametrize(
    ("outside", "names", "subject"),
    [
        ((), [*NAMES], ""),
        (("net.6.weight",), NAMES[:-1], "net.6.weight is"),
        (("net.6.weight", "net.6.bias"), [*NAMES], "net.6.weight and 1 other tensor are"),
        (tuple(NAMES[1::2]), [*NAMES], "net.0.bias and 3 other tensors are"),
    ],
)
def test_what_is_said_of_tensors_that_no_optimizer_holds(
    outside: tuple[str, ...], names: list[str], subject: str
) -> None:
    findings = found(run(outside=outside, names=names))
    assert [each.message for each in findings] == (
        [f"{subject} held by no optimizer, although optimizer trains most layers around"] if subject else []
    )
    for each in findings:
        assert each.evidence == {
            "cause": "not in an optimizer",
            "optimizer": "optimizer",
            "branch": outside[0],
            "tensors": list(outside),
            "without_state": list(outside),
            "updates": None,
        }


@pytest.mark.parametrize(
    ("updates", "least", "speaks"), [(10, 10, True), (9, 10, False), (1, 10, False), (1, 1, True), (None, 10, True)]
)
def test_after_how_many_updates_a_branch_must_have_been_used(updates: int | None, least: int, speaks: bool) -> None:
    assert bool(found(run(updates, zero=(WEIGHT,)), least_updates=least)) == speaks


def test_an_optimizer_that_trained_nothing_is_not_reported_here() -> None:
    assert found(run(zero=tuple(NAMES))) == []


def test_a_zero_bias_has_a_finding_of_its_own() -> None:
    checkpoint = run(stateless=(BIAS,))
    assert len(found(checkpoint)) == 1
    state = {
        each.tensor: {"step": 300, **{key: moment.array for key, moment in each.state.items()}} if each.state else {}
        for each in checkpoint.optimizers[0].parameters
        if each.tensor
    }
    tensors = {each.name: each.array * (each.name != BIAS) for each in checkpoint.tensors}
    assert found(build_checkpoint(tensors, optimizer=state)) == []


def unnamed(stateless: int, *, of: int = 6, updates: int = 300) -> Checkpoint:
    checkpoint = run(updates)
    (optimizer,) = checkpoint.optimizers
    parameters = tuple(
        replace(each, tensor=None, state={}, step=None) if each.index < stateless else each
        for each in optimizer.parameters[:of]
    )
    return replace(checkpoint, optimizers=(replace(optimizer, parameters=parameters, unmatched="several fit"),))


@pytest.mark.parametrize(("stateless", "speaks"), [(0, False), (1, False), (2, True), (3, True), (6, False)])
def test_how_many_parameters_without_a_name_count(stateless: int, speaks: bool) -> None:
    findings = found(unnamed(stateless))
    assert [each.message for each in findings] == (
        [
            f"{stateless} of 6 parameters of optimizer have no state after 300 updates: they received no gradient "
            "(which ones is not known: several fit)"
        ]
        if speaks
        else []
    )
    for each in findings:
        assert each.evidence["without_state"] == [f"parameter {index}" for index in range(stateless)]
        assert (each.evidence["updates"], each.advice.startswith(FROZEN)) == (300, True)


def test_a_state_that_does_not_fit_tells_nothing_else() -> None:
    checkpoint = run(zero=(WEIGHT,))
    (optimizer,) = checkpoint.optimizers
    misfit = replace(checkpoint, optimizers=(replace(optimizer, mismatch="it has 3 parameters"),))
    assert found(misfit) == []
    (finding,) = findings_of(optimizer_mismatch, misfit)
    assert (finding.severity, finding.message) == (
        Severity.ERROR,
        "optimizer does not fit the model: it has 3 parameters",
    )
    assert list(findings_of(optimizer_mismatch, checkpoint)) == []


def with_rates(*rates: Any) -> Checkpoint:
    checkpoint = run()
    (optimizer,) = checkpoint.optimizers
    groups = tuple(replace(optimizer.groups[0], options={"lr": rate} if rate != "none" else {}) for rate in rates)
    return replace(checkpoint, optimizers=(replace(optimizer, groups=groups),))


@pytest.mark.parametrize(
    ("rates", "severity", "rate", "groups"),
    [
        ((1e-9,), None, 0.0, []),
        ((0.0,), Severity.NOTE, 0.0, [0]),
        ((0,), Severity.NOTE, 0.0, [0]),
        ((1e-3, 0.0), Severity.NOTE, 0.0, [1]),
        ((-1e-9,), Severity.WARNING, -1e-9, [0]),
        ((-1e-9, 1e-3, -2e-9), Severity.WARNING, -2e-9, [0, 2]),
        ((0.0, -1e-9), Severity.WARNING, -1e-9, [1]),
        ((False,), None, 0.0, []),
        (("0",), None, 0.0, []),
        (("none",), None, 0.0, []),
    ],
)
def test_rates_at_the_end(rates: tuple[Any, ...], severity: Severity | None, rate: float, groups: list[int]) -> None:
    findings = list(findings_of(learning_rate_at_save, with_rates(*rates)))
    assert [each.severity for each in findings] == ([severity] if severity else [])
    for each in findings:
        assert each.evidence == {"optimizer": "optimizer", "learning_rate": rate, "groups": groups}
