"""Conditions of causes alone, each from both sides, and what their claims say of one, three and more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.causes.gradients import _describe
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.diagnosis.competition import choose_diagnoses
from checkpoint_doctor.plugins.cause import Claim, Symptoms
from checkpoint_doctor.results.diagnosis import Certainty
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.diagnosing import CAUSES

WEIGHTS = {"net.0.weight": np.ones((4, 4)), "net.0.bias": np.ones(4)}


def finding(code: str, tensor: str | None = None, severity: Severity = Severity.WARNING, **evidence: Any) -> Finding:
    return Finding(code, "name", severity, "message", tensor=tensor, evidence=evidence)


def with_options(algorithm: str | None = None, **options: Any) -> Checkpoint:
    state = {name: {"step": 300, "exp_avg": each, "exp_avg_sq": each} for name, each in WEIGHTS.items()}
    return build_checkpoint(WEIGHTS, optimizer=state, optimizer_options=options, algorithm=algorithm)


def claims(cause: str, checkpoint: Checkpoint, *findings: Finding) -> list[Claim]:
    return list(CAUSES[cause].claims(checkpoint, Symptoms(findings)))


CLIPPED, STALLED = finding("OPT004", clip=0.9e-3), finding("OPT009", cause="step size")


@pytest.mark.parametrize(
    ("options", "findings", "certainty"),
    [
        ({}, [CLIPPED], Certainty.PROVEN),
        ({"eps": 0.9e-3}, [CLIPPED], Certainty.PROVEN),
        ({"eps": 1e-3}, [CLIPPED], None),
        ({}, [finding("OPT004", clip=1e-3)], None),
        ({}, [finding("OPT004", clip=0.0)], None),
        ({}, [STALLED], Certainty.LIKELY),
        ({}, [finding("OPT009", cause="learning rate")], None),
        ({}, [finding("OPT005", share=0.99, effective_step=0.9e-3)], Certainty.LIKELY),
        ({}, [finding("OPT005", share=0.98, effective_step=0.9e-3)], None),
        ({}, [finding("OPT005", share=0.99, effective_step=1e-3)], None),
        ({}, [finding("OPT005", share=0.99, effective_step=0.0)], None),
        ({}, [finding("OPT005", share=0.99, effective_step=0.9e-3, component="policy")], None),
    ],
)
def test_a_clip_that_is_too_small(options: dict[str, Any], findings: list[Finding], certainty: Any) -> None:
    found = claims("clip-too-small", with_options(**options), *findings)
    assert [each.certainty for each in found] == ([certainty] if certainty else [])


def test_a_large_epsilon() -> None:
    below = finding("OPT005")
    assert len(claims("epsilon-too-large", with_options(eps=1e-3), below)) == 1
    assert claims("epsilon-too-large", with_options(eps=0.9e-3), below) == []
    assert claims("epsilon-too-large", with_options(), below) == []


def test_decay_of_one_or_more_explains_small_weights() -> None:
    small = finding("VAL006")
    (claim,) = claims("weight-decay-too-strong", with_options(weight_decay=1.0), small)
    assert (claim.evidence, claim.proof) == ({"weight_decay": 1.0}, (small,))
    assert "a weight decay of 1 removes" in claim.message
    assert claims("weight-decay-too-strong", with_options(weight_decay=0.99), small) == []
    assert len(claims("weight-decay-too-strong", with_options(), finding("HYP006"))) == 1


def test_an_optimizer_that_raises_the_loss() -> None:
    grown = finding("OPT008")
    (claim,) = claims("optimizer-settings", with_options(maximize=True), grown)
    assert (claim.evidence, claim.proof) == ({"maximize": True}, (grown,))
    assert claims("optimizer-settings", with_options(maximize=False), grown) == []
    assert claims("optimizer-settings", with_options(maximize=True)) == []
    assert claims("optimizer-settings", with_options("PPO", maximize=True), grown) == []


@pytest.mark.parametrize(
    ("rate", "initial", "expected"), [(0.9e-3, 1.0, True), (1e-3, 1.0, False), (0.0, 1.0, False), (1e-9, None, False)]
)
def test_a_warm_up_that_never_ended(rate: float, initial: float | None, expected: bool) -> None:
    options = {} if initial is None else {"initial_lr": initial}
    still = finding("OPT009", cause="learning rate", optimizer="optimizer", learning_rate=rate)
    found = claims("schedule", with_options(**options), still)
    assert [each.certainty for each in found] == [Certainty.LIKELY] * expected


def test_what_became_of_units_is_no_cause_of_its_own() -> None:
    outcomes = {name for name, each in CAUSES.items() if each.is_outcome}
    assert {"dead-relu", "saturated", "exploded"} <= outcomes
    assert not {"clip-too-small", "overwritten", "constant-inputs", "schedule"} & outcomes


@pytest.mark.parametrize(("largest", "expected"), [(0.95e-4, True), (1.05e-4, False), (0.0, True)])
def test_inputs_that_never_varied(largest: float, expected: bool) -> None:
    tensors = {f"norm.{role}": np.ones(4) for role in ("weight", "bias", "running_mean")}
    tensors |= {"norm.running_var": np.full(4, largest), "0.weight": np.ones((4, 4)), "0.bias": np.ones(4)}
    state = {
        "0.weight": {"step": 9, "exp_avg": np.zeros((4, 4)), "exp_avg_sq": np.zeros((4, 4))},
        "0.bias": {"step": 9, "exp_avg": np.ones(4), "exp_avg_sq": np.ones(4)},
    }
    untrained = finding("OPT001", "0.weight", cause="never trained")
    found = claims("constant-inputs", build_checkpoint(tensors, optimizer=state), untrained)
    assert [each.subject for each in found] == ["norm"] * expected


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([finding("VAL001", "norm.running_mean")], True),
        ([finding("VAL001", "norm.running_var")], True),
        ([finding("VAL001", "norm.weight")], False),
        ([finding("VAL001", "norm.running_mean", moment="exp_avg")], False),
        ([finding("VAL001", "norm.running_mean"), finding("VAL001", "norm.weight")], False),
        ([finding("VAL001")], False),
        ([finding("NRM003", "norm.running_mean")], False),
    ],
)
def test_statistics_that_are_not_finite(findings: list[Finding], expected: bool) -> None:
    tensors = {f"norm.{role}": np.ones(4) for role in ("weight", "bias", "running_mean", "running_var")}
    checkpoint = build_checkpoint(tensors | {"0.weight": np.ones((4, 4))})
    assert len(claims("nonfinite-data", checkpoint, *findings)) == expected


@pytest.mark.parametrize(
    ("count", "words", "listed"),
    [
        (1, "", False),
        (2, "0.bias, 1.bias were trained, and then overwritten", True),
        (3, "0.bias, 1.bias, 2.bias were trained, and then overwritten", True),
        (4, "0.bias, 1.bias, 2.bias and 1 more were trained, and then overwritten", True),
        (5, "0.bias, 1.bias, 2.bias and 2 more were trained, and then overwritten", True),
    ],
)
def test_what_is_said_of_one_and_many_overwritten_tensors(count: int, words: str, listed: bool) -> None:
    names = [f"{number}.bias" for number in range(count)]
    checkpoint = build_checkpoint({name: np.zeros(4) for name in names})
    zeros = [finding("ZER003", name, cause="overwritten") for name in names]
    (claim,) = claims("overwritten", checkpoint, *zeros)
    assert claim.message == (words or "message")
    assert claim.evidence.get("tensors") == (names if listed else None)


@pytest.mark.parametrize(
    ("largest", "certainty"), [(Severity.ERROR, Certainty.PROVEN), (Severity.WARNING, Certainty.LIKELY)]
)
def test_weights_that_exploded(largest: Severity, certainty: Certainty) -> None:
    (claim,) = claims(
        "exploded", build_checkpoint(WEIGHTS), replace(finding("VAL002", "net.0.weight"), severity=largest)
    )
    assert claim.certainty is certainty
    assert claim.message == "weights have exploded: net.0.weight: message"


def units(dead: int, saturated: int, severity: Severity = Severity.WARNING) -> Finding:
    evidence = {"units": [*range(9)], "dead": [*range(dead)], "saturated": [*range(saturated)]}
    return finding("NET001", severity=severity, **evidence)


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (units(2, 1), "dead-relu"),
        (units(1, 1), "saturated"),
        (units(1, 2), "saturated"),
        (units(0, 1), "saturated"),
        (units(1, 0), "dead-relu"),
        (units(0, 0), ""),
        (units(2, 1, Severity.NOTE), ""),
        (units(1, 2, Severity.NOTE), ""),
    ],
)
def test_dead_units_are_told_from_saturated_ones(found: Finding, cause: str) -> None:
    for each in ("dead-relu", "saturated"):
        assert len(claims(each, build_checkpoint(WEIGHTS), found)) == (each == cause)


# Competition


def claim_of(name: str, proof: list[Finding], *, preview: bool = False) -> Claim:
    declared = replace(CAUSES["exploded"], name=name, preview=preview, is_outcome=False)
    return declared.claim(proof, "message")


def winners(claimed: list[Claim], findings: list[Finding], **options: Any) -> list[tuple[str, bool, int]]:
    chosen = choose_diagnoses(claimed, findings, **options)
    return sorted((each.cause, each.preview, len(each.explains)) for each in chosen)


FOUND = [finding(f"AAA00{number}") for number in range(6)]


def test_a_claim_is_weighed_again_once_others_explain_a_part_of_it() -> None:
    """The second is as good as the third at first, and explains less than it after the first has won."""
    claimed = [claim_of("first", FOUND[:3]), claim_of("second", FOUND[2:4]), claim_of("third", FOUND[3:5])]
    assert winners(claimed, FOUND) == [("first", False, 3), ("third", False, 2)]


def test_causes_in_preview_compete_last() -> None:
    claimed = [claim_of("new", FOUND[:3], preview=True), claim_of("old", FOUND[:2])]
    assert winners(claimed, FOUND) == [("new", True, 1), ("old", False, 2)]
    assert winners(claimed, FOUND, with_preview=True) == [("new", False, 3)]
    assert winners(claimed[:1], FOUND) == [("new", True, 3)]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_first_layers_of_dead_units_are_named(number: int) -> None:
    found = [replace(units(2, 1), layer=f"net.{each}") for each in range(number)]
    (claim,) = claims("dead-relu", build_checkpoint(WEIGHTS), *found)
    layers = ", ".join(f"net.{each}" for each in range(min(number, 3))) + (" …" if number > 3 else "")
    assert claim.message == f"{9 * number} units receive no gradient, most of them dead, in {layers}"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (1, "part0"),
        (3, "part0, part1, part2"),
        (4, "part0, part1, part2 and 1 more"),
        (5, "part0, part1, part2 and 2 more"),
    ],
)
def test_the_first_parts_of_many_are_named(count: int, shown: str) -> None:
    by_branch = [finding("OPT001", branch=f"part{number}") for number in range(count)]
    by_tensor = [finding("OPT001", f"part{number}") for number in range(count)]
    both = [replace(each, tensor="other") for each in by_branch]
    for found in (by_branch, by_tensor, both, [*by_branch, *by_branch]):
        assert _describe("was frozen", found) == f"{shown} was frozen"
    assert _describe("was frozen", [finding("OPT001")]) == "a part was frozen"
