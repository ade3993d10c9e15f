"""Causes in the path of the gradient: which of them a file shows, beside the nearest file that shows another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.diagnosing import (
    SIZES,
    Weights,
    claims_of,
    diagnose,
    drawn,
    explained,
    fresh,
    linear,
    network,
    normal,
    settings,
    symptom,
    trained,
    without,
    zeros,
)

ZERO_BIAS = network(net__2__bias=zeros(12))
HALF = {name: array.astype(np.float16) for name, array in network().items()}
ROLES = ("weight", "bias")
BACKBONE = drawn("stem.0", 32, 16) | drawn("stem.2", 32, 32) | linear("head", 4, 32)
FACTORS = [f"blocks.{number}.lora_{factor}" for number in range(3) for factor in "AB"]


def experts(kind: str = "experts", width: int = 8) -> Weights:
    """A network with a router and three experts, of which the second is this wide."""
    parts = [linear(f"{kind}.{number}", width if number == 1 else 8, 8, seed=number) for number in range(3)]
    return linear("stem", 8, 6) | linear("router", 3, 8) | parts[0] | parts[1] | parts[2] | linear("head", 4, 8)


def adapter(first: float = 1.0) -> Weights:
    """A frozen network with an adapter whose second factors are zero; the first ones are multiplied by a number."""
    weights: Weights = {}
    for number in range(3):
        weights |= {
            f"blocks.{number}.weight": normal(16, 16, seed=number),
            f"blocks.{number}.lora_A.default.weight": first * normal(4, 16, seed=number),
            f"blocks.{number}.lora_B.default.weight": zeros(16, 4),
        }
    return weights


def recurrent() -> Weights:
    shapes = {"weight_ih": (32, 5), "weight_hh": (32, 8), "bias_ih": (32,), "bias_hh": (32,)}
    parts = {f"lstm.{role}_l0": normal(*shape, seed=1 + len(role)) for role, shape in shapes.items()}
    return parts | linear("head", 4, 8)


def head(units: int) -> Weights:
    return network(net__6__weight=normal(units, 10), net__6__bias=normal(units))


def unused(units: int, *rows: int, **fields: str) -> Checkpoint:
    """A network whose head has outputs that received no gradient."""
    sizes = {"net.6.weight": without((units, 10), rows=rows), "net.6.bias": without((units,), rows=rows)}
    return trained(head(units), sizes, **fields)


def looked_up(count: int, used: int) -> Checkpoint:
    """A network behind a table of vectors, of which the first ones were looked up."""
    rows = range(used, count)
    return trained({"embedding.weight": normal(count, 6)} | network(), {"embedding": without((count, 6), rows=rows)})


def stopped(weights: Weights) -> Checkpoint:
    """A checkpoint after a long time without any gradient."""
    whole = trained(weights)
    state = {
        each.tensor or "": {"step": 1000, "exp_avg": each.first.array * 1e-9, "exp_avg_sq": each.second.array}
        for each in whole.optimizers[0].parameters
        if each.first is not None and each.second is not None
    }
    return build_checkpoint(weights, optimizer=state, updates=1000)


def momentum(left_out: set[str]) -> Checkpoint:
    """A network that was trained by gradient descent with momentum, except for some layers."""
    state = {
        name: {} if name[:5] in left_out else {"momentum_buffer": normal(*array.shape, seed=5)}
        for name, array in network().items()
    }
    options = {"lr": 0.01, "momentum": 0.9}
    return build_checkpoint(network(), optimizer=state, optimizer_kind="SGD", optimizer_options=options, updates=1000)


def in_groups(checkpoint: Checkpoint, rates: Mapping[str, float]) -> Checkpoint:
    """The same checkpoint with a parameter group for each beginning of names, at this learning rate."""
    (whole,) = checkpoint.optimizers
    groups = tuple(
        replace(
            whole.groups[0],
            options=settings(lr=rate),
            indices=tuple(each.index for each in whole.parameters if (each.tensor or "").startswith(beginning)),
        )
        for beginning, rate in rates.items()
    )
    return replace(checkpoint, optimizers=(replace(whole, groups=groups),))


REACHED: Mapping[str, tuple[Checkpoint, list[str]]] = {
    "a network that was trained": (trained(network()), []),
    # No gradient at all
    "every gradient was zero": (trained(network(), {"net": 0.0}), ["no-gradient proven OPT006"]),
    "every gradient in float16 was zero": (trained(HALF, {"net": 0.0}), ["low-precision proven OPT006"]),
    "one tensor was in float32": (
        trained(HALF | {"net.6.bias": normal(4)}, {"net": 0.0}), ["no-gradient proven OPT006"]
    ),
    "gradients came and stopped": (stopped(network()), ["no-gradient possible OPT006 OPT008"]),
    "an adapter whose gradients were all zero": (
        trained(adapter(), {"blocks": "absent"} | dict.fromkeys(FACTORS, 0.0)), ["no-gradient proven NET008 OPT006"]
    ),
    "an adapter in a file without an optimizer": (build_checkpoint(adapter()), ["no-gradient possible NET008"]),
    # No update
    "timesteps and no update": (
        build_checkpoint(fresh(), optimizer={name: {} for name in fresh()}, updates=0, step=5000),
        ["never-started proven OPT006"],
    ),
    "a run that ends before learning_starts": (
        build_checkpoint(
            fresh(), optimizer={name: {} for name in fresh()}, updates=0, step=500, format="sb3", algorithm="DQN",
            hyperparameters={"learning_starts": 1000, "_total_timesteps": 500},
        ),
        ["never-started proven HYP004 OPT006"],
    ),
    "no state beside initial weights": (trained(fresh(), {"net": None}), ["never-started likely OPT006"]),
    "no state beside half of the weights initial": (
        trained(fresh(0, 2), {"net": None}), ["never-started likely OPT006"]
    ),
    "no state beside weights that most left their interval": (
        trained(fresh(0), {"net": None}), ["optimizer-reset likely OPT006"]
    ),
    "no state beside weights within a hundredth of their interval": (
        trained({name: 1.01 * array for name, array in fresh().items()}, {"net": None}), ["never-started likely OPT006"]
    ),
    "no state beside norms that moved": (
        trained(fresh() | {f"norm{n}.{role}": normal(8) + 3 for n in range(5) for role in ROLES}, {"": None}),
        ["never-started likely OPT006"],
    ),
    "no state beside weights that were drawn in another way": (
        trained({n: zeros(*a.shape) if a.ndim == 1 else a for n, a in network().items()}, {"net": None}),
        ["never-started likely OPT006"],
    ),
    # A part without a gradient
    "the first layer has no state": (trained(network(), {"net.0": None}), ["detached likely OPT001"]),
    "the first two layers have no state": (
        trained(network(), {"net.0": None, "net.2": None}), ["detached likely OPT001"]
    ),
    "a layer behind one that was trained has no state": (
        trained(network(), {"net.2": None}), ["frozen likely OPT001"]
    ),
    "a layer behind one that momentum moved has no state": (momentum({"net.2"}), ["frozen likely OPT001"]),
    "that layer's gradients were exactly zero": (trained(network(), {"net.2": 0.0}), ["detached likely OPT001"]),
    "only a bias has no state": (trained(ZERO_BIAS, {"net.2.bias": None}), ["detached likely ZER003"]),
    "the head's gradients were exactly zero": (trained(network(), {"net.6": 0.0}), ["detached likely OPT001"]),
    "the head has no state, and the layers in front of it learned through it": (
        trained(network(), {"net.6": None}), ["not-in-optimizer likely OPT001"]
    ),
    "one of two heads has no state": (
        trained(network() | linear("other", 3, 10), {"other": None}), ["unused-part likely OPT001"]
    ),
    "an agent's head has no state": (
        trained(network(), {"net.6": None}, algorithm="DQN"), ["detached likely OPT001"]
    ),
    "no optimizer holds the head": (trained(network(), {"net.6": "absent"}), ["not-in-optimizer proven OPT001"]),
    "an adapter's second factors have no state": (
        trained(adapter(), {"blocks": "absent"} | {name: None if name[-1] == "B" else 1e-2 for name in FACTORS}),
        ["detached likely NET008 OPT001"],
    ),
    "a group at a learning rate of zero": (
        in_groups(trained(BACKBONE), {"stem": 0.0, "head": 1e-3}),
        ["frozen proven OPT003 OPT009"],
    ),
    "all groups at a learning rate of zero": (
        in_groups(trained(drawn("stem.0", 32, 16) | drawn("head", 32, 32)), {"stem": 0.0, "head": 0.0}),
        ["learning-rate-too-low proven OPT003 OPT009"],
    ),
    # The path is whole, and carries zeros
    "a zero layer behind layers without a gradient": (
        trained(network(net__4__weight=zeros(10, 12)), {"net.4.weight": 0.0, "net.2": 0.0, "net.0": 0.0}),
        ["zero-deadlock proven OPT001"],
    ),
    "a layer that learned its bias alone behind such layers": (
        trained(network(), {"net.4.weight": 0.0, "net.2": 0.0, "net.0": 0.0}), ["dead-relu likely OPT001"]
    ),
    "a zero layer whose bias received none either": (
        trained(network(net__2__weight=zeros(12, 16)), {"net.2": 0.0, "net.0": 0.0}),
        ["detached likely OPT001"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REACHED)
def test_where_the_gradient_ended(name: str) -> None:
    checkpoint, expected = REACHED[name]
    assert diagnose(checkpoint) == expected


TURNS: Mapping[str, tuple[Checkpoint, list[str]]] = {
    "an expert without state": (trained(experts(), {"experts.1": None}), ["unused-part likely OPT001"]),
    "an expert whose gradients were zero": (trained(experts(), {"experts.1": 0.0}), ["unused-part likely OPT001"]),
    "two of three experts, and the router": (
        trained(experts(), {"experts.1": None, "experts.2": None, "router": 0.0}), ["unused-part likely OPT001"]
    ),
    "an expert of another shape than the others": (
        trained(experts(width=10), {"experts.1": 0.0}), ["detached likely OPT001"]
    ),
    "a layer, not an expert": (trained(experts("layers"), {"layers.1": 0.0}), ["detached likely OPT001"]),
    "few outputs": (unused(8, 2, 3), ["masked likely NET007"]),
    "half of the outputs": (unused(8, 2, 3, 5, 7), ["masked likely NET007"]),
    "most outputs": (unused(8, 1, 2, 3, 5, 7), ["unused-rows proven NET007"]),
    "few actions": (unused(8, 2, 3, algorithm="PPO"), ["masked proven NET007"]),
    "most actions": (unused(8, 1, 2, 3, 5, 7, algorithm="PPO"), ["masked proven NET007"]),
    "half of a table": (looked_up(20, 10), ["unused-rows proven NET007"]),
    "all of a table but one row": (looked_up(20, 1), ["constant-inputs likely NET007"]),
    "all of a table of eight but one row": (looked_up(8, 1), ["constant-inputs likely NET007"]),
    "all of a table of seven but one row": (looked_up(7, 1), ["unused-rows proven NET007"]),
    "all of a table but two rows": (looked_up(20, 2), ["unused-rows proven NET007"]),
    "a hidden state that was always zero": (
        trained(recurrent(), {"lstm.weight_hh": 0.0}), ["unused-recurrence proven OPT001"]
    ),
    "an input that was always zero": (
        trained(recurrent(), {"lstm.weight_ih": 0.0}), ["constant-inputs proven NET006 OPT001"]
    ),
    "a recurrent layer that received nothing": (trained(recurrent(), {"lstm": 0.0}), ["detached likely OPT001"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_what_never_had_its_turn(name: str) -> None:
    checkpoint, expected = TURNS[name]
    assert diagnose(checkpoint) == expected


# --- what single causes claim ---------------------------------------------------------------------------------------

NET = trained(network())
NEVER = "never trained"
ZERO = symptom("ZER003", "net.2.bias", cause=NEVER)
OTHER_ZERO = symptom("ZER003", "net.4.bias", cause=NEVER)
OVERWRITTEN = symptom("ZER003", "net.2.bias", cause="overwritten")
DORMANT = symptom("NET001", "net.2.weight")
ADAPTER = symptom("NET008")


def silent(*tensors: str, has_state: bool = False, cause: str = NEVER) -> Finding:
    """An OPT001 about tensors without a gradient, in the branch of the first."""
    lost = [] if has_state else list(tensors)
    return symptom(
        "OPT001", cause=cause, branch=tensors[0].rpartition(".")[0], tensors=list(tensors), without_state=lost
    )


def stalled(cause: str, *tensors: str) -> Finding:
    """An OPT006 about an optimizer that holds these tensors."""
    return symptom("OPT006", severity=Severity.ERROR, cause=cause, tensors=list(tensors))


SECOND = silent("net.2.weight", "net.2.bias")
SCALER = symptom("RES005")
Claimed = tuple[str, Checkpoint, list[Finding], list[tuple[str, str, str]]]

CLAIMS: Mapping[str, Claimed] = {
    "no gradient explains what was never trained in its tensors alone": (
        "no-gradient", NET, [stalled("no gradient", "net.2.bias"), ZERO, OTHER_ZERO, DORMANT, ADAPTER],
        [("proven", "OPT006", "NET001 NET008 ZER003"), ("likely", "NET008", "ZER003")],
    ),
    "a loss scaler that skipped every step": (
        "no-gradient", NET, [SCALER, stalled("empty state"), ZERO, symptom("RES002")],
        [("proven", "OPT006 RES005", "RES002 ZER003")],
    ),
    "a loss scaler alone": ("no-gradient", NET, [SCALER], []),
    "gradients that stopped explain dormant units": (
        "no-gradient", NET, [stalled("stopped"), DORMANT, ZERO], [("possible", "OPT006", "NET001")]
    ),
    "an adapter with an optimizer": (
        "no-gradient", NET, [ADAPTER, SECOND], [("likely", "NET008", "OPT001")]
    ),
    "an adapter without one": ("no-gradient", build_checkpoint(network()), [ADAPTER], [("possible", "NET008", "")]),
    "an adapter whose second factors have no state": (
        "no-gradient", NET, [ADAPTER, silent("net.lora_B.weight")], []
    ),
    "an adapter whose first factors have no state": (
        "no-gradient", NET, [ADAPTER, silent("net.lora_A.weight")], [("likely", "NET008", "OPT001")]
    ),
    "never started explains whatever was never trained": (
        "never-started", NET, [stalled("never started"), ZERO, OVERWRITTEN], [("proven", "OPT006", "ZER003")]
    ),
    "an optimizer that was never stepped explains its own tensors": (
        "never-started", trained(fresh(), {"net": None}), [stalled("empty state", "net.2.bias"), ZERO, OTHER_ZERO],
        [("likely", "OPT006", "ZER003")],
    ),
    "a lost state explains the size of the steps": (
        "optimizer-reset", NET, [stalled("empty state"), symptom("OPT008")], [("likely", "OPT006", "OPT008")]
    ),
    "a part that was never reached": (
        "detached", NET, [silent("net.0.weight", "net.0.bias"), symptom("ZER003", "net.0.bias", cause=NEVER),
        OTHER_ZERO, symptom("NET001", "net.0.weight"), ADAPTER], [("likely", "OPT001 ZER003", "NET001 NET008")],
    ),
    "a bias alone": ("detached", NET, [ZERO], [("likely", "ZER003", "")]),
    "a bias beside a weight without gradient": ("detached", trained(network(), {"net.2": 0.0}), [ZERO], []),
    "a bias that was overwritten": ("detached", NET, [OVERWRITTEN], []),
    "a part that was frozen explains what it holds": (
        "frozen", NET, [SECOND, ZERO, OTHER_ZERO, OVERWRITTEN], [("likely", "OPT001", "ZER003")]
    ),
    "a branch that is no layer by itself": (
        "frozen", NET,
        [symptom("OPT001", cause=NEVER, branch="middle", tensors=["net.2.weight"], without_state=["net.2.weight"])],
        [("likely", "OPT001", "")],
    ),
    "gradients of zero are no freeze": ("frozen", NET, [silent("net.2.weight", has_state=True)], []),
    "a frozen first layer looks detached": ("frozen", NET, [silent("net.0.weight")], []),
    "a frozen head looks detached": ("frozen", NET, [silent("net.6.weight")], []),
    "two layers behind one that was trained": (
        "frozen", NET, [silent("net.2.weight", "net.4.weight")], [("likely", "OPT001", "")]
    ),
    "behind a layer that was not trained either": (
        "frozen", trained(network(), {"net.0": None}), [silent("net.2.weight")], []
    ),
    "a head that no optimizer holds": (
        "not-in-optimizer", NET, [silent("net.6.weight", cause="not in an optimizer"), DORMANT],
        [("proven", "OPT001", "NET001")],
    ),
    "an only head without state behind trained layers": (
        "not-in-optimizer", NET, [silent("net.6.weight", "net.6.bias")], [("likely", "OPT001", "")]
    ),
    "an only head with gradients of zero": (
        "not-in-optimizer", NET, [silent("net.6.weight", has_state=True)], []
    ),
    "an agent's head": ("not-in-optimizer", replace(NET, algorithm="DQN"), [silent("net.6.weight")], []),
    "a hidden layer": ("not-in-optimizer", NET, [SECOND], []),
    "a head and the layer in front of it": ("not-in-optimizer", NET, [silent("net.4.weight", "net.6.weight")], []),
    "a head behind a layer without gradient": (
        "not-in-optimizer", trained(network(), {"net.4": None}), [silent("net.6.weight")], []
    ),
    "an expert explains the router": (
        "unused-part", trained(experts(), {"experts.1": None}),
        [silent("experts.1.weight"), silent("router.weight"), SECOND,
         symptom("ZER003", "experts.1.bias", cause=NEVER), OTHER_ZERO],
        [("likely", "OPT001", "OPT001 ZER003")],
    ),
    "an expert whose twins were not trained either": (
        "unused-part", trained(experts() | linear("mixer", 8, 8), {"experts": None}), [silent("experts.1.weight")], []
    ),
    "all experts at once have no trained twin": (
        "unused-part", trained(experts()), [silent(*(f"experts.{number}.weight" for number in range(3)))], []
    ),
    "rows that were never used explain zeros in the same layer": (
        "unused-rows", NET, [symptom("NET007", "net.2.weight", count=12, rows=list(range(9))),
        symptom("ZER003", "net.2.weight"), symptom("ZER003", "net.4.weight"), symptom("NET002", "net.2.weight")],
        [("proven", "NET007", "NET002 ZER003")],
    ),
    "few rows of a hidden layer are not masked": (
        "masked", NET, [symptom("NET007", "net.2.weight", count=12, rows=[1])], []
    ),
    "few rows of a table are not masked": (
        "masked", looked_up(20, 15), [symptom("NET007", "embedding.weight", count=20, rows=[1])], []
    ),
    "one step from a zero state": (
        "unused-recurrence", NET, [symptom("RNN004", cause="one step")], [("likely", "RNN004", "")]
    ),
    "a recurrence without gradient explains what is said of it": (
        "unused-recurrence", trained(recurrent()),
        [silent("lstm.weight_hh_l0"), symptom("RNN005", "lstm.weight_hh_l0"), symptom("NET007", "head.weight")],
        [("proven", "OPT001", "RNN005")],
    ),
    "a recurrence and its inputs without gradient": (
        "unused-recurrence", trained(recurrent()), [silent("lstm.weight_hh_l0", "lstm.weight_ih_l0")], []
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_cause_claims(name: str) -> None:
    cause, checkpoint, findings, expected = CLAIMS[name]
    assert [explained(claim) for claim in claims_of(cause, checkpoint, findings)] == expected


@pytest.mark.parametrize(("largest", "cause"), [(1.01, "never-started"), (1.03, "optimizer-reset")])
def test_weights_have_left_their_initial_interval_beyond_its_fiftieth(largest: float, cause: str) -> None:
    weights = fresh()
    for number, _, inputs in SIZES:
        weights[f"net.{number}.weight"][0, 0] = largest * inputs**-0.5
    assert diagnose(trained(weights, {"net": None})) == [f"{cause} likely OPT006"]


def test_consequences_name_the_tensors_that_belong_to_the_part() -> None:
    [claim] = claims_of("frozen", NET, [SECOND, ZERO, OTHER_ZERO])
    assert claim.consequences == (ZERO,)
    [claim] = claims_of("unused-rows", NET, [symptom("NET007", "net.2.weight"), ZERO, OTHER_ZERO])
    assert claim.consequences == (ZERO,)


def test_experts_without_a_turn_are_named() -> None:
    parts = {number: linear(f"experts.{number}", 8, 8, seed=number) for number in range(5)}
    weights = {name: array for part in parts.values() for name, array in part.items()}
    found = [silent(f"experts.{number}.weight") for number in range(4)]
    for count, words in ((1, "experts.0 never had"), (3, "experts.2 never had"), (4, "experts.2 … never had")):
        [claim] = claims_of("unused-part", trained(weights), found[:count])
        assert words in claim.message


def test_several_parts_are_named_and_the_others_counted() -> None:
    parts = [silent(f"part{number}.weight") for number in range(5)]
    [claim] = claims_of("detached", NET, parts)
    assert claim.message.startswith("part0, part1, part2 and 2 more received no gradient")
    [claim] = claims_of("detached", NET, parts[:3])
    assert claim.message.startswith("part0, part1, part2 received no gradient")


def test_several_parts_are_listed_in_the_order_of_the_file() -> None:
    found = [silent("net.4.weight", has_state=True), silent("net.0.weight")]
    [claim] = claims_of("detached", NET, found)
    assert claim.evidence == {"tensors": ["net.0.weight", "net.4.weight"]}
    [claim] = claims_of("detached", NET, found[:1])
    assert claim.evidence == found[0].evidence


def test_a_part_explains_its_target_network() -> None:
    names = {name.replace("net", "critic"): array for name, array in network().items()}
    targets = {name.replace("critic", "critic_target"): array for name, array in names.items()}
    checkpoint = trained(names | targets, {"critic_target": "absent"}, algorithm="SAC")
    zero = [symptom("ZER003", f"critic_target.{number}.bias", cause=NEVER) for number in (0, 2)]
    [claim] = claims_of("detached", checkpoint, [silent("critic.0.weight", "critic.0.bias"), *zero])
    assert claim.consequences == (zero[0],)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("every gradient was zero", "loss.backward(); optimizer.step()"),
        ("a layer behind one that was trained has no state", "requires_grad_(True)"),
        ("no optimizer holds the head", "optimizer.add_param_group"),
    ],
)
def test_the_remedy_is_the_line_to_write(name: str, words: str) -> None:
    checkpoint, [expected] = REACHED[name]
    [claim] = claims_of(expected.split()[0], checkpoint)
    assert words in claim.remedy
