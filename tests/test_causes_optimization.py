"""Causes in the optimizer's settings and in its state: which of them a file shows, beside its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.results.diagnosis import Prognosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.diagnosing import (
    Weights,
    claims_of,
    diagnose,
    drawn,
    explained,
    fresh,
    gradients,
    network,
    normal,
    settings,
    symptom,
    trained,
    zeros,
)

NET = trained(network())
NOTE, ERROR = Severity.NOTE, Severity.ERROR
NEVER_MOVED = drawn("stem.0", 32, 16) | drawn("stem.2", 32, 32, seed=2) | drawn("head", 4, 32)
HALF_NORM = {"norm.weight": np.ones(16), "norm.bias": zeros(16), "fc.weight": normal(4, 16), "fc.bias": normal(4)}


def tuned(weights: Weights | None = None, size: float = 1e-2, **options: Any) -> Checkpoint:
    """A network after a thousand updates with these options and with gradients of this size."""
    return trained(network() if weights is None else weights, {"": size}, optimizer_options=settings(**options))


def lifted() -> Checkpoint:
    """A network after one huge gradient, which the first moments have forgotten."""
    state = {name: gradients(array.shape, seed=number) for number, (name, array) in enumerate(network().items())}
    for number, each in enumerate(state.values()):
        each["exp_avg_sq"] = 1e9 * np.exp(np.random.default_rng(number).normal(0, 2, each["exp_avg_sq"].shape))
    return build_checkpoint(network(), optimizer=state, updates=1000)


def mismatched() -> Checkpoint:
    """A network beside the optimizer of another one."""
    (whole,) = NET.optimizers
    return replace(NET, optimizers=(replace(whole, mismatch="it holds 12 parameters, and the model has 8"),))


SHOWN: Mapping[str, tuple[Checkpoint, list[str]]] = {
    "an ordinary learning rate": (tuned(lr=1e-3), []),
    "a learning rate of 1": (tuned(lr=1.0), ["learning-rate-too-high proven HYP001 OPT008"]),
    "nothing moved at a rate of zero": (
        tuned(NEVER_MOVED, lr=0.0), ["learning-rate-too-low proven OPT003 OPT009"]
    ),
    "nothing moved at a rate that vanishes": (tuned(NEVER_MOVED, lr=1e-12), ["learning-rate-too-low proven OPT009"]),
    "nothing moved in a warm-up": (
        tuned(NEVER_MOVED, lr=1e-12, initial_lr=1e-3), ["schedule likely OPT009"]
    ),
    "a schedule that ended as it should": (tuned(lr=0.0, initial_lr=1e-3), []),
    "a schedule that went below zero": (tuned(lr=-1e-4, initial_lr=1e-3), ["schedule proven OPT003"]),
    "nothing moved because of tiny gradients": (
        tuned(NEVER_MOVED, 1e-15), ["clip-too-small likely OPT005 OPT009"]
    ),
    "gradients below the usual epsilon": (tuned(size=1e-13), ["clip-too-small likely OPT005"]),
    "gradients below a large epsilon": (tuned(size=1e-5, eps=0.1), ["epsilon-too-large proven OPT005"]),
    "nothing moved because of a large epsilon": (
        tuned(NEVER_MOVED, 1e-9, eps=0.1), ["epsilon-too-large proven OPT005 OPT009"]
    ),
    "betas in the wrong order": (tuned(betas=(0.999, 0.9)), ["optimizer-settings proven HYP005"]),
    "gradients that are far too large": (tuned(size=1e5), ["reward-scale proven OPT012"]),
    "gradients that an optimizer made larger": (
        tuned(size=1e5, maximize=True), ["optimizer-settings proven OPT012"]
    ),
    "one huge gradient": (lifted(), ["poisoned-moments proven OPT007"]),
    "infinite second moments": (
        trained(network(), {"net.2.weight": np.inf}), ["nonfinite-gradient proven OPT007 VAL001"]
    ),
    "gains that float16 cannot move": (
        trained({name: np.asarray(array, np.float16) for name, array in HALF_NORM.items()}),
        ["low-precision proven NRM004"],
    ),
    "gains that float32 can move": (
        trained({name: np.asarray(array, np.float32) for name, array in HALF_NORM.items()}),
        [],
    ),
    "a loss scaler that skipped every update": (
        trained(network(), {"": None}, parts=[Part("scaler", Content.LOSS_SCALER, {"scale": 1e-20})]),
        ["no-gradient proven OPT006 RES005"],
    ),
    "a loss scaler that collapsed later": (
        trained(network(), parts=[Part("scaler", Content.LOSS_SCALER, {"scale": 1e-20})]),
        ["low-precision proven RES005"],
    ),
    "an optimizer that does not fit": (mismatched(), ["optimizer-of-another-model proven OPT002"]),
    "no state beside trained weights": (trained(network(), {"": None}), ["optimizer-reset likely OPT006"]),
    "no state beside initial weights": (trained(fresh(), {"": None}), ["never-started likely OPT006"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_optimizer_shows(name: str) -> None:
    checkpoint, expected = SHOWN[name]
    assert diagnose(checkpoint) == expected


# --- what single causes claim -----------------------------------------------------------------------------------------


def units(stopped: int, dormant: int = 10) -> Finding:
    """A NET001 about units of which so many learned once."""
    return symptom("NET001", "net.2.weight", stopped=list(range(stopped)), units=list(range(dormant)))


def still(rate: float) -> Finding:
    return symptom("OPT009", severity=ERROR, cause="learning rate", learning_rate=rate, optimizer="optimizer")


def below(share: float, step: float | None, component: str | None = None) -> Finding:
    return symptom("OPT005", share=share, effective_step=step, component=component)


def rated(rate: float, kind: str = "Adam") -> Checkpoint:
    state = {name: gradients(array.shape) for name, array in network().items()}
    return build_checkpoint(
        network(), optimizer=state, updates=1000, optimizer_kind=kind, optimizer_options=settings(lr=rate)
    )


BEYOND, OVERFLOW = symptom("HYP001", learning_rate=0.3), symptom("GRD001", kind="overflow")
LARGE, STUCK = symptom("VAL002", "net.2.weight"), symptom("OPT009", severity=ERROR, cause="step size")
SPOILED = symptom("VAL001", "net.2.weight")
HALF = trained({name: array.astype(np.float16) for name, array in network().items()})
HALF_GAIN = trained({"norm.weight": np.ones(4, np.float16), "fc.weight": normal(4, 4)})
ALL_NAN = trained(network(net__2__weight=np.full((12, 16), np.nan, np.float32)))
Claimed = tuple[str, Checkpoint, list[Finding], list[tuple[str, str, str]]]

CLAIMS: Mapping[str, Claimed] = {
    "steps that are too large explain what they did": (
        "learning-rate-too-high", NET, [symptom("OPT008", cause="too large"), LARGE, units(9), symptom("VAL003")],
        [("proven", "OPT008", "NET001 VAL002 VAL003")],
    ),
    "a coefficient that is learned at this rate": (
        "learning-rate-too-high", NET, [symptom("OPT008", cause="too large"), symptom("POL002", "log_ent_coef")],
        [("proven", "OPT008", "POL002")],
    ),
    "a coefficient that was set": (
        "learning-rate-too-high", NET, [symptom("OPT008", cause="too large"), symptom("POL002")],
        [("proven", "OPT008", "")],
    ),
    "gradients that overflow and end at a rate beyond any": (
        "learning-rate-too-high", rated(0.3), [BEYOND, OVERFLOW, SPOILED, symptom("GRD002"), symptom("GRD003")],
        [("proven", "HYP001", "GRD001 GRD002 GRD003 VAL001")],
    ),
    "a NaN that no overflow preceded, at such a rate": (
        "learning-rate-too-high", rated(0.3), [BEYOND, symptom("GRD001", kind="operation"), SPOILED],
        [("proven", "HYP001", "")],
    ),
    "gradients that overflow at a rate that agents survive": (
        "learning-rate-too-high", rated(0.049), [BEYOND, OVERFLOW, symptom("GRD002")], [("proven", "HYP001", "")]
    ),
    "steps that are too small": ("learning-rate-too-high", NET, [symptom("OPT008", cause="too small")], []),
    "large weights at a high rate for Adam": (
        "learning-rate-too-high", rated(0.05), [LARGE], [("likely", "VAL002", "")]
    ),
    "large weights at a lower rate": ("learning-rate-too-high", rated(0.049), [LARGE], []),
    "the same rate for plain gradient descent": ("learning-rate-too-high", rated(0.05, "SGD"), [LARGE], []),
    "a high rate for plain gradient descent": (
        "learning-rate-too-high", rated(5.0, "SGD"), [LARGE], [("likely", "VAL002", "")]
    ),
    "RMSprop adapts too": ("learning-rate-too-high", rated(0.05, "RMSprop"), [LARGE], [("likely", "VAL002", "")]),
    "most units stopped at a high rate": (
        "learning-rate-too-high", rated(0.05), [units(6)], [("likely", "NET001", "")]
    ),
    "half of the units stopped": ("learning-rate-too-high", rated(0.05), [units(5)], []),
    "a high rate alone": ("learning-rate-too-high", rated(0.05), [symptom("ZER003")], []),
    "a rate of zero": (
        "learning-rate-too-low", tuned(lr=0.0), [still(0.0), symptom("OPT003"), symptom("ZER003")],
        [("proven", "OPT009", "OPT003 ZER003")],
    ),
    "a rate far below the initial one": ("learning-rate-too-low", tuned(initial_lr=1e-3), [still(9e-7)], []),
    "a thousandth of the initial rate": (
        "learning-rate-too-low", tuned(initial_lr=1e-3), [still(1e-6)], [("proven", "OPT009", "")]
    ),
    "a rate of zero is no warm-up": (
        "learning-rate-too-low", tuned(initial_lr=1e-3), [still(0.0)], [("proven", "OPT009", "")]
    ),
    "a warm-up": (
        "schedule", tuned(initial_lr=1e-3), [still(9e-7), symptom("OPT008")], [("likely", "OPT009", "OPT008")]
    ),
    "a rate without a schedule": ("schedule", NET, [still(9e-7)], []),
    "a negative rate": ("schedule", NET, [symptom("OPT003", learning_rate=-1e-9)], [("proven", "OPT003", "")]),
    "a rate that ended at zero": ("schedule", NET, [symptom("OPT003", learning_rate=0.0)], []),
    "a scheduler that disagrees": (
        "schedule", NET, [symptom("RES001"), symptom("FIL004")], [("proven", "RES001", "FIL004")]
    ),
    "a tiny clip": (
        "clip-too-small", NET, [symptom("OPT004", clip=9e-4), below(0.5, 1e-4)], [("proven", "OPT004", "OPT005")]
    ),
    "a small clip": ("clip-too-small", NET, [symptom("OPT004", clip=1e-3)], []),
    "no clip": ("clip-too-small", NET, [symptom("OPT004")], []),
    "steps that vanished": ("clip-too-small", NET, [STUCK, symptom("ZER003")], [("likely", "OPT009", "ZER003")]),
    "nearly all gradients are below epsilon": (
        "clip-too-small", NET, [below(0.99, 9e-4)], [("likely", "OPT005", "")]
    ),
    "most gradients are below epsilon": ("clip-too-small", NET, [below(0.98, 9e-4)], []),
    "most are, and nothing moved": (
        "clip-too-small", NET, [below(0.98, 9e-4), STUCK], [("likely", "OPT005 OPT009", "")]
    ),
    "steps are still made": ("clip-too-small", NET, [below(0.99, 1e-3)], []),
    "one component is below epsilon": ("clip-too-small", NET, [below(1.0, 1e-5, "policy")], []),
    "epsilon is too large for a clip": ("clip-too-small", tuned(eps=1e-3), [below(1.0, 1e-5)], []),
    "a large epsilon": (
        "epsilon-too-large", tuned(eps=1e-3), [below(1.0, 1e-5), STUCK], [("proven", "OPT005", "OPT009")]
    ),
    "an epsilon in use": ("epsilon-too-large", tuned(eps=9e-4), [below(1.0, 1e-5)], []),
    "weights that shrank under strong decay": (
        "weight-decay-too-strong", tuned(weight_decay=1.0), [symptom("VAL006"), symptom("NRM002"), LARGE],
        [("proven", "NRM002 VAL006", "VAL002")],
    ),
    "weights that shrank under ordinary decay": (
        "weight-decay-too-strong", tuned(weight_decay=0.9), [symptom("VAL006")], []
    ),
    "weights that shrank in a file without an optimizer": (
        "weight-decay-too-strong", build_checkpoint(network()), [symptom("VAL006")], []
    ),
    "decay that outweighs the gradients": (
        "weight-decay-too-strong", tuned(weight_decay=0.5), [symptom("HYP006"), symptom("VAL006")],
        [("proven", "HYP006", "VAL006")],
    ),
    "a loss that was raised": ("optimizer-settings", tuned(maximize=True), [LARGE], [("proven", "VAL002", "")]),
    "a loss that was raised, without an effect": ("optimizer-settings", tuned(maximize=True), [units(1)], []),
    "a return that was raised": ("optimizer-settings", replace(tuned(maximize=True), algorithm="PPO"), [LARGE], []),
    "a loss that was lowered": ("optimizer-settings", tuned(maximize=False), [LARGE], []),
    "betas explain what fails": (
        "optimizer-settings", NET, [symptom("HYP005"), LARGE], [("proven", "HYP005", "VAL002")]
    ),
    "one huge gradient explains small steps": (
        "poisoned-moments", NET, [symptom("OPT007"), symptom("OPT008"), LARGE], [("proven", "OPT007", "OPT008")]
    ),
    "weights have exploded": (
        "poisoned-moments", NET, [symptom("OPT007"), symptom("VAL002", severity=ERROR)], []
    ),
    "moments that are not finite explain the weights": (
        "nonfinite-gradient", NET, [SPOILED, symptom("VAL001", "net.2.weight", moment="exp_avg"), symptom("NRM003")],
        [("proven", "VAL001", "NRM003 VAL001")],
    ),
    "a whole tensor is NaN": ("nonfinite-gradient", ALL_NAN, [SPOILED], [("likely", "VAL001", "")]),
    "a part of a tensor is NaN": ("nonfinite-gradient", NET, [SPOILED], []),
    "a statistic is NaN": (
        "nonfinite-gradient", trained({"norm.weight": normal(4), "norm.running_var": np.full(4, np.nan, np.float32)}),
        [symptom("VAL001", "norm.running_var")], [],
    ),
    "half precision does not move": (
        "low-precision", HALF, [symptom("OPT009", "net.2.weight"), symptom("OPT008")], [("proven", "OPT009", "OPT008")]
    ),
    "single precision does not move": ("low-precision", NET, [symptom("OPT009", "net.2.weight")], []),
    "an overflow": (
        "low-precision", HALF, [symptom("VAL001", "net.2.weight", infinite=1)], [("proven", "VAL001", "")]
    ),
    "NaN is no overflow": (
        "low-precision", HALF, [symptom("VAL001", "net.2.weight", infinite=0, nan=1)], []
    ),
    "an infinity in single precision": (
        "low-precision", NET, [symptom("VAL001", "net.2.weight", infinite=1)], []
    ),
    "gradients that vanished in float16": (
        "low-precision", HALF, [symptom("OPT006", cause="no gradient", tensors=list(network()))],
        [("proven", "OPT006", "")],
    ),
    "gradients that vanished in float16 and float32": (
        "low-precision", HALF_GAIN, [symptom("OPT006", cause="no gradient", tensors=["norm.weight", "fc.weight"])], []
    ),
    "a scaler of an optimizer without updates": (
        "low-precision", NET, [symptom("RES005"), symptom("OPT006", cause="empty state")], []
    ),
    "a scaler that collapsed": ("low-precision", NET, [symptom("RES005"), symptom("RES002")],
        [("proven", "RES005", "RES002")]),
    "moments that are younger than the file": (
        "optimizer-reset", NET, [symptom("RES002"), symptom("OPT008")], [("likely", "RES002", "OPT008")]
    ),
    "moments of another model": (
        "optimizer-of-another-model", NET,
        [symptom("OPT002", "net.2.weight"), symptom("OPT001", "net.2.weight"), symptom("OPT001", "net.4.weight")],
        [("proven", "OPT002", "OPT001")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_cause_claims(name: str) -> None:
    cause, checkpoint, findings, expected = CLAIMS[name]
    assert [explained(claim) for claim in claims_of(cause, checkpoint, findings)] == expected


def test_a_high_rate_is_the_evidence_where_nothing_else_is() -> None:
    [claim] = claims_of("learning-rate-too-high", rated(0.05), [LARGE])
    assert claim.evidence == {"learning_rate": 0.05}
    assert claim.message.startswith("a learning rate of 0.05 is far above those in use")
    [claim] = claims_of("learning-rate-too-high", rated(0.05), [symptom("HYP001", learning_rate=0.05), LARGE])
    assert claim.message == "HYP001 was found"


def test_the_rate_before_a_schedule_counts() -> None:
    assert claims_of("learning-rate-too-high", tuned(lr=1e-5, initial_lr=0.05), [LARGE])


def test_a_setting_that_is_no_number_is_passed_over() -> None:
    assert claims_of("epsilon-too-large", tuned(eps=True), [below(1.0, 1e-5)]) == []
    assert claims_of("epsilon-too-large", tuned(eps="0.1"), [below(1.0, 1e-5)]) == []


def test_only_a_negative_rate_can_be_repaired() -> None:
    [negative] = claims_of("schedule", NET, [symptom("OPT003", learning_rate=-1e-4)])
    [other] = claims_of("schedule", NET, [symptom("RES001")])
    assert (negative.prognosis, other.prognosis) == (Prognosis.RELIEVED, Prognosis.POINTLESS)


def test_the_largest_weight_decay_of_all_groups_is_named() -> None:
    (whole,) = NET.optimizers
    groups = tuple(replace(whole.groups[0], options={"weight_decay": each}) for each in (0.0, 3.0))
    checkpoint = replace(NET, optimizers=(replace(whole, groups=groups),))
    [claim] = claims_of("weight-decay-too-strong", checkpoint, [symptom("VAL006")])
    assert claim.evidence == {"weight_decay": 3.0}
    assert claim.message.startswith("a weight decay of 3 removes")


def test_a_gradient_that_was_not_finite_names_the_tensors() -> None:
    found = [symptom("VAL001", f"net.{number}.weight", moment="exp_avg") for number in (4, 2)]
    [claim] = claims_of("nonfinite-gradient", NET, found)
    assert claim.evidence["tensors"] == ["net.2.weight", "net.4.weight"]


@pytest.mark.parametrize(
    ("cause", "found", "words"),
    [
        ("clip-too-small", STUCK, "max_norm=0.5"),
        ("weight-decay-too-strong", symptom("HYP006"), "weight_decay=0.01"),
        ("optimizer-settings", symptom("HYP005"), "betas=(0.9, 0.999)"),
        ("poisoned-moments", symptom("OPT007"), "optimizer.state.clear()"),
        ("optimizer-reset", symptom("RES002"), "optimizer.load_state_dict"),
        ("nonfinite-gradient", symptom("VAL001", "net.2.weight", moment="exp_avg"), "error_if_nonfinite=True"),
    ],
)
def test_the_remedy_is_the_line_to_write(cause: str, found: Finding, words: str) -> None:
    [claim] = claims_of(cause, NET, [found])
    assert words in claim.remedy
